"""Configurations of training, families of them, and what a configuration starts from.

A configuration is all that decides how a network is trained besides the data: the network, the
optimiser and its numbers, the augmentation, and the weights that training starts from.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PlainValidator, PositiveInt
from safetensors.torch import save

from ddlib.data.base import DataSet
from ddlib.devices import send
from ddlib.networks import functional as networks
from ddlib.networks.functional import Network, Theta
from ddlib.parameters import Parameters, check_names
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.loop import (
    DivergedError,
    Recipe,
    Watch,
    advance,
    batches,
    descend,
    detached,
    prepared,
)

ROTATIONS = 4  # by 0, 90, 180 and 270 degrees
TEMPERATURE = 0.5  # of the contrastive loss
INITIALISATIONS = ("default", "orthogonal", "rotation", "contrastive")


class Pretraining(Parameters):
    """How a body is pretrained on the unlabelled real images; learning rates are Adam's."""

    steps: PositiveInt = 300
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: NonNegativeFloat = 0.001


@dataclass(frozen=True)
class State:
    """What an update operator carries from step to step besides the weights: plain values.

    stream: the state of the generator that augmentation is drawn from; step: the steps done;
    moments: the optimiser's, as its state dictionary has them.
    """

    stream: torch.Tensor
    step: int = 0
    moments: Mapping[int, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, seed: object) -> "State":
        """Return the state before the first step, whatever the configuration."""
        return cls(generator("update", seed).get_state())


