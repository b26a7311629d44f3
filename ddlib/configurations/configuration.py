"""Configurations of training, families of them, and what a configuration starts from.

A configuration is all that decides how a network is trained besides the data: the network, the
optimiser and its numbers, the augmentation, and the weights that training starts from.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from ddlib.networks import functional as networks
from ddlib.networks.functional import Theta
from ddlib.networks.initial import initial_parameters, orthogonal_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters, check_names, setting
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import advance, detached, prepared
from ddlib.training.recipe import Recipe


@dataclass(frozen=True)
class Pretraining(Parameters):
    """How a body is pretrained on the unlabelled real images; learning rates are Adam's."""

    steps: int = setting(300, least=1)
    batch_size: int = setting(128, least=2)
    learning_rate: float = setting(0.001)


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


@dataclass(frozen=True)
class Configuration:
    """How a network is trained, whatever it is trained on.

    network: its name and options, as `read_network` gives them; recipe: how it is
    trained; initialisation: a name of INITIALISATIONS; pretraining: for the two initialisations
    that are pretrained, and otherwise without effect.
    """

    network: Mapping[str, Any]
    recipe: Recipe
    initialisation: str = "default"
    pretraining: Pretraining = field(default_factory=Pretraining)

    @classmethod
    def read(cls, given: Mapping[str, Any], what: str) -> "Configuration":
        """Return the configuration that a flat table gives: fields of Recipe, and the others.

        Raises ValueError, in one sentence, for an unknown name or a bad value.
        """
        own = ("network", "initialisation", "pretraining")
        recipe = [declared.name for declared in fields(Recipe)]
        check_names(given, [*own, *recipe], f"parameter of {what}")
        initialisation = given.get("initialisation", "default")
        check_names([initialisation], INITIALISATIONS, f"initialisation of {what}")
        return cls(
            network=networks.read_network(given.get("network")),
            recipe=Recipe.read({name: given[name] for name in recipe if name in given}, what),
            initialisation=initialisation,
            pretraining=Pretraining.read(given.get("pretraining"), f"the pretraining of {what}"),
        )

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
        theta, optimiser = prepared(network, theta, self.recipe)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": deepcopy(state.moments)})
        loss = advance(network, theta, optimiser, *batch, self.recipe, state.step, stream)
        if not torch.isfinite(loss):
            raise DivergedError(state.step, "the training loss")
        moments = optimiser.state_dict()["state"]
        return detached(theta), State(stream.get_state(), state.step + 1, moments)


PRETRAINED = ("rotation", "contrastive")
INITIALISATIONS = ("default", "orthogonal", *PRETRAINED)
