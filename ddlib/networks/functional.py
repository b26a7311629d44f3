"""The networks through plain weights: build one, draw its weights, ask for logits or features.

A network here is a shape: its weights live outside it, in a dictionary `theta` from parameter
name to tensor. That is what lets one network be evaluated at many weights, and gradients be
taken with respect to weights that are themselves results.

Under batch norm, `theta` may also hold running statistics. Fresh weights have none, and then every
pass normalises by its own batch; training starts and updates them, and later passes use them. Other
buffers start as the network is built, and are updated likewise.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd as Convolution
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ddlib.devices import check_autocast, float32_default, seeded, send
from ddlib.networks.zoo import NETWORKS, BatchNorm, Network
from ddlib.parameters import check_names, options_of

Theta = dict[str, torch.Tensor]

ORTHOGONAL = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.MultiheadAttention)

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
    others = {key: value for key, value in given.items() if key != "name"}
    return {"name": name, **vars(options_of(NETWORKS[name]).read(others, what))}


def build(
    name: str, image_shape: tuple[int, int, int], class_count: int, **options: Any
) -> Network:
    """Return the network registered under `name` for images of `image_shape` = (channels, H, W).

    Its own weights stay unset: draw them with `initial_parameters`. Random values of buffers are
    the same in every process. Raises ValueError for what `read_network` refuses, for an image too
    small for the network, and for weights that are tied.
    """
    checked = read_network({"name": name, **options})
    constructor = NETWORKS[checked.pop("name")]
    with float32_default(), torch.device("meta"):
        network = constructor(tuple(image_shape), class_count, **checked)
    places = list(network.named_parameters(remove_duplicate=False))
    if len(places) > len(list(network.parameters())):
        raise ValueError(
            f"the network {name!r} has one weight in several places, which would be drawn and "
            "trained apart; give each place its own"
        )
    if list(network.buffers()):  # those on "meta" have no values
        with float32_default(), torch.device("cpu"), seeded(torch.Generator(), "cpu"):
            whole = constructor(tuple(image_shape), class_count, **checked)
        network.constants = {
            name: value.float() if value.is_floating_point() else value
            for name, value in whole.named_buffers()
        }
    return network


def initial_parameters(
    network: Network, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Theta:
    """Return fresh weights on `device`, drawn from PyTorch's default initial distribution.

    Convolutions and linear layers: weights and biases uniform in +-1/sqrt(fan_in) (He et al.
    2015 with gain 1/sqrt(3)); norms: ones and zeros; attention: Glorot & Bengio (2010) uniform,
    biases zero; a class token: zeros; a position embedding: N(0, 0.02^2); other embeddings:
    N(0, 1). These are the layers' own defaults, also where torchvision's models draw convolutions
    anew. Weights of any other layer are those that its own `reset_parameters` draws.

    Raises ValueError for a layer that has no such method, or leaves weights unset in it.
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
    own = name.rpartition(".")[2]
    attention = isinstance(layer, nn.MultiheadAttention | NonDynamicallyQuantizableLinear)
    if own == "class_token" or (attention and own.endswith("bias")):
        return torch.zeros(shape, dtype=torch.float32)
    if own == "pos_embedding":
        return torch.randn(shape, generator=generator, dtype=torch.float32).mul_(0.02)
    if isinstance(layer, nn.Embedding):
        return torch.randn(shape, generator=generator, dtype=torch.float32)
    if isinstance(layer, nn.GroupNorm | nn.LayerNorm | BatchNorm):
        return torch.full(shape, float(own == "weight"), dtype=torch.float32)
    if own == "in_proj_weight":
        bound = math.sqrt(6 / sum(shape))
    elif isinstance(layer, Convolution | nn.Linear):
        bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
    else:
        return _reset(layer, name, generator)
    drawn = torch.rand(shape, generator=generator, dtype=torch.float32)
    return drawn.mul_(2 * bound).sub_(bound)


