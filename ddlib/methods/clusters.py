"""Controls by k-means: the centroids of each class, and the real samples nearest to them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet
from ddlib.methods.common import centroids, class_members, finished
from ddlib.methods.selection import FeatureSelection, Sets, features_of
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.seeds import generator


class Centroids(Parameters):
    """The centroids of k-means: there is nothing to set."""


class NearestSelection(FeatureSelection):
    """By default, k-means sees the samples themselves; every seed starts it elsewhere."""

    features: Literal["steps", "trained", "input"] = "input"


def k_means(
    dataset: DataSet, network: Network, ipc: int, seed: int, parameters: Centroids
) -> DistilledSet:
    """Return the `ipc` k-means centroids of the samples of each class: blurred images.

    They make the mean squared distance of D's samples to the nearest sample of S small. Source:
    Lloyd (IEEE Transactions on Information Theory, 1982), as in scikit-learn.
    """
    means = [
        centroids(dataset.train.at(members), ipc, generator("centroids", seed, ipc, label))
        for label, members in enumerate(class_members(dataset))
    ]
    return finished(dataset, torch.cat(means), "k_means", parameters, seed)


def nearest_to_centroid(
    dataset: DataSet,
    network: Network,
    ipcs: Sequence[int],
    seed: int,
    parameters: NearestSelection,
    prepared: Sequence[Path] = (),
) -> Sets:
    """Choose the real sample that is nearest to each of `ipc` k-means centroids of its class.

    With features "input", the centroids are those of `k_means`. See `nearest_rows`.
    """
    features, sets = features_of(dataset, network, seed, parameters, prepared), {}
    classes = [(members, features(members)) for members in class_members(dataset)]
    for ipc in ipcs:
        rows = []
        for label, (members, points) in enumerate(classes):
            centres = centroids(points, ipc, generator("centroids", seed, ipc, label))
            rows.append(members[nearest_rows(points, centres)])
        images = dataset.train.at(torch.cat(rows))
        sets[ipc] = finished(dataset, images, "nearest_to_centroid", parameters, seed)
    return sets


def nearest_rows(points: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Return the indices (K,) of the points (N, F) nearest to K centres (K, F), all different.

    Where a point is nearest to several centres, the least sum of squared distances decides.
    """
    from scipy.optimize import linear_sum_assignment

    distances = torch.cdist(centres, points).square().cpu()
    return torch.from_numpy(linear_sum_assignment(distances)[1])
