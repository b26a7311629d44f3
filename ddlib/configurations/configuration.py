"""Configurations: all that decides how a network is trained besides the data.

That is the network, the optimiser and its numbers, the augmentation, and the weights that training
starts from.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PlainValidator, PositiveInt

from ddlib.networks.functional import Theta, build, read_network
from ddlib.networks.initial import initial_parameters, orthogonal_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.training.divergence import Watch
from ddlib.training.loop import Training
from ddlib.training.recipe import Recipe

PRETRAINED = ("rotation", "contrastive")
INITIALISATIONS = ("default", "orthogonal", *PRETRAINED)


class Pretraining(Parameters):
    """How a body is pretrained on the unlabelled real images; learning rates are Adam's."""

    steps: PositiveInt = 300
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: NonNegativeFloat = 0.001


class Configuration(Recipe):
    """How a network is trained, whatever it is trained on: a recipe, and what it starts from.

    network: its name and options, as `read_network` gives them; initialisation: a name of
    INITIALISATIONS; pretraining: for the two initialisations that are pretrained, and otherwise
    without effect.
    """

    network: Annotated[dict[str, Any], PlainValidator(read_network)]
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
        training, watch = Training(network, theta, self, stream), Watch()
        for step, batch in enumerate(batches):
            watch.finite(step, "the training loss", training.step(*batch))
        watch.check()
        return training.weights
