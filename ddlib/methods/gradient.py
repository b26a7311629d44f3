"""DC and DSA, gradient matching: a training step on S should move a network as one on D does."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet
from ddlib.methods.common import INITIALISATIONS, real_batches
from ddlib.methods.matching import (
    PLAIN_SGD,
    TINY,
    BatchMatching,
    Synthetic,
    fresh_networks,
)
from ddlib.networks.functional import Theta, in_passes, logits, with_batch_seen
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, at_ipc
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

OUTER_STEPS = {1: 1, 10: 10, 20: 20, 30: 30, 40: 40, 50: 50}
INNER_EPOCHS = {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10}
STATISTICS_BATCH = 16  # real images a class from which batch norms take their statistics


class GradientMatching(BatchMatching):
    """Defaults are the reference's (Zhao et al., ICLR 2021).

    `outer_steps` and `inner_epochs` are its tables by ipc; sizes between the published ones are
    interpolated, larger ones take the last entry. An MLP wants a learning rate of 0.01. What
    `configurations` say besides their networks is how these are trained on S.
    """

    iterations: ByIpc[NonNegativeInt] = 1000
    outer_steps: ByIpc[PositiveInt] = OUTER_STEPS
    inner_epochs: ByIpc[NonNegativeInt] = INNER_EPOCHS
    learning_rate: ByIpc[NonNegativeFloat] = 0.1
    network_learning_rate: NonNegativeFloat = 0.01
    network_batch: PositiveInt = 256
    initialisation: Literal[*INITIALISATIONS] = "noise"
    augmentation: Literal[*augment.STRATEGIES] = "none"

    method: ClassVar[str] = "dc"


class SiameseGradientMatching(GradientMatching):
    """DSA: gradient matching under augmentation that S and D share (Zhao & Bilen, ICML 2021).

    Defaults are the reference's: those of DC, but for real first images and all six families.
    Digits do not flip: give them `augmentation: dsa_no_flip`.
    """

    initialisation: Literal[*INITIALISATIONS] = "real"
    augmentation: Literal[*augment.STRATEGIES] = "dsa"

    method: ClassVar[str] = "dsa"


def distil(
    dataset: DataSet, network: Network, ipcs: Sequence[int], seed: int, parameters: GradientMatching
) -> dict[int, DistilledSet | DivergedError]:
    """Distil each size: min_S over initial weights and training steps of the summed `distance`.

    Every iteration draws a network (with `configurations`, one of those and its optimizer, which
    starts anew after each outer step); each of its outer steps matches the gradients of S and of a
    real batch, class by class, moves S once, and then trains the network on S. With an
    augmentation, one draw a class is applied to its synthetic and to its real images alike, and
    the network is trained on S under draws of each image's own. Batch norms see real images of
    all classes first and keep those statistics while gradients are matched.

    Source: Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching" (ICLR 2021),
    algorithm 1; Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation"
    (ICML 2021), algorithm 1.
    """
    given = seed, parameters
    return {ipc: or_diverged(_distil_size, dataset, network, ipc, *given) for ipc in ipcs}


def _distil_size(
    dataset: DataSet, network: Network, ipc: int, seed: int, parameters: GradientMatching
) -> DistilledSet:
    synthetic = Synthetic(dataset, ipc, seed, parameters)
    images, watch = synthetic.images, synthetic.watch
    batches = real_batches(dataset, parameters.real_batch, generator("real", seed))
    samples = real_batches(dataset, STATISTICS_BATCH, generator("statistics", seed))
    iterations = round(at_ipc(parameters.iterations, ipc))
    outer_steps = round(at_ipc(parameters.outer_steps, ipc))
    fresh = fresh_networks(dataset, network, parameters.configurations, seed)
    plain = inner_recipe(parameters, ipc, len(images))
    families = augment.STRATEGIES[parameters.augmentation]
    draws = generator("matching augmentation", seed)
    for iteration in range(iterations):
        network, changes, theta = fresh(iteration)
        inner = plain.replace(**changes) if plain else None
        stream = generator("inner batches", seed, iteration, ipc)
        for outer in range(outer_steps):
            step = iteration * outer_steps + outer
            if network.batch_norms:
                seen = dataset.train.at(torch.cat(next(samples)))
                theta = with_batch_seen(network, theta, seen)
            synthetic.optimiser.zero_grad()
            drawn = [augment.draw(families, 1, draws) for _ in dataset.classes]
            value = match(dataset, network, theta, next(batches), images, drawn)
            watch.finite(step, "the matching loss", value)
            if parameters.average == "geometric":
                images.grad /= value + TINY
            synthetic.optimiser.step()
            if inner and outer < outer_steps - 1:
                see = partial(watch.finite, step, "the loss of the network trained on S")
                theta = train(network, theta, images.detach(), synthetic.labels, inner, stream, see)
    return synthetic.finished(parameters.method, iterations * outer_steps)


def inner_recipe(parameters: GradientMatching, ipc: int, k: int) -> Recipe | None:
    """Return how the network is trained on S between two outer steps; None for no training.

    Batches are always full: where k is not a multiple of the batch, an epoch takes the first of
    the next permutation where the reference takes a short batch.
    """
    epochs = round(at_ipc(parameters.inner_epochs, ipc))
    if not epochs:
        return None
    return PLAIN_SGD.replace(
        steps=epochs * -(-k // parameters.network_batch),
        batch_size=parameters.network_batch,
        learning_rate=parameters.network_learning_rate,
        augmentation=parameters.augmentation,
    )


def match(
    dataset: DataSet,
    network: Network,
    theta: Theta,
    batch: list[torch.Tensor],
    images: torch.Tensor,
    drawn: Sequence[augment.Draw],
) -> torch.Tensor:
    """Add the gradient of the summed `distance` at `theta` to `images.grad`; return the sum.

    batch: for each class, the indices of its real images; images: (ipc x C, channels, H, W),
    grouped by class; drawn: for each class, what its real and synthetic images both go through.

    Classes are taken one at a time: at 64 real images a class this is 2.7 times faster on a CPU
    than per-class weight gradients through torch.func.vmap, which become grouped convolutions.
    """
    theta = {name: value.detach() for name, value in theta.items()}
    for name, _ in network.named_parameters():
        theta[name].requires_grad_()
    total = images.new_zeros(())
    for label, synthetic in enumerate(images.chunk(dataset.class_count)):
        seen = augment.apply(dataset.train.at(batch[label]), drawn[label])
        real = weight_gradients(network, theta, seen, label)
        seen = augment.apply(synthetic, drawn[label])
        made = weight_gradients(network, theta, seen, label, create_graph=True)
        value = distance(made, real)
        value.backward(inputs=[images])
        total += value.detach()
    return total


def weight_gradients(
    network: Network, theta: Theta, images: torch.Tensor, label: int, create_graph: bool = False
) -> list[torch.Tensor]:
    """Return the gradients of the mean cross-entropy of images of one class.

    Only weights of two or more dimensions count: biases and norms are left out, as in the
    reference. A processor takes the images in passes whose activations stay in its cache.
    """
    weights = [theta[name] for name, value in network.named_parameters() if value.dim() >= 2]
    passes = []
    for part in in_passes(images):
        labels = torch.full((len(part),), label, device=images.device)
        loss = F.cross_entropy(logits(network, theta, part), labels, reduction="sum")
        loss = loss / len(images)
        passes.append(torch.autograd.grad(loss, weights, create_graph=create_graph))
    return [sum(layer) for layer in zip(*passes, strict=True)]


def distance(synthetic: list[torch.Tensor], real: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum over layers and output rows of one minus the cosine of the gradient rows.

    A row holds all that leads to one output: a convolution's (I x h x w), a linear layer's
    (inputs). Source: Zhao et al. (ICLR 2021), equation 10; 1e-6 keeps the denominator off zero.
    """
    total = synthetic[0].new_zeros(())
    for ours, theirs in zip(synthetic, real, strict=True):
        ours, theirs = ours.flatten(1), theirs.flatten(1)
        norms = ours.norm(dim=1) * theirs.norm(dim=1)
        total = total + (1 - (ours * theirs).sum(1) / (norms + 1e-6)).sum()
    return total
