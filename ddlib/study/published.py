"""Accuracies that papers published beside those of a study, and how the settings differ.

published.csv holds one row a figure, fractions; tag "paper" is read in a paper's table, "readme" in
that of the authors' code, "unverified" is quoted from memory or second hand; epochs and
augmentation are those of the evaluation, empty where it is not stated; row "all data" is the
network trained on all of D.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors

from ddlib.files import from_root, reading
from ddlib.parameters import at_ipc, read_file
from ddlib.study.plan import Plan
from ddlib.words.text import Text, listed

TABLE = Path(__file__).with_suffix(".csv")
# How Zhao et al. (ICLR 2021) train a network for evaluation; later papers keep it.
RECIPE = {
    "batch_size": 256,
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
}
TRAINING_IMAGES = {
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "imagenette": 9_469,
}
"""Images to train on of the public sets; a copy at hand may hold fewer."""
HEAD = "The figures differ from ours in setting:\n\n| setting | here | papers |\n|---|---|---|"

Row = tuple[str, object, object]  # a setting, ours, theirs


def read() -> pd.DataFrame:
    """Return every published figure: data, method, ipc, accuracy, deviation, tag and setting."""
    return pd.read_csv(TABLE).astype(dict.fromkeys(["ipc", "width", "depth", "epochs"], "Int64"))


def beside(table: pd.DataFrame, full: pd.DataFrame, data: str) -> pd.DataFrame:
    """Join a study's accuracies with the figures published for the same data, method and ipc.

    table, full: see `comparison.accuracies` and `comparison.full_data`; data: the data set's name.
    Columns: method, ipc, k, accuracy, published, deviation, difference (ours minus published),
    tag, network, width, depth, epochs, steps (of SGD, at the reference's batch size),
    augmentation, note. No rows where nothing was published.
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
    """Return a table, in Markdown, of what differs from the settings of the published figures.

    pairs: see `beside`. What is compared: data, network, training, evaluation, and each method's
    parameters at the sizes of `pairs` against the papers', which are those of
    parameters/methods/*_reference.yaml for the data set, or else the defaults. Below stand notes on
    the figures, and what methods learned beside images.
    """
    if pairs.empty:
        first = f"Nothing is published for {plan.dataset.name} at these methods and sizes."
        return Text("\n\n- ".join([first, *_learned(plan)]))
    rows = [*_setting(plan, pairs), *_methods(plan, pairs)]
    lines = [f"\n| {name} | {ours} | {theirs} |" for name, ours, theirs in rows if ours != theirs]
    notes = pairs.dropna(subset="note").groupby("note", sort=False)["method"].unique()
    points = [f"published for {listed(methods, 'and')}: {note}" for note, methods in notes.items()]
    if unverified := sorted(set(pairs.loc[pairs["tag"] == "unverified", "method"])):
        points.append(f"not verified in the paper itself: {listed(unverified, 'and')}")
    points = "".join(f"\n- {point}" for point in [*_learned(plan), *points])
    table = "".join([HEAD, *lines]) if lines else "No setting differs."
    return Text(f"{table}\n{points}" if points else table)


def _setting(plan: Plan, pairs: pd.DataFrame) -> Iterator[Row]:
    """Yield the settings of data, network and training, also those that are the same."""
    options, recipe, network = plan.settings.data, plan.first.recipe, plan.first.network
    for name in ("classes", "per_class", "held_out", "image_size", "zca"):
        yield name, options.get(name) or "all", "all"
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
            if any(at_ipc(ours, ipc) != at_ipc(theirs[name], ipc) for ipc in ipcs):
                yield f"{method}: {name}", ours, theirs[name]


def _learned(plan: Plan) -> Iterator[str]:
    """Say which numbers methods learned for their sets, means over seeds; none is evaluated by."""
    rows = []
    for path, trial in {trial.set_path: trial for trial in plan.trials}.items():
        if path.exists():
            with reading(path), safetensors.safe_open(str(path), "pt") as file:
                numbers = json.loads(file.metadata()["distilled"])["learned"]
            rows += [(trial.method, name, trial.ipc, value) for name, value in numbers.items()]
    values = pd.DataFrame(rows, columns=["method", "name", "ipc", "value"])
    for (method, name), sizes in values.groupby(["method", "name"], sort=False):
        means = sizes.groupby("ipc")["value"].mean()
        learned = listed([f"{value:.3g} at ipc {ipc}" for ipc, value in means.items()], "and")
        yield (
            f"{method}: it learned {name} {learned}, which its paper evaluates with; here all sets "
            f"are evaluated at learning_rate = {plan.first.recipe.learning_rate}"
        )
