"""What the methods share that move images: the set that moves, what it matches, and when it ends.

Options that cost less because they estimate otherwise are off by default: what they change is to be
compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainValidator,
    PositiveInt,
    model_validator,
)

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.distilled import DistilledSet
from ddlib.methods.common import (
    INITIALISATIONS,
    finished,
    initial_images,
    k_means,
    real_batches,
    synthetic_labels,
)
from ddlib.networks.functional import Network, Theta, build, embed, initial_parameters, read_network
from ddlib.parameters import ByIpc, Parameters, at_ipc, check_names
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.loop import STEP, DivergedError, Recipe, Watch

AVERAGES = ("arithmetic", "geometric")
"""How an objective is averaged over draws of configurations, weights and batches. Its size differs
by orders of magnitude from network to network, and the largest decides an arithmetic mean. A
geometric one divides each gradient by its objective's own value, which also changes with ipc, so
its learning rates are not those of the arithmetic one."""

TINY = 1e-30  # keeps an objective that is 0, and so does not move S, off a division by 0

PLAIN_SGD = Recipe(momentum=0.0, weight_decay=0.0, schedule="constant")

T = TypeVar("T")


def read_configuration(given: Any) -> dict[str, Any]:
    """Return a table of a network and of fields of `training.STEP`; ValueError for another."""
    if not isinstance(given, Mapping):
        raise ValueError(
            f"a configuration must be a table, such as {{network: {{name: mlp}}}}, got {given!r}"
        )
    check_names(given, ["network", *STEP], "field of a configuration to distil for")
    if "network" in given:
        read_network(given["network"])
    PLAIN_SGD.replace(**{name: given[name] for name in given if name != "network"})
    return dict(given)


def fresh_networks(
    dataset: DataSet, network: Network, tables: Sequence[Mapping[str, Any]], seed: int
) -> Callable[[int], tuple[Network, dict[str, Any], Theta]]:
    """Return what gives an iteration a configuration to distil for, by its number.

    That is: the network of one of the tables, all equally likely, what else that table says, and
    fresh weights. A table without a network leaves `network`, and so do no tables at all.
    """
    shape, built = {"image_shape": dataset.image_shape, "class_count": dataset.class_count}, []
    for table in tables or [{}]:
        changes = dict(table)
        own = changes.pop("network", None)
        built.append((build(**own, **shape) if own else network, changes))

    def draw(number: int) -> tuple[Network, dict[str, Any], Theta]:
        chosen, changes = draw_one(built, "matching configuration", seed, number)
        stream = generator("matching weights", seed, number)
        return chosen, changes, initial_parameters(chosen, stream, dataset.train.images.device)

    return draw


def draw_one(choices: Sequence[T], *keys: object) -> T:
    """Return one of `choices`, all equally likely, by the stream that `keys` name."""
    return choices[int(torch.randint(len(choices), (), generator=generator(*keys)))]


class Matching(Parameters):
    """What all methods have that move images by SGD, and when they end before their last iteration.

    plateau: it ends when the mean loss of `window` iterations is not lower, by this share, than
    that of the `window` before; 0 for never, the default. Networks differ by more than iterations
    do, so short windows end by chance; those of one turn of DM's `pool` do not.
    """

    learning_rate: ByIpc[NonNegativeFloat] = 1.0
    momentum: NonNegativeFloat = 0.5
    initialisation: Literal[*INITIALISATIONS] = "real"
    augmentation: Literal[*augment.STRATEGIES] = "dsa"
    plateau: Annotated[float, Field(ge=0, lt=1)] = 0.0
    window: PositiveInt = 100


@dataclass
class Plateau:
    """Tells when a loss has stopped falling; it is read once a window, not as each value comes."""

    options: Matching
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


class Synthetic:
    """A set S that a method moves: images (ipc x C, channels, H, W), grouped by class, and labels.

    With it go the optimiser that moves the images, and what tells that they are to move no more.
    """

    def __init__(self, dataset: DataSet, ipc: int, seed: int, parameters: Matching):
        self.ipc, self._made_of = ipc, (dataset, parameters, seed)
        self.images = initial_images(dataset, ipc, parameters.initialisation, seed)
        self.labels = synthetic_labels(dataset.class_count, ipc).to(self.images.device)
        self.optimiser = torch.optim.SGD(
            [self.images.requires_grad_()],
            lr=at_ipc(parameters.learning_rate, ipc),
            momentum=parameters.momentum,
        )
        self.watch, self.plateau = Watch(), Plateau(parameters)

    def is_last(
        self, iteration: int, loss: torch.Tensor, lost: DivergedError | None = None
    ) -> bool:
        """Take note of an iteration's loss (); return whether it is the last.

        Where the loss is not finite it raises `lost`, or a DivergedError of its own, at the latest
        CHECK_EVERY numbers later.
        """
        lost = lost or DivergedError(iteration, "the matching loss")
        self.watch.see(loss.isfinite(), lost)
        return self.plateau.reached(loss)

    def finished(
        self, method: str, steps: int, learned: Mapping[str, float] | None = None
    ) -> DistilledSet:
        """Return the set as it is after `steps`, with numbers that were learned beside it.

        Raises DivergedError if a pixel is not finite, or what the watch saw before was not.
        """
        self.watch.finite(steps, "a pixel", self.images)
        self.watch.check()
        dataset, parameters, seed = self._made_of
        return finished(dataset, self.images, method, parameters, seed, learned)


class BatchMatching(Matching):
    """What methods have that match batches of real images; what they may save is off by default.

    configurations: tables as `read_configuration` reads them; every iteration draws one, so that S
    is made for all of them. What a table leaves out is as without it. For `average` see AVERAGES.

    real_batch: random real images a class in a batch, the reference's number.
    representatives: how many of the `real_batch` random images of a class are matched, one of each
    cluster of their features; 0 for all. They serve for `keep` batches before others are chosen,
    by the features of the network of that moment.
    """

    configurations: list[Annotated[dict[str, Any], PlainValidator(read_configuration)]] = []
    average: Literal[*AVERAGES] = "arithmetic"
    real_batch: PositiveInt = 256
    representatives: NonNegativeInt = 0
    keep: PositiveInt = 10

    @model_validator(mode="after")
    def _check_representatives(self) -> Self:
        if self.representatives > self.real_batch:
            raise ValueError(
                f"representatives={self.representatives} are chosen from "
                f"real_batch={self.real_batch} images; choose at most as many, or 0 to match all"
            )
        return self


class RealBatches:
    """The batches of real images of one seed: random ones, or what stands for those."""

    def __init__(self, dataset: DataSet, seed: int, options: BatchMatching):
        self._dataset, self._seed, self._options = dataset, seed, options
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
