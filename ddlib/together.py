"""Networks that are trained at the same time, where one would not fill the device."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F

from ddlib.data import Split
from ddlib.devices import send
from ddlib.networks import ACCELERATOR_PIXELS, Network, Theta, logits
from ddlib.seeds import generator
from ddlib.training import (
    MIXES,
    DivergedError,
    Recipe,
    Score,
    augmented,
    batches,
    descend,
    detached,
    final,
    or_diverged,
    prepared,
    scores_of,
    train_and_score,
)

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
    Otherwise they are trained one after another.
    """
    images, labels = sets[0]
    count = at_once(network, len(labels), images.shape[1:], recipe, images.device.type)
    if count == 1:
        return [
            or_diverged(train_and_score, network, *own, test, recipe, seed, theta)
            for own, seed, theta in zip(sets, seeds, thetas, strict=True)
        ]
    scores: list[Score | DivergedError] = []
    for start in range(0, len(sets), count):
        own = slice(start, start + count)
        trained, diverged = _train(network, sets[own], recipe, seeds[own], thetas[own])
        found = [or_diverged(final, each, recipe) for each in scores_of(network, trained, test)]
        scores += [error or score for error, score in zip(diverged, found, strict=True)]
    return scores


def at_once(
    network: Network, k: int, image_shape: Sequence[int], recipe: Recipe, device: str
) -> int:
    """Return how many networks are best trained at the same time, on sets of k images each.

    On an accelerator as many as a pass may hold the images and activations of, and memory the
    weights. One on a processor, where stacked convolutions are slower, and for batch norms, which
    would share their statistics.
    """
    if device == "cpu" or network.batch_norms:
        return 1
    pixels = min(recipe.batch_size, k) * math.prod(image_shape[-2:])
    weights = sum(value.numel() for value in network.parameters())
    return max(1, min(ACCELERATOR_PIXELS // pixels, ACCELERATOR_WEIGHTS // weights))


def _train(
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
        scores = _logits(network, stacked, torch.stack([batch for batch, _, _ in seen]))
        targets = [labels[own] for (_, labels), own in zip(sets, drawn, strict=True)]
        losses = _cross_entropies(scores, targets, recipe.label_smoothing)
        if recipe.augmentation in MIXES:
            kept = send(torch.tensor([share for _, _, share in seen]), device)
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


def _logits(network: Network, stacked: Theta, images: torch.Tensor) -> torch.Tensor:
    """Return the class scores (G, N, C) of each network's own images (G, N, channels, H, W)."""
    return torch.vmap(partial(logits, network))(stacked, images)


def _cross_entropies(
    scores: torch.Tensor, labels: Sequence[torch.Tensor], smoothing: float
) -> torch.Tensor:
    """Return each network's mean cross-entropy (G,), in nats; its labels are (N,)."""
    # Not under vmap, whose rule for it sends a number to the device and waits.
    each = F.cross_entropy(
        *(scores.flatten(0, 1), torch.cat(list(labels))),
        reduction="none",
        label_smoothing=smoothing,
    )
    return each.view(scores.shape[:2]).mean(1)
