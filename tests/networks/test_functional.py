import math
import re
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddlib.networks import functional as networks
from ddlib.networks.functional import build, embed, logits, with_batch_seen, with_buffers
from ddlib.networks.initial import initial_parameters, orthogonal_parameters
from ddlib.networks.layers import Network
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count, *shape, seed=1):
    return torch.randn(count, *shape, generator=stream(seed))


@pytest.mark.parametrize(
    ("shape", "class_count", "depth", "published"),
    [
        ((1, 28, 28), 10, 3, 317_706),
        ((3, 32, 32), 10, 3, 320_010),
        ((3, 32, 32), 100, 3, 504_420),
        ((3, 128, 128), 10, 5, 615_690),
    ],
)
def test_convnet_has_as_many_weights_as_the_reference(shape, class_count, depth, published):
    network = build("convnet", shape, class_count, depth=depth)
    assert sum(value.numel() for value in network.parameters()) == published
    theta = initial_parameters(network, stream())
    assert sum(value.numel() for value in theta.values()) == published


def test_mlp_has_three_linear_layers_of_width_128():
    theta = initial_parameters(build("mlp", (1, 28, 28), 10), stream())
    assert [tuple(value.shape) for value in theta.values()] == [
        *((128, 784), (128,)),
        *((128, 128), (128,)),
        *((10, 128), (10,)),
    ]


@pytest.mark.parametrize(
    ("shape", "width", "depth", "padding"),
    [
        ((1, 28, 28), 6, 3, 2),  # 28 -> 32, as the reference pads MNIST
        ((3, 32, 32), 5, 3, 0),
        ((2, 8, 8), 4, 1, 0),
        ((1, 8, 8), 4, 2, 0),
        ((1, 6, 6), 3, 2, 1),  # 6 -> 8
        ((1, 8, 16), 3, 3, 0),  # the smallest side that depth 3 takes
        ((3, 20, 28), 4, 3, (2, 2, 2, 2)),  # 20 -> 24 and 28 -> 32
        ((1, 24, 28), 4, 3, (2, 2, 0, 0)),
    ],
)
def test_convnet_equals_one_built_from_torch_nn(ordinary_convnet, shape, width, depth, padding):
    network = build("convnet", shape, 7, width=width, depth=depth)
    theta = initial_parameters(network, stream())
    for value in theta.values():  # norms of one and zero would hide a missing affine map
        value.add_(0.3 * torch.randn(value.shape, generator=stream(value.numel())))
    batch = images(5, *shape)
    ordinary = ordinary_convnet(theta, depth, padding)
    torch.testing.assert_close(logits(network, theta, batch), ordinary(batch))
    torch.testing.assert_close(embed(network, theta, batch), ordinary[0](batch))


def test_convnet_pads_an_odd_side_to_at_least_the_next_multiple():
    network = build("convnet", (1, 9, 15), 4, width=3, depth=2)  # 9 -> 12, 15 -> 16
    theta = initial_parameters(network, stream())
    assert embed(network, theta, images(2, 1, 9, 15)).shape == (2, 3 * 3 * 4)


def test_convnet_of_the_published_mnist_shape_embeds_into_2048_features():
    network = build("convnet", (1, 28, 28), 10)
    theta = initial_parameters(network, stream())
    assert embed(network, theta, images(1, 1, 28, 28)).shape == (1, 2048)


@pytest.mark.parametrize(("width", "depth"), [(128, 3), (16, 2), (16, 1)])
def test_mlp_equals_a_loop_over_its_layers(width, depth):
    network = build("mlp", (2, 4, 3), 5, width=width, depth=depth)
    theta = initial_parameters(network, stream())
    batch = images(6, 2, 4, 3)
    values = list(theta.values())
    features = batch.reshape(6, 24)
    for layer in range(depth - 1):
        features = (features @ values[2 * layer].T + values[2 * layer + 1]).clamp(min=0)
    scores = features @ values[-2].T + values[-1]
    torch.testing.assert_close(embed(network, theta, batch), features)
    torch.testing.assert_close(logits(network, theta, batch), scores)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_the_head_of_the_features_gives_the_logits(name):
    network = build(name, (1, 8, 8), 3, width=6, depth=2)
    theta = initial_parameters(network, stream())
    batch = images(10, 1, 8, 8)
    features = embed(network, theta, batch)
    head = F.linear(features, theta["head.weight"], theta["head.bias"])
    torch.testing.assert_close(head, logits(network, theta, batch))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 150])
