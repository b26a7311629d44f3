"""RDED: the parts of real images of which a teacher is surest, one or several in an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import PositiveInt

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet, encode
from ddlib.methods import trained
from ddlib.methods.common import check_factor, finished, real_batches
from ddlib.networks.functional import build, in_passes, logits
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

    initialisation: ClassVar[str] = "real"  # for `check_factor`


def check(
    parameters: RealisticPatches, dataset: DataSet, network: Network, ipcs: Sequence[int]
) -> None:
    """Raise ValueError for a teacher that does not fit the data, or as `check_factor` does."""
    build(**parameters.network, **dataset.sizes)
    check_factor(parameters, dataset, network, ipcs)


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

    A part that is smaller than an image stands in zeros, the mean pixel, when the teacher sees it;
    parts are shrunken by averaging squares of pixels. The set has hard labels: under `labels:
    {regime: soft}` the study's teacher labels the views of each training step, as published.
    prepared: the file of the teacher.

    Source: Sun et al., "On the Diversity and Realism of Distilled Dataset" (CVPR 2024), and its
    code.
    """
    factor, count, sides = parameters.factor, ipc * parameters.factor**2, dataset.sample_shape[1:]
    stream = generator("parts", seed, ipc)
    down, across = (side - side // factor for side in sides)
    zeros = across // 2, across - across // 2, down // 2, down - down // 2  # around a part
    teacher = build(**parameters.network, **dataset.sizes)
    theta, images = trained.read_network(prepared[0], dataset.train.device), []
    rows = next(real_batches(dataset, max(count, parameters.candidates), stream))
    for label, members in enumerate(rows):
        candidates = dataset.train.at(members).repeat_interleave(parameters.crops, 0)
        parts = resized_crops(candidates, parameters.smallest, sides, stream)
        views = F.pad(F.avg_pool2d(parts, factor), zeros)
        scores = torch.cat([logits(teacher, theta, part) for part in in_passes(views)])
        nats = -scores.log_softmax(1)[:, label]
        least, places = nats.view(-1, parameters.crops).min(1)
        surest = least.argsort(stable=True)[:count].view(-1, ipc).T.flatten()
        images.append(encode(parts[surest * parameters.crops + places[surest]], factor))
    return finished(dataset, torch.cat(images), "rded", parameters, seed)
