"""Train a network for a fixed number of steps, and score it on a whole test set."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ddlib import augment
from ddlib.data import Split
from ddlib.networks import CHUNK, Network, Theta, initial_parameters, logits, with_statistics
from ddlib.parameters import Parameters, setting
from ddlib.seeds import generator

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "step": lambda done: 1.0 if done < 0.5 else 0.1,
}
"""Factor on the learning rate as a function of the share of steps done; `step` is the reference's
single drop to a tenth at half-time."""


class DivergedError(RuntimeError):
    """A loss or a pixel is no longer a finite number, or another number is out of its range."""

    def __init__(
        self,
        step: int,
        what: str,
        how: str = "stopped being a finite number",
        advice: str = "choose a smaller learning rate",
    ):
        super().__init__(step, what, how, advice)  # workers send it back by these arguments
        self.step = step
        self.what = what
        self.how = how
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.what} {self.how} at step {self.step}; {self.advice}"


@dataclass(frozen=True)
class Recipe(Parameters):
    """How a network is trained: SGD for a fixed number of steps, whatever the size of the set.

    Steps, not epochs, are fixed, so that k and training length are not confounded. Defaults are
    the evaluation of Zhao et al. (ICLR 2021) but for their length and schedule.
    """

    steps: int = setting(300, least=1)
    batch_size: int = setting(256, least=1)
    learning_rate: float = setting(0.01)
    momentum: float = setting(0.9)
    weight_decay: float = setting(5e-4)
    schedule: str = setting("cosine", choices=SCHEDULES)
    augmentation: str = setting("none", choices=augment.STRATEGIES)


@dataclass(frozen=True)
class Score:
    """What a network reaches on a whole split: fraction right, and mean cross-entropy in nats."""

    accuracy: float
    cross_entropy: float


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield index batches without end: permutations of `count`, one after another, cut by `size`.

    A set no larger than `size` is one batch, always in its own order.
    """
    if count <= size:
        whole = torch.arange(count)
        while True:
            yield whole
    pending = torch.empty(0, dtype=torch.int64)
    while True:
        while len(pending) < size:
            pending = torch.cat([pending, torch.randperm(count, generator=generator)])
        yield pending[:size]
        pending = pending[size:]


def train(
    network: Network,
    theta: Theta,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> Theta:
    """Return the weights after `recipe.steps` SGD steps from `theta` on images and labels.

    images: (N, channels, H, W); labels: (N,). `theta` itself is left as it is. Under batch norm
    the weights come with running statistics, which the optimiser does not see. Raises
    DivergedError with the step at which the loss is not finite.
    """
    steps = training_steps(network, theta, images, labels, recipe, generator)
    return deque(steps, maxlen=1).pop()


def training_steps(
    network: Network,
    theta: Theta,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> Iterator[Theta]:
    """Yield the weights after each step of `train`; the next step overwrites them, so copy."""
    theta = {name: value.clone() for name, value in with_statistics(network, theta).items()}
    optimiser = torch.optim.SGD(
        [theta[name].requires_grad_() for name, _ in network.named_parameters()],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    families = augment.STRATEGIES[recipe.augmentation]
    schedule = SCHEDULES[recipe.schedule]
    stream = batches(len(labels), recipe.batch_size, generator)
    for step in range(recipe.steps):
        batch = next(stream)
        seen = images[batch]
        seen = augment.apply(seen, augment.draw(families, len(seen), generator))
        loss = F.cross_entropy(logits(network, theta, seen, training=True), labels[batch])
        if not math.isfinite(loss.item()):
            raise DivergedError(step, "the training loss")
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * schedule(step / recipe.steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield {name: value.detach() for name, value in theta.items()}


@torch.no_grad()
def score(network: Network, theta: Theta, split: Split) -> Score:
    """Return accuracy and mean cross-entropy (nats) of `theta` over the whole of `split`."""
    right, nats = 0, 0.0
    size = CHUNK if split.images.device.type == "cpu" else 1024
    for images, labels in zip(split.images.split(size), split.labels.split(size), strict=True):
        scores = logits(network, theta, images)
        right += int((scores.argmax(1) == labels).sum())
        nats += F.cross_entropy(scores, labels, reduction="sum").item()
    return Score(right / len(split.labels), nats / len(split.labels))


def train_and_score(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    test: Split,
    recipe: Recipe,
    seed: object,
) -> Score:
    """Return the last-step score on `test` of a fresh network trained on images and labels.

    `seed` names the initial weights, the batch order and the augmentation; sets that are
    compared under one seed start from the same weights. Seeds run one after another in a worker
    process each: stacking their weights (torch.func.vmap) turns convolutions into grouped ones,
    2 to 3 times slower at k >= 100 on a CPU and no faster at k = 10.
    """
    theta = initial_parameters(network, generator("evaluation weights", seed), images.device)
    theta = train(network, theta, images, labels, recipe, generator("evaluation batches", seed))
    result = score(network, theta, test)
    if not math.isfinite(result.cross_entropy):
        raise DivergedError(recipe.steps, "the test loss")
    return result
