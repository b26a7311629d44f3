"""DC and DSA, gradient matching: S should give the gradients that D gives."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from ddlib.data.base import DataSet
from ddlib.distilled import DistilledSet
from ddlib.methods.common import (
    INITIALISATIONS,
    PLAIN_SGD,
    TINY,
    BatchMatching,
    Synthetic,
    fresh_networks,
    real_batches,
)
from ddlib.networks.functional import Theta, in_passes, logits, with_batch_seen
from ddlib.networks.layers import Network
from ddlib.parameters import ByIpc, at_ipc
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

STATISTICS_BATCH = 16  # real samples a class from which batch norms take their statistics


class GradientMatching(BatchMatching):
    """Defaults are the reference's (Zhao et al., ICLR 2021).

    Its tables of `outer_steps` and `inner_epochs` by ipc are interpolated; sizes beyond the last
    entry take that entry. An MLP needs a learning rate of about 0.01. The training options in
    `configurations` apply to the inner loop, which trains networks on S.
    """

    iterations: ByIpc[NonNegativeInt] = 1000
    outer_steps: ByIpc[PositiveInt] = {1: 1, 10: 10, 20: 20, 30: 30, 40: 40, 50: 50}
    inner_epochs: ByIpc[NonNegativeInt] = {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10}
    learning_rate: ByIpc[NonNegativeFloat] = 0.1
    network_learning_rate: NonNegativeFloat = 0.01
    network_batch: PositiveInt = 256
    initialisation: Literal[*INITIALISATIONS] = "noise"
    augmentation: Literal[*augment.STRATEGIES] = "none"

    method: ClassVar[str] = "dc"


class SiameseGradientMatching(GradientMatching):
    """DSA: S and D are augmented alike while gradients are matched (Zhao & Bilen, ICML 2021).

    Defaults are the reference's: those of DC, except the real initial samples and the augmentation.
    Digits want `augmentation: dsa_no_flip`.
    """

    initialisation: Literal[*INITIALISATIONS] = "real"
    augmentation: Literal[*augment.STRATEGIES] = "dsa"

    method: ClassVar[str] = "dsa"


def distil(
    dataset: DataSet, network: Network, ipc: int, seed: int, parameters: GradientMatching
) -> DistilledSet:
    """Distil S: alternate matching steps, which move S, and inner loops, which train on S.

    Every iteration starts from a fresh network. A matching step draws one augmentation for each
    class, for its real and synthetic samples; the inner loop draws one for each sample. Batch norms
    take their statistics from real samples of all classes, and keep them in a matching step.

    Source: Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching" (ICLR 2021),
    algorithm 1; Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation"
    (ICML 2021), algorithm 1.
    """
    synthetic = Synthetic(dataset, ipc, seed, parameters, parameters.factor)
    images, finite = synthetic.samples, synthetic.watch.finite
    networks = fresh_networks(dataset, network, parameters.configurations, seed)
    batches = real_batches(dataset, parameters.real_batch, generator("real", seed))
    samples = real_batches(dataset, STATISTICS_BATCH, generator("statistics", seed))
    families = augment.STRATEGIES[parameters.augmentation]
    draws = generator("matching augmentation", seed)
    inner = inner_recipe(parameters, ipc, len(synthetic.labels))
    iterations = round(at_ipc(parameters.iterations, ipc))
    outer_steps = round(at_ipc(parameters.outer_steps, ipc))
    for iteration in range(iterations):
        network, options, theta = next(networks)
        stream = generator("inner batches", seed, iteration, ipc)
        for outer in range(outer_steps):
            step = iteration * outer_steps + outer
            if network.batch_norms:
                real = dataset.train.at(torch.cat(next(samples)))
                theta = with_batch_seen(network, theta, real)
            drawn = [augment.draw(families, 1, draws) for _ in dataset.classes]
            seen = synthetic.decoded()
            loss, slopes = match(dataset, network, theta, next(batches), seen, drawn)
            (images.grad,) = torch.autograd.grad(seen, images, slopes)
            finite(step, "the matching loss", loss)
            if parameters.average == "geometric":
                images.grad /= loss + TINY
            synthetic.optimiser.step()
            if inner and outer < outer_steps - 1:
                recipe = inner.replace(**options)
                see = partial(finite, step, "the loss of the network trained on S")
                seen = synthetic.decoded().detach()
                theta = train(network, theta, seen, synthetic.labels, recipe, stream, see)
    return synthetic.finished(parameters.method, iterations * outer_steps)


def inner_recipe(parameters: GradientMatching, ipc: int, k: int) -> Recipe | None:
    """Return the recipe of the inner loop; None for no training.

    Batches are always full: an epoch may take the first samples of the next permutation, where the
    reference takes a short batch.
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
    batch: Sequence[torch.Tensor],
    images: torch.Tensor,
    drawn: Sequence[augment.Draw],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `row_cosine_distance` () at `theta`, summed over classes, and its gradient.

    batch: for each class, the indices of its real samples; images: (ipc x C, ...),
    grouped by class; drawn: for each class, the augmentation of its real and synthetic samples.
    The gradient has the shape of `images`. A loop over classes is faster on a CPU than
    torch.func.vmap, which makes grouped convolutions.
    """
    theta = {name: value.detach() for name, value in theta.items()}
    for name, _ in network.named_parameters():
        theta[name].requires_grad_()
    total, gradients = images.new_zeros(()), []
    for label, synthetic in enumerate(images.detach().chunk(dataset.class_count)):
        synthetic.requires_grad_()
        real = dataset.train.at(batch[label])
        wanted = weight_gradients(network, theta, augment.apply(real, drawn[label]), label)
        seen = augment.apply(synthetic, drawn[label])
        reached = weight_gradients(network, theta, seen, label, create_graph=True)
        distance = row_cosine_distance(reached, wanted)
        gradients += torch.autograd.grad(distance, synthetic)
        total += distance.detach()
    return total, torch.cat(gradients)


def weight_gradients(
    network: Network, theta: Theta, images: torch.Tensor, label: int, create_graph: bool = False
) -> list[torch.Tensor]:
    """Return the weight gradients of the mean cross-entropy of samples of one class.

    Biases and norms, which have one dimension, are left out, as in the reference.
    """
    weights = [theta[name] for name, value in network.named_parameters() if value.dim() >= 2]
    parts = []
    for part in in_passes(images):
        labels = torch.full((len(part),), label, device=images.device)
        loss = F.cross_entropy(logits(network, theta, part), labels, reduction="sum")
        parts.append(torch.autograd.grad(loss / len(images), weights, create_graph=create_graph))
    return [sum(layer) for layer in zip(*parts, strict=True)]


def row_cosine_distance(
    synthetic: Sequence[torch.Tensor], real: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Return the sum over layers and rows of one minus the cosine of the two gradient rows.

    A row holds the weights of one output: (I x h x w) in a convolution, (inputs) in a linear layer.
    Source: Zhao et al. (ICLR 2021), equation 10; 1e-6 keeps the denominator off zero.
    """
    total = synthetic[0].new_zeros(())
    for ours, theirs in zip(synthetic, real, strict=True):
        ours, theirs = ours.flatten(1), theirs.flatten(1)
        norms = ours.norm(dim=1) * theirs.norm(dim=1)
        total = total + (1 - (ours * theirs).sum(1) / (norms + 1e-6)).sum()
    return total
