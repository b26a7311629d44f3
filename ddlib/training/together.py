"""Train many small networks at once on a GPU, whose step on one would leave it idle."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.func import functional_call

from ddlib.data.base import Split
from ddlib.devices import check_autocast, send
from ddlib.networks.functional import ACCELERATOR_PIXELS, Theta, logits, with_buffers
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.augment import MIXES, augmented
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import (
    Score,
    batches,
    descend,
    detached,
    final,
    prepared,
    scores_of,
    train_and_score,
)
from ddlib.training.recipe import Recipe

ACCELERATOR_WEIGHTS = 2**27
"""Of networks that are trained at once: of each weight there are four numbers, with its gradient,
momentum and start, so these take 2 GB."""

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
