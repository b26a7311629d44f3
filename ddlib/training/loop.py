"""Train networks for a fixed number of steps, and score them on a whole test set.

Several are trained at the same time where one would not fill the device.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from ddlib.data.base import Split
from ddlib.devices import send
from ddlib.networks.functional import (
    ACCELERATOR_PIXELS,
    Network,
    Theta,
    in_passes,
    initial_parameters,
    is_stochastic,
    logits,
    stacked_logits,
    with_statistics,
)
from ddlib.parameters import Parameters, Share
from ddlib.seeds import generator
from ddlib.training import augment

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

STAGES = {name: [families] for name, families in augment.STRATEGIES.items()}
STAGES["flip_crop"] = [("flip",), ("crop",)]  # which are applied one after the other
MIXES = ("mixup", "cutmix")
AUGMENTATIONS = (*STAGES, *MIXES)

CHECK_EVERY = 100  # numbers; to read each as it comes would keep an accelerator waiting

ACCELERATOR_WEIGHTS = 2**27
"""Of networks that are trained at once: of each weight there are four numbers, with its gradient,
momentum and start, so these take 2 GB."""

Labelled = tuple[torch.Tensor, torch.Tensor]
"""Images (N, channels, H, W) to train on, and their labels (N,)."""

T = TypeVar("T")


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

    def __str__(self) -> str:
        step, what, how, advice = self.args
        return f"{what} {how} at step {step}; {advice}"


def or_diverged(job: Callable[..., T], *given: object) -> T | DivergedError:
    """Return what a job returns, or the DivergedError that it raises."""
    try:
        return job(*given)
    except DivergedError as error:
        return error


class Watch:
    """Finds the first number of a run that is not sound, without a look at each as it comes."""

    def __init__(self) -> None:
        self._seen: list[tuple[torch.Tensor, DivergedError]] = []

    def see(self, sound: torch.Tensor, error: DivergedError) -> None:
        """Take note of whether a number is `sound`, a bool (); if not, `error` is to be raised.

        It is raised here, at most CHECK_EVERY numbers later, or by `check`.
        """
        self._seen.append((sound.detach(), error))
        if len(self._seen) >= CHECK_EVERY:
            self.check()

    def finite(self, step: int, what: str, values: torch.Tensor) -> None:
        """Take note of whether all `values` are finite numbers: they are `what`, after `step`."""
        self.see(values.isfinite().all(), DivergedError(step, what))

    def check(self) -> None:
        """Raise the error of the first number that was not sound, if there was one, every time."""
        seen, self._seen = self._seen, []
        if not seen:
            return
        flags = torch.stack([sound for sound, _ in seen]).cpu()
        for sound, own in zip(flags.tolist(), seen, strict=True):
            if not sound:
                self._seen = [own]
                raise own[1]


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


@dataclass(frozen=True)
class Score:
    """What a network reaches on a whole split.

    accuracy: the fraction that is right; cross_entropy: the mean, in nats; balanced_accuracy: the
    mean over the classes of the split of the fraction of each that is right. A network that names
    one class alone has a balanced accuracy of 1/C, however common the class.
    """

    accuracy: float
    cross_entropy: float
    balanced_accuracy: float


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
    see: Callable[[torch.Tensor], None] | None = None,
) -> Theta:
    """Return the weights after `recipe.steps` SGD steps from `theta` on images and labels.

    images: (N, channels, H, W); labels: (N,). `theta` itself is left as it is. The weights come
    with the network's buffers, if it has any, which the optimiser does not see. Raises
    DivergedError with the step at which the loss is not finite, unless `see` is there to be given
    every step's loss ().
    """
    steps = training_steps(network, theta, images, labels, recipe, generator, see)
    return deque(steps, maxlen=1).pop()


def training_steps(
    network: Network,
    theta: Theta,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    see: Callable[[torch.Tensor], None] | None = None,
) -> Iterator[Theta]:
    """Yield the weights after each step of `train`; the next step overwrites them, so copy.

    A loss that is not finite may show up to CHECK_EVERY steps late.
    """
    watch = Watch()
    theta, optimiser = prepared(network, theta, recipe)
    stream = batches(len(labels), recipe.batch_size, generator)
    for step in range(recipe.steps):
        rows = send(next(stream), images.device)
        batch = images[rows], labels[rows]
        loss = advance(network, theta, optimiser, *batch, recipe, step, generator)
        if see:
            see(loss)
        else:
            watch.finite(step, "the training loss", loss)
        yield detached(theta)
    watch.check()


def at_steps(places: Sequence[int], start: Theta, steps: Iterable[Theta]) -> Iterator[Theta]:
    """Yield the weights of a training after so many of its `steps`: `places`, in ascending order.

    start: the weights at 0. The next step overwrites what it gave before, so copy.
    """
    yield from [start] * places.count(0)
    for done, theta in enumerate(steps, 1):
        yield from [theta] * places.count(done)


def detached(theta: Theta) -> Theta:
    """Return the same weights, without what leads to their gradients."""
    return {name: value.detach() for name, value in theta.items()}


def prepared(network: Network, theta: Theta, recipe: Recipe) -> tuple[Theta, torch.optim.Optimizer]:
    """Return a copy of the weights to train, and the optimiser that moves them in place."""
    theta = {name: value.clone() for name, value in with_statistics(network, theta).items()}
    weights = [theta[name].requires_grad_() for name, _ in network.named_parameters()]
    options = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer in ("sgd", "nesterov"):
        options["momentum"] = recipe.momentum
    return theta, OPTIMISERS[recipe.optimizer](weights, **options)


def advance(
    network: Network,
    theta: Theta,
    optimiser: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    step: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Move `theta` by step number `step` of the recipe, in place; return the loss () before it.

    images: (N, channels, H, W); labels: (N,). The augmentation, and what stochastic layers draw,
    come from `generator`.
    """
    images, others, kept = augmented(images, recipe.augmentation, generator)
    scores = logits(network, theta, images, training=True, stream=generator)
    loss = F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
    if others is not None:
        other = F.cross_entropy(scores, labels[others], label_smoothing=recipe.label_smoothing)
        loss = kept * loss + (1 - kept) * other
    descend(optimiser, loss, recipe.rate(step))
    return loss.detach()


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """Move the weights of an optimiser down the gradient of a loss (), at a learning rate."""
    optimiser.param_groups[0]["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def augmented(
    images: torch.Tensor, augmentation: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None, float]:
    """Return images to train on, whose labels count for a share too (None: nobody's), and theirs.

    mixup (Zhang et al., ICLR 2018) blends each image with another of the batch; cutmix (Yun et
    al., ICCV 2019) pastes one rectangle of the other. The share is uniform, their alpha of 1, and
    one for the batch.
    """
    if augmentation not in MIXES:
        for families in STAGES[augmentation]:
            images = augment.apply(images, augment.draw(families, len(images), generator))
        return images, None, 1.0
    others = send(torch.randperm(len(images), generator=generator), images.device)
    kept, *centre = torch.rand(3, generator=generator, dtype=torch.float32).tolist()
    if augmentation == "mixup":
        return kept * images + (1 - kept) * images[others], others, kept
    rows, columns = (
        _span(size, at, math.sqrt(1 - kept))
        for size, at in zip(images.shape[-2:], centre, strict=True)
    )
    mixed = images.clone()
    mixed[..., rows, columns] = images[others][..., rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, others, 1 - pasted / math.prod(images.shape[-2:])


def _span(size: int, at: float, share: float) -> slice:
    """Return a span of `share` of `size` pixels about the fraction `at`, cut at the borders."""
    middle, half = int(at * size), int(share * size) // 2
    return slice(max(middle - half, 0), min(middle + half, size))


def score(network: Network, theta: Theta, split: Split) -> Score:
    """Return the Score of `theta` over the whole of `split`."""
    return scores_of(network, [theta], split)[0]


@torch.no_grad()
def scores_of(network: Network, thetas: Sequence[Theta], split: Split) -> list[Score]:
    """Return the `score` of each of some weights; a device is asked once for all."""
    right, nats = [], []
    for theta in thetas:
        for images, labels in zip(*map(in_passes, (split.images, split.labels)), strict=True):
            scores = logits(network, theta, images)
            hits = (scores.argmax(1) == labels).long()
            counts = torch.stack([hits, torch.ones_like(hits)], dim=1)  # right, and all
            right.append(counts.new_zeros(scores.shape[1], 2).index_add(0, labels, counts))
            nats.append(F.cross_entropy(scores, labels, reduction="sum"))
    counts = torch.stack(right).cpu().view(len(thetas), -1, scores.shape[1], 2).sum(1)
    hits, sizes = counts.unbind(-1)  # (T, C)
    nats = torch.stack(nats).cpu().view(len(thetas), -1).tolist()
    recalls = (hits.double() / sizes).nanmean(1).tolist()  # 0 / 0 for a class without images
    count = len(split.labels)
    accuracies = [each / count for each in hits.sum(1).tolist()]
    losses = [sum(each) / count for each in nats]
    return [Score(*each) for each in zip(accuracies, losses, recalls, strict=True)]


def train_and_score(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    test: Split,
    recipe: Recipe,
    seed: object,
    theta: Theta | None = None,
) -> Score:
    """Return the last-step score on `test` of a fresh network trained on images and labels.

    `seed` names the initial weights, unless `theta` gives them, the batch order and the
    augmentation; sets that are compared under one seed start from the same weights. Seeds run one
    after another in a worker process each: stacking their weights (`train_and_score_all`)
    turns convolutions into grouped ones, 2 to 3 times slower at k >= 100 on a CPU and no faster at
    k = 10.
    """
    if theta is None:
        stream = generator("evaluation weights", seed)
        theta = initial_parameters(network, stream, images.device)
    theta = train(network, theta, images, labels, recipe, generator("evaluation batches", seed))
    return final(score(network, theta, test), recipe)


def final(result: Score, recipe: Recipe) -> Score:
    """Return the score of weights that the recipe ended with; DivergedError if it is not finite."""
    if not math.isfinite(result.cross_entropy):
        raise DivergedError(recipe.steps, "the test loss")
    return result


def passes(steps: int, batch_size: int, count: int) -> float:
    """Return how often a training of so many steps sees each of `count` images, on average."""
    return steps * min(batch_size, count) / count


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


def train_and_score_all(
    network: Network,
    sets: Sequence[Labelled],
    test: Split,
    recipe: Recipe,
    seeds: Sequence[object],
    thetas: Sequence[Theta],
) -> list[Score | DivergedError]:
    """Return what `train_and_score` gives, or raises, for each set, its seed and initial weights.

    sets: all of one size. On an accelerator the networks' weights are stacked and every step moves
    `at_once` of them, up to the rounding that another order of sums brings (under bf16, biases are
    then added unrounded). One that diverges is trained to the end, as nobody looks before.
    Otherwise, and where layers are stochastic, they are trained one after another.
    """
    images, labels = sets[0]
    count = at_once(network, len(labels), images.shape[1:], recipe, images.device.type)
    if count == 1 or is_stochastic(network, thetas[0], images[:2]):
        return [
            or_diverged(train_and_score, network, *own, test, recipe, seed, theta)
            for own, seed, theta in zip(sets, seeds, thetas, strict=True)
        ]
    scores: list[Score | DivergedError] = []
    for start in range(0, len(sets), count):
        own = slice(start, start + count)
        trained, diverged = _train_stacked(network, sets[own], recipe, seeds[own], thetas[own])
        found = [or_diverged(final, each, recipe) for each in scores_of(network, trained, test)]
        scores += [error or score for error, score in zip(diverged, found, strict=True)]
    return scores


def at_once(
    network: Network, k: int, image_shape: Sequence[int], recipe: Recipe, device: str
) -> int:
    """Return how many networks are best trained at the same time, on sets of k images each.

    On an accelerator as many as a pass may hold the images and activations of, and memory the
    weights. One on a processor, where stacked convolutions are slower, and for batch norms and
    other buffers, which networks would share.
    """
    if device == "cpu" or network.batch_norms or network.constants:
        return 1
    pixels = min(recipe.batch_size, k) * math.prod(image_shape[-2:])
    weights = sum(value.numel() for value in network.parameters())
    return max(1, min(ACCELERATOR_PIXELS // pixels, ACCELERATOR_WEIGHTS // weights))


def _train_stacked(
    network: Network,
    sets: Sequence[Labelled],
    recipe: Recipe,
    seeds: Sequence[object],
    thetas: Sequence[Theta],
) -> tuple[list[Theta], list[DivergedError | None]]:
    """Return the trained weights of each of G networks, and where it diverged, if it did."""
    images, device = [each for each, _ in sets], sets[0][0].device
    stacked = {name: torch.stack([theta[name] for theta in thetas]) for name in thetas[0]}
    stacked, optimiser = prepared(network, stacked, recipe)
    streams = [generator("evaluation batches", seed) for seed in seeds]
    rows = [batches(len(images[0]), recipe.batch_size, stream) for stream in streams]
    sound = torch.full((len(seeds),), recipe.steps, device=device)  # the steps until it is not
    for step in range(recipe.steps):
        drawn = [send(next(own), device) for own in rows]
        seen = [
            augmented(each[own], recipe.augmentation, stream)
            for each, own, stream in zip(images, drawn, streams, strict=True)
        ]
        scores = stacked_logits(network, stacked, torch.stack([batch for batch, _, _ in seen]))
        targets = [labels[own] for (_, labels), own in zip(sets, drawn, strict=True)]
        losses = _cross_entropies(scores, targets, recipe.label_smoothing)
        if recipe.augmentation in MIXES:
            shares = torch.tensor([share for _, _, share in seen], dtype=losses.dtype)
            kept = send(shares, device)
            others = [own[mixed] for own, (_, mixed, _) in zip(targets, seen, strict=True)]
            rest = _cross_entropies(scores, others, recipe.label_smoothing)
            losses = kept * losses + (1 - kept) * rest
        descend(optimiser, losses.sum(), recipe.rate(step))
        sound = torch.where(losses.detach().isfinite(), sound, sound.clamp(max=step))
    errors = [
        DivergedError(step, "the training loss") if step < recipe.steps else None
        for step in sound.cpu().tolist()
    ]
    trained = detached(stacked)
    return [{name: trained[name][own] for name in trained} for own in range(len(seeds))], errors


def _cross_entropies(
    scores: torch.Tensor, labels: Sequence[torch.Tensor], smoothing: float
) -> torch.Tensor:
    """Return each network's mean cross-entropy (G,), in nats; its labels are (N,)."""
    # Not under vmap, whose rule for it sends a number to the device and waits.
    given = scores.flatten(0, 1), torch.cat(list(labels))
    each = F.cross_entropy(*given, reduction="none", label_smoothing=smoothing)
    return each.view(scores.shape[:2]).mean(1)
