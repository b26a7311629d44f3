"""Controls that select real images instead of making new ones: random, herding, k-center.

All three give each class one order in which its images are chosen, so the choice of every size
is a prefix of the same order.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet
from ddlib.methods.common import class_members, finished, random_members
from ddlib.networks.functional import embed, with_batch_seen
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe


class RandomSelection(Parameters):
    """Random real images: nothing to set."""


class FeatureSelection(Parameters):
    """Features come from a network trained for `steps` SGD steps on the real set (0: untrained)."""

    steps: NonNegativeInt = 300
    batch_size: PositiveInt = 64
    learning_rate: NonNegativeFloat = 0.01


def random(
    dataset: DataSet, network: Network, ipcs: Sequence[int], seed: int, parameters: RandomSelection
) -> dict[int, DistilledSet]:
    """Choose `ipc` random real images a class, for every ipc."""
    orders = random_members(dataset, max(ipcs), seed).view(dataset.class_count, -1)
    return _prefixes(dataset, orders, ipcs, "random", parameters, seed)


def herding(
    dataset: DataSet, network: Network, ipcs: Sequence[int], seed: int, parameters: FeatureSelection
) -> dict[int, DistilledSet]:
    """Choose the real images whose running mean of features stays nearest to the class mean.

    Source: Welling (ICML 2009), equations 1-3, as used for coresets by Rebuffi et al. (CVPR 2017).
    """
    found = _class_features(dataset, network, seed, parameters)
    orders = [members[herding_order(features, max(ipcs))] for members, features in found]
    return _prefixes(dataset, orders, ipcs, "herding", parameters, seed)


def k_center(
    dataset: DataSet, network: Network, ipcs: Sequence[int], seed: int, parameters: FeatureSelection
) -> dict[int, DistilledSet]:
    """Choose real images greedily so that the farthest image of a class is as near as possible.

    Source: Gonzalez (1985); Sener & Savarese (ICLR 2018), algorithm 1.
    """
    found = _class_features(dataset, network, seed, parameters)
    orders = [members[k_center_order(features, max(ipcs))] for members, features in found]
    return _prefixes(dataset, orders, ipcs, "k_center", parameters, seed)


def herding_order(features: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices (count,) that herding picks from `features` (N, F), none twice.

    The j-th pick makes the mean of the first j nearest to the mean of all.
    """
    target, total = features.mean(0), torch.zeros_like(features[0])
    free = features.new_zeros(len(features))
    picks = []
    for size in range(1, count + 1):
        distances = (target * size - total - features).pow(2).sum(1) + free
        picks.append(int(distances.argmin()))
        total = total + features[picks[-1]]
        free[picks[-1]] = torch.inf
    return torch.tensor(picks)


def k_center_order(features: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices (count,) of a greedy k-center cover of `features` (N, F).

    It starts at the point nearest to the mean and then takes the point farthest from all taken.
    """
    picks = [int((features - features.mean(0)).pow(2).sum(1).argmin())]
    nearest = features.new_full((len(features),), torch.inf)
    while len(picks) < count:
        nearest = torch.minimum(nearest, (features - features[picks[-1]]).pow(2).sum(1))
        nearest[picks] = -1.0
        picks.append(int(nearest.argmax()))
    return torch.tensor(picks)


def _class_features(
    dataset: DataSet, network: Network, seed: int, parameters: FeatureSelection
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield, for each class, the indices (N,) of its training images and their features (N, F)."""
    real = dataset.train
    theta = initial_parameters(network, generator("feature weights", seed), real.device)
    if parameters.steps:
        recipe = Recipe(**vars(parameters))
        stream = generator("feature batches", seed)
        theta = train(network, theta, real.images, real.labels, recipe, stream)
    else:  # or batch norms would see one class at a time
        theta = with_batch_seen(network, theta, real.at(random_members(dataset, 16, seed)))
    for members in class_members(dataset):
        with torch.no_grad():
            features = embed(network, theta, real.at(members))
        yield members, features


def _prefixes(
    dataset: DataSet, orders: Sequence[torch.Tensor], ipcs: Sequence[int], *made: Any
) -> dict[int, DistilledSet]:
    """Return, for every ipc, the first `ipc` images in the order of each class, its indices.

    made: what else `finished` is to know: method, parameters, seed.
    """
    sets = {}
    for ipc in ipcs:
        images = dataset.train.at(torch.cat([order[:ipc] for order in orders]))
        sets[ipc] = finished(dataset, images, *made)
    return sets
