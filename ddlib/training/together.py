"""Train many small networks at once on a GPU, which one of them would leave idle.

Their weights are stacked, and every step moves them all. A CPU trains them one after another, since
stacked weights turn convolutions into grouped ones, which are two to three times slower there.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

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

ACCELERATOR_WEIGHTS = 2**27
"""Weights trained at once. With its gradient, momentum and start each is four numbers: 2 GB."""

Labelled = tuple[torch.Tensor, torch.Tensor]
"""Images (N, channels, H, W) to train on, and their labels (N,)."""


def train_and_score_all(
    network: Network,
    sets: Sequence[Labelled],
    test: Split,
    recipe: Recipe,
    seeds: Sequence[object],
    thetas: Sequence[Theta],
) -> list[Score | DivergedError]:
    """Return what `train_and_score` returns or raises for each set, seed and initial weights.

    sets: all of one size. On a GPU `at_once` of them are trained together, with other rounding
    than alone (under bf16, biases are then added unrounded); one that diverges is trained to the
    end. A network with stochastic layers is trained alone.
    """
    images, labels = sets[0]
    count = at_once(network, len(labels), images.shape[1:], recipe, images.device.type)
    if count == 1 or is_stochastic(network, thetas[0], images[:2]):
        return [
            or_diverged(loop.train_and_score, network, *labelled, test, recipe, seed, theta)
            for labelled, seed, theta in zip(sets, seeds, thetas, strict=True)
        ]
    groups = [slice(start, start + count) for start in range(0, len(sets), count)]
    return [
        outcome
        for group in groups
        for outcome in _train_stacked(
            network, sets[group], test, recipe, seeds[group], thetas[group]
        )
    ]


def at_once(
    network: Network, k: int, image_shape: Sequence[int], recipe: Recipe, device: str
) -> int:
    """Return how many networks are best trained at the same time, on sets of k images each.

    On a GPU as many as fit a pass with their images and memory with their weights. One on a CPU,
    and for a network with batch norms or other buffers, which stacked networks would share.
    """
    if device == "cpu" or network.batch_norms or list(network.buffers()):
        return 1
    pixels = min(recipe.batch_size, k) * math.prod(image_shape[-2:])
    weights = sum(value.numel() for value in network.parameters())
    return max(1, min(ACCELERATOR_PIXELS // pixels, ACCELERATOR_WEIGHTS // weights))


def _train_stacked(
    network: Network,
    sets: Sequence[Labelled],
    test: Split,
    recipe: Recipe,
    seeds: Sequence[object],
    thetas: Sequence[Theta],
) -> Iterator[Score | DivergedError]:
    """Train G networks together; yield the score of each, or how it diverged."""
    stacked = {name: torch.stack([theta[name] for theta in thetas]) for name in thetas[0]}
    training = loop.Training(network, stacked, recipe, torch.Generator())
    sources = [_batches(labelled, recipe, seed) for labelled, seed in zip(sets, seeds, strict=True)]
    history = []
    for _ in range(recipe.steps):
        images, targets = zip(*map(next, sources), strict=True)
        scores = stacked_logits(network, training.theta, torch.stack(images))
        pairs = zip(scores, targets, strict=True)
        losses = torch.stack([loop.target_loss(*pair, recipe.label_smoothing) for pair in pairs])
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
    """Yield the augmented batches that `train_and_score` takes under a seed, and their targets."""
    (images, labels), stream = labelled, generator("evaluation batches", seed)
    for rows in loop.batches(len(labels), recipe.batch_size, stream):
        rows = send(rows, images.device)
        yield augmented(images[rows], labels[rows], recipe.augmentation, stream)


def stacked_logits(network: Network, stacked: Theta, images: torch.Tensor) -> torch.Tensor:
    """Return the class scores (G, N, C) in training of G networks, each of its own images.

    stacked: the weights of all G, (G, ...) each; images: (G, N, channels, H, W). For networks
    without buffers whose layers are not stochastic.
    """
    check_autocast(images.device)
    network.train()
    scores = torch.vmap(partial(functional_call, network))(stacked, images)
    return scores.to(images.dtype)


@torch.no_grad()
def is_stochastic(network: Network, theta: Theta, images: torch.Tensor) -> bool:
    """Return whether a training pass over `images` (N, channels, H, W) draws random numbers."""
    stream = torch.Generator()
    before = stream.get_state()
    logits(network, with_buffers(network, theta), images, training=True, stream=stream)
    return not torch.equal(stream.get_state(), before)
