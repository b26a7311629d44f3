"""Accuracies that papers published beside those of a study, and how the settings differ.

published.csv holds one row a figure, fractions; tag "paper" is read in a paper's table, "readme" in
that of the authors' code, "unverified" is quoted from memory or second hand; epochs and
augmentation are those of the evaluation, empty where it is not stated; row "all data" is the
network trained on all of D.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors

from ddlib.files import from_root, reading
from ddlib.parameters import at_ipc, read_file
from ddlib.study.settings import data_options
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
WHOLE = ["ipc", "width", "depth", "epochs"]

TRAINING_IMAGES = {
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "imagenette": 9_469,
}
"""Images to train on of the public sets; a copy at hand may hold fewer."""


def read() -> pd.DataFrame:
    """Return every published figure: data, method, ipc, accuracy, deviation, tag and setting."""
    return pd.read_csv(TABLE).astype(dict.fromkeys(WHOLE, "Int64"))


def beside(table: pd.DataFrame, full: pd.DataFrame, data: str) -> pd.DataFrame:
    """Join a study's accuracies with the figures published for the same data, method and ipc.

    table, full: see `comparison.accuracies` and `comparison.full_data`; data: the data set's name.
    Columns: method, ipc, k, accuracy, published, deviation, difference (ours minus published),
    tag, network, width, depth, epochs, steps (of SGD, at the reference's batch size),
    augmentation, note. No rows where nothing was published.
    """
    names = ["method", "ipc", "k", "accuracy"]
    ours = pd.concat([table[names], full[["accuracy"]].assign(method="all data")])
    ours = ours.astype({"ipc": "Int64", "k": "Int64"})
    theirs = read().query("data == @data").drop(columns="data")
    theirs = theirs.rename(columns={"accuracy": "published"})
    found = ours.merge(theirs, on=["method", "ipc"])
    found.insert(6, "difference", found["accuracy"] - found["published"])
    batches = np.ceil(found["k"].astype(float) / RECIPE["batch_size"])
    steps = (found["epochs"].astype(float) * batches).astype("Int64")
    found.insert(found.columns.get_loc("epochs") + 1, "steps", steps)
    return found


def differences(plan: Any, found: pd.DataFrame) -> Text:
    """Say how a study's setting differs from that of the figures that stand beside its own.

    plan: the study's `Plan`; found: see `beside`. What is compared: data, network, training,
    evaluation, and each method's parameters at the sizes of `found` against the papers', which
    are those of parameters/methods/*_reference.yaml for the data set, or else the defaults. What
    methods learned beside images is told whether or not anything is published.
    """
    learned = _learned(plan)
    if found.empty:
        nothing = f"Nothing is published for {plan.dataset.name} at these methods and sizes."
        return Text("\n\n- ".join([nothing, *learned]))
    points = [*_data(plan), *_network(plan, found), *_training(plan, found), *_methods(plan, found)]
    points += learned
    notes = found.dropna(subset="note").groupby("note", sort=False)["method"].unique()
    points += [f"published for {listed(methods, 'and')}: {note}" for note, methods in notes.items()]
    if unverified := sorted(set(found.loc[found["tag"] == "unverified", "method"])):
        points.append(f"not verified in the paper itself: {listed(unverified, 'and')}")
    lines = "".join(f"\n- {point}" for point in points)
    return Text(
        f"The figures differ from ours in setting:\n{lines}" if points else "No difference."
    )


def _data(plan: Any) -> list[str]:
    options = data_options(plan.settings)
    names = ("classes", "per_class", "held_out", "image_size", "zca")
    changed = {name: options.get(name) for name in names}
    kept = [f"{name} = {value}" for name, value in changed.items() if value]
    points = [f"data: {', '.join(kept)}, where the papers take all"] if kept else []
    count, public = len(plan.dataset.train.labels), TRAINING_IMAGES.get(plan.dataset.name, 0)
    if count < public:
        points.append(f"{count:,} images to train on, where the public set has {public:,}")
    return points


def _network(plan: Any, found: pd.DataFrame) -> list[str]:
    own = _described(*map(plan.first.network.get, ("name", "width", "depth")))
    theirs = found[["network", "width", "depth"]].drop_duplicates()
    theirs = [_described(*each) for each in theirs.to_numpy()]
    other = [text for text in theirs if text != own]
    return [f"network: {own}, where the papers take {listed(other)}"] if other else []


def _described(name: str, width: Any, depth: Any) -> str:
    sizes = {"width": width, "depth": depth}
    return " ".join([name, *(f"{n} {size}" for n, size in sizes.items() if not pd.isna(size))])


def _training(plan: Any, found: pd.DataFrame) -> list[str]:
    recipe = vars(plan.first.recipe)
    points = [
        f"{name} = {recipe[name]}, where the papers take {value}"
        for name, value in RECIPE.items()
        if recipe[name] != value
    ]
    steps = found["steps"].dropna()
    if len(steps) and not (steps == recipe["steps"]).all():
        theirs = " to ".join(f"{step:,}" for step in sorted({steps.min(), steps.max()}))
        points.append(
            f"{recipe['steps']} steps of training at every k, where the papers' take {theirs}"
        )
    for name, rows in found.groupby("augmentation", sort=False):
        if name != recipe["augmentation"]:
            methods = listed(rows["method"].unique(), "and")
            theirs = "one of their own" if name == "other" else name
            points.append(f"augmentation {recipe['augmentation']}, where {methods} had {theirs}")
    return points


def _learned(plan: Any) -> list[str]:
    """Say which numbers methods learned for their sets, means over seeds; none is evaluated by."""
    rows = []
    for path, trial in {trial.set_path: trial for trial in plan.trials}.items():
        if path.exists():
            with reading(path), safetensors.safe_open(str(path), "pt") as file:
                numbers = json.loads(file.metadata()["distilled"])["learned"]
            rows += [(trial.method, name, trial.ipc, value) for name, value in numbers.items()]
    values = pd.DataFrame(rows, columns=["method", "name", "ipc", "value"])
    points = []
    for (method, name), sizes in values.groupby(["method", "name"], sort=False):
        means = sizes.groupby("ipc")["value"].mean()
        told = listed([f"{value:.3g} at ipc {ipc}" for ipc, value in means.items()], "and")
        points.append(
            f"{method}: it learned {name} {told}, which its paper evaluates with; here all sets "
            f"are evaluated at learning_rate = {plan.first.recipe.learning_rate}"
        )
    return points


def _methods(plan: Any, found: pd.DataFrame) -> list[str]:
    reference = from_root(f"parameters/methods/{plan.dataset.name}_reference.yaml")
    published = read_file(reference)["methods"] if reference.exists() else {}
    points = []
    for method, (_, parameters) in plan.methods.items():
        ipcs = found.loc[found["method"] == method, "ipc"]
        own = vars(parameters)
        theirs = vars(type(parameters).read(published.get(method), method))
        changed = [
            f"{name} {own[name]} (papers: {theirs[name]})"
            for name in own
            if any(at_ipc(own[name], ipc) != at_ipc(theirs[name], ipc) for ipc in ipcs)
        ]
        if changed:
            points.append(f"{method}: {', '.join(changed)}")
    return points
