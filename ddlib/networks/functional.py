"""Networks as functions of weights: build a network, compute its logits and features at weights.

The weights are outside the network, in a dictionary `theta` from parameter name to tensor. So one
network can be evaluated at many weights, and gradients can flow through updates of the weights.

`theta` may also hold buffers. Without them, batch norms use the statistics of the batch, and other
buffers keep their first values. Training adds buffers to the weights and updates them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.func import functional_call

from ddlib.devices import check_autocast, seeded, send
from ddlib.networks.layers import Network
from ddlib.networks.zoo import KINDS, NETWORKS, RANKS
from ddlib.parameters import check_names, options_of

Theta = dict[str, torch.Tensor]

CHUNK = 32  # images per pass on a CPU: the activations of more do not fit its cache
CHUNK_VALUES = CHUNK * 32**2  # numbers per pass on a CPU, for vectors and sequences
ACCELERATOR_PIXELS = 1024 * 32**2  # per pass on a GPU, over all images: 0.5 GB at width 128


def read_network(
    table: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]] = NETWORKS
) -> dict[str, Any]:
    """Return the `name` and all options of a network, checked, with defaults filled in.

    functions: by name; their optional arguments are the options. Raises ValueError, with what is
    allowed, for a missing or unknown name, an unknown option or a bad value.
    """
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise ValueError(
            f"network must be a table with a name, such as {{name: convnet}}, got {table!r}"
        )
    name = table["name"]
    check_names([name], functions, "network")
    what = f"the {'network' if name in NETWORKS else 'model'} {name!r}"
    options = {key: value for key, value in table.items() if key != "name"}
    return {"name": name, **vars(options_of(functions[name]).read(options, what))}


def build(name: str, sample_shape: tuple[int, ...], class_count: int, **options: Any) -> Network:
    """Return the network registered under `name` for samples of shape `sample_shape`.

    Draw its weights with `initial_parameters`; those in the module are not used. Random buffers
    are the same in every process. Raises ValueError as `read_network` does, for samples that the
    network cannot take, and for tied weights.
    """
    options = read_network({"name": name, **options})
    _check_kind(name, sample_shape)
    constructor = NETWORKS[options.pop("name")]
    with torch.device("cpu"), seeded(torch.Generator(), "cpu"):
        network = constructor(tuple(sample_shape), class_count, **options).float()
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    if len(names) > len(list(network.parameters())):
        raise ValueError(
            f"the network {name!r} has one weight in several places, which would be drawn and "
            "trained apart; give each place its own"
        )
    return network


def _check_kind(name: str, sample_shape: Sequence[int]) -> None:
    kind, shape = RANKS[len(sample_shape)], tuple(sample_shape)
    takes = KINDS.get(name, (kind,))
    if kind not in takes:
        allowed = [other for other in NETWORKS if kind in KINDS.get(other, ())]
        raise ValueError(
            f"the network {name!r} takes {' or '.join(takes)} data, but these are {kind} data of "
            f"shape {shape}; choose {', '.join(allowed)}"
        )


def logits(
    network: Network,
    theta: Theta,
    samples: torch.Tensor,
    training: bool = False,
    stream: torch.Generator | None = None,
) -> torch.Tensor:
    """Return the class scores (N, C) of samples (N, ...) at weights `theta`.

    training: batch norms normalise by the batch, buffers in `theta` are updated in place, and
    stochastic layers such as dropout draw from `stream` (None: always the same numbers). Raises
    RuntimeError under an autocast that `ddlib.devices.precision` did not start.
    """
    check_autocast(samples.device)
    network.train(training)
    values = {**_buffers(network, samples.device), **theta}
    with seeded(stream or torch.Generator(), samples.device) if training else nullcontext():
        scores = functional_call(network, values, (samples,), tie_weights=False)
    return scores.to(samples.dtype)  # autocast to bf16 may have changed it


def embed(network: Network, theta: Theta, samples: torch.Tensor) -> torch.Tensor:
    """Return the features (N, F) of samples (N, ...): the output of the body.

    Without running statistics, batch norms normalise all samples as one batch. Raises RuntimeError
    as `logits` does.
    """
    check_autocast(samples.device)
    network.eval()
    values = {**_buffers(network, samples.device), **theta}
    body = {name[5:]: value for name, value in values.items() if name.startswith("body.")}
    has_statistics = any(name.endswith(".running_mean") for name in theta)
    one_batch = network.batch_norms and not has_statistics
    parts = [samples] if one_batch else in_passes(samples)
    features = [functional_call(network.body, body, (part,), tie_weights=False) for part in parts]
    return torch.cat(features).flatten(1).to(samples.dtype)  # bf16 would round means and distances


def _buffers(network: Network, device: torch.device) -> Theta:
    return {name: send(value.clone(), device) for name, value in network.named_buffers()}


def in_passes(samples: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split samples (N, ...) into passes of the size that suits the device."""
    return samples.split(pass_size(samples.shape[1:], samples.device))


def pass_size(sample_shape: Sequence[int], device: torch.device) -> int:
    """Return how many samples of a shape go through a network at once."""
    is_image = len(sample_shape) == 3
    if device.type == "cpu":
        return CHUNK if is_image else max(1, CHUNK_VALUES // math.prod(sample_shape))
    return max(1, ACCELERATOR_PIXELS // math.prod(sample_shape[-2:] if is_image else sample_shape))


def with_buffers(network: Network, theta: Theta) -> Theta:
    """Return `theta` with copies of all buffers, which training updates in place.

    Missing buffers get their first values: mean 0 and variance 1 in batch norms, in other layers
    the values that the network was built with.
    """
    weight = next(iter(theta.values()))
    buffers = _buffers(network, weight.device)
    for prefix, layer in network.named_modules():
        if layer in network.batch_norms:
            for name, start in (("running_mean", 0.0), ("running_var", 1.0)):
                buffers[f"{prefix}.{name}"] = weight.new_full((layer.num_features,), start)
    return {**theta, **{name: theta.get(name, start).clone() for name, start in buffers.items()}}


@torch.no_grad()
def with_batch_seen(network: Network, theta: Theta, samples: torch.Tensor) -> Theta:
    """Return `theta` with the running statistics after one training pass over `samples`."""
    theta = with_buffers(network, theta)
    if network.batch_norms:
        logits(network, theta, samples, training=True)
    return theta


def flatten(network: Network, theta: Theta) -> torch.Tensor:
    """Copy all weights, without buffers, into one vector (P,)."""
    return torch.cat([theta[name].flatten() for name, _ in network.named_parameters()])


def unflatten(network: Network, flat: torch.Tensor) -> Theta:
    """Return the weights of `network` as views of the vector (P,) that `flatten` made."""
    named = dict(network.named_parameters())
    parts = flat.split([weight.numel() for weight in named.values()])
    return {name: part.view(named[name].shape) for name, part in zip(named, parts, strict=True)}
