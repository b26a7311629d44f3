"""The obvious implementations, from the papers' formulas, in the structure of published code.

A pass of the network a class, one size k at a time, a DataLoader to train and to test, one network
after another. They take the weights, rows and draws that the library takes, so that results can be
compared; the augmentation itself is the library's.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ddlib.data.base import DataSet, Split
from ddlib.networks.functional import Theta
from ddlib.training import augment


class ConvNet(nn.Module):
    """Three blocks of convolution, instance norm, ReLU and average pooling; then a linear layer."""

    def __init__(self, theta: Theta, padding: int):
        super().__init__()
        layers: list[nn.Module] = []
        for number in (0, 4, 8):
            weight = theta[f"body.{number}.weight"]
            width, channels = weight.shape[:2]
            layers += [nn.Conv2d(channels, width, 3, padding=1 if number else padding)]
            layers += [nn.GroupNorm(width, width), nn.ReLU(inplace=True), nn.AvgPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(*theta["head.weight"].T.shape)
        self.load_state_dict(theta)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def match_distributions(
    network: ConvNet,
    real: DataSet,
    rows: Sequence[torch.Tensor],
    images: torch.Tensor,
    drawn: augment.Draw,
) -> None:
    """Give `images` the gradient of DM's loss: squared distances of class means, class by class."""
    for parameter in network.parameters():
        parameter.requires_grad = False
    loss = torch.zeros(())
    for own, synthetic in zip(rows, images.chunk(len(rows)), strict=True):
        theirs = network.body(augment.apply(real.train.samples[own], drawn)).detach()
        ours = network.body(augment.apply(synthetic, drawn))
        loss = loss + ((theirs.mean(0) - ours.mean(0)) ** 2).sum()
    loss.item()
    loss.backward()


def match_gradients(
    network: ConvNet,
    real: DataSet,
    rows: Sequence[torch.Tensor],
    images: torch.Tensor,
    drawn: Sequence[augment.Draw],
) -> None:
    """Give `images` the gradient of DC's loss: 1 - cosine of gradient rows, class by class."""
    parameters = list(network.parameters())
    loss = torch.zeros(())
    for label, synthetic in enumerate(images.chunk(len(rows))):
        theirs = augment.apply(real.train.samples[rows[label]], drawn[label])
        labels = torch.full((len(theirs),), label)
        found = torch.autograd.grad(F.cross_entropy(network(theirs), labels), parameters)
        found = [value.detach().clone() for value in found]
        ours = augment.apply(synthetic, drawn[label])
        labels = torch.full((len(ours),), label)
        own = F.cross_entropy(network(ours), labels)
        made = torch.autograd.grad(own, parameters, create_graph=True)
        for a, b in zip(made, found, strict=True):
            if a.dim() > 1:
                a, b = a.flatten(1), b.flatten(1)
                cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)
                loss = loss + (1 - cosine).sum()
    loss.item()
    loss.backward()


def train(
    network: ConvNet,
    images: torch.Tensor,
    labels: torch.Tensor,
    epochs: int,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> None:
    """Train by SGD, batches of 256 from a DataLoader."""
    rates = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    optimiser = torch.optim.SGD(network.parameters(), **rates)
    stream = torch.Generator().manual_seed(0)
    loader = DataLoader(TensorDataset(images, labels), 256, shuffle=True, generator=stream)
    for _ in range(epochs):
        for batch, own in loader:
            scores = network(batch)
            loss = F.cross_entropy(scores, own)
            (scores.argmax(1) == own).sum().item()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()


@torch.no_grad()
def test(network: ConvNet, split: Split) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy on a split, batches of 256 from a DataLoader."""
    right, nats = 0.0, 0.0
    for batch, own in DataLoader(TensorDataset(split.samples, split.labels), 256):
        scores = network(batch)
        nats += F.cross_entropy(scores, own).item() * len(own)
        right += (scores.argmax(1) == own).sum().item()
    return right / len(split.labels), nats / len(split.labels)
