"""Score a set that another program distilled: `python -m ddlib.score FILE --as mtt --data cifar10`.

The set is trained on under a study's protocol, beside random real samples of the same size.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddlib.data.folders import first_of
from ddlib.files import STOPPED, exit_with_sentence, from_root
from ddlib.fingerprints import fingerprint
from ddlib.methods import METHODS
from ddlib.methods.imported import read_content
from ddlib.parameters import read_file, read_yaml
from ddlib.stats import compare
from ddlib.stats.intervals import Interval
from ddlib.study.run import run
from ddlib.study.settings import SAME_STEPS, Settings

PROTOCOL = ["data", "network", "training", "evaluations", "precision", "device"]
PROTOCOL += ["cache", "extensions"]


def score(
    path: str,
    form: str,
    data: str,
    parameters: str | None = None,
    zca: bool = False,
    seeds: int = 5,
    **options: Any,
) -> tuple[Settings, pd.DataFrame]:
    """Score the set at `path`; return the settings of the study that did, and its accuracies.

    form: the `format` of an ImportedSet, whose other parameters are `options`; data: the name or
    the folder of the data set; parameters: a YAML file of a study, from which network, training and
    device are taken, by default DATA_reference.yaml or DATA.yaml in parameters/methods; zca:
    whether the set is of whitened images. The table has the columns method ("imported", "random",
    "all data"), n, accuracy, low, high: means and 95 % intervals over seeds. Each seed draws its
    own weights, batches and random samples. The networks on all data take as many steps as those on
    the set.

    Soft labels and a step size that were learned with the set are used. Raises ValueError or
    OSError, in one sentence.
    """
    folder = from_root("parameters/methods")
    file = from_root(parameters) if parameters else None
    try:
        file = file or first_of(folder, f"{data}_reference.yaml", f"{data}.yaml")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; name a study's file with --parameters") from None
    table = read_file(file)
    values = {"path": path, "format": form, **options}
    chosen = METHODS["imported"].parameters.read(values, "the set")
    labels = read_content(chosen)[1]
    regime = {"labels": {"regime": "learned"}} if labels.ndim == 2 else {}
    source = table.get("data", {})
    if isinstance(source, Mapping):  # otherwise `Settings` says what is wrong
        source = source | {"name": data} | ({"zca": True} if zca else {})
    study = {name: table[name] for name in PROTOCOL if name in table} | {
        "data": source,
        "methods": {"imported": values, "random": {}},
        "configurations": {"own": {"learned_step_size": chosen.step_size is not None, **regime}},
        "k": [len(labels)],
        "seeds": seeds,
        "reference": SAME_STEPS,
    }
    study["results"] = f"results/score/{Path(path).stem}-{fingerprint(study)}"  # one a protocol
    settings = Settings.read(study)
    try:
        result = run(settings)
    except ValueError as error:
        raise ValueError(f"{error} (the protocol is that of {file})") from error
    if len(result.failures):
        raise ValueError(f"a training failed: {result.failures['message'].iloc[0]}")
    full = compare.full_data(result.references, SAME_STEPS).assign(method="all data")
    rows = pd.concat([compare.accuracies(result.trials), full], ignore_index=True)
    return settings, rows[["method", "n", "accuracy", "low", "high"]]


def sentence(settings: Settings, table: pd.DataFrame) -> str:
    """Return the accuracies of `score` in one line."""
    rows = (table.set_index("method")[["accuracy", "low", "high"]] * 100).T.items()
    accuracies = ", ".join(f"{method} {Interval(*values):.1f}" for method, values in rows)
    network = " ".join(f"{name} {value}" for name, value in settings.network.items())
    own = settings.configurations["own"]
    learned = {"labels": own.labels.regime == "learned", "step size": own.learned_step_size}
    notes = [f"the set has its learned {name}" for name, used in learned.items() if used]
    notes += ["random samples have hard labels"] * learned["labels"]
    return (
        f"{accuracies}: accuracy in percent, seeds: {settings.seeds}, k={settings.k[0]} of "
        f"{settings.data['name']}, network {network.removeprefix('name ')}, "
        f"{'; '.join([f'{settings.training.steps:,} steps, on all data too', *notes])}"
    )


@exit_with_sentence(STOPPED)
def main(arguments: Sequence[str] | None = None) -> None:
    """Score a set from a shell."""
    parser = argparse.ArgumentParser("python -m ddlib.score", description=__doc__.split(":")[0])
    parser.add_argument("path", metavar="FILE", help="the set, from the project's root")
    parser.add_argument("--as", dest="form", required=True, help="dc, mtt, npz or folder")
    parser.add_argument("--data", required=True, help="the name of the data set, or its folder")
    parser.add_argument(
        "--parameters", help="the YAML file of a study: network, training and device"
    )
    parser.add_argument("--zca", action="store_true", help="the set is of whitened images")
    parser.add_argument("--seeds", type=int, default=5)
    about = "other parameters of `imported`, as in YAML: 'step_size: 0.2, experiment: 1'"
    parser.add_argument("--options", default="", help=about)
    values = vars(parser.parse_args(arguments))
    options = read_yaml(f"{{{values.pop('options')}}}", "--options")
    print(sentence(*score(**values | {str(name): v for name, v in options.items()})))


if __name__ == "__main__":
    main()
