"""Building blocks of the networks: body and head, norms, average pooling, padding."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

ImageShape = tuple[int, int, int]
"""Channels, height and width."""

Norm = Literal["instance", "group", "batch", "layer", "none"]

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": lambda channels: nn.GroupNorm(channels, channels),
    "group": lambda channels: nn.GroupNorm(math.gcd(4, channels), channels),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "none": nn.Identity,
}
"""Norm layers by name; `group` has the references' four groups."""


class Network(nn.Module):
    """A classifier in two parts: `body` maps samples to features, `head` features to logits.

    The running statistics of batch norms are kept with the weights, not in the module. Raises
    ValueError for a batch norm that has no momentum or tracks no running statistics.
    """

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body = body
        self.head = head
        self.batch_norms = tuple(layer for layer in self.modules() if isinstance(layer, BatchNorm))
        for layer in self.batch_norms:
            if layer.momentum is None or not layer.track_running_stats:
                raise ValueError(
                    f"{layer} has no momentum or no running statistics; give it both, PyTorch's "
                    "defaults"
                )
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(samples))


class AveragePool(nn.Module):
    """Average pooling of 2x2 pixels, as nn.AvgPool2d(2), which drops an odd last row or column.

    On a CPU, adding four slices takes half the time of PyTorch's pooling, gradients included.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.device.type != "cpu":
            return F.avg_pool2d(images, 2)
        height, width = (size - size % 2 for size in images.shape[-2:])
        rows = images[..., 0:height:2, :width] + images[..., 1:height:2, :width]
        return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


def check_heads(width: int, heads: int) -> None:
    """Raise ValueError for a width that the heads of an attention do not divide."""
    if width % heads:
        raise ValueError(f"width={width} is not a multiple of {heads} heads; choose one that is")


def fit(sample_shape: ImageShape, multiple: int, least: int = 0) -> tuple[list[int], list[int]]:
    """Return the zeros to add on each side (rows, columns), and the padded height and width.

    Both grow to `least` or the next `multiple`, plus one pixel if the difference is odd.
    """
    sides = sample_shape[1:]
    aims = [max(least, multiple * math.ceil(side / multiple)) for side in sides]
    margins = [math.ceil((aim - side) / 2) for aim, side in zip(aims, sides, strict=True)]
    return margins, [side + 2 * margin for side, margin in zip(sides, margins, strict=True)]


def convolutions(
    sample_shape: ImageShape,
    plan: Sequence[tuple[int, int] | str],
    multiple: int,
    norm: Norm = "none",
    pool: Callable[[], nn.Module] = lambda: nn.MaxPool2d(2),
) -> tuple[list[nn.Module], int]:
    """Return a list of layers, and the number of features that they give.

    plan: (channels, kernel side) for a convolution with norm and ReLU, or "pool"; multiple: the
    factor by which all layers together shrink height and width.
    """
    layers: list[nn.Module] = []
    channels, (margins, sides) = sample_shape[0], fit(sample_shape, multiple)
    for entry in plan:
        if entry == "pool":
            layers.append(pool())
            continue
        width, kernel = entry
        padding = [kernel // 2 + margin for margin in margins]
        layers += [nn.Conv2d(channels, width, kernel, padding=padding), NORMS[norm](width)]
        layers += [nn.ReLU(inplace=True)]
        channels, margins = width, [0, 0]
    return layers, channels * math.prod(side // multiple for side in sides)


def classifier(layers: Iterable[nn.Module], features: int, class_count: int) -> Network:
    """Return the network whose features are the flattened output of the layers."""
    return Network(nn.Sequential(*layers, nn.Flatten()), nn.Linear(features, class_count))
