"""Controls that choose real samples instead of making new ones: random, herding, k-center.

Each orders the samples of every class once. The set of a size holds the first of each order.
"""

from collections.abc import Callable, Sequence

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

Sets = dict[int, DistilledSet]  # by ipc


class RandomSelection(Parameters):
    """Random real samples: there is nothing to set."""


class FeatureSelection(Parameters):
    """Features come from a network after `steps` SGD steps on the real set (0: no training)."""

    steps: NonNegativeInt = 300
    batch_size: PositiveInt = 64
    learning_rate: NonNegativeFloat = 0.01


def random(
    dataset: DataSet, network: Network, ipcs: Sequence[int], seed: int, parameters: RandomSelection
) -> Sets:
    """Choose `ipc` random real samples of each class, for every ipc."""
    orders = random_members(dataset, max(ipcs), seed).view(dataset.class_count, -1)
    return _firsts(dataset, ipcs, orders, "random", parameters, seed)


def herding(
    dataset: DataSet, network: Network, ipcs: Sequence[int], seed: int, parameters: FeatureSelection
) -> Sets:
    """Choose real samples whose mean feature is, after each choice, nearest to the class mean.

    Source: Welling (ICML 2009), equations 1-3, as used for coresets by Rebuffi et al. (CVPR 2017).
    """
    orders = _orders(herding_order, dataset, network, max(ipcs), seed, parameters)
    return _firsts(dataset, ipcs, orders, "herding", parameters, seed)


def k_center(
    dataset: DataSet, network: Network, ipcs: Sequence[int], seed: int, parameters: FeatureSelection
) -> Sets:
    """Choose real samples greedily, to bring every sample of a class near to a chosen one.

    Source: Gonzalez (1985); Sener & Savarese (ICLR 2018), algorithm 1.
    """
    orders = _orders(k_center_order, dataset, network, max(ipcs), seed, parameters)
    return _firsts(dataset, ipcs, orders, "k_center", parameters, seed)


def herding_order(features: torch.Tensor, count: int) -> torch.Tensor:
    """Return the different indices (count,) that herding picks from `features` (N, F)."""
    target, total = features.mean(0), torch.zeros_like(features[0])
    taken, picks = features.new_zeros(len(features)), []
    for size in range(1, count + 1):
        distances = (target * size - total - features).pow(2).sum(1) + taken
        picks.append(int(distances.argmin()))
        total = total + features[picks[-1]]
        taken[picks[-1]] = torch.inf
    return torch.tensor(picks)


def k_center_order(features: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices (count,) of a greedy k-center cover of `features` (N, F).

    The first pick is the point nearest to the mean; each next one is farthest from all picks.
    """
    picks = [int((features - features.mean(0)).pow(2).sum(1).argmin())]
    nearest = features.new_full((len(features),), torch.inf)
    while len(picks) < count:
        nearest = torch.minimum(nearest, (features - features[picks[-1]]).pow(2).sum(1))
        nearest[picks] = -1.0
        picks.append(int(nearest.argmax()))
    return torch.tensor(picks)


def _orders(
    order: Callable[[torch.Tensor, int], torch.Tensor],
    dataset: DataSet,
    network: Network,
    count: int,
    seed: int,
    parameters: FeatureSelection,
) -> list[torch.Tensor]:
    """Return, for each class, the indices (count,) of the training samples that `order` picks."""
    real = dataset.train
    theta = initial_parameters(network, generator("feature weights", seed), real.device)
    if parameters.steps:
        recipe, stream = Recipe(**vars(parameters)), generator("feature batches", seed)
        theta = train(network, theta, real.samples, real.labels, recipe, stream)
    else:  # without statistics, batch norms would see one class at a time
        theta = with_batch_seen(network, theta, real.at(random_members(dataset, 16, seed)))
    with torch.no_grad():
        return [
            members[order(embed(network, theta, real.at(members)), count)]
            for members in class_members(dataset)
        ]


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
