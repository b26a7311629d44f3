"""Options that cost less because they estimate otherwise: what they change is to be compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ddlib.data import DataSet
from ddlib.devices import send
from ddlib.methods.common import k_means, real_batches
from ddlib.networks import Network, Theta, embed
from ddlib.parameters import Parameters, setting
from ddlib.seeds import generator


@dataclass(frozen=True)
class Stopping(Parameters):
    """When a matching method ends before its last iteration; never by default.

    plateau: it ends when the mean loss of `window` iterations is not lower, by this share, than
    that of the `window` before; 0 for never. Networks differ by more than iterations do, so short
    windows end by chance; those of one turn of DM's `pool` do not.
    """

    plateau: float = setting(0.0)
    window: int = setting(100, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plateau >= 1:
            raise ValueError(f"plateau={self.plateau} is a share; choose 0 (never) to below 1")


@dataclass(frozen=True)
class Accelerated(Stopping):
    """What a method that matches batches of real images may save; all of it is off by default.

    real_batch: random real images a class in a batch, the reference's number.
    representatives: how many of the `real_batch` random images of a class are matched, one of each
    cluster of their features; 0 for all. They serve for `keep` batches before others are chosen,
    by the features of the network of that moment.
    """

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

    def __init__(self, dataset: DataSet, seed: int, options: Accelerated):
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


@dataclass
class Plateau:
    """Tells when a loss has stopped falling; it is read once a window, not as each value comes."""

    options: Stopping
    before: float = math.inf
    seen: list[torch.Tensor] = field(default_factory=list)

    def reached(self, loss: torch.Tensor) -> bool:
        """Take note of the loss () of an iteration; return whether it is the last."""
        if not self.options.plateau:
            return False
        self.seen.append(loss.detach())
        if len(self.seen) < self.options.window:
            return False
        mean, before = float(torch.stack(self.seen).mean()), self.before
        self.seen, self.before = [], mean
        return mean > (1 - self.options.plateau) * before
