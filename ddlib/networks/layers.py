"""What the networks are made of: body and head, norms, average pooling, padding."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

ImageShape = tuple[int, int, int]

Norm = Literal["instance", "group", "batch", "layer", "none"]


class AveragePool(nn.Module):
    """Average pooling of 2x2 pixels, as nn.AvgPool2d(2): an odd last row or column is left out.

    On a CPU four slices, added, take half the time of PyTorch's, gradients included.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.device.type != "cpu":
            return F.avg_pool2d(images, 2)
        height, width = (size - size % 2 for size in images.shape[-2:])
        rows = images[..., 0:height:2, :width] + images[..., 1:height:2, :width]
        return (rows[..., 0::2] + rows[..., 1::2]) * 0.25


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": lambda channels: nn.GroupNorm(channels, channels),
    "group": lambda channels: nn.GroupNorm(math.gcd(4, channels), channels),
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "none": nn.Identity,
}
"""Norm layers by name; `group` has the references' four groups."""


class Network(nn.Module):
    """A classifier in two parts: `body` maps images to features, `head` features to logits.

    Its batch norms hold no running statistics: these come with the weights, or not at all. Where
    they do not, training and testing both normalise by the batch. constants: the values of all
    other buffers by name, on the CPU, which `ddlib.networks.functional.build` fills in.

    Raises ValueError for a batch norm without a momentum or without running statistics.
    """

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body = body
        self.head = head
        self.batch_norms = tuple(layer for layer in self.modules() if isinstance(layer, BatchNorm))
        self.constants: dict[str, torch.Tensor] = {}
        for layer in self.batch_norms:
            if layer.momentum is None or not layer.track_running_stats:
                raise ValueError(
                    f"{layer} has no momentum or no running statistics; give it both, PyTorch's "
                    "defaults"
                )
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def fit(image_shape: ImageShape, multiple: int, least: int = 0) -> tuple[list[int], list[int]]:
    """Return how many pixels to add above and below, left and right, and the sizes that result.

    Sizes reach `least` and the next multiple, and one pixel more where it takes an odd number.
    """
    sizes = image_shape[1:]
    aims = [max(least, multiple * math.ceil(size / multiple)) for size in sizes]
    margins = [math.ceil((aim - size) / 2) for aim, size in zip(aims, sizes, strict=True)]
    return margins, [size + 2 * margin for size, margin in zip(sizes, margins, strict=True)]


def pooled(body: nn.Sequential, features: int, class_count: int) -> Network:
    """Return the network whose features are the means of the body's last maps."""
    body.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return Network(body, nn.Linear(features, class_count))
