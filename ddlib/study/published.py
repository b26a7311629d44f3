"""Compare the accuracies of a study with published ones, and list how the settings differ.

published.csv has one row per published accuracy (a fraction). The tag says where it was read:
"paper", in a table of the paper; "readme", in that of the authors' code; "unverified", from memory
or second hand. Epochs and augmentation are those of the evaluation, empty if not stated. The method
"all data" is the network trained on all of D.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ddlib.distilled import load_distilled
from ddlib.files import from_root
from ddlib.parameters import Parameters, at_ipc, read_file
from ddlib.study.plan import Plan
from ddlib.words.text import Text, listed

TABLE = Path(__file__).with_suffix(".csv")
# How Zhao et al. (ICLR 2021) train a network for evaluation; later papers keep it.
RECIPE = {"batch_size": 256, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
RECIPE |= {"schedule": "step"}
TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}
TRAINING_IMAGES |= {"cifar100": 50_000, "imagenette": 9_469}
"""Training images of the public sets; a local copy may hold fewer."""
HEAD = "Settings that differ from the published ones:\n\n| setting | here | papers |\n|---|---|---|"

Row = tuple[str, object, object]  # setting, our value, published value


def read() -> pd.DataFrame:
    """Return every published accuracy with its data, method, ipc, deviation, tag and settings."""
    return pd.read_csv(TABLE).astype(dict.fromkeys(["ipc", "width", "depth", "epochs"], "Int64"))


def beside(table: pd.DataFrame, full: pd.DataFrame, data: str) -> pd.DataFrame:
    """Join a study's accuracies with those published for the same data, method and ipc.

    table, full: see `compare.accuracies` and `compare.full_data`; data: the data set's name.
    Columns: method, ipc, k, accuracy, published, deviation, difference (ours minus published),
    tag, network, width, depth, epochs, steps (of SGD, at the reference's batch size),
    augmentation, note. The table is empty if nothing was published.
    """
    ours = table[["method", "ipc", "k", "accuracy"]]
    ours = pd.concat([ours, full[["accuracy"]].assign(method="all data")])
    theirs = read().query("data == @data").drop(columns="data")
    theirs = theirs.rename(columns={"accuracy": "published"})
    pairs = ours.astype({"ipc": "Int64", "k": "Int64"}).merge(theirs, on=["method", "ipc"])
    pairs.insert(6, "difference", pairs["accuracy"] - pairs["published"])
    batches = np.ceil(pairs["k"].astype(float) / RECIPE["batch_size"])
    steps = (pairs["epochs"].astype(float) * batches).astype("Int64")
    pairs.insert(pairs.columns.get_loc("epochs") + 1, "steps", steps)
    return pairs


def differences(plan: Plan, pairs: pd.DataFrame) -> Text:
    """Return a Markdown table of the settings that differ from the published ones.

    pairs: see `beside`. It compares data, network, training and the parameters of each method at
    the sizes of `pairs`. The papers' parameters are in parameters/methods/*_reference.yaml, or else
    the defaults. Notes follow, and the numbers that methods learned beside images.
    """
    if pairs.empty:
        first = f"Nothing is published for {plan.dataset.name} at these methods and sizes."
        return Text("\n\n- ".join([first, *_learned(plan)]))
    lines = [f"\n| {' | '.join(map(str, row))} |" for row in differing(plan, pairs)]
    notes = pairs.dropna(subset="note").groupby("note", sort=False)["method"].unique()
    points = [f"published for {listed(methods)}: {note}" for note, methods in notes.items()]
    if unverified := sorted(set(pairs.loc[pairs["tag"] == "unverified", "method"])):
        points.append(f"not verified in the paper itself: {listed(unverified)}")
    points = "".join(f"\n- {point}" for point in [*_learned(plan), *points])
    table = "".join([HEAD, *lines]) if lines else "No setting differs."
    return Text(f"{table}\n{points}" if points else table)


def differing(plan: Plan, pairs: pd.DataFrame) -> list[Row]:
    """Return the settings that differ at these pairs: (setting, our value, published value)."""
    rows = [*_setting(plan, pairs), *_methods(plan, pairs)]
    return [(name, ours, theirs) for name, ours, theirs in rows if ours != theirs]


def _setting(plan: Plan, pairs: pd.DataFrame) -> Iterator[Row]:
    """Yield all settings of data, network and training, equal ones too."""
    options, recipe, network = plan.settings.data, plan.first.recipe, plan.first.network
    for name in ("classes", "per_class", "held_out", "image_size"):
        yield name, options.get(name) or "all", "all"
    for theirs, rows in pairs.groupby(pairs["note"].str.contains("ZCA", na=False)):
        yield f"zca ({', '.join(rows['method'].unique())})", bool(options.get("zca")), theirs
    count = len(plan.dataset.train.labels)
    public = max(count, TRAINING_IMAGES.get(plan.dataset.name, 0))
    yield "images to train on", f"{count:,}", f"{public:,}"
    ours = _size(*map(network.get, ("name", "width", "depth")))
    for theirs in pairs[["network", "width", "depth"]].drop_duplicates().to_numpy():
        yield "network", ours, _size(*theirs)
    for name, value in RECIPE.items():
        yield name, getattr(recipe, name), value
    if steps := sorted(set(pairs["steps"].dropna())):
        theirs = " to ".join(f"{step:,}" for step in dict.fromkeys([steps[0], steps[-1]]))
        yield "steps of training, at every k here", f"{recipe.steps:,}", theirs
    for name, rows in pairs.groupby("augmentation", sort=False):
        theirs = "one of their own" if name == "other" else name
        yield f"augmentation ({', '.join(rows['method'].unique())})", recipe.augmentation, theirs


def _size(name: str, width: float | None, depth: float | None) -> str:
    sizes = {"width": width, "depth": depth}
    return " ".join([name, *(f"{n} {size}" for n, size in sizes.items() if not pd.isna(size))])


def _methods(plan: Plan, pairs: pd.DataFrame) -> Iterator[Row]:
    reference = from_root(f"parameters/methods/{plan.dataset.name}_reference.yaml")
    published = read_file(reference)["methods"] if reference.exists() else {}
    for method, (_, parameters) in plan.methods.items():
        theirs = vars(type(parameters).read(published.get(method), method))
        ipcs = pairs.loc[pairs["method"] == method, "ipc"]
        for name, ours in vars(parameters).items():
            if any(_at(ours, ipc) != _at(theirs[name], ipc) for ipc in ipcs):
                yield from _parts(f"{method}: {name}", ours, theirs[name])


def _parts(name: str, ours: Any, theirs: Any) -> Iterator[Row]:
    """Yield a setting, or the fields of a training that differ."""
    if not isinstance(ours, Parameters):
        yield name, ours, theirs
        return
    for field, value in vars(ours).items():
        if value != getattr(theirs, field):
            yield f"{name}.{field}", value, getattr(theirs, field)


def _at(value: Any, ipc: int) -> Any:
    """Return a table by size at `ipc`, and any other value, such as a network, as it is."""
    table = isinstance(value, Mapping) and all(isinstance(key, int) for key in value)
    return at_ipc(value, ipc) if table else value


def _learned(plan: Plan) -> Iterator[str]:
    """Say which numbers methods learned (means over seeds), and if the evaluation uses them."""
    paths = dict.fromkeys(trial.set_path for trial in plan.trials)
    sets = [load_distilled(path) for path in paths if path.exists()]
    rows = [
        (synthetic.method, name, synthetic.ipc, synthetic.learned[name])
        for synthetic in sets
        for name in synthetic.learned
    ]
    values = pd.DataFrame(rows, columns=["method", "name", "ipc", "value"])
    for (method, name), sizes in values.groupby(["method", "name"], sort=False):
        means = sizes.groupby("ipc")["value"].mean()
        learned = listed([f"{value:.3g} at ipc {ipc}" for ipc, value in means.items()])
        here = f"all sets are evaluated at learning_rate = {plan.first.recipe.learning_rate}"
        here = "so does this study" if plan.first.learned_step_size else f"here {here}"
        yield f"{method}: it learned {name} {learned}, which its paper evaluates with; {here}"
