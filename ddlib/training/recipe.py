"""How a network is trained: optimiser, schedule, augmentation, length."""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from ddlib.parameters import Parameters, Share
from ddlib.seeds import generator
from ddlib.training.augment import AUGMENTATIONS

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "step": lambda done: 1.0 if done < 0.5 else 0.1,
}
"""Factor of the learning rate by the share of steps done. `step` drops to a tenth at half-time, as
in the reference."""

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "nesterov": partial(torch.optim.SGD, fused=True, nesterov=True),
    "rmsprop": torch.optim.RMSprop,
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
}
"""Optimisers by name, with PyTorch's defaults. Only those of WITH_MOMENTUM use the momentum."""

WITH_MOMENTUM = ("sgd", "nesterov")

STEP = ("optimizer", "learning_rate", "momentum", "weight_decay", "label_smoothing")
"""The fields of a Recipe that decide a single step on a given batch."""


class Recipe(Parameters):
    """How a network is trained: for the same number of steps on sets of every size.

    Steps, not epochs, are fixed, so that a larger k does not mean a longer training. Defaults are
    those of Zhao et al. (ICLR 2021), except steps and schedule.
    """

    steps: PositiveInt = 300
    batch_size: PositiveInt = 256
    learning_rate: NonNegativeFloat = 0.01
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    schedule: Literal[*SCHEDULES] = "cosine"
    augmentation: Literal[*AUGMENTATIONS] = "none"
    optimizer: Literal[*OPTIMISERS] = "sgd"
    label_smoothing: Share = 0.0

    @model_validator(mode="after")
    def _check_momentum(self) -> Self:
        if self.optimizer == "nesterov" and not self.momentum:
            raise ValueError("optimizer='nesterov' needs a momentum above 0; choose 0.9, or 'sgd'")
        return self

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`."""
        return self.learning_rate * SCHEDULES[self.schedule](step / self.steps)


class Converged(Parameters):
    """How long networks are trained on all data D: until their risk no longer falls.

    The number of steps starts at the recipe's and is doubled until the cross-entropy on held-out
    training samples no longer falls. passes: the most passes over D (or the recipe's, if they are
    more); held_out: the share of the training samples that is held out.
    """

    passes: PositiveInt = 30
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1


def hold_out(labels: torch.Tensor, share: float) -> torch.Tensor:
    """Choose a random share of every class to hold out: a bool (N,) for labels (N,) on the CPU.

    At least one sample of a class is held out, and at least one is kept. Every call chooses alike.
    Raises ValueError if no class has two samples.
    """
    is_held_out, stream = torch.zeros(len(labels), dtype=torch.bool), generator("held out")
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        is_held_out[members[torch.randperm(len(members), generator=stream)[:count]]] = True
    if not is_held_out.any():
        raise ValueError(
            "no class has two training samples, so none can be held out to see when a training on "
            "all data has converged; choose reference: same_steps"
        )
    return is_held_out


def search_length(
    first: int, most: int, risk: Callable[[int], float]
) -> tuple[int, list[tuple[int, float]]]:
    """Double the length of a training until its risk no longer falls.

    first: steps of the shortest training; most: steps of the longest; risk: trains for a number of
    steps and returns the risk on held-out samples. Returns the steps of the least risk, and a list
    of every length tried and its risk. If `first` is at least `most`, nothing is tried.
    """
    if first >= most:
        return first, []
    tried = [(first, risk(first))]
    while tried[-1][0] < most:
        steps = min(2 * tried[-1][0], most)
        tried.append((steps, risk(steps)))
        if not tried[-1][1] < tried[-2][1]:
            break
    return min(tried, key=lambda length: length[1])[0], tried
