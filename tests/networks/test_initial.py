import math

import pytest
import torch
from draws import narrow, stream
from torch import nn

from ddlib.networks.functional import build, logits
from ddlib.networks.initial import initial_parameters, orthogonal_parameters
from ddlib.networks.layers import Network
from ddlib.networks.zoo import KINDS, NETWORKS


def assert_uniform(value, bound):
    """Within +-bound, with the mean and deviation of a uniform distribution: four errors."""
    error = 4 / math.sqrt(value.numel())
    assert value.abs().max() <= bound
    assert abs(value.mean()) < error * bound / math.sqrt(3)
    assert value.std() == pytest.approx(bound / math.sqrt(3), rel=error)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_initial_weights_follow_the_default_distribution_of_torch(name):
    network = build(name, (3, 32, 32), 10, width=256)
    theta = initial_parameters(network, stream())
    assert list(theta) == [parameter for parameter, _ in network.named_parameters()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = NETWORKS[name]((3, 32, 32), 10, width=256).state_dict()
    for parameter, value in theta.items():
        assert value.shape == theirs[parameter].shape
        assert value.dtype == torch.float32
        if value.dim() > 1:
            bound = 1 / math.sqrt(value[0].numel())
            assert_uniform(value, bound)
            assert_uniform(theirs[parameter], bound)
    values = list(theta.values())
    if name == "convnet":
        bound = 1 / math.sqrt(256 * 9)
        assert 0.9 * bound < values[5].abs().max() <= bound  # all below 0.9: chance 2e-12
        assert values[5].min() < 0 < values[5].max()
        assert torch.equal(values[6], torch.ones(256))
        assert torch.equal(values[7], torch.zeros(256))


def test_a_transformer_starts_from_the_distributions_of_its_layers():
    theta = initial_parameters(build("vit", (3, 32, 32), 10, depth=1), stream())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = nn.MultiheadAttention(192, 3).state_dict()
    layer = "body.1.encoder.layers.encoder_layer_0.self_attention"
    for name, value in theirs.items():
        ours = theta[f"{layer}.{name}"]
        assert bool(ours.any()) == bool(value.any()) == name.endswith("weight")
        if value.any():  # at least 36,864 draws: 3 % is more than four standard errors
            assert ours.std() == pytest.approx(value.std().item(), rel=0.03)
            assert ours.abs().max() == pytest.approx(value.abs().max().item(), rel=0.01)
    assert not theta["body.1.class_token"].any()
    position = theta["body.1.encoder.pos_embedding"]
    assert position.shape == (1, 65, 192)
    assert position.std() == pytest.approx(0.02, rel=0.03)  # 12,480 draws


def test_other_layers_draw_their_weights_themselves_but_from_the_stream():
    layers = nn.Conv1d(40, 50, 3), nn.PReLU(), nn.Bilinear(60, 60, 70), nn.Embedding(100, 64)
    network = Network(nn.Sequential(*layers), nn.Linear(4, 2))
    torch.manual_seed(1)
    theta = initial_parameters(network, stream())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = initial_parameters(network, stream())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in theta.items())
    assert_uniform(theta["body.0.weight"], 120**-0.5)
    assert_uniform(theta["body.2.weight"], 60**-0.5)
    assert theta["body.1.weight"].tolist() == [0.25]
    assert abs(theta["body.3.weight"].mean()) < 4 / 80  # of 6400 draws from N(0, 1)
    assert theta["body.3.weight"].std() == pytest.approx(1, abs=4 / math.sqrt(2 * 6400))


def test_a_weight_that_nothing_sets_is_refused_by_name():
    layer = nn.Module()
    layer.gamma = nn.Parameter(torch.ones(4))
    odd = Network(nn.Sequential(nn.Flatten(), layer), nn.Linear(4, 2))
    message = r"'gamma' of layer 'body\.1' of type Module; let its method reset_parameters set it"
    with pytest.raises(ValueError, match=message):
        initial_parameters(odd, stream())


@pytest.mark.parametrize("draw", [initial_parameters, orthogonal_parameters])
@pytest.mark.parametrize("name", [name for name in NETWORKS if "image" in KINDS[name]])
def test_weights_are_their_seeds_and_leave_the_global_state_alone(name, draw):
    before = torch.get_rng_state()
    network = build(name, (3, 32, 32), 10, **narrow(name))
    first, again, other = (draw(network, stream(seed)) for seed in (0, 0, 1))
    batch = torch.randn(2, 3, 32, 32, generator=stream())
    scores = [logits(network, theta, batch, training=True) for theta in (first, again, other)]
    assert torch.equal(torch.get_rng_state(), before)
    assert list(first) == [parameter for parameter, _ in network.named_parameters()]
    assert all(torch.equal(value, again[parameter]) for parameter, value in first.items())
    assert torch.equal(scores[0], scores[1])  # twice in training: no dropout
    assert not torch.equal(scores[0], scores[2])


@pytest.mark.parametrize(
    ("name", "weight", "matrices"),
    [
        ("mlp", "body.1.weight", 1),
        ("convnet", "body.0.weight", 1),
        ("mobilenet_v2", "body.1.conv.0.0.weight", "channels"),
        ("vit", "body.1.encoder.layers.encoder_layer_0.self_attention.in_proj_weight", 3),
        ("convnet", "head.weight", 1),
    ],
)
def test_orthogonal_weights_keep_lengths_along_their_shorter_side(name, weight, matrices):
    network = build(name, (1, 8, 8), 3)
    theta = orthogonal_parameters(network, stream(2))
    value = theta[weight]
    assert value.shape == dict(network.named_parameters())[weight].shape
    count = len(value) if matrices == "channels" else matrices
    squared = 1.0 if weight.startswith("head") else 2.0
    for matrix in value.reshape(count, len(value) // count, -1):
        rows = matrix if len(matrix) <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(rows @ rows.T, squared * torch.eye(len(rows)), atol=1e-5, rtol=0)
    bias = weight.removesuffix("weight") + "bias"
    assert not theta.get(bias, torch.zeros(1)).any()
