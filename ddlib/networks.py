"""The networks through plain weights: build one, draw its weights, ask for logits or features.

A network here is a shape: its weights live outside it, in a dictionary `theta` from parameter
name to tensor. That is what lets one network be evaluated at many weights, and gradients be
taken with respect to weights that are themselves results.

Under batch norm, `theta` may also hold running statistics. Fresh weights have none, and then every
pass normalises by its own batch; training starts and updates them, and later passes use them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ddlib.devices import send
from ddlib.parameters import check_names, check_options, read_options
from ddlib.zoo import NETWORKS, BatchNorm, Network

Theta = dict[str, torch.Tensor]

CHUNK = 32  # images a pass on a processor: what more make falls out of its cache
ACCELERATOR_CHUNK = 1024
ACCELERATOR_PIXELS = ACCELERATOR_CHUNK * 32**2  # of images whose activations gradients hold


def read_network(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `name` of a network and its options, checked, with defaults for the rest.

    Raises ValueError, with what is allowed, for no name, an unknown name or option, and for a bad
    value.
    """
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ValueError(
            f"network must be a table with a name, such as {{name: convnet}}, got {given!r}"
        )
    name = given["name"]
    check_names([name], NETWORKS, "network")
    what = f"the network {name!r}"
    read = read_options(NETWORKS[name], given, what, own=["name"])
    check_options(NETWORKS[name], {key: read[key] for key in read if key != "name"}, what)
    return read


def build(
    name: str, image_shape: tuple[int, int, int], class_count: int, **options: int | str
) -> Network:
    """Return the network registered under `name` for images of `image_shape` = (channels, H, W).

    Its own weights stay unset: draw them with `initial_parameters`. Raises ValueError for what
    `read_network` refuses, for an image too small for the network, and for weights that are tied.
    """
    checked = read_network({"name": name, **options})
    constructor = NETWORKS[checked.pop("name")]
    with torch.device("meta"):
        network = constructor(tuple(image_shape), class_count, **checked)
    places = list(network.named_parameters(remove_duplicate=False))
    if len(places) > len(list(network.parameters())):
        raise ValueError(
            f"the network {name!r} has one weight in several places, which would be drawn and "
            "trained apart; give each place its own"
        )
    return network


