"""DATM: MTT with a range of the experts' epochs that suits the size, and with soft labels."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.methods.common import Synthetic, real_batches
from ddlib.methods.trajectory import TrajectoryMatching, label_logits, match, read_expert
from ddlib.networks.functional import Theta, in_passes, logits, pass_size, unflatten
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, Share, at_ipc
from ddlib.seeds import generator


class DifficultyAlignedMatching(TrajectoryMatching):
    """These are the reference's settings for CIFAR-10 (Guo et al., ICLR 2024), the rest MTT's.

    Starts are drawn from min_start to below max_start: 40 to 60 at ipc 1000. At first only
    `first_share` of this range is open; it opens evenly over a share `expansion` of the iterations.
    label_snapshot: the snapshot of the experts from which samples and labels come; the reference
    trains 100 epochs and takes the last. Labels move with the momentum of the samples, 0.5, where
    the reference's have 0.9: multiply published label rates (5, 2 and 2 at ipc 1, 10 and 50) by 5.
    """

    student_steps: ByIpc[PositiveInt] = 80
    min_start: ByIpc[NonNegativeInt] = 0
    max_start: ByIpc[PositiveInt] = {1: 4, 10: 20, 50: 40}
    first_share: Share = 0.5
    expansion: ByIpc[Share] = {1: 0.0, 10: 0.1, 50: 0.2}
    label_snapshot: NonNegativeInt = 100
    label_learning_rate: ByIpc[NonNegativeFloat] = {1: 25.0, 10: 10.0, 50: 10.0}
    initialisation: Literal["real"] = "real"

    method: ClassVar[str] = "datm"

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        tables = [table for table in (self.min_start, self.max_start) if isinstance(table, dict)]
        for ipc in sorted({1}.union(*tables)):
            self.check_starts(ipc)
        return self

    def check_starts(self, ipc: int) -> None:
        """Raise ValueError if a size has no snapshot to start from."""
        low, high = self._range(ipc)
        if low >= high:
            raise ValueError(
                f"min_start={low} is not below max_start={high} at ipc {ipc}, so there is "
                "nothing to start from; choose a smaller min_start"
            )

    def _range(self, ipc: int) -> tuple[int, int]:
        return round(at_ipc(self.min_start, ipc)), round(at_ipc(self.max_start, ipc))

    def starts(self, ipc: int, iteration: int) -> tuple[int, int]:
        """Return the first snapshot to start from in an iteration, and the end of their range."""
        low, high = self._range(ipc)
        growing = at_ipc(self.expansion, ipc) * at_ipc(self.iterations, ipc)
        opened = min(1.0, iteration / growing) if growing else 1.0
        share = self.first_share + (1 - self.first_share) * opened
        return low, low + max(1, math.ceil(share * (high - low)))

    def last(self, ipc: int) -> int:
        """Return the last snapshot of an expert that a size uses."""
        return max(super().last(ipc), self.label_snapshot)


def check(
    parameters: DifficultyAlignedMatching, dataset: DataSet, network: Network, ipcs: Sequence[int]
) -> None:
    """Raise ValueError if the network has batch norms, or a size has nothing to start from."""
    for ipc in ipcs:
        parameters.check_starts(ipc)
    if network.batch_norms:
        raise ValueError(
            "labels are answers of experts, which keep no running statistics, but the network has "
            "batch norms; choose norm: instance"
        )


def distil(
    dataset: DataSet,
    network: Network,
    ipc: int,
    seed: int,
    parameters: DifficultyAlignedMatching,
    prepared: Sequence[Path],
) -> DistilledSet:
    """Distil S as `trajectory.distil` does, from samples that the first expert classifies right.

    The first samples are, in each class, the first ones in the order of the method `random` that
    are classified right; the others follow if these are too few. The logits of a sample's label are
    at first the mean over the experts that classify it right; if none does, its class has
    `trajectory.FIRST_SHARE`. prepared: the files of `trajectory.train_expert`.

    Source: Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory
    Matching" (ICLR 2024). Its experts are trained by FTD, and iterations of a large loss are left
    out; here experts are MTT's, and no iteration is left out.
    """
    experts, synthetic = list(map(read_expert, prepared)), Synthetic(dataset, ipc, seed, parameters)
    samples, rows = synthetic.samples.detach(), [e[parameters.label_snapshot] for e in experts]
    flats = (send(torch.from_numpy(np.array(row)), samples.device) for row in rows)
    thetas = [unflatten(network, flat.to(samples.dtype)) for flat in flats]
    samples.copy_(dataset.train.at(_classified(dataset, network, thetas[0], ipc, seed)))
    labels = _label_means(network, thetas, samples, synthetic.labels)
    return match(network, synthetic, labels, seed, parameters, experts)


@torch.no_grad()
def _classified(
    dataset: DataSet, network: Network, theta: Theta, ipc: int, seed: int
) -> torch.Tensor:
    """Return the indices (k,) of the first samples; see `distil`."""
    real, count = dataset.train, len(dataset.train.labels)
    passes = torch.arange(count).split(pass_size(dataset.sample_shape, real.device))
    answers = torch.cat([logits(network, theta, real.at(rows)).argmax(1) for rows in passes])
    is_wrong = (answers != real.labels).int().cpu()
    orders = next(real_batches(dataset, count, generator("random members", seed)))
    return torch.cat([order[is_wrong[order].argsort(stable=True)[:ipc]] for order in orders])


@torch.no_grad()
def _label_means(
    network: Network, thetas: Sequence[Theta], samples: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the logits (k, C) of the first labels of samples (k, ...); see `distil`."""
    parts = [[logits(network, theta, part) for part in in_passes(samples)] for theta in thetas]
    scores = torch.stack([torch.cat(of_expert) for of_expert in parts])  # (experts, k, C)
    is_right = (scores.argmax(2) == labels)[..., None]
    count = is_right.sum(0)
    hard = label_logits(labels, scores.shape[2]).to(samples)
    return torch.where(count > 0, (scores * is_right).sum(0) / count.clamp(1), hard)
