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
from typing import Any

import torch
from torch.func import functional_call

from ddlib.devices import check_autocast, float32_default, seeded, send
from ddlib.networks.layers import BatchNorm, Network
from ddlib.networks.zoo import NETWORKS
from ddlib.parameters import check_names, check_options, read_options

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
