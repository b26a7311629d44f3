"""What the methods share: first images, batches of real images, sets that move, finished sets."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

from ddlib import augment
from ddlib.data import DataSet
from ddlib.distilled import DistilledSet
from ddlib.networks import Network, build, read_network
from ddlib.parameters import ByIpc, Parameters, at_ipc, check_names, setting
from ddlib.seeds import generator
from ddlib.training import STEP, Recipe, Watch

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

INITIALISATIONS = ("real", "noise")

AVERAGES = ("arithmetic", "geometric")
"""How an objective is averaged over draws of configurations, weights and batches. Its size differs
by orders of magnitude from network to network, and the largest decides an arithmetic mean. A
geometric one divides each gradient by its objective's own value, which also changes with ipc, so
its learning rates are not those of the arithmetic one."""

TINY = 1e-30  # keeps an objective that is 0, and so does not move S, off a division by 0

PLAIN_SGD = Recipe(momentum=0.0, weight_decay=0.0, schedule="constant")

T = TypeVar("T")


@dataclass(frozen=True)
class Matching(Parameters):
    """What all methods have that move images by SGD, and when they end before their last iteration.

    plateau: it ends when the mean loss of `window` iterations is not lower, by this share, than
    that of the `window` before; 0 for never, the default. Networks differ by more than iterations
    do, so short windows end by chance; those of one turn of DM's `pool` do not.
    """

    learning_rate: ByIpc = setting(1.0, by_ipc=True)
    momentum: float = setting(0.5)
    initialisation: str = setting("real", choices=INITIALISATIONS)
    augmentation: str = setting("dsa", choices=augment.STRATEGIES)
    plateau: float = setting(0.0)
    window: int = setting(100, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plateau >= 1:
            raise ValueError(f"plateau={self.plateau} is a share; choose 0 (never) to below 1")


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

    def is_last(self, iteration: int, loss: torch.Tensor) -> bool:
        """Take note of an iteration's loss (); return whether it is the last.

        Raises DivergedError, at the latest CHECK_EVERY numbers after one that is not finite.
        """
        self.watch.finite(iteration, "the matching loss", loss)
        return self.plateau.reached(loss)

    def finished(
        self, method: str, steps: int, learned: Mapping[str, torch.Tensor] | None = None
    ) -> DistilledSet:
        """Return the set as it is after `steps`, with numbers () that were learned beside it.

        Raises DivergedError if a number is not finite, or was not.
        """
        dataset, parameters, seed = self._made_of
        self.watch.finite(steps, "a pixel", self.images)
        for name, value in (learned or {}).items():
            self.watch.finite(steps, f"the learned {name.replace('_', ' ')}", value)
        self.watch.check()
        numbers = {name: value.item() for name, value in (learned or {}).items()}
        return finished(dataset, self.images, method, parameters, seed, numbers)


def read_configuration(given: Any) -> None:
    """Raise ValueError unless `given` is a table of a network and of fields of `training.STEP`."""
    if not isinstance(given, Mapping):
        raise ValueError(
            f"a configuration must be a table, such as {{network: {{name: mlp}}}}, got {given!r}"
        )
    check_names(given, ["network", *STEP], "field of a configuration to distil for")
    if "network" in given:
        read_network(given["network"])
    replace(PLAIN_SGD, **{name: given[name] for name in given if name != "network"})


def build_configurations(
    dataset: DataSet, network: Network, tables: Sequence[Mapping[str, Any]]
) -> list[tuple[Network, dict[str, Any]]]:
    """Return, of each configuration to distil for, its network and what else its table says.

    A table without a network leaves `network`, and so do no tables at all.
    """
    shape, built = {"image_shape": dataset.image_shape, "class_count": dataset.class_count}, []
    for table in tables or [{}]:
        changes = dict(table)
        own = changes.pop("network", None)
        built.append((build(**own, **shape) if own else network, changes))
    return built


def draw_one(choices: Sequence[T], *keys: object) -> T:
    """Return one of `choices`, all equally likely, by the stream that `keys` name."""
    return choices[int(torch.randint(len(choices), (), generator=generator(*keys)))]


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
        return dataset.train.images[random_members(dataset, ipc, seed)].clone()
    shape = (ipc * dataset.class_count, *dataset.image_shape)
    noise = torch.randn(shape, generator=generator("noise", seed, ipc))
    return noise.to(dataset.train.images.device)


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
        parameters=asdict(parameters),
        seed=seed,
        learned=dict(learned or {}),
    )
