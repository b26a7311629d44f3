"""What trainings on all data show: predictions, features, and how they move outputs and weights."""

from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
import torch
from safetensors.torch import save

from ddlib import networks
from ddlib.configurations import Configuration
from ddlib.data import DataSet, Split
from ddlib.networks import Network, Theta
from ddlib.seeds import generator
from ddlib.training import Recipe, batches, training_steps

SPANS = 4  # parts of a training over which the change of the logits is kept
BURST = 5  # steps that make up an update: the first alone knows no momentum


def train_and_observe(
    network: Network,
    theta: Theta,
    real: Split,
    test: Split,
    recipe: Recipe,
    seed: object,
    probe: int,
) -> tuple[Theta, bytes]:
    """Train from `theta` on `real`; return the weights, and a file of safetensors.

    The file holds, over N = `probe` test images spread evenly over the test set (all, if it has
    fewer): probabilities (N, C) and features (N, F) of the trained network, and increments
    (SPANS, N x C), the change of its logits, centred over classes, over each of SPANS equal parts
    of the training. Features and increments have half precision. Batches are those of
    `ddlib.training.train_and_score` under the same seed.
    """
    count = len(test.labels)
    seen = test.images[torch.arange(min(probe, count)) * count // min(probe, count)]
    snapshots = [_centred_logits(network, theta, seen)]
    for moved in _at_ends(network, theta, real, recipe, seed):
        snapshots.append(_centred_logits(network, moved, seen))
    with torch.no_grad():
        observed = {
            "probabilities": networks.logits(network, moved, seen).softmax(1),
            "features": networks.embed(network, moved, seen).half(),
            "increments": torch.stack(snapshots).diff(dim=0).flatten(1).half(),
        }
    return moved, save({name: value.contiguous().cpu() for name, value in observed.items()})


def update_fields(
    dataset: DataSet, configurations: Mapping[str, Configuration], seed: object
) -> dict[str, np.ndarray]:
    """Return what each configuration adds to the same P weights, (SPANS, P), at shared states.

    The states are the weights before each of SPANS equal parts of the first configuration's own
    training on the real images. From each, every configuration applies its update operator BURST
    times, its optimiser new, to the same batches; where a training starts from makes no
    difference here. Raises ValueError for configurations that do not share their network.
    """
    first, *others = configurations
    own = configurations[first]
    for name in others:
        if configurations[name].network != own.network:
            raise ValueError(
                f"{name!r} has other weights than {first!r}; compare them in function space"
            )
    network = own.build(dataset.image_shape, dataset.class_count)
    theta = own.initial(network, generator("shared state", seed))
    images, labels = dataset.train.images, dataset.train.labels
    rows = batches(len(labels), own.recipe.batch_size, generator("shared batches", seed))
    shared = [[next(rows) for _ in range(BURST)] for _ in range(SPANS)]
    fields: dict[str, list[np.ndarray]] = {name: [] for name in configurations}
    ends = _at_ends(network, theta, dataset.train, own.recipe, seed)
    for state, drawn in zip(chain([theta], ends), shared, strict=False):
        for name, configuration in configurations.items():
            moved, carried = configuration.start(network, state, seed)
            for batch in drawn:
                batch = images[batch], labels[batch]
                moved, carried = configuration.update(network, moved, carried, batch)
            parts = [(moved[key] - state[key]).flatten() for key, _ in network.named_parameters()]
            fields[name].append(torch.cat(parts).double().cpu().numpy())
    return {name: np.stack(updates) for name, updates in fields.items()}


def _at_ends(
    network: Network, theta: Theta, real: Split, recipe: Recipe, seed: object
) -> Iterator[Theta]:
    """Yield the weights at the end of each part of the training; the next part overwrites them."""
    ends = [part * recipe.steps // SPANS for part in range(1, SPANS + 1)]
    stream = generator("evaluation batches", seed)
    yield from (theta for end in ends if end == 0)  # fewer steps than parts
    steps = training_steps(network, theta, real.images, real.labels, recipe, stream)
    for done, moved in enumerate(steps, 1):
        yield from (moved for end in ends if end == done)


@torch.no_grad()
def _centred_logits(network: Network, theta: Theta, images: torch.Tensor) -> torch.Tensor:
    scores = networks.logits(network, theta, images)
    return scores - scores.mean(1, keepdim=True)