class Configuration(Recipe):
    """How a network is trained, whatever it is trained on: a recipe, and what it starts from.

    network: its name and options, as `read_network` gives them; initialisation: a name of
    INITIALISATIONS; pretraining: for the two initialisations that are pretrained, and otherwise
    without effect.
    """

    network: Annotated[dict[str, Any], PlainValidator(networks.read_network)]
    initialisation: Literal[*INITIALISATIONS] = "default"
    pretraining: Pretraining = Pretraining()

    @property
    def recipe(self) -> Recipe:
        """How its network is trained, from whatever weights."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})

    @property
    def pretrained(self) -> bool:
        """Whether its networks start from a body that was pretrained on the real images."""
        return self.initialisation in PRETRAINED

    def build(self, image_shape: tuple[int, int, int], class_count: int) -> Network:
        """Return its network for images (channels, H, W); ValueError where they do not fit."""
        return networks.build(**self.network, image_shape=image_shape, class_count=class_count)

    def initial(
        self, network: Network, stream: torch.Generator, body: Theta | None = None
    ) -> Theta:
        """Return the weights that training starts from, on the CPU.

        body: the pretrained weights of the body, which a pretrained configuration must be given;
        the head is drawn anew.
        """
        if self.initialisation == "orthogonal":
            return networks.orthogonal_parameters(network, stream)
        return networks.initial_parameters(network, stream) | (body or {})

    def evaluated(self, network: Network, seed: object, body: Theta | None = None) -> Theta:
        """Return the weights from which the network of a seed's evaluation is trained."""
        return self.initial(network, generator("evaluation weights", seed), body)

    def update(
        self, network: Network, theta: Theta, state: State, batch: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[Theta, State]:
        """Apply the update operator once: weights and state after one step on a batch.

        batch: images (N, channels, H, W) and labels (N,). A pure function: what it is given stays
        as it is. It takes the step that `ddlib.training.loop.train` takes in place.
        """
        stream = torch.Generator()
        stream.set_state(state.stream)
        theta, optimiser = prepared(network, theta, self)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": deepcopy(state.moments)})
        loss = advance(network, theta, optimiser, *batch, self, state.step, stream)
        if not torch.isfinite(loss):
            raise DivergedError(state.step, "the training loss")
        moments = optimiser.state_dict()["state"]
        return detached(theta), State(stream.get_state(), state.step + 1, moments)


def pretrain(dataset: DataSet, configuration: Configuration) -> bytes:
    """Return the body's weights, as safetensors, pretrained on the real images without labels.

    All that decides them is the configuration's network, initialisation and pretraining.
    """
    chosen, given = configuration.initialisation, configuration.pretraining
    loss_of, outputs, copies = PRETRAINED[chosen]
    plain = json.dumps([dict(configuration.network), chosen], sort_keys=True)
    stream, images = generator("pretraining", plain), dataset.train.images
    network = configuration.build(dataset.image_shape, outputs)
    recipe = Recipe(**vars(given), optimizer="adam", weight_decay=0.0, schedule="constant")
    theta = networks.initial_parameters(network, stream, images.device)
    theta, optimiser = prepared(network, theta, recipe)
    rows, watch = batches(len(images), max(given.batch_size // copies, 1), stream), Watch()
    for step in range(recipe.steps):
        shown = images[send(next(rows), images.device)]
        loss = loss_of(network, theta, shown, stream)
        watch.finite(step, f"the {chosen} loss", loss)
        descend(optimiser, loss, recipe.rate(step))
    names = [f"body.{name}" for name, _ in network.body.named_parameters()]
    for name in names:
        watch.finite(recipe.steps, "a pretrained weight", theta[name])
    watch.check()
    return save({name: theta[name].detach().contiguous() for name in names})


def rotation_loss(
    network: Network, theta: Theta, images: torch.Tensor, stream: torch.Generator
) -> torch.Tensor:
    """Return the loss () of telling how an image was turned (Gidaris et al., ICLR 2018).

    The network sees each image (N, channels, H, W) in all four positions. Raises ValueError for
    images that are not square.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(
            f"initialisation 'rotation' turns images by quarters, but these are {height}x{width}; "
            "choose 'contrastive', or square images by image_size"
        )
    turned = torch.cat([images.rot90(turns, (2, 3)) for turns in range(ROTATIONS)])
    turns = torch.arange(ROTATIONS, device=images.device).repeat_interleave(len(images))
    return F.cross_entropy(
        networks.logits(network, theta, turned, training=True, stream=stream), turns
    )


def view_loss(
    network: Network, theta: Theta, images: torch.Tensor, stream: torch.Generator
) -> torch.Tensor:
    """Return SimCLR's loss (): which views are of one image? (Chen et al., ICML 2020).

    A view takes one family of DSA for every image (N, channels, H, W), with strengths of the
    image's own; the loss is NT-Xent over one batch, of linear projections.
    """
    families = augment.STRATEGIES["dsa"]
    drawn = (augment.draw(families, len(images), stream) for _ in range(2))
    views = torch.cat([augment.apply(images, each) for each in drawn])
    return contrastive_loss(networks.logits(network, theta, views, training=True, stream=stream))


def contrastive_loss(projected: torch.Tensor) -> torch.Tensor:
    """Return NT-Xent of 2N projections (2N, F): rows i and i + N are views of one image.

    The mean over rows of -log softmax of the cosine to the other view, among the cosines to all
    other rows over TEMPERATURE (SimCLR, equation 1).
    """
    count = len(projected) // 2
    unit = F.normalize(projected)
    cosines = (unit @ unit.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(cosines, torch.arange(2 * count, device=unit.device).roll(count))


PRETRAINED = {"rotation": (rotation_loss, ROTATIONS, ROTATIONS), "contrastive": (view_loss, 64, 1)}
"""Ways to learn without labels: a loss, the outputs of its head, and how often that sees an image:
its batches are smaller by so much."""


@dataclass(frozen=True)
class Family:
    """A family of configurations by name; `series` names the growing families it is one of."""

    name: str
    members: tuple[str, ...]
    series: str = ""


def read_configurations(
    given: Mapping[str, Mapping[str, Any]], base: Mapping[str, Any]
) -> dict[str, Configuration]:
    """Return every configuration by its name: what `given` says of it, and `base` for the rest.

    base: a flat table as `Configuration.read` takes it. Raises ValueError, in one sentence, for a
    bad configuration, and for two that are the same.
    """
    if not given:
        raise ValueError(
            "configurations must be a table {name: changes}, got {}; give at least one, such as "
            "{own: {}}"
        )
    read: dict[str, Configuration] = {}
    for name, changes in given.items():
        what = f"the configuration {name!r}"
        if not isinstance(changes, Mapping | None):
            raise ValueError(f"{what} must be a table of what it changes, got {changes!r}")
        configuration = Configuration.read({**base, **(changes or {})}, what)
        for other, there in read.items():
            if there == configuration:
                raise ValueError(f"{what} is the same as {other!r}; drop one of them")
        read[str(name)] = configuration
    return read


def expand(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, by entry, the table {name: changes} of the configurations that it stands for.

    An entry {product: {field: [values]}} stands for one configuration a combination of values,
    named by the entry and the values: `grid` of {optimizer: [sgd, adam]} gives grid-sgd and
    grid-adam; one field is a varying axis. Any other stands for itself. Raises ValueError for a
    product that is none, and for two configurations of one name.
    """
    written: dict[str, dict[str, Any]] = {}
    for name, changes in given.items():
        product = isinstance(changes, Mapping) and "product" in changes
        written[str(name)] = _product(str(name), changes) if product else {str(name): changes}
    labels = [label for each in written.values() for label in each]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two configurations are named {label!r}; rename one of them")
    return written


def _product(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    axes = changes["product"]
    if not isinstance(axes, Mapping) or not all(
        isinstance(values, list) and values for values in axes.values()
    ):
        raise ValueError(
            f"the product of {name!r} must be a table {{field: [values]}}, got {axes!r}"
        )
    rest = {key: value for key, value in changes.items() if key != "product"}
    written = {}
    for values in itertools.product(*axes.values()):
        label = "-".join([name, *map(_label, values)])
        if label in written:
            raise ValueError(f"two configurations are named {label!r}; give different values")
        written[label] = {**rest, **dict(zip(axes, values, strict=True))}
    return written


def _label(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return "-".join(f"{'' if key == 'name' else key}{one}" for key, one in value.items())


def read_families(
    given: Mapping[str, Any], entries: Mapping[str, Sequence[str]]
) -> dict[str, Family]:
    """Return the families by name: lists of configurations, or {nested: list}.

    entries: the names of the configurations that each entry of `expand` stands for; a list may
    name an entry, for all of them, or one of the configurations. A nested entry gives one growing
    family for every size from 2, named `name-size`, of the first configurations of its list. Raises
    ValueError, in one sentence, for an empty family, an unknown or doubled member, or one alone
    that is to grow.
    """
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"families must be a table {{name: configurations}}, got {given!r}")
    known = {label: [label] for labels in entries.values() for label in labels} | dict(entries)
    families: dict[str, Family] = {}
    for name, entry in given.items():
        if not isinstance(entry, Mapping):
            families[name] = Family(name, _members(name, entry, known))
            continue
        check_names(entry, ["nested"], f"parameter of the family {name!r}")
        members = _members(name, entry.get("nested"), known)
        if len(members) < 2:
            raise ValueError(
                f"the family {name!r} grows from two configurations; list at least two"
            )
        for size in range(2, len(members) + 1):
            label = f"{name}-{size}"
            families[label] = Family(label, members[:size], series=name)
    return families


def _members(name: str, given: Any, known: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"the family {name!r} is empty; list the configurations it holds")
    check_names(map(str, given), known, f"configuration of {name!r}")
    members = [member for one in given for member in known[str(one)]]
    for one in members:
        if members.count(one) > 1:
            raise ValueError(f"the family {name!r} holds {one!r} twice; drop one")
    return tuple(members)
