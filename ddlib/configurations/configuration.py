"""Configurations: everything besides the data that decides how a network is trained."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PlainValidator, PositiveInt, model_validator

from ddlib.configurations.table_models import TABLE_MODELS, read_model
from ddlib.networks.functional import Theta, build
from ddlib.networks.initial import initial_parameters, orthogonal_parameters
from ddlib.networks.layers import Network
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.training.divergence import Watch
from ddlib.training.loop import Training
from ddlib.training.recipe import WITH_MOMENTUM, Recipe
from ddlib.training.targets import Labels

PRETRAINED = ("rotation", "contrastive")
INITIALISATIONS = ("default", "orthogonal", *PRETRAINED)


class Pretraining(Parameters):
    """How the body is pretrained by Adam on the real images, without labels."""

    steps: PositiveInt = 300
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: NonNegativeFloat = 0.001


class Configuration(Recipe):
    """How a network is trained: a recipe, the network, and its initial weights.

    network: name and options of a network, or of a model in TABLE_MODELS, for which the rest of the
    configuration does not matter; initialisation: a name of INITIALISATIONS; pretraining: only used
    by the initialisations in PRETRAINED; labels: what the network is trained on; learned_step_size:
    whether a set that was learned with a step size is trained on at this learning rate (as MTT's
    paper does), and not at the configuration's.
    """

    network: Annotated[dict[str, Any], PlainValidator(read_model)]
    initialisation: Literal[*INITIALISATIONS] = "default"
    pretraining: Pretraining = Pretraining()
    labels: Labels = Labels()
    learned_step_size: bool = False

    @property
    def recipe(self) -> Recipe:
        """The recipe alone."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})

    @property
    def teacher(self) -> "Configuration | None":
        """How the teacher of the soft labels is trained; None for other labels."""
        return Configuration(**self.labels.teacher) if self.labels.regime == "soft" else None

    @property
    def used(self) -> "Configuration":
        """The same configuration, with every field that it does not use at its default."""
        if not self.takes_steps:
            return Configuration(network=self.network)
        unused = [] if self.optimizer in WITH_MOMENTUM else ["momentum"]
        unused += [] if self.pretrained else ["pretraining"]
        return self.replace(**{name: Configuration.model_fields[name].default for name in unused})

    @property
    def takes_steps(self) -> bool:
        """Whether training takes steps along gradients: that of table models does not."""
        return self.network["name"] not in TABLE_MODELS

    @model_validator(mode="after")
    def _check_initialisation(self) -> Self:
        if not self.takes_steps and self.initialisation != "default":
            raise ValueError(
                f"{self.network['name']} has no weights to initialise; leave initialisation out"
            )
        if not self.takes_steps and self.labels.regime != "hard":
            raise ValueError(f"{self.network['name']} takes hard labels; give labels: {{}}")
        return self

    @property
    def pretrained(self) -> bool:
        """Whether training starts from a body that was pretrained on the real images."""
        return self.initialisation in PRETRAINED

    def build(self, sample_shape: tuple[int, ...], class_count: int) -> Network | None:
        """Return the network for samples of a shape, None for a table model.

        Raises ValueError if the samples do not fit.
        """
        if not self.takes_steps:
            if len(sample_shape) != 1:
                raise ValueError(
                    f"{self.network['name']} takes vector data, but these have the shape "
                    f"{sample_shape}; choose a network"
                )
            return None
        return build(**self.network, sample_shape=sample_shape, class_count=class_count)

    def initial(
        self, network: Network, stream: torch.Generator, body: Theta | None = None
    ) -> Theta:
        """Return the initial weights of a training, on the CPU.

        body: the pretrained weights of the body, for a pretrained configuration; the head is drawn
        anew.
        """
        if self.initialisation == "orthogonal":
            return orthogonal_parameters(network, stream)
        return initial_parameters(network, stream) | (body or {})

    def evaluated(self, network: Network, seed: object, body: Theta | None = None) -> Theta:
        """Return the initial weights of the evaluation under a seed."""
        return self.initial(network, generator("evaluation weights", seed), body)

    def update(
        self,
        network: Network,
        theta: Theta,
        batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
        stream: torch.Generator,
    ) -> Theta:
        """Apply the update operator to each batch in turn; return the weights after the last one.

        batches: samples (N, ...) and labels (N,); stream: for augmentation and stochastic
        layers. The optimiser and the schedule start anew; `theta` is not changed. The steps are
        those of `ddlib.training.loop.train`. Raises DivergedError if a loss is not finite, and
        ValueError for soft labels: the operator has no teacher.
        """
        if self.labels.regime == "soft":
            raise ValueError("an update has no teacher for soft labels; choose regime: hard")
        training, watch = Training(network, theta, self, stream), Watch()
        for step, batch in enumerate(batches):
            watch.finite(step, "the training loss", training.step(*batch))
        watch.check()
        return training.weights
