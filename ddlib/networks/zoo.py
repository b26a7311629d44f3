"""The architectures. To add one, write a function that returns a Network and enter it in NETWORKS.

torchvision's blocks are changed for small images: the first convolution is 3x3 without stride and
pooling, and the head is one linear layer. The first layer pads images with zeros to a size that can
be halved evenly, as the references pad MNIST from 28 to 32 pixels. Only `text_cnn` has dropout.

The functions import torchvision themselves, because it loads slowly.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddlib.networks.layers import (
    NORMS,
    AveragePool,
    ImageShape,
    Network,
    Norm,
    check_heads,
    classifier,
    convolutions,
    fit,
)
from ddlib.networks.sequences import gru, text_cnn, transformer

HEADS = 3  # of a transformer's attention


def mlp(sample_shape: ImageShape, class_count: int, width: int = 128, depth: int = 3) -> Network:
    """Return a perceptron of `depth` linear layers, the last of them the head.

    The reference MLP of Zhao et al. (ICLR 2021) is width 128, depth 3.
    """
    features = math.prod(sample_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth - 1):
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return Network(nn.Sequential(*layers), nn.Linear(features, class_count))


def linear(sample_shape: Sequence[int], class_count: int) -> Network:
    """Return a linear classifier (logistic regression)."""
    return mlp(sample_shape, class_count, depth=1)


def convnet(
    sample_shape: ImageShape,
    class_count: int,
    width: int = 128,
    depth: int | Literal["auto"] = "auto",
    norm: Norm = "instance",
) -> Network:
    """Return ConvNet-D: `depth` blocks of 3x3 convolution, norm, ReLU, 2x2 average pool.

    "auto" is the references' depth, which leaves 4x4 pixels: 3 at 28 and 32 pixels, 4 at 64, 5 at
    128. Source: Gidaris & Komodakis (CVPR 2018); Zhao et al. (ICLR 2021).

    Raises ValueError if the image is too small for `depth` poolings.
    """
    height, side = sample_shape[1:]
    shorter = min(height, side)
    if depth == "auto":
        depth = max(1, (shorter - 1).bit_length() - 2)
    if shorter < 2**depth:
        raise ValueError(
            f"a ConvNet of depth {depth} halves the image {depth} times, which needs images of at "
            f"least {2**depth} pixels, got {height}x{side}; choose a smaller depth"
        )
    plan = [(width, 3), "pool"] * depth
    layers, features = convolutions(sample_shape, plan, 2**depth, norm, AveragePool)
    return classifier(layers, features, class_count)


def lenet(sample_shape: ImageShape, class_count: int) -> Network:
    """Return LeNet-5 with ReLU and max pooling, as the references have it (Zhao et al., ICLR 2021).

    Images below 32 pixels are padded to 32. Source: LeCun et al. (1998).
    """
    margins, sides = fit(sample_shape, 1, least=32)
    height, width = (((side - 4) // 2 - 4) // 2 for side in sides)
    body = nn.Sequential(
        *(nn.Conv2d(sample_shape[0], 6, 5, padding=margins), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * height * width, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
    )
    return Network(body, nn.Linear(84, class_count))


def alexnet(sample_shape: ImageShape, class_count: int) -> Network:
    """Return AlexNet as the references shrink it for 32 pixels (Zhao et al., ICLR 2021).

    Five convolutions, three max poolings, no norm. Source: Krizhevsky et al. (NeurIPS 2012).
    """
    plan = [(128, 5), "pool", (192, 5), "pool", (256, 3), (192, 3), (192, 3), "pool"]
    return classifier(*convolutions(sample_shape, plan, 8), class_count)


def vgg11(
    sample_shape: ImageShape, class_count: int, width: int = 64, norm: Norm = "instance"
) -> Network:
    """Return VGG-11 with a norm after every convolution and one linear layer, as the references do.

    width: channels of the first convolution, 64 as published; the others follow. Images below 32
    pixels are padded to 32. Source: Simonyan & Zisserman (ICLR 2015), column A.
    """
    return _vgg("A", sample_shape, class_count, width, norm)


def vgg16(
    sample_shape: ImageShape, class_count: int, width: int = 64, norm: Norm = "instance"
) -> Network:
    """Return VGG-16, column D; otherwise as `vgg11`."""
    return _vgg("D", sample_shape, class_count, width, norm)


def _vgg(
    column: str, sample_shape: ImageShape, class_count: int, width: int, norm: Norm
) -> Network:
    from torchvision.models.vgg import cfgs

    plan = ["pool" if entry == "M" else (width * entry // 64, 3) for entry in cfgs[column]]
    layers, _ = convolutions(sample_shape, plan, 32, norm)
    return classifier([*layers, nn.AdaptiveAvgPool2d(1)], 8 * width, class_count)


def resnet18(
    sample_shape: ImageShape, class_count: int, width: int = 64, norm: Norm = "instance"
) -> Network:
    """Return ResNet-18 for small images: a 3x3 first convolution, four stages of two blocks.

    width: channels of the first stage, 64 as published; the others follow. Images below 16 pixels
    are padded to 16. Source: He et al. (CVPR 2016).
    """
    from torchvision.models.resnet import BasicBlock

    layers = [_first_convolution(sample_shape, width), NORMS[norm](width), nn.ReLU()]
    channels = width
    for wider in (width, 2 * width, 4 * width, 8 * width):
        stride, shortcut = 1, None
        if wider > channels:
            projection = nn.Conv2d(channels, wider, 1, 2, bias=False)
            stride, shortcut = 2, nn.Sequential(projection, NORMS[norm](wider))
        layers += [
            BasicBlock(channels, wider, stride, shortcut, norm_layer=NORMS[norm]),
            BasicBlock(wider, wider, norm_layer=NORMS[norm]),
        ]
        channels = wider
    return classifier([*layers, nn.AdaptiveAvgPool2d(1)], channels, class_count)


def mobilenet_v2(
    sample_shape: ImageShape, class_count: int, width: int = 32, norm: Norm = "batch"
) -> Network:
    """Return MobileNetV2 for small images: the first two of its five strides are left out.

    width: channels of the first convolution, 32 as published; the others follow, in multiples of
    8. Images below 16 pixels are padded to 16. Source: Sandler et al. (CVPR 2018), table 2.
    """
    from torchvision.models.mobilenetv2 import MobileNetV2

    plan = [[1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2]]
    plan += [[6, 96, 3, 1], [6, 160, 3, 2], [6, 320, 1, 1]]  # expansion, channels, blocks, stride
    whole = MobileNetV2(
        width_mult=width / 32, inverted_residual_setting=plan, norm_layer=NORMS[norm]
    )
    stem = whole.features[0]
    stem[0] = _first_convolution(sample_shape, stem[0].out_channels)
    layers = [*whole.features, nn.AdaptiveAvgPool2d(1)]
    return classifier(layers, whole.last_channel, class_count)


def _first_convolution(sample_shape: ImageShape, width: int) -> nn.Conv2d:
    """Return a 3x3 convolution that pads images to a multiple of 8 pixels, at least 16."""
    padding = [1 + margin for margin in fit(sample_shape, 8, least=16)[0]]
    return nn.Conv2d(sample_shape[0], width, 3, padding=padding, bias=False)


def vit(sample_shape: ImageShape, class_count: int, width: int = 192, depth: int = 6) -> Network:
    """Return a vision transformer of ViT-Tiny's width, half as deep, over small patches.

    A patch is about an eighth of a side: 2 pixels at 8, 4 at 28 and 32, 16 at 128. The image is
    padded to a square of whole patches. Source: Dosovitskiy et al. (ICLR 2021); the width and the
    three heads of Touvron et al. (ICML 2021).

    Raises ValueError for a width that the heads do not divide.
    """
    from torchvision.models.vision_transformer import VisionTransformer

    check_heads(width, HEADS)
    channels, height, side = sample_shape
    patch = min(height, side, max(2, math.ceil(max(height, side) / 8)))
    square = patch * math.ceil(max(height, side) / patch)
    body = VisionTransformer(square, patch, depth, HEADS, hidden_dim=width, mlp_dim=4 * width)
    body.conv_proj = nn.Conv2d(channels, width, patch, patch)
    body.heads = nn.Identity()
    across, down = square - side, square - height
    pad = nn.ZeroPad2d((across // 2, across - across // 2, down // 2, down - down // 2))
    return Network(_TwiceDifferentiable(pad, body), nn.Linear(width, class_count))


class _TwiceDifferentiable(nn.Sequential):
    """Layers without fused attention kernels, which have no second derivative."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return super().forward(images)


NETWORKS: dict[str, Callable[..., Network]] = {
    function.__name__: function
    for function in (
        *(mlp, linear, convnet, lenet, alexnet, vgg11, vgg16, resnet18, mobilenet_v2, vit),
        *(text_cnn, gru, transformer),
    )
}
"""The networks by name. A user may set the keyword arguments of each function."""

RANKS = {1: "vector", 2: "sequence", 3: "image"}  # kind of a sample, by its dimensions

KINDS: dict[str, tuple[str, ...]] = dict.fromkeys(NETWORKS, ("image",)) | {
    **dict.fromkeys(("mlp", "linear"), ("image", "vector")),
    **dict.fromkeys(("text_cnn", "gru", "transformer"), ("sequence",)),
}
"""The kinds of data that each network takes. A network without an entry takes all kinds."""