def initial_parameters(
    network: Network, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Theta:
    """Return fresh weights on `device`, drawn from PyTorch's default initial distribution.

    Convolutions and linear layers: weights and biases uniform in +-1/sqrt(fan_in) (He et al.
    2015 with gain 1/sqrt(3)); norms: ones and zeros; attention: Glorot & Bengio (2010) uniform,
    biases zero; a class token: zeros; a position embedding: N(0, 0.02^2); other embeddings:
    N(0, 1). These are the layers' own defaults, also where torchvision's models draw convolutions
    anew. Layers' own `reset_parameters` reads the global random state, so the rules are written
    out here.

    Raises ValueError for a layer whose rule is not known.
    """
    return {
        name: send(_draw(layer, name, value.shape, generator), device)
        for prefix, layer in network.named_modules()
        for name, value in layer.named_parameters(prefix, recurse=False)
    }


def _draw(
    layer: nn.Module, name: str, shape: torch.Size, generator: torch.Generator
) -> torch.Tensor:
    """Return the initial value of the parameter `name`, of `layer`."""
    prefix, _, own = name.rpartition(".")
    attention = isinstance(layer, nn.MultiheadAttention | NonDynamicallyQuantizableLinear)
    if own == "class_token" or (attention and own.endswith("bias")):
        return torch.zeros(shape)
    if own == "pos_embedding":
        return torch.randn(shape, generator=generator).mul_(0.02)
    if isinstance(layer, nn.Embedding):
        return torch.randn(shape, generator=generator)
    if isinstance(layer, nn.GroupNorm | nn.LayerNorm | BatchNorm):
        return torch.ones(shape) if own == "weight" else torch.zeros(shape)
    if own == "in_proj_weight":
        bound = math.sqrt(6 / sum(shape))
    elif isinstance(layer, nn.Conv2d | nn.Linear):
        bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
    else:
        raise ValueError(
            f"no initial distribution is known for layer {prefix!r} of type "
            f"{type(layer).__name__}; add its rule to ddlib.networks.initial_parameters"
        )
    return torch.rand(shape, generator=generator).mul_(2 * bound).sub_(bound)


def orthogonal_parameters(
    network: Network, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Theta:
    """Return weights on `device` whose convolutions and linear layers are orthogonal.

    A weight is taken as the matrix (outputs, inputs x height x width), one for each group of a
    convolution and for each of query, key and value: its shorter side is orthonormal, times sqrt(2)
    in the body for what ReLU takes away. Their biases are zero; other layers are as in
    `initial_parameters`. Source: Saxe et al. (ICLR 2014); the gain is that of He et al. (2015).
    """
    theta = initial_parameters(network, generator)
    for prefix, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            continue
        attention = isinstance(layer, nn.MultiheadAttention)
        own, matrices = ("in_proj_", 3) if attention else ("", getattr(layer, "groups", 1))
        value = theta[f"{prefix}.{own}weight"]
        drawn = torch.randn(value.shape, generator=generator)
        rows = drawn.view(matrices, len(value) // matrices, -1)
        wide = rows.shape[1] < rows.shape[2]
        made, triangle = torch.linalg.qr(rows.mT if wide else rows)
        made = made * triangle.diagonal(dim1=1, dim2=2).sign()[:, None]  # or QR's would bias it
        made = made.mT if wide else made
        gain = math.sqrt(2) if prefix.startswith("body") else 1.0
        theta[f"{prefix}.{own}weight"] = gain * made.reshape(value.shape)
        if f"{prefix}.{own}bias" in theta:
            theta[f"{prefix}.{own}bias"].zero_()
    return {name: send(value, device) for name, value in theta.items()}


def logits(
    network: Network, theta: Theta, images: torch.Tensor, training: bool = False
) -> torch.Tensor:
    """Return the class scores (N, C) of `images` (N, channels, H, W) at weights `theta`.

    training: normalise by the batch, and update the running statistics of `theta` in place, if it
    holds any; otherwise they are used. Without batch norm it makes no difference.
    """
    for layer in network.batch_norms:
        layer.training = training
    scores = functional_call(network, theta, (images,), tie_weights=False)
    return scores.to(images.dtype)  # whatever the precision


def embed(network: Network, theta: Theta, images: torch.Tensor) -> torch.Tensor:
    """Return the features (N, F) that the body gives for `images` (N, channels, H, W).

    Under batch norm without running statistics, all images are normalised as one batch.
    """
    for layer in network.batch_norms:
        layer.training = False
    body = {name[5:]: value for name, value in theta.items() if name.startswith("body.")}
    has_statistics = any(name.endswith(".running_mean") for name in theta)
    together = network.batch_norms and not has_statistics
    parts = [images] if together else in_passes(images)
    features = [functional_call(network.body, body, (part,), tie_weights=False) for part in parts]
    return torch.cat(features).flatten(1).to(images.dtype)  # means and distances stay exact


def in_passes(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return images, or their labels, (N, ...) in parts of as many as the device best takes."""
    return images.split(CHUNK if images.device.type == "cpu" else ACCELERATOR_CHUNK)


def in_groups(sizes: Sequence[int], image_shape: Sequence[int]) -> list[slice]:
    """Return slices of sets of images, each as many as an accelerator trains on in one pass.

    sizes: how many images each set has, of `image_shape` = (channels, H, W); a set that alone is
    more than ACCELERATOR_PIXELS has a pass of its own.
    """
    groups, start, held = [], 0, 0
    for place, size in enumerate(sizes):
        pixels = size * math.prod(image_shape[-2:])
        if place > start and held + pixels > ACCELERATOR_PIXELS:
            groups.append(slice(start, place))
            start, held = place, 0
        held += pixels
    return [*groups, slice(start, len(sizes))]


def with_statistics(network: Network, theta: Theta) -> Theta:
    """Return `theta` with running statistics of its own, to be updated in place.

    They are copies of those that it holds, or else mean 0 and variance 1. Without batch norm
    nothing is added.
    """
    statistics: Theta = {}
    for prefix, layer in network.named_modules():
        if isinstance(layer, BatchNorm):
            weight = theta[f"{prefix}.weight"].detach()
            for name, start in (("running_mean", 0.0), ("running_var", 1.0)):
                held = theta.get(f"{prefix}.{name}", torch.full_like(weight, start))
                statistics[f"{prefix}.{name}"] = held.clone()
    return {**theta, **statistics}


@torch.no_grad()
def with_batch_seen(network: Network, theta: Theta, images: torch.Tensor) -> Theta:
    """Return `theta` with the running statistics after one training pass over `images`."""
    theta = with_statistics(network, theta)
    if network.batch_norms:
        logits(network, theta, images, training=True)
    return theta


def flatten(network: Network, theta: Theta) -> torch.Tensor:
    """Return a copy of all weights, without running statistics, in one vector (P,)."""
    return torch.cat([theta[name].flatten() for name, _ in network.named_parameters()])


def unflatten(network: Network, flat: torch.Tensor) -> Theta:
    """Return the weights of `network` as views of the vector (P,) that `flatten` made."""
    shapes = {name: value.shape for name, value in network.named_parameters()}
    parts = flat.split([shape.numel() for shape in shapes.values()])
    return {
        name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
