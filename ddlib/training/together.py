"""Train many small networks at once on a GPU, because one small network leaves a GPU idle.

Their weights are stacked, and every step updates all of them. A CPU trains them one after another:
stacked weights turn convolutions into grouped ones, which are two to three times slower on a CPU.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import torch
from torch.func import functional_call

from ddlib.data.base import Split
from ddlib.devices import check_autocast, send
from ddlib.networks.functional import ACCELERATOR_PIXELS, Theta, logits, with_buffers
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training import loop
from ddlib.training.augment import Batch, augmented
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import Score
from ddlib.training.recipe import Recipe
from ddlib.training.targets import Teacher, batch_loss

ACCELERATOR_WEIGHTS = 2**27
"""Weights trained at once. With gradient, momentum and initial value they take 2 GB."""

Labelled = tuple[torch.Tensor, torch.Tensor]
"""Samples (N, ...) to train on, and their labels, (N,) or soft (N, C)."""
Start = tuple[Labelled, object, Theta]
"""What a network is trained on, its seed, and its initial weights."""


def train_and_score_all(
    network: Network,
    sets: Sequence[Labelled],
    test: Split,
    recipe: Recipe,
    seeds: Sequence[object],
    thetas: Sequence[Theta],
    teacher: Teacher | None = None,
) -> list[Score | DivergedError]:
    """Return the result of `train_and_score`, or its DivergedError, for each set and its seed.

    sets: all of one size; thetas: the initial weights. A GPU trains `at_once` networks together.
    Their rounding differs from that of a single training (under bf16, biases are added unrounded),
    and a network that diverges is trained to the end. Networks with stochastic layers are trained
    one after another.
    """
    samples, labels = sets[0]
    starts = list(zip(sets, seeds, thetas, strict=True))
    count = at_once(network, len(labels), samples.shape[1:], recipe, samples.device.type)
    if count == 1 or is_stochastic(network, thetas[0], samples[:2]):
        return [
            or_diverged(loop.train_and_score, network, *labelled, test, recipe, *start, teacher)
            for labelled, *start in starts
        ]
    groups = [starts[first : first + count] for first in range(0, len(starts), count)]
    stacked = [_train_stacked(network, group, test, recipe, teacher) for group in groups]
    return list(chain.from_iterable(stacked))


def at_once(
    network: Network, k: int, sample_shape: Sequence[int], recipe: Recipe, device: str
) -> int:
    """Return how many networks to train at the same time, each on a set of k samples.

    On a GPU, as many as ACCELERATOR_PIXELS and ACCELERATOR_WEIGHTS allow. One on a CPU, and for
    networks with buffers (such as batch norms), which stacked networks would share.
    """
    if device == "cpu" or network.batch_norms or list(network.buffers()):
        return 1
    pixels = min(recipe.batch_size, k) * math.prod(sample_shape[-2:])
    weights = sum(value.numel() for value in network.parameters())
    return max(1, min(ACCELERATOR_PIXELS // pixels, ACCELERATOR_WEIGHTS // weights))


def _train_stacked(
    network: Network, starts: Sequence[Start], test: Split, recipe: Recipe, teacher: Teacher | None
) -> Iterator[Score | DivergedError]:
    """Train G networks together; yield the score or the DivergedError of each."""
    _, _, thetas = zip(*starts, strict=True)
    stacked = {name: torch.stack([theta[name] for theta in thetas]) for name in thetas[0]}
    training = loop.Training(network, stacked, recipe, torch.Generator())
    sources = [_batches(labelled, recipe, seed) for labelled, seed, _ in starts]
    history = []
    for _ in range(recipe.steps):
        samples, targets = zip(*map(next, sources), strict=True)
        scores = stacked_logits(network, training.theta, torch.stack(samples))
        losses = [
            batch_loss(*batch, recipe.label_smoothing, teacher)
            for batch in zip(scores, samples, targets, strict=True)
        ]
        losses = torch.stack(losses)
        training.descend(losses.sum())
        history.append(losses.detach())
    finite = torch.stack(history, dim=1).isfinite().cpu()  # (G, steps)
    for place, sound in enumerate(finite):
        if not sound.all():
            yield DivergedError(sound.int().argmin().item(), "the training loss")
            continue
        theta = {name: value[place] for name, value in training.weights.items()}
        yield or_diverged(loop.final, loop.score(network, theta, test), recipe)


def _batches(labelled: Labelled, recipe: Recipe, seed: object) -> Iterator[Batch]:
    """Yield the augmented batches, and their targets, of `train_and_score` under a seed."""
    (samples, labels), stream = labelled, generator("evaluation batches", seed)
    for rows in loop.batches(len(labels), recipe.batch_size, stream):
        rows = send(rows, samples.device)
        yield augmented(samples[rows], labels[rows], recipe.augmentation, stream)


def stacked_logits(network: Network, stacked: Theta, samples: torch.Tensor) -> torch.Tensor:
    """Return the class scores (G, N, C) of G networks in training mode, each on its own samples.

    stacked: weights, (G, ...) each; samples: (G, N, ...). Only for networks without
    buffers and stochastic layers.
    """
    check_autocast(samples.device)
    network.train()
    scores = torch.vmap(partial(functional_call, network))(stacked, samples)
    return scores.to(samples.dtype)


@torch.no_grad()
def is_stochastic(network: Network, theta: Theta, samples: torch.Tensor) -> bool:
    """Return whether a training pass over `samples` (N, ...) draws random numbers."""
    stream = torch.Generator()
    before = stream.get_state()
    logits(network, with_buffers(network, theta), samples, training=True, stream=stream)
    return not torch.equal(stream.get_state(), before)
