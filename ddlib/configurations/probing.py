"""Train a network on all data and record its predictions and features on probe samples."""

import torch
from safetensors.torch import save

from ddlib.data.base import Split
from ddlib.networks.functional import Theta, embed, logits
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.loop import at_steps, training_steps
from ddlib.training.recipe import Recipe
from ddlib.training.targets import Teacher

SPANS = 4  # equal parts of a training; the change of the logits over each is recorded


def train_and_observe(
    network: Network,
    theta: Theta,
    real: Split,
    test: Split,
    recipe: Recipe,
    seed: object,
    probe: int,
    teacher: Teacher | None = None,
) -> tuple[Theta, bytes]:
    """Train from `theta` on `real`; return the weights, and a safetensors file of observations.

    The file is about the N samples of `probes`. It holds probabilities (N, C) and features (N, F)
    of the trained network, and increments (SPANS, N x C): the change of the logits, centred over
    classes, in each of SPANS equal parts of the training. Features and increments have half
    precision. Batches are those of `ddlib.training.loop.train_and_score` under the same seed.
    """
    seen = probes(test, probe)
    ends = [part * recipe.steps // SPANS for part in range(SPANS + 1)]
    stream, snapshots = generator("evaluation batches", seed), []
    training = real.samples, real.labels, recipe, stream, None, teacher
    steps = training_steps(network, theta, *training)
    for moved in at_steps(ends, theta, steps):
        scores = logits(network, moved, seen)
        snapshots.append(scores - scores.mean(1, keepdim=True))
    observed = {
        "probabilities": scores.softmax(1),
        "features": embed(network, moved, seen).half(),
        "increments": torch.stack(snapshots).diff(dim=0).flatten(1).half(),
    }
    return moved, save({name: value.contiguous().cpu() for name, value in observed.items()})


def probes(test: Split, count: int) -> torch.Tensor:
    """Return `count` samples, spread evenly over the test set; all, if it has fewer."""
    available = len(test.labels)
    count = min(count, available)
    return test.at(torch.arange(count) * available // count)
