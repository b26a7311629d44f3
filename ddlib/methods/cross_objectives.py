"""S distilled by one method, measured by the objectives of the others, and by the gap itself.

The small-network counterpart of `theory_surrogates`: the same three objectives, of DC, DM and MTT,
where nothing is convex. All sets are measured at the same weights: those of experts that no method
has seen, on their way through training on D.
"""

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ddlib.data.base import DataSet, one_thread
from ddlib.distilled import DistilledSet
from ddlib.methods import METHODS, distribution, gradient, trajectory
from ddlib.methods.common import real_batches
from ddlib.methods.matching import PLAIN_SGD
from ddlib.networks.functional import Network, embed, initial_parameters
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.training.augment import Draw
from ddlib.training.loop import DivergedError, Recipe, train, train_and_score

UNSEEN = 1000  # number of the first expert that measures; those of a method count from 0
EXPERTS, EPOCHS, SPAN = 2, 6, 2  # how many measure, their snapshots, and what MTT's students span
STUDENT_STEPS = 10
AS_IS = Draw("none", {})
STEP_SIZES = (0.01, 0.03, 0.1)
MEASURES = ("dc", "dm", "mtt", "gap_error", "gap_cross_entropy")


@one_thread()
def cross_objectives(
    dataset: DataSet,
    network: Network,
    methods: Mapping[str, tuple[str, Parameters]],
    ipc: int,
    seeds: int,
    recipe: Recipe,
) -> pd.DataFrame:
    """Distil by every method, and measure every set by every objective; a row a set and seed.

    methods: {name: (method, parameters)}, as `read_methods` returns them. Columns
    method, seed and `MEASURES`, the gaps to a network trained on all of D from the same weights. A
    set that diverged has no row.
    """
    experts = [_expert(dataset, network, UNSEEN + number) for number in range(EXPERTS)]
    prepared = {name: _prepared(dataset, network, *each, ipc) for name, each in methods.items()}
    whole = dataset.train
    rows = []
    for seed in range(seeds):
        run = (dataset.test, recipe, seed)
        reference = train_and_score(network, whole.images, whole.labels, *run)
        for name, (method, parameters) in methods.items():
            asked = [ipc], seed, parameters, *prepared[name]
            distilled = METHODS[method].distil(dataset, network, *asked)[ipc]
            if isinstance(distilled, DivergedError):
                continue
            score = train_and_score(network, distilled.images, distilled.labels, *run)
            rows.append(
                {
                    "method": name,
                    "seed": seed,
                    **objectives(dataset, network, distilled, experts),
                    "gap_error": reference.accuracy - score.accuracy,
                    "gap_cross_entropy": score.cross_entropy - reference.cross_entropy,
                }
            )
    return pd.DataFrame(rows, columns=["method", "seed", *MEASURES])


def objectives(
    dataset: DataSet, network: Network, distilled: DistilledSet, experts: Sequence[torch.Tensor]
) -> dict[str, float]:
    """Return the objectives of DC, DM and MTT for one set, as means over experts and snapshots.

    experts: weights (EPOCHS + 1, P) each. dc: summed layer-wise cosine distance of class
    gradients; dm: squared distance of class means of features, at fresh weights; mtt: squared
    distance to the expert SPAN epochs on, over what the expert moved, at the best of STEP_SIZES.
    """
    images, labels = distilled.images, distilled.labels
    batch = next(real_batches(dataset, 10**9, generator("measured", 0)))
    drawn = [AS_IS] * dataset.class_count
    dc, dm, mtt = [], [], []
    for number, expert in enumerate(experts):
        for at in range(0, EPOCHS - SPAN + 1, SPAN):
            theta = trajectory.unflatten(network, expert[at])
            moved = images.clone().requires_grad_()
            dc.append(float(gradient.match(dataset, network, theta, batch, moved, drawn)))
            mtt.append(_student(network, images, labels, expert[at], expert[at + SPAN]))
        theta = initial_parameters(network, generator("measuring weights", number))
        with torch.no_grad():
            means = [
                distribution.class_means(embed(network, theta, seen), of, dataset.class_count)
                for seen, of in ((images, labels), (dataset.train.images, dataset.train.labels))
            ]
        dm.append(float(distribution.objective(*means)))
    best = np.mean(mtt, axis=0).min()
    return {"dc": float(np.mean(dc)), "dm": float(np.mean(dm)), "mtt": float(best)}


def relative(table: pd.DataFrame, base: str = "random") -> pd.DataFrame:
    """Return the median over seeds of each measure over that of `base` at the same seed.

    Index method, columns `MEASURES`; below 1 is better than `base`. Raises ValueError where the
    table has no such method.
    """
    if base not in set(table["method"]):
        raise ValueError(f"the table has no {base!r} to compare with; add it to the methods")
    indexed = table.set_index(["method", "seed"])
    ratios = indexed / indexed.loc[base].reindex(indexed.index.get_level_values("seed")).to_numpy()
    return ratios.groupby("method", sort=False).median()


def _student(network, images, labels, start, target) -> list[float]:
    """Return MTT's objective at every step size."""
    theta, found = trajectory.unflatten(network, start), []
    for size in STEP_SIZES:
        recipe = PLAIN_SGD.replace(steps=STUDENT_STEPS, learning_rate=size)
        ended = train(network, theta, images, labels, recipe, generator("no draws"))
        missed = trajectory.flatten(network, ended) - target
        found.append(float(missed.square().sum() / (start - target).square().sum()))
    return found


def _expert(dataset: DataSet, network: Network, number: int) -> torch.Tensor:
    plain = trajectory.TrajectoryMatching(expert_augmentation="none", expert_learning_rate=0.05)
    job = trajectory.jobs(plain, [1])[0]
    job |= {"expert": number, "epochs": EPOCHS, "epoch_steps": 10}
    return torch.from_numpy(np.load(io.BytesIO(trajectory.make(dataset, network, job))))


def _prepared(
    dataset: DataSet, network: Network, method: str, parameters: Parameters, ipc: int
) -> list[list[Path]]:
    """Return what a method takes beside its parameters: the files that it makes for all seeds."""
    if not (preparation := METHODS[method].preparation):
        return []
    files = []
    for job in preparation.jobs(parameters, [ipc]):
        with tempfile.NamedTemporaryFile(prefix="ddlib-", delete=False) as file:
            file.write(preparation.make(dataset, network, job))
        files.append(Path(file.name))
    return [files]
