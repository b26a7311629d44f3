"""DM, distribution matching: class means of features under networks that are never trained."""

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.methods.common import real_batches
from ddlib.methods.matching import TINY, BatchMatching, Synthetic, fresh_networks
from ddlib.networks.functional import embed
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError, or_diverged


class DistributionMatching(BatchMatching):
    """Defaults are the reference's (Zhao & Bilen, WACV 2023), but for digits, which do not flip.

    An image's gradient shrinks like 1/ipc, so the reference's one learning rate moves large sets
    slowly; `learning_rate: {1: 1, 100: 100}` moves every size alike. No network is trained, so of
    `configurations` only their networks are of weight, which embed images.
    """

    iterations: NonNegativeInt = 20000


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
    moving = list(sizes)
    real, families = dataset.train, augment.STRATEGIES[parameters.augmentation]
    fresh = fresh_networks(dataset, network, parameters.configurations, seed)
    batches = real_batches(dataset, parameters.real_batch, generator("real", seed))
    for iteration in range(parameters.iterations):
        network, _, theta = fresh(iteration)
        drawn = augment.draw(families, 1, generator("matching augmentation", seed, iteration))
        rows = send(torch.cat(next(batches)), real.device)
        with torch.no_grad():
            features = embed(network, theta, augment.apply(real.at(rows), drawn))
            target = class_means(features, real.labels[rows], dataset.class_count)
        for size in list(moving):
            features = embed(network, theta, augment.apply(size.images, drawn))
            loss = objective(class_means(features, size.labels, len(target)), target)
            loss = (loss + TINY).log() if parameters.average == "geometric" else loss
            if or_diverged(size.descend, loss, iteration):
                moving.remove(size)
        if not moving:
            break
    return {size.ipc: or_diverged(size.finished, "dm", parameters.iterations) for size in sizes}


def class_means(features: torch.Tensor, labels: torch.Tensor, class_count: int) -> torch.Tensor:
    """Return the mean (C, F) of the features (N, F) of each class."""
    sums = features.new_zeros(class_count, features.shape[1]).index_add(0, labels, features)
    # Not bincount, which on an accelerator waits to learn the largest label.
    ones = features.new_ones(len(labels))
    return sums / features.new_zeros(class_count).index_add(0, labels, ones)[:, None]


def objective(synthetic_means: torch.Tensor, real_means: torch.Tensor) -> torch.Tensor:
    """Return the sum over classes of the squared distance between class means (C, F)."""
    return (real_means - synthetic_means).pow(2).sum()
