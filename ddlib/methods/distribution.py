"""DM, distribution matching: class means of features under networks that are never trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ddlib import augment
from ddlib.data import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.methods.acceleration import Accelerated, Plateau, RealBatches
from ddlib.methods.common import (
    AVERAGES,
    INITIALISATIONS,
    TINY,
    build_configurations,
    draw_one,
    finished,
    initial_images,
    read_configuration,
    synthetic_labels,
)
from ddlib.networks import Network, embed, in_groups, initial_parameters
from ddlib.parameters import ByIpc, at_ipc, setting
from ddlib.seeds import generator
from ddlib.training import DivergedError, Watch


@dataclass(frozen=True)
class DistributionMatching(Accelerated):
    """Defaults are the reference's (Zhao & Bilen, WACV 2023), but for digits, which do not flip.

    An image's gradient shrinks like 1/ipc, so the reference's one learning rate moves large sets
    slowly; `learning_rate: {1: 1, 100: 100}` moves every size alike.

    configurations: tables of a `network`, of which every iteration draws one to embed images, so
    that S is made for all of them; no network is trained, so what else they say is of no weight.
    For `average` see AVERAGES.

    pool: how many networks there are, each with one real batch and one augmentation that stay its
    own; 0 draws all anew every iteration. What is real is then computed once a network, not once
    an iteration, and S fits this pool instead of the mean over all networks.
    """

    iterations: int = setting(20000)
    learning_rate: ByIpc = setting(1.0, by_ipc=True)
    momentum: float = setting(0.5)
    real_batch: int = setting(256, least=1)
    initialisation: str = setting("real", choices=INITIALISATIONS)
    augmentation: str = setting("dsa", choices=augment.STRATEGIES)
    configurations: list[dict[str, Any]] = setting([], each=read_configuration)
    average: str = setting("arithmetic", choices=AVERAGES)
    pool: int = setting(0)


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
    would be if distilled alone (on an accelerator, but for rounding).

    Source: Zhao & Bilen, "Dataset Condensation with Distribution Matching" (WACV 2023), eq. 5.
    The reference draws one augmentation a class where this draws one for all classes.
    """
    real = dataset.train
    choices = build_configurations(dataset, network, parameters.configurations)
    sizes = [_Size.start(dataset, ipc, seed, parameters) for ipc in ipcs]
    families = augment.STRATEGIES[parameters.augmentation]
    # Each network of a pool has representatives of its own.
    options = replace(parameters, keep=1) if parameters.pool else parameters
    batches = RealBatches(dataset, parameters.real_batch, seed, options)
    targets: dict[int, torch.Tensor] = {}
    for iteration in range(parameters.iterations):
        active = [size for size in sizes if not size.ended]
        if not active:
            break
        turn = iteration % parameters.pool if parameters.pool else iteration
        network, _ = draw_one(choices, "matching configuration", seed, turn)
        fresh = generator("matching weights", seed, turn)
        theta = initial_parameters(network, fresh, real.images.device)
        drawn = augment.draw(families, 1, generator("matching augmentation", seed, turn))
        target = targets.get(turn)
        if target is None:
            rows = send(torch.cat(batches.draw(network, theta)), real.images.device)
            with torch.no_grad():
                features = embed(network, theta, augment.apply(real.images[rows], drawn))
                target = class_means(features, real.labels[rows], dataset.class_count)
            if parameters.pool:
                targets[turn] = target
        # Small sets share an accelerator's passes; a processor keeps each as if it were alone.
        alone = real.images.device.type == "cpu" or network.batch_norms
        counts = [len(size.labels) for size in active]
        passes = [active[own] for own in in_groups(counts, dataset.image_shape)]
        for group in [[size] for size in active] if alone else passes:
            images = torch.cat([size.images for size in group])
            features = embed(network, theta, augment.apply(images, drawn))
            own = features.split([len(size.labels) for size in group])
            losses = [
                objective(class_means(each, size.labels, dataset.class_count), target)
                for size, each in zip(group, own, strict=True)
            ]
            for size in group:
                size.optimiser.zero_grad()
            geometric = parameters.average == "geometric"
            sum((loss + TINY).log() if geometric else loss for loss in losses).backward()
            for size, loss in zip(group, losses, strict=True):
                size.optimiser.step()
                size.see(loss.detach(), iteration)
    return {size.ipc: size.outcome(dataset, parameters, seed) for size in sizes}


def class_means(features: torch.Tensor, labels: torch.Tensor, class_count: int) -> torch.Tensor:
    """Return the mean (C, F) of the features (N, F) of each class."""
    sums = features.new_zeros(class_count, features.shape[1]).index_add(0, labels, features)
    # Not bincount, which on an accelerator waits to learn the largest label.
    ones = features.new_ones(len(labels))
    return sums / features.new_zeros(class_count).index_add(0, labels, ones)[:, None]


def objective(synthetic_means: torch.Tensor, real_means: torch.Tensor) -> torch.Tensor:
    """Return the sum over classes of the squared distance between class means (C, F)."""
    return (real_means - synthetic_means).pow(2).sum()


@dataclass
class _Size:
    """The state of one size of the sweep."""

    ipc: int
    images: torch.Tensor
    labels: torch.Tensor
    optimiser: torch.optim.Optimizer
    plateau: Plateau
    watch: Watch = field(default_factory=Watch)
    ended: bool = False
    error: DivergedError | None = None

    @classmethod
    def start(
        cls, dataset: DataSet, ipc: int, seed: int, parameters: DistributionMatching
    ) -> "_Size":
        images = initial_images(dataset, ipc, parameters.initialisation, seed).requires_grad_()
        optimiser = torch.optim.SGD(
            [images], lr=at_ipc(parameters.learning_rate, ipc), momentum=parameters.momentum
        )
        labels = synthetic_labels(dataset.class_count, ipc).to(images.device)
        return cls(ipc, images, labels, optimiser, Plateau(parameters))

    def see(self, loss: torch.Tensor, iteration: int) -> None:
        """Take note of the loss () of an iteration, which may be the last."""
        try:
            self.watch.see(loss.isfinite(), DivergedError(iteration, "the matching loss"))
            self.ended = self.plateau.reached(loss)
        except DivergedError as error:
            self.error, self.ended = error, True

    def outcome(
        self, dataset: DataSet, parameters: DistributionMatching, seed: int
    ) -> DistilledSet | DivergedError:
        """Return the distilled set, or why there is none."""
        if self.error:
            return self.error
        try:
            finite = self.images.isfinite().all()
            self.watch.see(finite, DivergedError(parameters.iterations, "a pixel"))
            self.watch.check()
        except DivergedError as error:
            return error
        return finished(dataset, self.images, "dm", parameters, seed)
