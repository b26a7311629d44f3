"""What the methods share that move images: the set that moves, and the networks it is made for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import NonNegativeFloat, PlainValidator, PositiveInt

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet
from ddlib.methods.common import (
    INITIALISATIONS,
    finished,
    initial_images,
    synthetic_labels,
)
from ddlib.networks.functional import Theta, build, read_network
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, Parameters, at_ipc, check_names
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import Watch
from ddlib.training.recipe import STEP, Recipe

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
        return chosen, changes, initial_parameters(chosen, stream, dataset.train.device)

    return draw


def draw_one(choices: Sequence[T], *keys: object) -> T:
    """Return one of `choices`, all equally likely, by the stream that `keys` name."""
    return choices[int(torch.randint(len(choices), (), generator=generator(*keys)))]


class Matching(Parameters):
    """What all methods have that move images by SGD."""

    learning_rate: ByIpc[NonNegativeFloat] = 1.0
    momentum: NonNegativeFloat = 0.5
    initialisation: Literal[*INITIALISATIONS] = "real"
    augmentation: Literal[*augment.STRATEGIES] = "dsa"


class Synthetic:
    """A set S that a method moves: images (ipc x C, channels, H, W), grouped by class, and labels.

    With it go the optimiser that moves the images, and what sees whether numbers stay finite.
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
        self.watch = Watch()

    def descend(self, loss: torch.Tensor, iteration: int) -> None:
        """Move the images one step down the gradient of a loss ().

        Raises DivergedError, at the latest CHECK_EVERY steps later, where a loss is not finite.
        """
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.watch.finite(iteration, "the matching loss", loss)

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
    """What methods have that match batches of real images.

    configurations: tables as `read_configuration` reads them; every iteration draws one, so that S
    is made for all of them. What a table leaves out is as without it. For `average` see AVERAGES.

    real_batch: random real images a class in a batch, the reference's number.
    """

    configurations: list[Annotated[dict[str, Any], PlainValidator(read_configuration)]] = []
    average: Literal[*AVERAGES] = "arithmetic"
    real_batch: PositiveInt = 256
