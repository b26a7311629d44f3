"""Networks for sequences (T, E): T tokens, each a vector of E numbers, padded with rows of zeros.

Rows of zeros at the end are padding: they do not change the logits. The gradient of every row of
zeros is zero, so padding stays padding while a method moves S.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddlib.networks.layers import Network, check_heads
from ddlib.parameters import Share

Shape = tuple[int, int]
HEADS = 4  # of the transformer's attention


def unpadded(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples (N, T, E) whose padding has no gradient, and where tokens are (N, T, 1)."""
    is_token = (samples != 0).any(-1, keepdim=True)
    return samples * is_token, is_token


def text_cnn(
    sample_shape: Shape, class_count: int, width: int = 100, dropout: Share = 0.0
) -> Network:
    """Return convolutions over 3, 4 and 5 tokens, their maxima over time, and a linear head.

    width: channels of each convolution; dropout: 0.5 in the paper. Source: Kim (EMNLP 2014).
    """
    body = nn.Sequential(_Convolutions(sample_shape[1], width), nn.Dropout(dropout))
    return Network(body, nn.Linear(3 * width, class_count))


class _Convolutions(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(inputs, width, size, padding=size - 1) for size in (3, 4, 5)
        )

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        tokens, is_token = unpadded(samples)
        maxima = []
        for layer in self.layers:
            size, ends = layer.kernel_size[0], layer.padding * 2
            windows = F.pad(is_token.mT, ends).unfold(-1, size, 1).any(-1)  # that hold a token
            maxima.append((layer(tokens.mT).relu() * windows).amax(-1))
        return torch.cat(maxima, 1)


def gru(sample_shape: Shape, class_count: int, width: int = 64) -> Network:
    """Return a gated recurrent unit, whose last state is the feature, and a linear head.

    It is a plain loop: cuDNN's has no second derivative. Source: Cho et al. (EMNLP 2014).
    """
    return Network(_Recurrent(sample_shape[1], width), nn.Linear(width, class_count))


class _Recurrent(nn.Module):
    """As torch.nn.GRU, but padding leaves the state as it is."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.inputs, self.states = nn.Linear(inputs, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        tokens, is_token = unpadded(samples)
        state = tokens.new_zeros(len(tokens), self.states.in_features)
        for inputs, counts in zip(self.inputs(tokens).unbind(1), is_token.unbind(1), strict=True):
            by_input, by_state = inputs.chunk(3, 1), self.states(state).chunk(3, 1)
            reset, keep = ((by_input[gate] + by_state[gate]).sigmoid() for gate in (0, 1))
            new = (by_input[2] + reset * by_state[2]).tanh()
            state = torch.where(counts, (1 - keep) * new + keep * state, state)
        return state


def transformer(sample_shape: Shape, class_count: int, width: int = 64, depth: int = 2) -> Network:
    """Return a transformer encoder, the mean over its tokens, and a linear head.

    Positions are added as sines and cosines. Source: Vaswani et al. (NeurIPS 2017), with norms
    before each part. Raises ValueError for a width that the heads do not divide.
    """
    check_heads(width, HEADS)
    return Network(_Encoder(sample_shape[1], width, depth), nn.Linear(width, class_count))


class _Encoder(nn.Module):
    def __init__(self, inputs: int, width: int, depth: int):
        super().__init__()
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.inputs, self.norm = nn.Linear(inputs, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, HEADS, 4 * width, **options) for _ in range(depth)
        )

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        tokens, is_token = unpadded(samples)
        states = self.inputs(tokens)
        states = states + _positions(states)
        ignored = ~is_token[..., 0] & is_token.any(1)  # without tokens, attention would be 0 / 0
        with sdpa_kernel(SDPBackend.MATH):  # other kernels have no second derivative
            for layer in self.layers:
                states = layer(states, src_key_padding_mask=ignored)
        return (self.norm(states) * is_token).sum(1) / is_token.sum(1).clamp(min=1)


def _positions(states: torch.Tensor) -> torch.Tensor:
    """Return the code (T, F) of each position for states (N, T, F)."""
    count, width = states.shape[1:]
    rates = 1e4 ** (-torch.arange(0, width, 2, device=states.device) / width)
    angles = torch.arange(count, device=states.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1).to(states.dtype)
