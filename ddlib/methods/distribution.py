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
from ddlib.networks import Network, Theta, embed, in_groups, initial_parameters
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
    sizes = [_Size.start(dataset, ipc, seed, parameters) for ipc in ipcs]
    turns = _Turns(dataset, network, seed, parameters)
    for iteration in range(parameters.iterations):
        active = [size for size in sizes if not size.ended]
        if not active:
            break
        turn = turns.take(iteration)
        for group in _passes(active, turn.network, dataset.image_shape):
            _move(group, turn, iteration, parameters.average)
    return {size.ipc: size.outcome(dataset, parameters, seed) for size in sizes}


@dataclass(frozen=True)
class _Turn:
    """What an iteration matches: a network, an augmentation, and the real class means (C, F)."""

    network: Network
    theta: Theta
    drawn: augment.Draw
    target: torch.Tensor


class _Turns:
    """The turns of one seed: one an iteration, or those of a pool over and over."""

    def __init__(
        self, dataset: DataSet, network: Network, seed: int, parameters: DistributionMatching
    ):
        self._dataset, self._seed, self._pool = dataset, seed, parameters.pool
        self._choices = build_configurations(dataset, network, parameters.configurations)
        self._families = augment.STRATEGIES[parameters.augmentation]
        # Each network of a pool has representatives of its own.
        options = replace(parameters, keep=1) if parameters.pool else parameters
        self._batches = RealBatches(dataset, seed, options)
        self._targets: dict[int, torch.Tensor] = {}  # of a pool, whose weights are drawn anew

    def take(self, iteration: int) -> _Turn:
        """Return the turn of an iteration; those of a pool are to be taken from the first on."""
        number, seed = iteration % self._pool if self._pool else iteration, self._seed
        network, _ = draw_one(self._choices, "matching configuration", seed, number)
        fresh = generator("matching weights", seed, number)
        theta = initial_parameters(network, fresh, self._dataset.train.images.device)
        stream = generator("matching augmentation", seed, number)
        drawn = augment.draw(self._families, 1, stream)
        target = self._targets.get(number)
        if target is None:
            target = self._real_means(network, theta, drawn)
            if self._pool:
                self._targets[number] = target
        return _Turn(network, theta, drawn, target)

    @torch.no_grad()
    def _real_means(self, network: Network, theta: Theta, drawn: augment.Draw) -> torch.Tensor:
        real = self._dataset.train
        rows = send(torch.cat(self._batches.draw(network, theta)), real.images.device)
        features = embed(network, theta, augment.apply(real.images[rows], drawn))
        return class_means(features, real.labels[rows], self._dataset.class_count)


def _passes(
    sizes: Sequence["_Size"], network: Network, image_shape: Sequence[int]
) -> list[Sequence["_Size"]]:
    """Return the sizes that share a pass: small ones on an accelerator; elsewhere each is alone."""
    if sizes[0].images.device.type == "cpu" or network.batch_norms:
        return [[size] for size in sizes]
    return [sizes[own] for own in in_groups([len(each.labels) for each in sizes], image_shape)]


def _move(group: Sequence["_Size"], turn: _Turn, iteration: int, average: str) -> None:
    """Move the images of each size by a step against its objective in this turn."""
    images = torch.cat([size.images for size in group])
    features = embed(turn.network, turn.theta, augment.apply(images, turn.drawn))
    own = features.split([len(size.labels) for size in group])
    losses = [
        objective(class_means(each, size.labels, len(turn.target)), turn.target)
        for size, each in zip(group, own, strict=True)
    ]
    for size in group:
        size.optimiser.zero_grad()
    sum((loss + TINY).log() if average == "geometric" else loss for loss in losses).backward()
    for size, loss in zip(group, losses, strict=True):
        size.optimiser.step()
        size.see(loss.detach(), iteration)


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
