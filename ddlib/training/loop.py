"""Train a network for a fixed number of steps, and score it on a whole test set."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ddlib.data.base import Split
from ddlib.devices import send
from ddlib.networks.functional import Theta, logits, pass_size, with_buffers
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.augment import augmented
from ddlib.training.divergence import DivergedError, Watch
from ddlib.training.recipe import OPTIMISERS, Recipe
from ddlib.training.targets import Teacher, batch_loss


@dataclass(frozen=True)
class Score:
    """The scores of a network on a whole split.

    accuracy: a fraction; cross_entropy: the mean, in nats; balanced_accuracy: the mean over classes
    of the accuracy within each class. A network that always predicts the same class has a balanced
    accuracy of 1/C, however common the class.
    """

    accuracy: float
    cross_entropy: float
    balanced_accuracy: float


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches of indices without end: random permutations of `count`, cut into `size`.

    A set that is not larger than `size` is one batch, always in the same order.
    """
    while count <= size:
        yield torch.arange(count)
    pending = torch.empty(0, dtype=torch.int64)
    while True:
        while len(pending) < size:
            pending = torch.cat([pending, torch.randperm(count, generator=generator)])
        yield pending[:size]
        pending = pending[size:]


class Training:
    """A training: a copy of the weights `theta`, which every step updates in place.

    Buffers that `theta` lacks are added; the optimiser does not see buffers. generator: for
    augmentation and stochastic layers; teacher: labels the samples in the place of their labels.
    """

    def __init__(
        self,
        network: Network,
        theta: Theta,
        recipe: Recipe,
        generator: torch.Generator,
        teacher: Teacher | None = None,
    ):
        self.network, self.recipe, self.generator, self.steps = network, recipe, generator, 0
        self.teacher = teacher
        self.theta = {name: value.clone() for name, value in with_buffers(network, theta).items()}
        weights = [self.theta[name].requires_grad_() for name, _ in network.named_parameters()]
        options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
        if recipe.optimizer in ("sgd", "nesterov"):
            options["momentum"] = recipe.momentum
        self.optimiser = OPTIMISERS[recipe.optimizer](weights, **options)

    @property
    def weights(self) -> Theta:
        """The weights and buffers, detached. The next step overwrites them: copy to keep them."""
        return {name: value.detach() for name, value in self.theta.items()}

    def step(self, samples: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take a step on samples (N, ...) and hard or soft labels; return the loss () before it."""
        samples, targets = augmented(samples, labels, self.recipe.augmentation, self.generator)
        scores = logits(self.network, self.theta, samples, training=True, stream=self.generator)
        loss = batch_loss(scores, samples, targets, self.recipe.label_smoothing, self.teacher)
        self.descend(loss)
        return loss.detach()

    def descend(self, loss: torch.Tensor) -> None:
        """Take a step down the gradient of a loss (), which was computed at `theta`."""
        descend(self.optimiser, loss, self.recipe.rate(self.steps))
        self.steps += 1


def train(
    network: Network,
    theta: Theta,
    samples: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    see: Callable[[torch.Tensor], None] | None = None,
    teacher: Teacher | None = None,
) -> Theta:
    """Return the weights after `recipe.steps` steps from `theta` on samples and labels.

    samples: (N, ...), or the `samples` of a Split; labels: (N,) or soft, (N, C); a teacher
    labels the samples instead, after augmentation. `theta` is not changed. The result also holds
    the network's buffers. see: called with the loss () of every step. Without it, raises
    DivergedError, with the step, if a loss is not finite.
    """
    steps = training_steps(network, theta, samples, labels, recipe, generator, see, teacher)
    return deque(steps, maxlen=1).pop()


def training_steps(
    network: Network,
    theta: Theta,
    samples: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    see: Callable[[torch.Tensor], None] | None = None,
    teacher: Teacher | None = None,
) -> Iterator[Theta]:
    """Yield the weights after each step of `train`. The next step overwrites them: copy to keep.

    DivergedError may be raised up to CHECK_EVERY steps late.
    """
    training, watch = Training(network, theta, recipe, generator, teacher), Watch()
    stream = batches(len(labels), recipe.batch_size, generator)
    for step in range(recipe.steps):
        rows = send(next(stream), samples.device)
        loss = training.step(samples[rows], labels[rows])
        if see:
            see(loss)
        else:
            watch.finite(step, "the training loss", loss)
        yield training.weights
    watch.check()


def at_steps(places: Sequence[int], start: Theta, steps: Iterable[Theta]) -> Iterator[Theta]:
    """Yield the weights of a training after the numbers of steps in `places`, in ascending order.

    start: the weights before the first step; steps: the weights after each step, as
    `training_steps` yields them. The next step overwrites the weights: copy to keep them.
    """
    yield from [start] * places.count(0)
    for done, theta in enumerate(steps, 1):
        yield from [theta] * places.count(done)


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """Let an optimiser take one step down the gradient of a loss () at the learning rate `rate`."""
    optimiser.param_groups[0]["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@torch.no_grad()
def score(network: Network, theta: Theta, split: Split) -> Score:
    """Return the Score of `theta` on all samples of `split`."""
    return score_of(lambda rows: logits(network, theta, split.at(rows)), split)


def score_of(scores_at: Callable[[torch.Tensor], torch.Tensor], split: Split) -> Score:
    """Return the Score of what gives the logits (n, C) of some rows (n,) of `split`."""
    right, nats, count = [], [], len(split.labels)
    size = pass_size(split.at(slice(0, 1)).shape[1:], split.device)
    for rows in torch.arange(count, device=split.device).split(size):
        scores, labels = scores_at(rows), split.labels[rows]
        right.append(scores.argmax(1) == labels)
        nats.append(F.cross_entropy(scores, labels, reduction="sum"))
    labels = split.labels.cpu()
    hits = labels.bincount(torch.cat(right).cpu().double())  # (C,)
    recalls = (hits / labels.bincount()).nanmean()  # 0 / 0 for a class without samples
    nats = sum(torch.stack(nats).cpu().tolist())
    return Score(hits.sum().item() / count, nats / count, recalls.item())


def train_and_score(
    network: Network,
    samples: torch.Tensor,
    labels: torch.Tensor,
    test: Split,
    recipe: Recipe,
    seed: object,
    theta: Theta | None = None,
    teacher: Teacher | None = None,
) -> Score:
    """Train a network on samples and labels; return its score on `test` after the last step.

    `seed` decides the initial weights (unless `theta` gives them), the order of the batches and the
    augmentation. So sets that are compared under one seed start from the same weights. Raises
    DivergedError if a loss is not finite, in training or on `test`.
    """
    if theta is None:
        theta = initial_parameters(network, generator("evaluation weights", seed), samples.device)
    stream = generator("evaluation batches", seed)
    theta = train(network, theta, samples, labels, recipe, stream, teacher=teacher)
    return final(score(network, theta, test), recipe)


def final(result: Score, recipe: Recipe) -> Score:
    """Return the score after the last step; raise DivergedError if it is not finite."""
    if not math.isfinite(result.cross_entropy):
        raise DivergedError(recipe.steps, "the test loss")
    return result


def passes(steps: int, batch_size: int, count: int) -> float:
    """Return how often a training of `steps` steps sees each of `count` samples, on average."""
    return steps * min(batch_size, count) / count
