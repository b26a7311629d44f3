"""The obvious implementations, from the papers' formulas, in the structure of published code.

A pass of the network per class, one size k at a time, a DataLoader to train and to test, one
network after another. Weights, images and draws are those that the library takes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ddlib.networks.functional import Theta
from ddlib.training import augment


class ConvNet(nn.Module):
    """Three blocks of convolution, instance norm, ReLU and average pooling; then a linear layer."""

    def __init__(self, theta: Theta):
        super().__init__()
        layers: list[nn.Module] = []
        for number in (0, 4, 8):
            width, channels = theta[f"body.{number}.weight"].shape[:2]
            layers += [nn.Conv2d(channels, width, 3, padding=1)]
            layers += [nn.GroupNorm(width, width), nn.ReLU(inplace=True), nn.AvgPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(*theta["head.weight"].T.shape)
        self.load_state_dict(theta)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def match_distributions(
    network: ConvNet,
    real: Sequence[torch.Tensor],
    synthetic: Sequence[torch.Tensor],
    drawn: Sequence[augment.Draw],
) -> None:
    """Give the synthetic images the gradient of DM's loss: squared distances of class means.

    real, synthetic, drawn: the images (N, channels, H, W) of each class, and its augmentation.
    """
    network.requires_grad_(False)
    loss = torch.zeros(())
    for theirs, ours, draw in zip(real, synthetic, drawn, strict=True):
        target = network.body(augment.apply(theirs, draw)).mean(0).detach()
        loss = loss + ((target - network.body(augment.apply(ours, draw)).mean(0)) ** 2).sum()
    loss.item()
    loss.backward()


def match_gradients(
    network: ConvNet,
    real: Sequence[torch.Tensor],
    synthetic: Sequence[torch.Tensor],
    drawn: Sequence[augment.Draw],
) -> None:
    """Give the synthetic images the gradient of DC's loss: 1 - cosine of rows of gradients."""
    parameters = list(network.parameters())

    def gradients(images: torch.Tensor, label: int, **options: bool) -> tuple[torch.Tensor, ...]:
        labels = torch.full((len(images),), label)
        scores = network(augment.apply(images, drawn[label]))
        return torch.autograd.grad(F.cross_entropy(scores, labels), parameters, **options)

    loss = torch.zeros(())
    for label, (theirs, ours) in enumerate(zip(real, synthetic, strict=True)):
        target = [value.detach().clone() for value in gradients(theirs, label)]
        for a, b in zip(gradients(ours, label, create_graph=True), target, strict=True):
            if a.dim() > 1:
                a, b = a.flatten(1), b.flatten(1)
                cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)
                loss = loss + (1 - cosine).sum()
    loss.item()
    loss.backward()


def train(
    network: ConvNet, images: torch.Tensor, labels: torch.Tensor, epochs: int, **rates: float
) -> None:
    """Train by SGD, batches of 256 from a DataLoader; rates: options of torch.optim.SGD."""
    optimiser = torch.optim.SGD(network.parameters(), **rates)
    stream = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(images, labels), 256, shuffle=True, generator=stream)
    for _ in range(epochs):
        for batch, targets in loader:
            scores = network(batch)
            loss = F.cross_entropy(scores, targets)
            (scores.argmax(1) == targets).sum().item()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()


@torch.no_grad()
def test(network: ConvNet, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy, batches of 256 from a DataLoader."""
    right, nats = 0.0, 0.0
    for batch, targets in DataLoader(TensorDataset(images, labels), 256):
        scores = network(batch)
        nats += F.cross_entropy(scores, targets).item() * len(targets)
        right += (scores.argmax(1) == targets).sum().item()
    return right / len(labels), nats / len(labels)
