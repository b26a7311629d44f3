"""What several methods use: the samples of a class, real batches, fresh networks, the set S."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Annotated, Any, Literal

import torch
from pydantic import NonNegativeFloat, PlainValidator, PositiveInt
from threadpoolctl import threadpool_limits

from ddlib.data.base import DataSet
from ddlib.data.normalise import Whitening
from ddlib.distilled import DistilledSet, decode, encode, hard_labels
from ddlib.networks.functional import Theta, build, read_network
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, Parameters, at_ipc, check_names
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import Watch
from ddlib.training.recipe import STEP, Recipe

INITIALISATIONS = ("real", "noise")
AVERAGES = ("arithmetic", "geometric")
TINY = 1e-30  # added to an objective before a logarithm or a division
PLAIN_SGD = Recipe(momentum=0.0, weight_decay=0.0, schedule="constant")


def class_members(dataset: DataSet) -> list[torch.Tensor]:
    """Return, for each class, the indices of its training samples in ascending order."""
    labels = dataset.train.labels.cpu()
    return [torch.nonzero(labels == label).flatten() for label in range(dataset.class_count)]


def real_batches(
    dataset: DataSet, size: int, stream: torch.Generator
) -> Iterator[list[torch.Tensor]]:
    """Yield without end, for each class, the indices of `size` different real samples.

    A class of fewer samples gives all it has.
    """
    classes = class_members(dataset)
    while True:
        yield [rows[torch.randperm(len(rows), generator=stream)[:size]] for rows in classes]


def random_members(dataset: DataSet, ipc: int, seed: int) -> torch.Tensor:
    """Return the indices (ipc x C,) of random training samples, `ipc` of each class.

    With the same seed, a smaller choice is part of a larger one.
    """
    return torch.cat(next(real_batches(dataset, ipc, generator("random members", seed))))


def centroids(samples: torch.Tensor, ipc: int, stream: torch.Generator) -> torch.Tensor:
    """Return the `ipc` k-means centroids (ipc, ...) of the samples (N, ...) of a class."""
    from sklearn.cluster import KMeans  # loading it takes as long as a small study's k-means

    with threadpool_limits(1):  # with more threads, the order of k-means' sums is up to chance
        means = KMeans(ipc, n_init=1, random_state=stream.initial_seed() % 2**32)
        means.fit(samples.flatten(1).cpu().numpy())
    return torch.from_numpy(means.cluster_centers_).to(samples).view(ipc, *samples.shape[1:])


def initial_images(
    dataset: DataSet, ipc: int, initialisation: str, seed: int, factor: int = 1
) -> torch.Tensor:
    """Return the samples (ipc x C, ...) that a method starts from.

    "real": the samples that the method `random` chooses with this seed, factor^2 of them shrunken
    into each image; "noise": N(0, 1) in normalised pixels.
    """
    if initialisation == "real":
        return encode(dataset.train.at(random_members(dataset, ipc * factor**2, seed)), factor)
    shape = (ipc * dataset.class_count, *dataset.sample_shape)
    noise = torch.randn(shape, generator=generator("noise", seed, ipc), dtype=torch.float32)
    return noise.to(dataset.train.device)


def finished(
    dataset: DataSet,
    images: torch.Tensor,
    method: str,
    parameters: Parameters,
    seed: int,
    learned: Mapping[str, float] | None = None,
    factor: int = 1,
) -> DistilledSet:
    """Return the samples (ipc x C, ...), grouped by class, as a distilled set."""
    images = images.detach().cpu().clone()
    return DistilledSet(
        samples=images,
        labels=hard_labels(dataset.class_count, len(images) // dataset.class_count),
        normalisation=dataset.normalisation,
        classes=dataset.classes,
        data=dataset.name,
        method=method,
        parameters=parameters.model_dump(),
        seed=seed,
        learned=dict(learned or {}),
        factor=factor,
    )


class Matching(Parameters):
    """The parameters of every method that moves S by SGD down the gradient of an objective."""

    learning_rate: ByIpc[NonNegativeFloat] = 1.0
    momentum: NonNegativeFloat = 0.5
    initialisation: Literal[*INITIALISATIONS] = "real"
    augmentation: Literal[*augment.STRATEGIES] = "dsa"


def read_configuration(table: Any) -> dict[str, Any]:
    """Return a table of a network and of fields of `recipe.STEP`; ValueError for another."""
    if not isinstance(table, Mapping):
        raise ValueError(
            f"a configuration must be a table, such as {{network: {{name: mlp}}}}, got {table!r}"
        )
    check_names(table, ["network", *STEP], "field of a configuration to distil for")
    if "network" in table:
        read_network(table["network"])
    PLAIN_SGD.replace(**{name: value for name, value in table.items() if name != "network"})
    return dict(table)


class BatchMatching(Matching):
    """The parameters of the methods that compare S with batches of D.

    configurations: tables of a network and of training options, to distil for all of them: each
    iteration draws one. A network that a table leaves out is the study's, training options are
    those of the inner loop. real_batch: real samples of each class in a batch.

    factor: multi-formation, of images only: each stored image holds factor^2 smaller ones, which
    are cut out and enlarged before a network sees them (Kim et al., ICML 2022, "IDC").

    average: the mean of the objective over iterations. Networks give objectives of very different
    size, and the largest dominate an arithmetic mean. A geometric mean divides each gradient by
    the objective's own value, and needs another learning rate.
    """

    configurations: list[Annotated[dict[str, Any], PlainValidator(read_configuration)]] = []
    average: Literal[*AVERAGES] = "arithmetic"
    real_batch: PositiveInt = 256
    factor: PositiveInt = 1


def check_matching(
    parameters: BatchMatching, dataset: DataSet, network: Network, ipcs: Sequence[int]
) -> None:
    """Raise ValueError for a network that does not fit the data, or as `check_factor` does."""
    choices(dataset, network, parameters.configurations)
    check_factor(parameters, dataset, network, ipcs)


def check_factor(
    parameters: BatchMatching, dataset: DataSet, network: Network, ipcs: Sequence[int]
) -> None:
    """Raise ValueError for a factor that does not fit the data, or needs more real images."""
    factor, shape = parameters.factor, dataset.sample_shape
    if factor == 1:
        return
    if dataset.kind != "image":
        raise ValueError(
            f"factor={factor} puts several images into one, but {dataset.name} holds "
            f"{dataset.kind}s; leave factor out"
        )
    if isinstance(dataset.normalisation, Whitening):
        raise ValueError(
            f"factor={factor} makes images smaller, but zca: true has mixed all pixels of an "
            "image; leave out one of them"
        )
    if (common := math.gcd(*shape[1:])) % factor:
        divisors = [str(n) for n in range(1, common + 1) if common % n == 0]
        raise ValueError(
            f"factor={factor} does not divide images of {shape[1]} x {shape[2]} pixels; choose "
            f"from {', '.join(divisors)}"
        )
    fewest, needed = min(map(len, class_members(dataset))), max(ipcs) * factor**2
    if parameters.initialisation == "real" and needed > fewest:
        raise ValueError(
            f"factor={factor} starts ipc={max(ipcs)} from {needed} real images of each class, but "
            f"the smallest class has {fewest}; choose a smaller factor or smaller sizes"
        )


def choices(
    dataset: DataSet, network: Network, configurations: Sequence[Mapping[str, Any]]
) -> list[tuple[Network, dict[str, Any]]]:
    """Return the network and the training options of each configuration.

    Where it names no network, and without configurations, the network is `network`.
    """
    networks = []
    for options in map(dict, configurations or [{}]):
        named = options.pop("network", None)
        networks.append((build(**named, **dataset.sizes) if named else network, options))
    return networks


def fresh_networks(
    dataset: DataSet, network: Network, configurations: Sequence[Mapping[str, Any]], seed: int
) -> Iterator[tuple[Network, dict[str, Any], Theta]]:
    """Yield without end, for each iteration, a network, training options, and initial weights.

    Each iteration draws one of the `choices`, all equally likely.
    """
    drawn = choices(dataset, network, configurations)
    for iteration in count():
        stream = generator("matching configuration", seed, iteration)
        chosen, options = drawn[int(torch.randint(len(drawn), (), generator=stream))]
        stream = generator("matching weights", seed, iteration)
        yield chosen, options, initial_parameters(chosen, stream, dataset.train.device)


class Synthetic:
    """S while a method moves it: samples (ipc x C, ...), and an optimiser.

    labels: (ipc x C x factor^2,), of the `decoded` samples.
    """

    def __init__(
        self, dataset: DataSet, ipc: int, seed: int, parameters: Matching, factor: int = 1
    ):
        self.ipc, self.factor, self._origin = ipc, factor, (dataset, parameters, seed)
        self.samples = initial_images(dataset, ipc, parameters.initialisation, seed, factor)
        labels = hard_labels(dataset.class_count, ipc * factor**2)
        self.labels = labels.to(self.samples.device)
        self.optimiser = torch.optim.SGD(
            [self.samples.requires_grad_()],
            lr=at_ipc(parameters.learning_rate, ipc),
            momentum=parameters.momentum,
        )
        self.watch = Watch()

    def decoded(self) -> torch.Tensor:
        """Return the samples (ipc x C x factor^2, ...) that a network sees, differentiable."""
        return decode(self.samples, self.factor)

    def descend(self, loss: torch.Tensor, iteration: int) -> None:
        """Take a step down the gradient of a loss (); raise DivergedError as `watch` does."""
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.watch.finite(iteration, "the matching loss", loss)

    def finished(
        self, method: str, steps: int, learned: Mapping[str, float] | None = None
    ) -> DistilledSet:
        """Return S after `steps`, with the numbers that were learned with it.

        Raises DivergedError if a pixel, or a number that `watch` saw, is not finite.
        """
        self.watch.finite(steps, "a pixel", self.samples)
        self.watch.check()
        dataset, parameters, seed = self._origin
        return finished(dataset, self.samples, method, parameters, seed, learned, self.factor)
