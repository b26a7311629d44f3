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
"""Factor on the learning rate as a function of the share of steps done; `step` is the reference's
single drop to a tenth at half-time."""

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "nesterov": partial(torch.optim.SGD, fused=True, nesterov=True),
    "rmsprop": torch.optim.RMSprop,
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
}
"""Optimisers by name. RMSprop's and Adam's averages decay as PyTorch has it; momentum is SGD's, and
Nesterov's, alone."""

STEP = ("optimizer", "learning_rate", "momentum", "weight_decay", "label_smoothing")
"""The fields of a Recipe that decide a step, whatever the length, batches and augmentation."""


class Recipe(Parameters):
    """How a network is trained: for a fixed number of steps, whatever the size of the set.

    Steps, not epochs, are fixed, so that k and training length are not confounded. Defaults are
    the evaluation of Zhao et al. (ICLR 2021) but for their length and schedule.
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
    """How long networks are trained on all data D until their risk no longer falls.

    The length is doubled, from the recipe's, until the cross-entropy on training images that are
    held out no longer falls. passes: over D, at most, or the recipe's if those are more; held_out:
    the share of the training images.
    """

    passes: PositiveInt = 30
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1


def hold_out(labels: torch.Tensor, share: float) -> torch.Tensor:
    """Choose at random the same share of every class; a bool (N,) for labels (N,) on the CPU.

    It is rounded, to one image at least, and to all but one at most. The same images are chosen
    every time. Raises ValueError where no class has two images.
    """
    held, stream = torch.zeros(len(labels), dtype=torch.bool), generator("held out")
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held[members[torch.randperm(len(members), generator=stream)[:count]]] = True
    if not held.any():
        raise ValueError(
            "no class has two training images, so none can be held out to see when a training on "
            "all data has converged; choose reference: same_steps"
        )
    return held


def search_length(
    first: int, most: int, risk: Callable[[int], float]
) -> tuple[int, list[tuple[int, float]]]:
    """Double the length of a training until its risk no longer falls.

    first: steps of the shortest; most: steps of the longest that is tried, if that is more; risk:
    trains for so many steps and returns the risk on images held out. Returns the steps of the
    least risk, and every length tried with its risk: none where `most` leaves no choice.
    """
    if first >= most:
        return first, []
    tried = [(first, risk(first))]
    while tried[-1][0] < most:
        steps = min(2 * tried[-1][0], most)
        tried.append((steps, risk(steps)))
        if not tried[-1][1] < tried[-2][1]:
            break
    return min(tried, key=lambda each: each[1])[0], tried
