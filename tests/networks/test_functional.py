import pytest
import torch
import torch.nn.functional as F
from draws import noise, ordinary_convnet, stream
from torch import nn

from ddlib.networks.functional import build, embed, logits, pass_size, with_batch_seen, with_buffers
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.networks.zoo import NETWORKS
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe


@pytest.mark.parametrize(("width", "depth"), [(128, 3), (16, 1)])
def test_mlp_equals_a_loop_over_its_layers(width, depth):
    network = build("mlp", (2, 4, 3), 5, width=width, depth=depth)
    theta = initial_parameters(network, stream())
    batch, values = noise(6, 2, 4, 3), list(theta.values())
    features = batch.reshape(6, 24)
    for layer in range(depth - 1):
        features = (features @ values[2 * layer].T + values[2 * layer + 1]).clamp(min=0)
    torch.testing.assert_close(embed(network, theta, batch), features)
    torch.testing.assert_close(logits(network, theta, batch), features @ values[-2].T + values[-1])


def test_a_pass_on_a_gpu_takes_fewer_images_where_they_are_larger():
    """At 128 pixels, 1,024 images of a layer of width 128 would take 8.6 GB."""
    sizes = {side: pass_size((3, side, side), torch.device("cuda")) for side in (32, 128, 2048)}
    assert sizes == {32: 1024, 128: 64, 2048: 1}
    assert pass_size((3, 128, 128), torch.device("cpu")) == 32


@pytest.mark.parametrize("count", [1, 32, 33, 70])
def test_features_do_not_depend_on_how_images_are_cut_into_passes(count):
    network = build("convnet", (1, 8, 8), 3, width=6, depth=2)
    theta = initial_parameters(network, stream())
    batch = noise(count, 1, 8, 8).requires_grad_()
    features = embed(network, theta, batch)
    weights = torch.randn(features.shape, generator=stream(3))
    gradient = torch.autograd.grad((features * weights).sum(), batch)[0]
    single = torch.func.functional_call(network, theta, (batch,))  # all at once, head included
    torch.testing.assert_close(F.linear(features, *list(theta.values())[-2:]), single)
    for place in range(count):
        image = batch[place : place + 1]
        alone = embed(network, theta, image)
        torch.testing.assert_close(features[place : place + 1], alone)
        (slope,) = torch.autograd.grad((alone * weights[place]).sum(), image)
        torch.testing.assert_close(gradient[place : place + 1], slope, rtol=1e-4, atol=1e-5)


@pytest.fixture
def normed():
    """A ConvNet with batch norm, its weights, and the same network as torch.nn builds it."""
    network = build("convnet", (1, 8, 8), 3, width=6, depth=2, norm="batch")
    return network, initial_parameters(network, stream())


def test_fresh_weights_normalise_by_the_batch_however_large(normed):
    network, theta = normed
    ordinary = ordinary_convnet(theta, 2, norm=nn.BatchNorm2d).train()
    batch = noise(150, 1, 8, 8)
    torch.testing.assert_close(embed(network, theta, batch), ordinary[0](batch))
    torch.testing.assert_close(logits(network, theta, batch), ordinary(batch))
    assert list(theta) == [name for name, _ in network.named_parameters()]


def test_running_statistics_are_those_of_torch_nn(normed):
    """Training moves them, and testing does not."""
    network, theta = normed
    ordinary = ordinary_convnet(theta, 2, norm=nn.BatchNorm2d).train()
    start = with_buffers(network, theta)
    seen = with_batch_seen(network, theta, noise(20, 1, 8, 8))
    twice = with_batch_seen(network, seen, 2 * noise(30, 1, 8, 8))
    logits(network, seen, noise(5, 1, 8, 8))
    for tested, count, scale in ((start, 0, 1), (seen, 20, 1), (twice, 30, 2)):
        if count:
            ordinary(scale * noise(count, 1, 8, 8))
        kept = [value for name, value in tested.items() if name not in theta]
        theirs = [value for name, value in ordinary.named_buffers() if "running" in name]
        for value, expected in zip(kept, theirs, strict=True):
            torch.testing.assert_close(value, expected)
    ordinary.eval()
    batch = noise(130, 1, 8, 8, seed=9)
    torch.testing.assert_close(logits(network, twice, batch), ordinary(batch))
    torch.testing.assert_close(embed(network, twice, batch), ordinary[0](batch))
    before = seen["body.1.running_mean"].clone()
    logits(network, seen, noise(5, 1, 8, 8), training=True)
    assert not torch.equal(seen["body.1.running_mean"], before)


@pytest.fixture
def own(monkeypatch):
    """Build a network of one's own, from a function that returns its body."""

    def build_own(body, features):
        def network(sample_shape, class_count):
            return Network(body(), nn.Linear(features, class_count))

        monkeypatch.setitem(NETWORKS, "own", network)
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
    theta, batch = initial_parameters(network, stream()), noise(40, 1, 4, 4)
    features = (batch.view(40, 16) * torch.arange(16.0)) @ signs
    torch.testing.assert_close(embed(network, theta, batch), features)
    expected = features @ theta["head.weight"].T + theta["head.bias"]
    torch.testing.assert_close(logits(network, theta, batch), expected)
    trained = train(network, theta, batch, torch.arange(40) % 3, Recipe(steps=7), stream())
    assert trained["body.passes"] == 7
    assert network.body.passes == 0
    assert list(theta) == ["head.weight", "head.bias"]


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}])
def test_one_weight_in_two_places_or_a_batch_norm_that_cannot_test_is_refused(own, options):
    layer = nn.Linear(16, 16)
    with pytest.raises(ValueError, match="'own' has one weight in several places"):
        own(lambda: nn.Sequential(nn.Flatten(), layer, nn.Sequential(layer)), 16)
    with pytest.raises(ValueError, match="has no momentum or no running statistics; give it both"):
        Network(nn.BatchNorm2d(3, **options), nn.Linear(3, 2))


def test_testing_drops_nothing_in_any_part_of_the_network(own):
    network = own(lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(0.5))), 16)
    theta, batch = initial_parameters(network, stream()), noise(40, 1, 4, 4)
    dropped = logits(network, theta, batch, training=True)
    network.body[1].train()  # as code of a user's might leave it
    assert torch.equal(embed(network, theta, batch), batch.flatten(1))
    expected = F.linear(batch.flatten(1), theta["head.weight"], theta["head.bias"])
    torch.testing.assert_close(logits(network, theta, batch), expected)
    assert not torch.allclose(dropped, expected)
