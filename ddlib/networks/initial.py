"""Draw the initial weights of a network."""

import math
from copy import deepcopy

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd as Convolution
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear as AttentionOutput

from ddlib.devices import seeded, send
from ddlib.networks.functional import Theta
from ddlib.networks.layers import BatchNorm, Network

ORTHOGONAL = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.MultiheadAttention)


def initial_parameters(
    network: Network, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Theta:
    """Return initial weights on `device`, drawn from the default distributions of PyTorch's layers.

    Convolutions and linear layers: weights and biases uniform in +-1/sqrt(fan_in) (He et al.
    2015 with gain 1/sqrt(3)); norms: ones and zeros; attention: Glorot & Bengio (2010) uniform,
    biases zero; a class token: zeros; a position embedding: N(0, 0.02^2); other embeddings:
    N(0, 1). torchvision's own initialisation of its models is not used. Any other layer draws its
    weights by its method `reset_parameters`; ValueError if that leaves a weight unset.
    """
    return {
        name: send(_draw(layer, name, value.shape, generator), device)
        for prefix, layer in network.named_modules()
        for name, value in layer.named_parameters(prefix, recurse=False)
    }


def _draw(
    layer: nn.Module, name: str, shape: torch.Size, generator: torch.Generator
) -> torch.Tensor:
    kind = name.rpartition(".")[2]
    in_attention = isinstance(layer, nn.MultiheadAttention | AttentionOutput)
    if kind == "class_token" or (in_attention and kind.endswith("bias")):
        return torch.zeros(shape, dtype=torch.float32)
    if isinstance(layer, nn.GroupNorm | nn.LayerNorm | BatchNorm):
        return torch.full(shape, float(kind == "weight"), dtype=torch.float32)
    if kind == "pos_embedding" or isinstance(layer, nn.Embedding):
        normal = torch.randn(shape, generator=generator, dtype=torch.float32)
        return normal * 0.02 if kind == "pos_embedding" else normal
    if kind == "in_proj_weight":
        bound = math.sqrt(6 / sum(shape))
    elif isinstance(layer, Convolution | nn.Linear):
        bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
    else:
        return _reset(layer, name, generator)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float32)
    return uniform.mul_(2 * bound).sub_(bound)


@torch.no_grad()
def _reset(layer: nn.Module, name: str, generator: torch.Generator) -> torch.Tensor:
    """Return the value that `reset_parameters` of the layer gives its parameter `name`."""
    prefix, _, kind = name.rpartition(".")
    fresh = deepcopy(layer)
    getattr(fresh, kind).fill_(math.nan)
    if hasattr(fresh, "reset_parameters"):
        with seeded(generator, "cpu"):
            fresh.reset_parameters()
    value = getattr(fresh, kind)
    if value.isnan().any():
        raise ValueError(
            f"no initial value is known for {kind!r} of layer {prefix!r} of type "
            f"{type(layer).__name__}; let its method reset_parameters set it"
        )
    return value.detach().float()


def orthogonal_parameters(network: Network, generator: torch.Generator) -> Theta:
    """Return weights on the CPU: orthogonal for convolutions and linear layers, biases zero.

    A weight is taken as the matrix (outputs, inputs x height x width); groups of a convolution, and
    query, key and value, are separate matrices. The gain is sqrt(2) in the body (He et al. 2015),
    because ReLU halves the variance. Other layers are as in `initial_parameters`. Source: Saxe et
    al. (ICLR 2014).
    """
    theta = initial_parameters(network, generator)
    for prefix, layer in network.named_modules():
        if not isinstance(layer, ORTHOGONAL):
            continue
        attention = isinstance(layer, nn.MultiheadAttention)
        part, matrices = ("in_proj_", 3) if attention else ("", getattr(layer, "groups", 1))
        gain = math.sqrt(2) if prefix.startswith("body") else 1.0
        for matrix in theta[f"{prefix}.{part}weight"].chunk(matrices):
            nn.init.orthogonal_(matrix, gain, generator=generator)
        if f"{prefix}.{part}bias" in theta:
            theta[f"{prefix}.{part}bias"].zero_()
    return theta
