"""RDED: the parts of real images of which a teacher is surest, one or several in an image."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import PositiveInt

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet
from ddlib.methods import trained
from ddlib.methods.common import finished, real_batches
from ddlib.networks.functional import Theta, in_passes, logits
from ddlib.networks.layers import Network
from ddlib.parameters import Share
from ddlib.seeds import generator
from ddlib.training.augment import resized_crops


class RealisticPatches(trained.Taught):
    """Defaults are the reference's for CIFAR-10 (Sun et al., CVPR 2024).

    factor: an image holds factor x factor parts; the reference stitches 2 x 2 of larger images.
    candidates: random images of each class from which parts are cut, or as many as the parts of a
    set if these are more. crops: parts that are cut from each, the surest of which is kept.
    smallest: the least share of an image's area in a part.
    """

    factor: PositiveInt = 1
    candidates: PositiveInt = 300
    crops: PositiveInt = 5
    smallest: Share = 0.08


@torch.no_grad()
def distil(
    dataset: DataSet,
    network: Network,
    ipc: int,
    seed: int,
    parameters: RealisticPatches,
    prepared: Sequence[Path],
) -> DistilledSet:
    """Keep the parts of the least cross-entropy under the teacher, and stitch them into images.

    Parts that are smaller than an image stand before the mean pixel when the teacher sees them. The
    set has hard labels: under `labels: {regime: soft}` the study's teacher labels the views of each
    training step, as published. prepared: the file of the teacher. Raises ValueError if `factor`
    does not divide the sides of the images, or if a class has fewer images than a set has parts.

    Source: Sun et al., "On the Diversity and Realism of Distilled Dataset" (CVPR 2024), section 4;
    its antialiasing is left out.
    """
    factor, (height, width) = parameters.factor, dataset.sample_shape[1:]
    count, stream = ipc * factor**2, generator("parts", seed, ipc)
    rows = next(real_batches(dataset, max(count, parameters.candidates), stream))
    if height % factor or width % factor or min(map(len, rows)) < count:
        raise ValueError(
            f"factor={factor} must divide images of {height}x{width} pixels, and needs "
            f"{count} images of each class for ipc={ipc}; choose a smaller factor"
        )
    teacher = trained.chosen(dataset, network, parameters.network)
    theta, images = trained.read_network(prepared[0], dataset.train.device), []
    for label, members in enumerate(rows):
        candidates = dataset.train.at(members).repeat_interleave(parameters.crops, 0)
        sides = height // factor, width // factor
        parts = resized_crops(candidates, parameters.smallest, sides, stream)
        nats = cross_entropies(teacher, theta, parts, label, (height, width))
        least, places = nats.view(-1, parameters.crops).min(1)
        surest = least.argsort(stable=True)[:count]
        images.append(stitched(parts[surest * parameters.crops + places[surest]], factor))
    return finished(dataset, torch.cat(images), "rded", parameters, seed)


def cross_entropies(
    teacher: Network, theta: Theta, parts: torch.Tensor, label: int, sides: tuple[int, int]
) -> torch.Tensor:
    """Return the cross-entropy (n,) of parts (n, channels, h, w), centred in images of `sides`."""
    missing = [side - part for side, part in zip(sides, parts.shape[2:], strict=True)]
    above, left = (margin // 2 for margin in missing)
    padding = (left, missing[1] - left, above, missing[0] - above)
    passes = in_passes(F.pad(parts, padding))
    scores = torch.cat([logits(teacher, theta, images) for images in passes])
    return -scores.log_softmax(1)[:, label]


def stitched(parts: torch.Tensor, factor: int) -> torch.Tensor:
    """Return images of factor x factor parts: (n factor^2, channels, h, w) -> (n, channels, H, W).

    The first n parts are the upper left ones.
    """
    grid = parts.unflatten(0, (factor, factor, -1))  # row, column, image
    return grid.permute(2, 3, 0, 4, 1, 5).flatten(4, 5).flatten(2, 3)