@torch.no_grad()
def _reset(layer: nn.Module, name: str, generator: torch.Generator) -> torch.Tensor:
    """Return what the `reset_parameters` of a layer gives its parameter `name`."""
    prefix, _, own = name.rpartition(".")
    fresh = deepcopy(layer).to_empty(device="cpu")
    getattr(fresh, own).fill_(math.nan)
    if hasattr(fresh, "reset_parameters"):
        with float32_default(), seeded(generator, "cpu"):
            fresh.reset_parameters()
    value = getattr(fresh, own)
    if value.isnan().any():
        raise ValueError(
            f"no initial value is known for {own!r} of layer {prefix!r} of type "
            f"{type(layer).__name__}; let its method reset_parameters set it"
        )
    return value.detach().float()


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
        if not isinstance(layer, ORTHOGONAL):
            continue
        attention = isinstance(layer, nn.MultiheadAttention)
        own, matrices = ("in_proj_", 3) if attention else ("", getattr(layer, "groups", 1))
        value = theta[f"{prefix}.{own}weight"]
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float32)
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
    network: Network,
    theta: Theta,
    images: torch.Tensor,
    training: bool = False,
    stream: torch.Generator | None = None,
) -> torch.Tensor:
    """Return the class scores (N, C) of `images` (N, channels, H, W) at weights `theta`.

    training: normalise by the batch, update the buffers of `theta` in place, if it holds any, and
    let stochastic layers, such as dropout, draw from `stream` (None: always the same numbers).
    Otherwise buffers are used as they are, and nothing is dropped. Raises RuntimeError under an
    autocast that is not `ddlib.devices.precision`'s.
    """
    check_autocast(images.device)
    _set_mode(network, training)
    values = {**_constants(network, images), **theta}
    drawing = seeded(stream or torch.Generator(), images.device) if training else nullcontext()
    with drawing:
        return _scores(network, values, images)


def stacked_logits(network: Network, stacked: Theta, images: torch.Tensor) -> torch.Tensor:
    """Return the class scores (G, N, C) in training of G networks, each of its own images.

    stacked: the weights of all G, (G, ...) each; images: (G, N, channels, H, W). For networks
    without buffers whose layers are not stochastic.
    """
    check_autocast(images.device)
    _set_mode(network, training=True)
    return torch.vmap(partial(_scores, network))(stacked, images)


def _scores(network: Network, values: Theta, images: torch.Tensor) -> torch.Tensor:
    scores = functional_call(network, values, (images,), tie_weights=False)
    return scores.to(images.dtype)  # whatever the precision


def embed(network: Network, theta: Theta, images: torch.Tensor) -> torch.Tensor:
    """Return the features (N, F) that the body gives for `images` (N, channels, H, W).

    Under batch norm without running statistics, all images are normalised as one batch. Raises
    RuntimeError as `logits` does.
    """
    check_autocast(images.device)
    _set_mode(network, training=False)
    values = {**_constants(network, images), **theta}
    body = {name[5:]: value for name, value in values.items() if name.startswith("body.")}
    has_statistics = any(name.endswith(".running_mean") for name in theta)
    together = network.batch_norms and not has_statistics
    parts = [images] if together else in_passes(images)
    features = [functional_call(network.body, body, (part,), tie_weights=False) for part in parts]
    return torch.cat(features).flatten(1).to(images.dtype)  # means and distances stay exact


def _set_mode(network: Network, training: bool) -> None:
    if network.training != training:
        network.train(training)


def _constants(network: Network, images: torch.Tensor) -> Theta:
    """Return copies of the buffers that the network was built with, where the images are."""
    constants = network.constants.items()
    return {name: send(value.clone(), images.device) for name, value in constants}


@torch.no_grad()
def is_stochastic(network: Network, theta: Theta, images: torch.Tensor) -> bool:
    """Return whether a training pass over `images` (N, channels, H, W) draws random numbers."""
    stream = torch.Generator()
    before = stream.get_state()
    logits(network, with_statistics(network, theta), images, training=True, stream=stream)
    return not torch.equal(stream.get_state(), before)


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
    """Return `theta` with running statistics and other buffers of its own, to update in place.

    They are copies of those that it holds, or else mean 0, variance 1, and the buffers that the
    network was built with. A network without buffers adds nothing.
    """
    weight = next(iter(theta.values()))
    starts = {name: send(value, weight.device) for name, value in network.constants.items()}
    for prefix, layer in network.named_modules():
        if isinstance(layer, BatchNorm):
            for name, start in (("running_mean", 0.0), ("running_var", 1.0)):
                starts[f"{prefix}.{name}"] = weight.new_full((layer.num_features,), start)
    return {**theta, **{name: theta.get(name, start).clone() for name, start in starts.items()}}


@torch.no_grad()
def with_batch_seen(network: Network, theta: Theta, images: torch.Tensor) -> Theta:
    """Return `theta` with the running statistics after one training pass over `images`."""
    theta = with_statistics(network, theta)
    if network.batch_norms:
        logits(network, theta, images, training=True)
    return theta


def flatten(network: Network, theta: Theta) -> torch.Tensor:
    """Return a copy of all weights, without buffers, in one vector (P,)."""
    return torch.cat([theta[name].flatten() for name, _ in network.named_parameters()])


def unflatten(network: Network, flat: torch.Tensor) -> Theta:
    """Return the weights of `network` as views of the vector (P,) that `flatten` made."""
    shapes = {name: value.shape for name, value in network.named_parameters()}
    parts = flat.split([shape.numel() for shape in shapes.values()])
    return {
        name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
