"""DM, distribution matching: class means of features under networks that are never trained."""

from collections.abc import Sequence

import torch
from pydantic import NonNegativeInt

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.methods.common import TINY, BatchMatching, Synthetic, fresh_networks, real_batches
from ddlib.networks.functional import embed
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError, or_diverged


class DistributionMatching(BatchMatching):
    """Defaults are the reference's (Zhao & Bilen, WACV 2023); digits want `dsa_no_flip`.

    The gradient of a sample shrinks like 1/ipc, so one learning rate moves large sets slowly;
    `learning_rate: {1: 1, 100: 100}` moves all sizes alike. No network is trained, so only the
    networks of `configurations` matter.
    """

    iterations: NonNegativeInt = 20000


def distil(
    dataset: DataSet,
    network: Network,
    ipcs: Sequence[int],
    seed: int,
    parameters: DistributionMatching,
) -> dict[int, DistilledSet | DivergedError]:
    """Distil every size: minimise the sum of squared distances of S's class means to D's.

    Each iteration draws a network, an augmentation and a real batch, which all sizes use. A size
    gives the same set as if distilled alone. The reference draws one augmentation for each class,
    this method one for all classes.

    Source: Zhao & Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023), eq. 5.
    """
    sizes = [Synthetic(dataset, ipc, seed, parameters, parameters.factor) for ipc in ipcs]
    moving, real, class_count = list(sizes), dataset.train, dataset.class_count
    networks = fresh_networks(dataset, network, parameters.configurations, seed)
    batches = real_batches(dataset, parameters.real_batch, generator("real", seed))
    families = augment.STRATEGIES[parameters.augmentation]
    for iteration in range(parameters.iterations):
        network, _, theta = next(networks)
        draw = augment.draw(families, 1, generator("matching augmentation", seed, iteration))
        rows = send(torch.cat(next(batches)), real.device)
        with torch.no_grad():
            features = embed(network, theta, augment.apply(real.at(rows), draw))
            real_means = class_means(features, real.labels[rows], class_count)
        for size in list(moving):
            features = embed(network, theta, augment.apply(size.decoded(), draw))
            synthetic_means = class_means(features, size.labels, class_count)
            loss = (real_means - synthetic_means).pow(2).sum()
            loss = (loss + TINY).log() if parameters.average == "geometric" else loss
            if or_diverged(size.descend, loss, iteration):
                moving.remove(size)
        if not moving:
            break
    return {size.ipc: or_diverged(size.finished, "dm", parameters.iterations) for size in sizes}


def class_means(features: torch.Tensor, labels: torch.Tensor, class_count: int) -> torch.Tensor:
    """Return the mean (C, F) of the features (N, F) of each class."""
    sums = features.new_zeros(class_count, features.shape[1]).index_add(0, labels, features)
    ones = features.new_ones(len(labels))  # bincount would block until the GPU is done
    return sums / features.new_zeros(class_count).index_add(0, labels, ones)[:, None]
