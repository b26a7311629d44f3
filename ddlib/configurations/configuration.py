"""Configurations of training, families of them, and what a configuration starts from.

A configuration is all that decides how a network is trained besides the data: the network, the
optimiser and its numbers, the augmentation, and the weights that training starts from.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PlainValidator, PositiveInt

from ddlib.networks import functional as networks
from ddlib.networks.functional import Theta
from ddlib.networks.initial import initial_parameters, orthogonal_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import advance, detached, prepared
from ddlib.training.recipe import Recipe

PRETRAINED = ("rotation", "contrastive")
INITIALISATIONS = ("default", "orthogonal", *PRETRAINED)


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
            return orthogonal_parameters(network, stream)
        return initial_parameters(network, stream) | (body or {})

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
