"""Networks for sequences: padding, published formulas, derivatives."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from draws import filled, noise, stream
from torch import nn

from ddlib.networks.functional import build, embed, logits
from ddlib.networks.initial import initial_parameters
from ddlib.training.together import stacked_logits

SMALL = {"text_cnn": {"width": 5}, "gru": {"width": 6}, "transformer": {"width": 8, "depth": 1}}
LABELS = torch.tensor([0, 1, 2])
SIDES = ("inputs", "states")
pytestmark = pytest.mark.parametrize("name", SMALL)


@pytest.fixture
def case(name):
    """A network, its weights in float64, and three sequences of 7, 5 and 2 tokens."""
    network = build(name, (7, 4), 3, **SMALL[name])
    theta = initial_parameters(network, stream())
    samples = noise(3, 7, 4, dtype=torch.float64)
    samples[1, 5:], samples[2, 2:] = 0, 0
    return network, {key: value.double().requires_grad_() for key, value in theta.items()}, samples


def test_sizes_are_those_of_the_formulas(name):
    embedding, width = 300, 20
    weights = {
        "text_cnn": (3 + 4 + 5) * embedding * width + 3 * width + (3 * width + 1) * 2,
        "gru": 3 * width * (embedding + width + 2) + (width + 1) * 2,
        # projection; attention 4 w (w + 1); layers w -> 4 w -> w; two norms, twice; a norm; head
        "transformer": (embedding + 1) * width
        + 2 * (4 * width * (width + 1) + 4 * width * (width + 1) + (4 * width + 1) * width)
        + 2 * 2 * 2 * width
        + 2 * width
        + (width + 1) * 2,
    }
    network = build(name, (30, embedding), 2, width=width)
    assert sum(value.numel() for value in network.parameters()) == weights[name]


def test_padding_changes_no_logits_and_gets_no_gradient(case):
    network, theta, samples = case
    longer = torch.cat([samples, samples.new_zeros(3, 9, 4)], 1)
    torch.testing.assert_close(logits(network, theta, samples), logits(network, theta, longer))
    alone = logits(network, theta, samples[2:, :2])
    torch.testing.assert_close(logits(network, theta, samples)[2:], alone)
    samples.requires_grad_()
    F.cross_entropy(logits(network, theta, samples), LABELS).backward()
    assert samples.grad.any()
    assert not samples.grad[samples == 0].any()
    assert logits(network, theta, torch.zeros_like(samples)).isfinite().all()


def test_the_second_derivative_is_that_of_finite_differences(case):
    """The gradient, by the samples, of a function of the weights' gradients, as DC and MTT need."""
    network, theta, samples = case

    def slopes(samples):
        loss = F.cross_entropy(logits(network, theta, samples), LABELS)
        return sum(
            slope.square().sum()
            for slope in torch.autograd.grad(loss, [*theta.values()], create_graph=True)
        )

    samples = samples[:, :2].clone().requires_grad_()  # no padding: there, differences are jumps
    assert torch.autograd.gradcheck(slopes, samples)


def by_hand(name, theta, sample):
    """The features of one sequence (T, E) without padding, in NumPy and layers of torch."""
    weights = {key.removeprefix("body."): value.detach() for key, value in theta.items()}
    values = {key: value.numpy() for key, value in weights.items()}
    if name == "text_cnn":
        features = []
        for layer in range(3):
            kernel, bias = (values[f"0.layers.{layer}.{part}"] for part in ("weight", "bias"))
            size = kernel.shape[2]
            padded = np.pad(sample, ((size - 1, size - 1), (0, 0)))
            windows = [padded[i : i + size].T for i in range(len(sample) + size - 1)]
            scores = [(kernel * window).sum((1, 2)) + bias for window in windows]
            features.append(np.maximum(scores, 0).max(0))
        return np.concatenate(features)
    if name == "gru":
        parts = (weights[f"{side}.{kind}"] for kind in ("weight", "bias") for side in SIDES)
        states = filled(nn.GRU(4, 6), parts)(torch.from_numpy(sample)[:, None])[1]
        return states.flatten().detach().numpy()
    rates = [10_000 ** (-2 * i / 8) for i in range(4)]
    position = [[f(t * r) for f in (np.sin, np.cos) for r in rates] for t in range(len(sample))]
    states = sample @ values["inputs.weight"].T + values["inputs.bias"] + np.array(position)
    parts = [value for key, value in weights.items() if key.startswith("layers.0.")]
    layer = nn.TransformerEncoderLayer(8, 4, 32, dropout=0, batch_first=True, norm_first=True)
    states = filled(layer, parts)(torch.from_numpy(states)[None])[0]
    norm = filled(nn.LayerNorm(8), [weights[f"norm.{kind}"] for kind in ("weight", "bias")])
    return norm(states).mean(0).detach().numpy()


def test_features_are_those_of_the_formulas(name, case):
    network, theta, samples = case
    features = embed(network, theta, samples)
    for row, count in enumerate((7, 5, 2)):
        expected = by_hand(name, theta, samples[row, :count].numpy())
        np.testing.assert_allclose(features[row].detach(), expected, rtol=1e-5, atol=1e-6)


def test_stacked_networks_give_the_logits_of_each(name, case):
    """As a GPU trains them."""
    network, theta, samples = case
    others = {key: value * 1.1 for key, value in theta.items()}
    stacked = {key: torch.stack([value, others[key]]) for key, value in theta.items()}
    scores = stacked_logits(network, stacked, torch.stack([samples, samples]))
    for ours, weights in zip(scores, (theta, others), strict=True):
        torch.testing.assert_close(ours, logits(network, weights, samples))
