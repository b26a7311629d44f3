"""Networks that are trained on one set at the same time, where one would not fill the device."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F

from ddlib.data import Split
from ddlib.devices import send
from ddlib.networks import ACCELERATOR_PIXELS, Network, Theta, in_groups, logits
from ddlib.seeds import generator
from ddlib.training import (
    MIXES,
    DivergedError,
    Recipe,
    Score,
    Watch,
    augmented,
    batches,
    prepared,
    set_rate,
    train_and_score,
)


def train_and_score_all(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    test: Split,
    recipe: Recipe,
    seeds: Sequence[object],
    thetas: Sequence[Theta],
) -> list[Score]:
    """Return, for each seed and its initial weights, what `train_and_score` gives for them.

    On an accelerator the networks' weights are stacked and every step moves all of them, up to the
    rounding that another order of sums brings (under bf16, biases are then added unrounded); a
    group of them sees at once what a pass may hold. On a processor, where stacked convolutions are
    slower, and for batch norms, which would share their statistics, they are trained one after
    another. Raises DivergedError for the first that diverges.
    """
    if images.device.type == "cpu" or network.batch_norms:
        given = network, images, labels, test, recipe
        return [train_and_score(*given, *own) for own in zip(seeds, thetas, strict=True)]
    scores, batch = [], min(recipe.batch_size, len(labels))
    for own in in_groups([batch] * len(seeds), images.shape[1:]):
        stacked = _train(network, images, labels, recipe, seeds[own], thetas[own])
        scores += _score(network, stacked, test, recipe)
    return scores


def _train(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    seeds: Sequence[object],
    thetas: Sequence[Theta],
) -> Theta:
    """Return the trained weights (G, ...) of G networks; DivergedError with the first step."""
    stacked = {name: torch.stack([theta[name] for theta in thetas]) for name in thetas[0]}
    stacked, optimiser = prepared(network, stacked, recipe)
    streams = [generator("evaluation batches", seed) for seed in seeds]
    rows = [batches(len(labels), recipe.batch_size, stream) for stream in streams]
    watch = Watch()
    for step in range(recipe.steps):
        drawn = [send(next(own), images.device) for own in rows]
        seen = [
            augmented(images[own], recipe.augmentation, stream)
            for own, stream in zip(drawn, streams, strict=True)
        ]
        scores = _logits(network, stacked, torch.stack([batch for batch, _, _ in seen]))
        targets = [labels[own] for own in drawn]
        losses = _cross_entropies(scores, targets, recipe.label_smoothing)
        if recipe.augmentation in MIXES:
            kept = send(torch.tensor([share for _, _, share in seen]), images.device)
            others = [own[mixed] for own, (_, mixed, _) in zip(targets, seen, strict=True)]
            rest = _cross_entropies(scores, others, recipe.label_smoothing)
            losses = kept * losses + (1 - kept) * rest
        set_rate(optimiser, recipe, step)
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
        watch.see(losses.isfinite().all(), DivergedError(step, "the training loss"))
    watch.check()
    return {name: value.detach() for name, value in stacked.items()}


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


@torch.no_grad()
def _score(network: Network, stacked: Theta, test: Split, recipe: Recipe) -> list[Score]:
    """Return the scores of G networks, whose weights are stacked, on a split."""
    count = len(next(iter(stacked.values())))
    right, nats = [], []
    size = max(1, ACCELERATOR_PIXELS // (count * math.prod(test.images.shape[-2:])))
    for images, labels in zip(test.images.split(size), test.labels.split(size), strict=True):
        scores = _logits(network, stacked, images.expand(count, *images.shape))
        right.append((scores.argmax(2) == labels).sum(1))
        nats.append(len(labels) * _cross_entropies(scores, [labels] * count, 0.0))
    totals = [
        torch.stack(parts).cpu().double().sum(0) / len(test.labels) for parts in (right, nats)
    ]
    scores = [Score(*own) for own in torch.stack(totals).T.tolist()]
    if not all(math.isfinite(score.cross_entropy) for score in scores):
        raise DivergedError(recipe.steps, "the test loss")
    return scores
