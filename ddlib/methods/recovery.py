"""SRe2L: images recovered from the batch-norm statistics and the answers of a teacher."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.methods import trained
from ddlib.methods.common import finished
from ddlib.networks.functional import Theta, build, logits
from ddlib.networks.layers import Network
from ddlib.parameters import Share
from ddlib.seeds import generator
from ddlib.training.augment import resized_crops
from ddlib.training.divergence import DivergedError, Watch
from ddlib.training.loop import descend
from ddlib.training.recipe import SCHEDULES

FIRST = 10.0  # how much more the first batch norm counts than each other


class StatisticsRecovery(trained.Taught):
    """Defaults are the reference's for CIFAR-100 (Yin et al., NeurIPS 2023).

    statistics: the weight of the batch norms; jitter: the most pixels by which images are rolled.
    smallest: the least share of an image's area that the teacher sees at a step. For ImageNet, the
    reference has `smallest: 0.08`, `jitter: 32` and `iterations: 4000`, and also mirrors images,
    which is not done here.
    """

    iterations: NonNegativeInt = 1000
    learning_rate: NonNegativeFloat = 0.25
    statistics: NonNegativeFloat = 0.01
    jitter: NonNegativeInt = 4
    smallest: Share = 1.0


def check_teacher(
    parameters: StatisticsRecovery, dataset: DataSet, network: Network, ipcs: Sequence[int]
) -> None:
    """Raise ValueError if the teacher has no batch norms."""
    if not build(**parameters.network, **dataset.sizes).batch_norms:
        raise ValueError(
            f"images are recovered from statistics of batch norms, and {parameters.network} has "
            "none; choose network: {name: convnet, norm: batch}"
        )


def distil(
    dataset: DataSet,
    network: Network,
    ipcs: Sequence[int],
    seed: int,
    parameters: StatisticsRecovery,
    prepared: Sequence[Path],
) -> dict[int, DistilledSet | DivergedError]:
    """Recover max(ipcs) groups of one image a class; a set holds the first groups.

    A group starts from noise. Adam minimises the mean cross-entropy under the teacher, plus
    `statistics` times the distance of `answers`; its rate falls along a cosine, and pixels are
    clipped to those of images. The set has hard labels: under `labels: {regime: soft}` the study's
    teacher labels the views of each training step, as published. prepared: the file of the teacher.
    A size fails with the first of its groups that has a loss or a pixel that is not finite.

    Source: Yin, Xing & Shen, "Squeeze, Recover and Relabel" (NeurIPS 2023), section 3.
    """
    teacher = build(**parameters.network, **dataset.sizes)
    theta = trained.read_network(prepared[0], dataset.train.device)
    groups, failure = [], None
    try:
        for number in range(max(ipcs)):
            groups.append(recover(dataset, teacher, theta, seed, parameters, number))
    except DivergedError as error:
        failure = error
    sets: dict[int, DistilledSet | DivergedError] = dict.fromkeys(ipcs, failure)
    for ipc in ipcs:
        if ipc <= len(groups):
            images = torch.stack(groups[:ipc], 1).flatten(0, 1)
            sets[ipc] = finished(dataset, images, "sre2l", parameters, seed)
    return sets


def recover(
    dataset: DataSet,
    teacher: Network,
    theta: Theta,
    seed: int,
    parameters: StatisticsRecovery,
    number: int,
) -> torch.Tensor:
    """Return one image of each class (C, ...), group `number`; see `distil`.

    Raises DivergedError.
    """
    stream, watch, device = generator("recovery", seed, number), Watch(), dataset.train.device
    shape = dataset.class_count, *dataset.sample_shape
    images = send(torch.randn(shape, generator=stream, dtype=torch.float32), device)
    optimiser = torch.optim.Adam([images.requires_grad_()], betas=(0.5, 0.9))
    labels, to_pixels = torch.arange(len(images), device=device), dataset.normalisation
    for step in range(parameters.iterations):
        seen = images
        if parameters.smallest < 1:
            seen = resized_crops(images, parameters.smallest, shape[2:], stream)
        shifts = torch.randint(parameters.jitter + 1, (2,), generator=stream).tolist()
        scores, distance = answers(teacher, theta, seen.roll(shifts, (2, 3)))
        loss = F.cross_entropy(scores, labels) + parameters.statistics * distance
        done = step / parameters.iterations
        descend(optimiser, loss, parameters.learning_rate * SCHEDULES["cosine"](done))
        images.data = to_pixels.normalise(to_pixels.denormalise(images.data))
        watch.finite(step, "the loss of recovery", loss)
    watch.finite(parameters.iterations, "a pixel", images)
    watch.check()
    return images.detach()


def answers(
    teacher: Network, theta: Theta, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the teacher's scores (N, C) of images, and the distance () of their statistics.

    The distance is the sum over batch norms of |mean - running mean| + |variance - running
    variance|, Euclidean over channels; the first batch norm counts FIRST times.
    """
    distances: list[torch.Tensor] = []

    def compare(layer: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        mean = (values.mean(1) - layer.running_mean).norm()
        variance = (values.var(1, correction=0) - layer.running_var).norm()
        distances.append((1 if distances else FIRST) * (mean + variance))

    hooks = [layer.register_forward_pre_hook(compare) for layer in teacher.batch_norms]
    try:
        scores = logits(teacher, theta, images)
    finally:
        for hook in hooks:
            hook.remove()
    return scores, torch.stack(distances).sum()