def test_features_do_not_depend_on_how_images_are_cut_into_passes(count, monkeypatch):
    network = build("convnet", (1, 8, 8), 3, width=6, depth=2)
    theta = initial_parameters(network, stream())
    batch = images(count, 1, 8, 8).requires_grad_()
    features = embed(network, theta, batch)
    weights = torch.randn(features.shape, generator=stream(3))
    gradient = torch.autograd.grad((features * weights).sum(), batch)[0]
    monkeypatch.setattr(networks, "CHUNK", 10**6)
    single = embed(network, theta, batch)
    torch.testing.assert_close(features, single)
    torch.testing.assert_close(
        gradient, torch.autograd.grad((single * weights).sum(), batch)[0], rtol=1e-4, atol=1e-5
    )
    one_by_one = torch.cat([embed(network, theta, batch[i : i + 1]) for i in range(count)])
    torch.testing.assert_close(features, one_by_one)


@pytest.mark.parametrize(
    ("shape", "depth", "least"), [((1, 8, 8), 4, 16), ((3, 7, 32), 3, 8), ((3, 32, 1), 1, 2)]
)
def test_an_image_too_small_is_refused_in_one_sentence(shape, depth, least):
    message = (
        f"a ConvNet of depth {depth} halves the image {depth} times, which needs images of at "
        f"least {least} pixels, got {shape[1]}x{shape[2]}; choose a smaller depth"
    )
    with pytest.raises(ValueError, match="choose a smaller depth") as raised:
        build("convnet", shape, 10, depth=depth)
    assert str(raised.value) == message


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_initial_weights_follow_the_default_distribution_of_torch(name):
    network = build(name, (3, 32, 32), 10, width=64)
    theta = initial_parameters(network, stream())
    assert list(theta) == [parameter for parameter, _ in network.named_parameters()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = networks.NETWORKS[name]((3, 32, 32), 10, width=64).state_dict()
    for parameter, value in theta.items():
        assert value.shape == theirs[parameter].shape
        assert value.dtype == torch.float32
        if value.dim() == 1:
            continue
        bound = 1 / math.sqrt(value[0].numel())
        assert value.abs().max() <= bound
        assert theirs[parameter].abs().max() <= bound
        error = 4 / math.sqrt(value.numel())  # four standard errors of a mean, in deviations
        deviation = bound / math.sqrt(3)  # of a uniform distribution
        assert abs(value.mean()) < error * deviation
        assert value.std() == pytest.approx(deviation, rel=error)
        assert theirs[parameter].std() == pytest.approx(deviation, rel=error)


def test_initial_biases_have_the_bound_of_their_layer_and_norms_are_one_and_zero():
    theta = initial_parameters(build("convnet", (3, 16, 16), 10, width=256, depth=2), stream())
    convolution, bias, scale, shift = list(theta.values())[4:8]
    assert convolution.shape == (256, 256, 3, 3)
    bound = 1 / math.sqrt(256 * 9)
    assert 0.9 * bound < bias.abs().max() <= bound  # 256 draws: all below 0.9 with chance 2e-12
    assert bias.min() < 0 < bias.max()
    assert torch.equal(scale, torch.ones(256))
    assert torch.equal(shift, torch.zeros(256))


def test_initial_weights_are_their_seeds_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    network = build("convnet", (1, 8, 8), 3, width=4, depth=2)
    first, again, other = (initial_parameters(network, stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if value.dim() > 1:
            assert not torch.equal(value, other[name])


def test_weights_of_one_draw_are_independent_between_layers():
    theta = initial_parameters(build("mlp", (1, 8, 8), 64, width=64), stream())
    first, second, third = (value.flatten() for value in theta.values() if value.dim() > 1)
    for one, two in ((first, second), (second, third)):
        correlation = torch.corrcoef(torch.stack([one, two]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(64 * 64)


def test_embeddings_are_drawn_from_the_unit_normal_as_torch_does():
    network = Network(nn.Embedding(100, 64), nn.Linear(64, 2))
    table = initial_parameters(network, stream())["body.weight"]
    assert table.shape == (100, 64)
    assert abs(table.mean()) < 4 / 80  # four standard errors of 6400 draws
    assert table.std() == pytest.approx(1, abs=4 / math.sqrt(2 * 6400))


class Scale(nn.Module):
    """A weight of one's own, which no method of the layer sets."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(4))


def test_a_weight_that_nothing_sets_is_refused_by_name():
    odd = Network(nn.Sequential(nn.Flatten(), Scale()), nn.Linear(4, 2))
    message = r"'gamma' of layer 'body\.1' of type Scale; let its method reset_parameters set it"
    with pytest.raises(ValueError, match=message):
        initial_parameters(odd, stream())


def test_other_layers_draw_their_weights_themselves_but_from_the_stream():
    layers = (
        nn.Conv1d(40, 50, 3),
        nn.PReLU(),
        nn.Bilinear(60, 60, 70),
        nn.InstanceNorm1d(4, affine=True),
    )
    network = Network(nn.Sequential(*layers), nn.Linear(4, 2))
    torch.manual_seed(1)
    theta = initial_parameters(network, stream())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = initial_parameters(network, stream())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in theta.items())
    for name, bound in (("body.0.weight", 120**-0.5), ("body.2.weight", 60**-0.5)):
        assert 0.99 * bound < theta[name].abs().max() <= bound  # PyTorch's: uniform in +-bound
        assert theta[name].std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert theta["body.1.weight"].tolist() == [0.25]
    assert theta["body.3.weight"].tolist() == [1] * 4


def test_layers_without_a_bias_are_drawn_too():
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)), nn.Linear(3, 2))
    theta = initial_parameters(network, stream())
    assert list(theta) == ["body.1.weight", "head.weight", "head.bias"]
    assert logits(network, theta, images(2, 1, 2, 2)).shape == (2, 2)


@pytest.fixture
def normed():
    """A ConvNet with batch norm, its weights, and the same network as torch.nn builds it."""
    network = build("convnet", (1, 8, 8), 3, width=6, depth=2, norm="batch")
    return network, initial_parameters(network, stream())


def test_fresh_weights_normalise_by_the_batch_however_large(normed, ordinary_convnet):
    network, theta = normed
    ordinary = ordinary_convnet(theta, 2, norm=nn.BatchNorm2d).train()
    batch = images(150, 1, 8, 8)
    torch.testing.assert_close(embed(network, theta, batch), ordinary[0](batch))
    torch.testing.assert_close(logits(network, theta, batch), ordinary(batch))
    assert list(theta) == [name for name, _ in network.named_parameters()]


def test_running_statistics_are_those_of_torch_nn(normed, ordinary_convnet):
    network, theta = normed
    ordinary = ordinary_convnet(theta, 2, norm=nn.BatchNorm2d).train()
    start = with_buffers(network, theta)
    seen = with_batch_seen(network, theta, images(20, 1, 8, 8))
    twice = with_batch_seen(network, seen, 2 * images(30, 1, 8, 8))
    for made, count, scale in ((start, 0, 1), (seen, 20, 1), (twice, 30, 2)):
        if count:
            ordinary(scale * images(count, 1, 8, 8))
        kept = {name: value for name, value in made.items() if name not in theta}
        theirs = {
            f"body.{int(name.split('.')[1]) - 1}.{name.split('.')[2]}": value  # no padding layer
            for name, value in ordinary.named_buffers()
            if "running" in name
        }
        assert list(kept) == list(theirs)
        for name, value in kept.items():
            torch.testing.assert_close(value, theirs[name])
    ordinary.eval()
    batch = images(130, 1, 8, 8, seed=9)
    torch.testing.assert_close(logits(network, twice, batch), ordinary(batch))
    torch.testing.assert_close(embed(network, twice, batch), ordinary[0](batch))


def test_only_training_moves_statistics_and_only_its_own(normed):
    network, theta = normed
    seen = with_batch_seen(network, theta, images(20, 1, 8, 8))
    before = {name: value.clone() for name, value in seen.items()}
    logits(network, seen, images(5, 1, 8, 8))
    embed(network, seen, images(5, 1, 8, 8))
    with_batch_seen(network, seen, images(5, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in seen.items())
    logits(network, seen, images(5, 1, 8, 8), training=True)
    assert not torch.equal(seen["body.1.running_mean"], before["body.1.running_mean"])


def test_known_statistics_allow_features_in_passes(normed, monkeypatch):
    network, theta = normed
    batch = images(150, 1, 8, 8)
    seen = with_batch_seen(network, theta, batch)
    lengths = []
    network.body.register_forward_hook(lambda *called: lengths.append(len(called[1][0])))
    embed(network, seen, batch)
    embed(network, theta, batch)
    assert lengths == [32, 32, 32, 32, 22, 150]


def test_without_batch_norm_there_are_no_statistics():
    network = build("convnet", (1, 8, 8), 3, width=4)
    theta = initial_parameters(network, stream())
    for made in (with_buffers(network, theta), with_batch_seen(network, theta, None)):
        assert list(made) == list(theta)
        assert all(made[name] is value for name, value in theta.items())


@pytest.mark.parametrize(("device", "lengths"), [("cpu", [32, 32, 32, 32, 2]), ("meta", [130])])
def test_only_a_processor_takes_images_in_passes(device, lengths):
    network = build("mlp", (1, 8, 8), 3, width=4)
    theta = {
        name: value.to(device) for name, value in initial_parameters(network, stream()).items()
    }
    seen = []
    network.body.register_forward_hook(lambda *called: seen.append(len(called[1][0])))
    embed(network, theta, images(130, 1, 8, 8).to(device))
    assert seen == lengths


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
    before = torch.get_rng_state()
    theta, again = (orthogonal_parameters(network, stream(2)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    value = theta[weight]
    assert torch.equal(value, again[weight])
    assert value.shape == dict(network.named_parameters())[weight].shape
    count = len(value) if matrices == "channels" else matrices
    squared = 1.0 if weight.startswith("head") else 2.0
    for matrix in value.reshape(count, len(value) // count, -1):
        rows = matrix if len(matrix) <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(rows @ rows.T, squared * torch.eye(len(rows)), atol=1e-5, rtol=0)
    bias = weight.removesuffix("weight") + "bias"
    assert not theta.get(bias, torch.zeros(1)).any()


def test_orthogonal_matrices_favour_no_direction():
    """Entries of a uniformly drawn orthogonal matrix are as often positive as negative."""
    network = build("mlp", (1, 4, 4), 4, width=16, depth=2)
    firsts = [orthogonal_parameters(network, stream(seed))["body.1.weight"] for seed in range(60)]
    positive = (torch.stack(firsts) > 0).double().mean(0)  # standard deviation 0.065
    assert positive.min() > 0.15
    assert positive.max() < 0.85
    assert abs(positive.diagonal().mean() - 0.5) < 0.1


def test_a_network_with_one_weight_in_two_places_is_refused(monkeypatch):
    def tied(image_shape, class_count):
        head = nn.Linear(4, 4)
        return Network(nn.Sequential(nn.Flatten(), head), head)

    monkeypatch.setitem(networks.NETWORKS, "tied", tied)
    with pytest.raises(ValueError, match="'tied' has one weight in several places"):
        build("tied", (1, 2, 2), 4)


@pytest.fixture
def own(monkeypatch):
    """Build a network of one's own, from a function that returns its body."""

    def build_own(body, features):
        def network(image_shape, class_count):
            return Network(body(), nn.Linear(features, class_count))

        monkeypatch.setitem(networks.NETWORKS, "own", network)
        return build("own", (1, 4, 4), 3)

    return build_own


class Buffers(nn.Module):
    """Features that a constant table and a random one multiply, and a count of training passes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(16.0).view(4, 4), persistent=False)
        self.register_buffer("signs", torch.randn(16, 16))
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, images):
        if self.training:
            self.passes += 1
        return (images * self.table).flatten(1) @ self.signs


def test_buffers_keep_their_values_and_training_updates_copies(own):
    torch.manual_seed(1)
    network = own(Buffers, 16)
    torch.manual_seed(2)
    signs = own(Buffers, 16).body.signs  # another process's
    theta, batch = initial_parameters(network, stream()), images(40, 1, 4, 4)
    features = (batch.view(40, 16) * torch.arange(16.0)) @ signs
    torch.testing.assert_close(embed(network, theta, batch), features)
    expected = features @ theta["head.weight"].T + theta["head.bias"]
    torch.testing.assert_close(logits(network, theta, batch), expected)
    trained = train(network, theta, batch, torch.arange(40) % 3, Recipe(steps=7), stream())
    assert trained["body.passes"] == 7
    assert network.body.passes == 0
    assert list(theta) == ["head.weight", "head.bias"]


def test_batch_norm_and_one_dimensional_convolutions_of_an_own_network(own):
    """Statistics move a tenth of the way to the batch's, and are what testing normalises by."""

    def body():
        layers = nn.Flatten(2), nn.Conv1d(1, 5, 3), nn.BatchNorm1d(5, affine=False)
        return nn.Sequential(*layers, nn.Flatten())

    network = own(body, 70)
    theta, batch = initial_parameters(network, stream()), images(40, 1, 4, 4)
    still = Recipe(steps=1, learning_rate=0.0)
    trained = train(network, theta, batch, torch.arange(40) % 3, still, stream())
    maps = F.conv1d(batch.flatten(2), theta["body.1.weight"], theta["body.1.bias"])
    mean, variance = 0.1 * maps.mean((0, 2)), 0.9 + 0.1 * maps.var((0, 2))
    torch.testing.assert_close(trained["body.2.running_mean"], mean)
    torch.testing.assert_close(trained["body.2.running_var"], variance)
    normed = (maps - mean[:, None]) / (variance[:, None] + 1e-5).sqrt()
    torch.testing.assert_close(embed(network, trained, batch), normed.flatten(1))


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}])
def test_a_batch_norm_that_cannot_test_is_refused(options):
    with pytest.raises(ValueError, match="has no momentum or no running statistics; give it both"):
        Network(nn.BatchNorm2d(3, **options), nn.Linear(3, 2))


def test_testing_drops_nothing(own):
    network = own(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), 16)
    theta, batch = initial_parameters(network, stream()), images(40, 1, 4, 4)
    assert torch.equal(embed(network, theta, batch), batch.flatten(1))
    expected = F.linear(batch.flatten(1), theta["head.weight"], theta["head.bias"])
    torch.testing.assert_close(logits(network, theta, batch), expected)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"rate": "1e-3"}, "rate='1e-3' must be a number; YAML reads '1e-3' as text: write 1.0e-3"),
        ({"rate": math.inf}, "rate=inf must be a number"),
        ({"biased": 1}, "biased=1 must be true or false"),
        ({"note": 3}, "note=3 must be text"),
        ({"depth": True}, "depth=True must be a whole number of at least 1 or 'auto'"),
    ],
)
def test_options_are_numbers_switches_and_texts(monkeypatch, value, sentence):
    def small(
        image_shape,
        class_count,
        rate: float = 0.1,
        biased: bool = True,
        note: str = "",
        depth: int | Literal["auto"] = "auto",
    ):
        return Network(
            nn.Sequential(nn.Flatten(), nn.Dropout(rate)), nn.Linear(16, class_count, biased)
        )

    monkeypatch.setitem(networks.NETWORKS, "small", small)
    network = build("small", (1, 4, 4), 3, rate=0.25, biased=False, note="mine", depth=2)
    assert network.body[1].p == 0.25
    assert list(initial_parameters(network, stream())) == ["head.weight"]
    with pytest.raises(ValueError, match=rf"the network 'small': {re.escape(sentence)}$"):
        build("small", (1, 4, 4), 3, **value)
