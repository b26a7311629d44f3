"""Controls that choose real samples instead of making new ones: random, herding, k-center.

Each orders the samples of every class once. The set of a size holds the first of each order.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet
from ddlib.methods import trained
from ddlib.methods.common import TINY, class_members, finished, random_members
from ddlib.networks.functional import embed, with_batch_seen
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

CHUNK = 1024  # samples whose kernel with all others is computed at once

Sets = dict[int, DistilledSet]  # by ipc
Order = Callable[[torch.Tensor, int, Any], torch.Tensor]
"""Features (N, F) of a class, a count, and parameters: the indices (count,), best first."""


class RandomSelection(Parameters):
    """Random real samples: there is nothing to set."""


class FeatureSelection(Parameters):
    """Which features of the samples decide.

    features: "steps": each seed's own network, after `steps` SGD steps on the real set (0: no
    training); "trained": one network for all sizes and seeds, so that all seeds choose alike;
    "input": the samples themselves. training: of the one network; by default the 20 passes over
    CIFAR-10 of the published rows.
    """

    features: Literal["steps", "trained", "input"] = "steps"
    steps: NonNegativeInt = 300
    batch_size: PositiveInt = 64
    learning_rate: NonNegativeFloat = 0.01
    training: Recipe = Recipe(steps=3920)


class KernelSelection(FeatureSelection):
    """bandwidth: the kernel's standard deviation, over the deviation of a class's features.

    That deviation is the square root of the sum of the variances of all features.
    """

    bandwidth: PositiveFloat = 1.0


def jobs(parameters: FeatureSelection, ipcs: Sequence[int]) -> list[dict[str, Any]]:
    """Return the one network to train for all sizes and seeds; none for other features."""
    return trained.jobs(parameters.training, 1) if parameters.features == "trained" else []


def random(
    dataset: DataSet, network: Network, ipcs: Sequence[int], seed: int, parameters: RandomSelection
) -> Sets:
    """Choose `ipc` random real samples of each class, for every ipc."""
    orders = random_members(dataset, max(ipcs), seed).view(dataset.class_count, -1)
    return _firsts(dataset, ipcs, orders, "random", parameters, seed)


def herding_order(
    features: torch.Tensor, count: int, parameters: FeatureSelection | None = None
) -> torch.Tensor:
    """Return the different indices (count,) that herding picks from `features` (N, F).

    The mean feature is, after each pick, nearest to the mean of all. Source: Welling (ICML 2009),
    equations 1-3, as used for coresets by Rebuffi et al. (CVPR 2017).
    """
    target, total = features.mean(0), torch.zeros_like(features[0])
    taken, picks = features.new_zeros(len(features)), []
    for size in range(1, count + 1):
        distances = (target * size - total - features).pow(2).sum(1) + taken
        picks.append(int(distances.argmin()))
        total = total + features[picks[-1]]
        taken[picks[-1]] = torch.inf
    return torch.tensor(picks)


def kernel_herding_order(
    features: torch.Tensor, count: int, parameters: KernelSelection
) -> torch.Tensor:
    """Return the different indices (count,) that kernel herding picks from `features` (N, F).

    Both match a mean: `herding_order` that of the features, this one that of the kernel. Under a
    Gaussian kernel, only the whole distribution has distance 0. Source: Chen, Welling & Smola (UAI
    2010), equation 8; here each sample is picked at most once.

    After t picks, it picks the x of the largest mean_i k(x, x_i) - sum_picked k(x, x_p) / (t + 1),
    with k(x, y) = exp(-|x - y|^2 / 2 sigma^2), and sigma as in KernelSelection.
    """
    spread = 2 * parameters.bandwidth**2 * features.var(0, correction=0).sum() + TINY

    def kernel(points: torch.Tensor) -> torch.Tensor:
        return (-torch.cdist(features, points).square() / spread).exp()

    sums = sum(kernel(part).sum(1) for part in features.split(CHUNK))
    wanted, reached = sums / len(features), torch.zeros_like(sums)
    picks: list[int] = []
    while len(picks) < count:
        scores = wanted - reached / (len(picks) + 1)
        scores[picks] = -torch.inf
        picks.append(int(scores.argmax()))
        reached += kernel(features[picks[-1:]])[:, 0]
    return torch.tensor(picks)


def k_center_order(
    features: torch.Tensor, count: int, parameters: FeatureSelection | None = None
) -> torch.Tensor:
    """Return the indices (count,) of a greedy k-center cover of `features` (N, F).

    The first pick is the point nearest to the mean; each next one is farthest from all picks.
    Source: Gonzalez (1985); Sener & Savarese (ICLR 2018), algorithm 1.
    """
    picks = [int((features - features.mean(0)).pow(2).sum(1).argmin())]
    nearest = features.new_full((len(features),), torch.inf)
    while len(picks) < count:
        nearest = torch.minimum(nearest, (features - features[picks[-1]]).pow(2).sum(1))
        nearest[picks] = -1.0
        picks.append(int(nearest.argmax()))
    return torch.tensor(picks)


def features_of(
    dataset: DataSet,
    network: Network,
    seed: int,
    parameters: FeatureSelection,
    prepared: Sequence[Path],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that gives the features (n, F) of some training samples (n,)."""
    real = dataset.train
    if parameters.features == "input":
        return lambda rows: real.at(rows).flatten(1)
    theta = initial_parameters(network, generator("feature weights", seed), real.device)
    if parameters.features == "trained":
        theta = trained.read_network(prepared[0], real.device)
    elif parameters.steps:
        options = parameters.model_dump(include={"steps", "batch_size", "learning_rate"})
        recipe, stream = Recipe(**options), generator("feature batches", seed)
        theta = train(network, theta, real.samples, real.labels, recipe, stream)
    else:  # without statistics, batch norms would see one class at a time
        theta = with_batch_seen(network, theta, real.at(random_members(dataset, 16, seed)))
    return torch.no_grad()(lambda rows: embed(network, theta, real.at(rows)))


def _selecting(method: str, order: Order) -> Callable[..., Sets]:
    """Return the method that takes the samples of each class in an order of their features."""

    def select(
        dataset: DataSet,
        network: Network,
        ipcs: Sequence[int],
        seed: int,
        parameters: FeatureSelection,
        prepared: Sequence[Path] = (),
    ) -> Sets:
        features = features_of(dataset, network, seed, parameters, prepared)
        orders = [
            members[order(features(members), max(ipcs), parameters)]
            for members in class_members(dataset)
        ]
        return _firsts(dataset, ipcs, orders, method, parameters, seed)

    return select


def _firsts(
    dataset: DataSet,
    ipcs: Sequence[int],
    orders: Sequence[torch.Tensor],
    method: str,
    parameters: Parameters,
    seed: int,
) -> Sets:
    """Return, for every ipc, the set of the first `ipc` samples in the order of each class."""
    sets = {}
    for ipc in ipcs:
        images = dataset.train.at(torch.cat([order[:ipc] for order in orders]))
        sets[ipc] = finished(dataset, images, method, parameters, seed)
    return sets


herding = _selecting("herding", herding_order)
k_center = _selecting("k_center", k_center_order)
kernel_herding = _selecting("kernel_herding", kernel_herding_order)
