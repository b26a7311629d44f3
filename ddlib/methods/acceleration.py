"""Batches of real images to match, and options that cost less because they estimate otherwise.

What the latter change is to be compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ddlib.data import DataSet
from ddlib.devices import send
from ddlib.methods.common import AVERAGES, Matching, k_means, read_configuration, real_batches
from ddlib.networks import Network, Theta, embed
from ddlib.parameters import setting
from ddlib.seeds import generator


@dataclass(frozen=True)
class BatchMatching(Matching):
    """What methods have that match batches of real images; what they may save is off by default.

    configurations: tables as `read_configuration` reads them; every iteration draws one, so that S
    is made for all of them. What a table leaves out is as without it. For `average` see AVERAGES.

    real_batch: random real images a class in a batch, the reference's number.
    representatives: how many of the `real_batch` random images of a class are matched, one of each
    cluster of their features; 0 for all. They serve for `keep` batches before others are chosen,
    by the features of the network of that moment.
    """

    configurations: list[dict[str, Any]] = setting([], each=read_configuration)
    average: str = setting("arithmetic", choices=AVERAGES)
    real_batch: int = setting(256, least=1)
    representatives: int = setting(0)
    keep: int = setting(10, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.representatives > self.real_batch:
            raise ValueError(
                f"representatives={self.representatives} are chosen from "
                f"real_batch={self.real_batch} images; choose at most as many, or 0 to match all"
            )


class RealBatches:
    """The batches of real images of one seed: random ones, or what stands for those."""

    def __init__(self, dataset: DataSet, seed: int, options: BatchMatching):
        self._dataset = dataset
        self._seed = seed
        self._options = options
        self._random = real_batches(dataset, options.real_batch, generator("real", seed))
        self._drawn = 0
        self._batch: list[torch.Tensor] = []

    def draw(self, network: Network, theta: Theta) -> list[torch.Tensor]:
        """Return, for each class, the indices of its next real images, none twice."""
        count = self._options.representatives
        if not count:
            return next(self._random)
        if self._drawn % self._options.keep == 0:
            key = self._seed, self._drawn
            self._batch = representatives(
                self._dataset, network, theta, next(self._random), count, key
            )
        self._drawn += 1
        return self._batch


@torch.no_grad()
def representatives(
    dataset: DataSet,
    network: Network,
    theta: Theta,
    candidates: Sequence[torch.Tensor],
    count: int,
    seed: object,
) -> list[torch.Tensor]:
    """Return, for each class, the indices of `count` of its candidates, none twice.

    They are those next to the centroids of k-means over the candidates' features. candidates: for
    each class, indices of training images; a class of no more than `count` keeps all, and one with
    fewer distinct features than `count` gives fewer. Source: Liu
    et al., "DREAM" (ICCV 2023), algorithm 1, which clusters all images of a class where this takes
    a random part of them.
    """
    images = dataset.train.images
    features = embed(network, theta, images[send(torch.cat(list(candidates)), images.device)])
    chosen = []
    for label, own in enumerate(features.cpu().split([len(rows) for rows in candidates])):
        rows = candidates[label]
        if len(rows) > count:
            found = k_means(own, count, generator("representatives", seed, label))
            apart = torch.from_numpy(found.transform(own.numpy()))  # (N, count)
            members = torch.from_numpy(found.labels_)[:, None] == torch.arange(count)
            nearest = apart.masked_fill(~members, math.inf).argmin(0)
            rows = rows[nearest[members.any(0)]]  # fewer where candidates are alike
        chosen.append(rows)
    return chosen
