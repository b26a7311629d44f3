"""Train many small networks at once on a GPU, which one of them would leave idle.

Their weights are stacked, and every step moves them all. A CPU trains them one after another, since
stacked weights turn convolutions into grouped ones, which are two to three times slower there.
"""

import math
from collections.abc import Sequence

import torch
from torch.func import functional_call

from ddlib.data.base import Split
from ddlib.devices import check_autocast, send
from ddlib.networks.functional import ACCELERATOR_PIXELS, Theta, logits, with_buffers
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.augment import augmented
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import (
    Score,
    batches,
    descend,
    detached,
    final,
    score,
    target_loss,
    train_and_score,
    trainable,
)
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
            or_diverged(train_and_score, network, *labelled, test, recipe, seed, theta)
            for labelled, seed, theta in zip(sets, seeds, thetas, strict=True)
        ]
    outcomes: list[Theta | DivergedError] = []
    for start in range(0, len(sets), count):
        group = slice(start, start + count)
        outcomes += _train_stacked(network, sets[group], recipe, seeds[group], thetas[group])
    return [
        outcome
        if isinstance(outcome, DivergedError)
        else or_diverged(final, score(network, outcome, test), recipe)
        for outcome in outcomes
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
    recipe: Recipe,
    seeds: Sequence[object],
    thetas: Sequence[Theta],
) -> list[Theta | DivergedError]:
    """Return the trained weights of each of G networks, or where it diverged."""
    stacked = {name: torch.stack([theta[name] for theta in thetas]) for name in thetas[0]}
    stacked, optimiser = trainable(network, stacked, recipe)
    streams = [generator("evaluation batches", seed) for seed in seeds]
    rows = [batches(len(sets[0][1]), recipe.batch_size, stream) for stream in streams]
    history = []
    for step in range(recipe.steps):
        drawn = []
        for (images, labels), own_rows, stream in zip(sets, rows, streams, strict=True):
            batch = send(next(own_rows), images.device)
            drawn.append(augmented(images[batch], labels[batch], recipe.augmentation, stream))
        scores = stacked_logits(network, stacked, torch.stack([images for images, _ in drawn]))
        losses = torch.stack(
            [
                target_loss(own_scores, targets, recipe.label_smoothing)
                for own_scores, (_, targets) in zip(scores, drawn, strict=True)
            ]
        )
        descend(optimiser, losses.sum(), recipe.rate(step))
        history.append(losses.detach())
    finite, trained = torch.stack(history, dim=1).isfinite().cpu(), detached(stacked)  # (G, steps)
    return [
        {name: value[place] for name, value in trained.items()}
        if sound.all()
        else DivergedError(sound.int().argmin().item(), "the training loss")
        for place, sound in enumerate(finite)
    ]


def stacked_logits(network: Network, stacked: Theta, images: torch.Tensor) -> torch.Tensor:
    """Return the class scores (G, N, C) in training of G networks, each of its own images.

    stacked: the weights of all G, (G, ...) each; images: (G, N, channels, H, W). For networks
    without buffers whose layers are not stochastic.
    """
    check_autocast(images.device)
    network.train()

    def scores(theta: Theta, images: torch.Tensor) -> torch.Tensor:
        return functional_call(network, theta, (images,), tie_weights=False)

    return torch.vmap(scores)(stacked, images).to(images.dtype)


@torch.no_grad()
def is_stochastic(network: Network, theta: Theta, images: torch.Tensor) -> bool:
    """Return whether a training pass over `images` (N, channels, H, W) draws random numbers."""
    stream = torch.Generator()
    before = stream.get_state()
    logits(network, with_buffers(network, theta), images, training=True, stream=stream)
    return not torch.equal(stream.get_state(), before)
