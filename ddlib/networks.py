"""The networks, each a body that embeds images and a linear head, used through plain weights.

A network here is a shape: its weights live outside it, in a dictionary `theta` from parameter
name to tensor. That is what lets one network be evaluated at many weights, and gradients be
taken with respect to weights that are themselves results.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call

Theta = dict[str, torch.Tensor]

CHUNK = 64  # images a forward pass: larger ones fall out of the processor's cache (2x slower)


class Network(nn.Module):
    """A classifier in two parts: `body` maps images to features, `head` features to logits."""

    def __init__(self, body: nn.Module, head: nn.Module):
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def mlp(
    image_shape: tuple[int, int, int], class_count: int, width: int = 128, depth: int = 3
) -> Network:
    """Return a perceptron of `depth` linear layers, the last of them the head.

    The reference MLP of Zhao et al. (ICLR 2021) is width 128, depth 3.
    """
    features = math.prod(image_shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth - 1):
        layers += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return Network(nn.Sequential(*layers), nn.Linear(features, class_count))


def convnet(
    image_shape: tuple[int, int, int], class_count: int, width: int = 128, depth: int = 3
) -> Network:
    """Return ConvNet-D: `depth` blocks of 3x3 convolution, instance norm, ReLU, 2x2 average pool.

    The first convolution pads the image to the next multiple of 2^depth (28 -> 32 at depth 3),
    as the reference does. Source: Gidaris & Komodakis (CVPR 2018); Zhao et al. (ICLR 2021).

    Raises ValueError if the image is too small for `depth` poolings.
    """
    channels, height, side = image_shape
    block = 2**depth
    if min(height, side) < block:
        raise ValueError(
            f"a ConvNet of depth {depth} halves the image {depth} times, which needs images of at "
            f"least {block} pixels, got {height}x{side}; choose a smaller depth"
        )
    layers: list[nn.Module] = []
    padding = tuple(1 + math.ceil((-size % block) / 2) for size in (height, side))
    for _ in range(depth):
        layers += [
            nn.Conv2d(channels, width, 3, padding=padding),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
        channels, padding = width, (1, 1)
    features = width * math.ceil(height / block) * math.ceil(side / block)
    return Network(nn.Sequential(*layers, nn.Flatten()), nn.Linear(features, class_count))


NETWORKS: dict[str, Callable[..., Network]] = {"mlp": mlp, "convnet": convnet}


def build(
    name: str, image_shape: tuple[int, int, int], class_count: int, **options: int
) -> Network:
    """Return the network registered under `name` for images of `image_shape` = (channels, H, W).

    Its own weights stay unset: draw them with `initial_parameters`.
    """
    with torch.device("meta"):
        return NETWORKS[name](tuple(image_shape), class_count, **options)


def initial_parameters(
    network: Network, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Theta:
    """Return fresh weights on `device`, drawn from PyTorch's default initial distribution.

    Convolutions and linear layers: weights and biases uniform in +-1/sqrt(fan_in) (He et al.
    2015 with gain 1/sqrt(3)); norms: ones and zeros; embeddings: N(0, 1). `torch.nn`'s own
    initialisers read the global random state, so the rule is written out here.

    Raises ValueError for a layer whose rule is not known.
    """
    theta: Theta = {}
    for prefix, layer in network.named_modules():
        own = dict(layer.named_parameters(prefix, recurse=False))
        if not own:
            continue
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
            for name, value in own.items():
                draw = torch.rand(value.shape, generator=generator)
                theta[name] = draw.mul_(2 * bound).sub_(bound)
        elif isinstance(layer, nn.GroupNorm | nn.LayerNorm):
            theta[f"{prefix}.weight"] = torch.ones(layer.weight.shape)
            theta[f"{prefix}.bias"] = torch.zeros(layer.bias.shape)
        elif isinstance(layer, nn.Embedding):
            theta[f"{prefix}.weight"] = torch.randn(layer.weight.shape, generator=generator)
        else:
            raise ValueError(
                f"no initial distribution is known for layer {prefix!r} of type "
                f"{type(layer).__name__}; add its rule to ddlib.networks.initial_parameters"
            )
    return {name: value.to(device) for name, value in theta.items()}


def logits(network: Network, theta: Theta, images: torch.Tensor) -> torch.Tensor:
    """Return the class scores (N, C) of `images` (N, channels, H, W) at weights `theta`."""
    return functional_call(network, theta, (images,))


def embed(network: Network, theta: Theta, images: torch.Tensor) -> torch.Tensor:
    """Return the features (N, F) that the body gives for `images` (N, channels, H, W)."""
    body = {name[5:]: value for name, value in theta.items() if name.startswith("body.")}
    features = [functional_call(network.body, body, (part,)) for part in images.split(CHUNK)]
    return torch.cat(features).flatten(1)
