"""DM, distribution matching: class means of features under networks that are never trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ddlib import augment
from ddlib.data import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.methods.common import (
    AVERAGES,
    INITIALISATIONS,
    TINY,
    build_configurations,
    draw_one,
    finished,
    initial_images,
    read_configuration,
    real_batches,
    synthetic_labels,
)
from ddlib.networks import Network, embed, initial_parameters
from ddlib.parameters import ByIpc, Parameters, at_ipc, setting
from ddlib.seeds import generator
from ddlib.training import DivergedError, Watch


@dataclass(frozen=True)
class DistributionMatching(Parameters):
    """Defaults are the reference's (Zhao & Bilen, WACV 2023), but for digits, which do not flip.

    An image's gradient shrinks like 1/ipc, so the reference's one learning rate moves large sets
    slowly; `learning_rate: {1: 1, 100: 100}` moves every size alike.

    configurations: tables of a `network`, of which every iteration draws one to embed images, so
    that S is made for all of them; no network is trained, so what else they say is of no weight.
    For `average` see AVERAGES.
    """

    iterations: int = setting(20000)
    learning_rate: ByIpc = setting(1.0, by_ipc=True)
    momentum: float = setting(0.5)
    real_batch: int = setting(256, least=1)
    initialisation: str = setting("real", choices=INITIALISATIONS)
    augmentation: str = setting("dsa", choices=augment.STRATEGIES)
    configurations: list[dict[str, Any]] = setting([], each=read_configuration)
    average: str = setting("arithmetic", choices=AVERAGES)


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
    would be if distilled alone.

    Source: Zhao & Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023), eq. 5.
    The reference draws one augmentation a class where this draws one for all classes.
    """
    real = dataset.train
    choices = build_configurations(dataset, network, parameters.configurations)
    sizes = {ipc: _Size.start(dataset, ipc, seed, parameters) for ipc in ipcs}
    outcomes: dict[int, DistilledSet | DivergedError] = {}
    families = augment.STRATEGIES[parameters.augmentation]
    batches = real_batches(dataset, parameters.real_batch, generator("real", seed))
    for iteration in range(parameters.iterations):
        network, _ = draw_one(choices, "matching configuration", seed, iteration)
        fresh = generator("matching weights", seed, iteration)
        theta = initial_parameters(network, fresh, real.images.device)
        drawn = augment.draw(families, 1, generator("matching augmentation", seed, iteration))
        rows = send(torch.cat(next(batches)), real.images.device)
        with torch.no_grad():
            features = embed(network, theta, augment.apply(real.images[rows], drawn))
            target = class_means(features, real.labels[rows], dataset.class_count)
        for ipc in [ipc for ipc in ipcs if ipc not in outcomes]:
            size = sizes[ipc]
            features = embed(network, theta, augment.apply(size.images, drawn))
            loss = objective(class_means(features, size.labels, dataset.class_count), target)
            size.optimiser.zero_grad()
            ((loss + TINY).log() if parameters.average == "geometric" else loss).backward()
            size.optimiser.step()
            try:
                size.watch.see(loss.isfinite(), DivergedError(iteration, "the matching loss"))
            except DivergedError as error:
                outcomes[ipc] = error
    for ipc in [ipc for ipc in ipcs if ipc not in outcomes]:
        images, watch = sizes[ipc].images, sizes[ipc].watch
        try:
            watch.see(images.isfinite().all(), DivergedError(parameters.iterations, "a pixel"))
            watch.check()
            outcomes[ipc] = finished(dataset, images, "dm", parameters, seed)
        except DivergedError as error:
            outcomes[ipc] = error
    return outcomes


def class_means(features: torch.Tensor, labels: torch.Tensor, class_count: int) -> torch.Tensor:
    """Return the mean (C, F) of the features (N, F) of each class."""
    sums = features.new_zeros(class_count, features.shape[1]).index_add(0, labels, features)
    # Not bincount, which on an accelerator waits to learn the largest label.
    ones = features.new_ones(len(labels))
    return sums / features.new_zeros(class_count).index_add(0, labels, ones)[:, None]


def objective(synthetic_means: torch.Tensor, real_means: torch.Tensor) -> torch.Tensor:
    """Return the sum over classes of the squared distance between class means (C, F)."""
    return (real_means - synthetic_means).pow(2).sum()


@dataclass(frozen=True)
class _Size:
    """The state of one size of the sweep."""

    images: torch.Tensor
    labels: torch.Tensor
    optimiser: torch.optim.Optimizer
    watch: Watch = field(default_factory=Watch)

    @classmethod
    def start(
        cls, dataset: DataSet, ipc: int, seed: int, parameters: DistributionMatching
    ) -> "_Size":
        images = initial_images(dataset, ipc, parameters.initialisation, seed).requires_grad_()
        optimiser = torch.optim.SGD(
            [images], lr=at_ipc(parameters.learning_rate, ipc), momentum=parameters.momentum
        )
        labels = synthetic_labels(dataset.class_count, ipc).to(images.device)
        return cls(images, labels, optimiser)
