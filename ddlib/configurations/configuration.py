"""Configurations: all that decides how a network is trained besides the data.

That is the network, the optimiser and its numbers, the augmentation, and the weights that training
starts from.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from ddlib.networks.functional import Theta, build, read_network
from ddlib.networks.initial import initial_parameters, orthogonal_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters, check_names, setting
from ddlib.seeds import generator
from ddlib.training.divergence import Watch
from ddlib.training.loop import advance, detached, trainable
from ddlib.training.recipe import Recipe

PRETRAINED = ("rotation", "contrastive")
INITIALISATIONS = ("default", "orthogonal", *PRETRAINED)


@dataclass(frozen=True)
class Pretraining(Parameters):
    """How a body is pretrained on the unlabelled real images; learning rates are Adam's."""

    steps: int = setting(300, least=1)
    batch_size: int = setting(128, least=2)
    learning_rate: float = setting(0.001)


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
    def read(cls, table: Mapping[str, Any], what: str) -> "Configuration":
        """Return the configuration of a flat table: fields of Recipe, and the others.

        Raises ValueError, in one sentence, for an unknown name or a bad value.
        """
        recipe = [declared.name for declared in fields(Recipe)]
        check_names(
            table, ["network", "initialisation", "pretraining", *recipe], f"parameter of {what}"
        )
        initialisation = table.get("initialisation", "default")
        check_names([initialisation], INITIALISATIONS, f"initialisation of {what}")
        return cls(
            network=read_network(table.get("network")),
            recipe=Recipe.read({name: table[name] for name in recipe if name in table}, what),
            initialisation=initialisation,
            pretraining=Pretraining.read(table.get("pretraining"), f"the pretraining of {what}"),
        )

    @property
    def pretrained(self) -> bool:
        """Whether its networks start from a body that was pretrained on the real images."""
        return self.initialisation in PRETRAINED

    def build(self, image_shape: tuple[int, int, int], class_count: int) -> Network:
        """Return its network for images (channels, H, W); ValueError where they do not fit."""
        return build(**self.network, image_shape=image_shape, class_count=class_count)

    def initial(
        self, network: Network, stream: torch.Generator, body: Theta | None = None
    ) -> Theta:
        """Return the weights that training starts from, on the CPU.

        body: the pretrained weights of the body, which a pretrained configuration needs; the head
        is drawn anew.
        """
        if self.initialisation == "orthogonal":
            return orthogonal_parameters(network, stream)
        return initial_parameters(network, stream) | (body or {})

    def evaluated(self, network: Network, seed: object, body: Theta | None = None) -> Theta:
        """Return the weights from which the network of a seed's evaluation is trained."""
        return self.initial(network, generator("evaluation weights", seed), body)

    def update(
        self,
        network: Network,
        theta: Theta,
        batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
        stream: torch.Generator,
    ) -> Theta:
        """Return the weights after the update operator was applied to each batch in turn.

        batches: images (N, channels, H, W) and labels (N,); stream: for augmentation and stochastic
        layers. Optimiser and schedule start anew, and `theta` stays as it is. The steps are those
        of `ddlib.training.loop.train`. Raises DivergedError where a loss is not finite.
        """
        watch = Watch()
        theta, optimiser = trainable(network, theta, self.recipe)
        for step, batch in enumerate(batches):
            loss = advance(network, theta, optimiser, *batch, self.recipe, step, stream)
            watch.finite(step, "the training loss", loss)
        watch.check()
        return detached(theta)
