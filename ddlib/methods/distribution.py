"""DM, distribution matching: class means of features under networks that are never trained."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

import torch
from pydantic import NonNegativeInt

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.methods.matching import TINY, BatchMatching, RealBatches, Synthetic, fresh_networks
from ddlib.networks.functional import Network, Theta, embed, in_groups
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.loop import DivergedError, or_diverged


class DistributionMatching(BatchMatching):
    """Defaults are the reference's (Zhao & Bilen, WACV 2023), but for digits, which do not flip.

    An image's gradient shrinks like 1/ipc, so the reference's one learning rate moves large sets
    slowly; `learning_rate: {1: 1, 100: 100}` moves every size alike. No network is trained, so of
    `configurations` only their networks are of weight, which embed images.

    pool: how many networks there are, each with one real batch and one augmentation that stay its
    own; 0 draws all anew every iteration. What is real is then computed once a network, not once
    an iteration, and S fits this pool instead of the mean over all networks.
    """

    iterations: NonNegativeInt = 20000
    pool: NonNegativeInt = 0


def distil(
    dataset: DataSet,
    network: Network,
    ipcs: Sequence[int],
    seed: int,
    parameters: DistributionMatching,
) -> dict[int, DistilledSet | DivergedError]:
    """Distil every size against the same real batches: min_S of `objective` over fresh networks.

    Each iteration draws one network (with `configurations`, that of one of them, so that the
    objective is their mean), one augmentation and one real batch a class; the real side
    does not depend on S, so its one forward pass serves every size, and each size is what it
    would be if distilled alone (on an accelerator, but for rounding).

    Source: Zhao & Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023), eq. 5.
    The reference draws one augmentation a class where this draws one for all classes.
    """
    sizes = [Synthetic(dataset, ipc, seed, parameters) for ipc in ipcs]
    moving, turns = sizes, _turns(dataset, network, seed, parameters)
    for iteration, turn in zip(range(parameters.iterations), turns, strict=False):
        groups = _passes(moving, turn.network, dataset.image_shape)
        moving = [
            size for own in groups for size in _move(own, turn, iteration, parameters.average)
        ]
        if not moving:
            break
    return {size.ipc: or_diverged(size.finished, "dm", parameters.iterations) for size in sizes}


class _Turn(NamedTuple):
    """What an iteration matches: a network, an augmentation, and the real class means (C, F)."""

    network: Network
    theta: Theta
    drawn: augment.Draw
    target: torch.Tensor


def _turns(
    dataset: DataSet, network: Network, seed: int, parameters: DistributionMatching
) -> Iterator[_Turn]:
    """Yield without end the turns of one seed: one an iteration, or those of a pool over again."""
    fresh = fresh_networks(dataset, network, parameters.configurations, seed)
    families = augment.STRATEGIES[parameters.augmentation]
    # Each network of a pool has representatives of its own.
    options = parameters.replace(keep=1) if parameters.pool else parameters
    real, batches = dataset.train, RealBatches(dataset, seed, options)
    targets: dict[int, torch.Tensor] = {}  # of a pool, whose weights are drawn anew
    for iteration in count():
        number = iteration % parameters.pool if parameters.pool else iteration
        chosen, _, theta = fresh(number)
        drawn = augment.draw(families, 1, generator("matching augmentation", seed, number))
        target = targets.get(number)
        if target is None:
            rows = send(torch.cat(batches.draw(chosen, theta)), real.images.device)
            target = _real_means(dataset, chosen, theta, rows, drawn)
        if parameters.pool:
            targets[number] = target
        yield _Turn(chosen, theta, drawn, target)


@torch.no_grad()
def _real_means(
    dataset: DataSet, network: Network, theta: Theta, rows: torch.Tensor, drawn: augment.Draw
) -> torch.Tensor:
    features = embed(network, theta, augment.apply(dataset.train.images[rows], drawn))
    return class_means(features, dataset.train.labels[rows], dataset.class_count)


def _passes(
    sizes: Sequence[Synthetic], network: Network, image_shape: Sequence[int]
) -> list[Sequence[Synthetic]]:
    """Return the sizes that share a pass: small ones on an accelerator; elsewhere each is alone."""
    if sizes[0].images.device.type == "cpu" or network.batch_norms:
        return [[size] for size in sizes]
    return [sizes[own] for own in in_groups([len(each.labels) for each in sizes], image_shape)]


def _move(group: Sequence[Synthetic], turn: _Turn, iteration: int, average: str) -> list[Synthetic]:
    """Move the images of each size a step against its objective; return the sizes that go on."""
    images = torch.cat([size.images for size in group])
    features = embed(turn.network, turn.theta, augment.apply(images, turn.drawn))
    own = features.split([len(size.labels) for size in group])
    losses = [
        objective(class_means(each, size.labels, len(turn.target)), turn.target)
        for size, each in zip(group, own, strict=True)
    ]
    for size in group:
        size.optimiser.zero_grad()
    sum((loss + TINY).log() if average == "geometric" else loss for loss in losses).backward()
    for size in group:
        size.optimiser.step()
    # What diverged goes on no more; its watch keeps why, for `finished` to say.
    seen = zip(group, losses, strict=True)
    return [size for size, loss in seen if not or_diverged(size.is_last, iteration, loss)]


def class_means(features: torch.Tensor, labels: torch.Tensor, class_count: int) -> torch.Tensor:
    """Return the mean (C, F) of the features (N, F) of each class."""
    sums = features.new_zeros(class_count, features.shape[1]).index_add(0, labels, features)
    # Not bincount, which on an accelerator waits to learn the largest label.
    ones = features.new_ones(len(labels))
    return sums / features.new_zeros(class_count).index_add(0, labels, ones)[:, None]


def objective(synthetic_means: torch.Tensor, real_means: torch.Tensor) -> torch.Tensor:
    """Return the sum over classes of the squared distance between class means (C, F)."""
    return (real_means - synthetic_means).pow(2).sum()
