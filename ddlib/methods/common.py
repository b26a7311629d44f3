"""What all methods share: the images of a class, first images, real batches, the finished set."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet
from ddlib.parameters import Parameters
from ddlib.seeds import generator

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

INITIALISATIONS = ("real", "noise")


def class_members(dataset: DataSet) -> list[torch.Tensor]:
    """Return, for each class, the indices of its training images in ascending order."""
    labels = dataset.train.labels.cpu()
    return [torch.nonzero(labels == label).flatten() for label in range(dataset.class_count)]


def synthetic_labels(class_count: int, ipc: int) -> torch.Tensor:
    """Return the labels (ipc x C,) of a distilled set: grouped by class, ascending."""
    return torch.arange(class_count).repeat_interleave(ipc)


def random_members(dataset: DataSet, ipc: int, seed: int) -> torch.Tensor:
    """Return indices (ipc x C,) of random training images, `ipc` of each class.

    Under one seed a smaller choice is part of a larger one.
    """
    return torch.cat(next(real_batches(dataset, ipc, generator("random members", seed))))


def initial_images(dataset: DataSet, ipc: int, initialisation: str, seed: int) -> torch.Tensor:
    """Return the images (ipc x C, channels, H, W) that a method starts from.

    "real" are the random control's images of the same seed; "noise" is N(0, 1) in normalised
    pixels.
    """
    if initialisation == "real":
        return dataset.train.at(random_members(dataset, ipc, seed))
    shape = (ipc * dataset.class_count, *dataset.image_shape)
    noise = torch.randn(shape, generator=generator("noise", seed, ipc), dtype=torch.float32)
    return noise.to(dataset.train.device)


def real_batches(
    dataset: DataSet, size: int, stream: torch.Generator
) -> Iterator[list[torch.Tensor]]:
    """Yield without end, for each class, the indices of `size` real images, none twice.

    A class of fewer images gives all it has.
    """
    every = class_members(dataset)
    while True:
        yield [members[torch.randperm(len(members), generator=stream)[:size]] for members in every]


def k_means(points: torch.Tensor, clusters: int, stream: torch.Generator) -> "KMeans":
    """Return scikit-learn's k-means of `points` (N, F) on the CPU, with what `stream` seeds."""
    from sklearn.cluster import KMeans  # loading it takes as long as a small study's k-means

    with threadpool_limits(1):  # with more threads, the order of k-means' sums is up to chance
        means = KMeans(clusters, n_init=1, random_state=stream.initial_seed() % 2**32)
        return means.fit(points.numpy())


def finished(
    dataset: DataSet,
    images: torch.Tensor,
    method: str,
    parameters: Parameters,
    seed: int,
    learned: Mapping[str, float] | None = None,
) -> DistilledSet:
    """Return the images (ipc x C, channels, H, W), grouped by class, as a distilled set."""
    images = images.detach().cpu().clone()
    return DistilledSet(
        images=images,
        labels=synthetic_labels(dataset.class_count, len(images) // dataset.class_count),
        normalisation=dataset.normalisation,
        classes=dataset.classes,
        data=dataset.name,
        method=method,
        parameters=parameters.model_dump(),
        seed=seed,
        learned=dict(learned or {}),
    )
