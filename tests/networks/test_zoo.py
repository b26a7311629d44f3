import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from draws import filled, narrow, noise, ordinary_convnet, stream
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from ddlib.networks import layers
from ddlib.networks.functional import build, embed, logits
from ddlib.networks.initial import initial_parameters
from ddlib.networks.zoo import KINDS, NETWORKS

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
IMAGE_NETWORKS = [name for name, kinds in KINDS.items() if "image" in kinds]


def weights(network, seed=0):
    """Initial weights, moved so that norms of one and zero do not hide a missing affine map."""
    theta = initial_parameters(network, stream(seed))
    for number, value in enumerate(theta.values()):
        value.add_(0.1 * torch.randn(value.shape, generator=stream(number)))
    return theta


def assert_same(network, ordinary, shape, pad=0):
    """The network equals an ordinary model with the same weights, in order and none left over."""
    theta, batch = weights(network), noise(3, *shape)
    theirs = filled(ordinary, theta.values())(F.pad(batch, (pad,) * 4))
    assert theirs.std() > 1e-3
    torch.testing.assert_close(logits(network, theta, batch), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "published"),
    [
        ("linear", (30,), 2, {}, 31 * 2),
        ("mlp", MNIST, 10, {}, 785 * 128 + 129 * 128 + 129 * 10),
        ("convnet", MNIST, 10, {}, 317_706),
        ("convnet", CIFAR, 10, {}, 320_010),
        ("convnet", CIFAR, 100, {}, 504_420),
        ("convnet", (3, 128, 128), 10, {}, 615_690),
        ("lenet", CIFAR, 10, {}, 62_006),
        # torchvision's vgg11 (132,863,336) without its three linear layers (123,642,856), plus a
        # scale and a shift for each channel and 512 x 10 + 10
        ("vgg11", CIFAR, 10, {}, 132_863_336 - 123_642_856 + 2 * 2_752 + 5_130),
        ("vgg11", CIFAR, 10, {"norm": "none"}, 132_863_336 - 123_642_856 + 5_130),
        # torchvision's resnet18 (11,689,512): 3x3 for 7x7 in the first layer, 10 classes
        ("resnet18", CIFAR, 10, {}, 11_689_512 - 64 * 3 * (49 - 9) - 513 * 990),
        ("mobilenet_v2", CIFAR, 1000, {}, 3_504_872),
    ],
)
def test_networks_have_as_many_weights_as_published(name, shape, classes, options, published):
    with torch.device("meta"):  # sizes need no values
        network = NETWORKS[name](shape, classes, **options)
    assert sum(value.numel() for value in network.parameters()) == published


@pytest.mark.parametrize(
    ("side", "depth"), [(8, 1), (9, 2), (16, 2), (17, 3), (32, 3), (64, 4), (96, 5)]
)
def test_the_depth_of_a_convnet_follows_the_image(side, depth):
    layers = build("convnet", (3, side, side), 10, width=2).modules()
    assert sum(isinstance(layer, nn.Conv2d) for layer in layers) == depth


@pytest.mark.parametrize(
    ("shape", "width", "depth", "padding"),
    [
        (MNIST, 6, 3, 2),  # 28 -> 32, as the reference pads MNIST
        ((2, 8, 8), 4, 1, 0),
        ((1, 8, 16), 3, 3, 0),  # the smallest side that depth 3 takes
        ((1, 24, 28), 4, 3, (2, 2, 0, 0)),
    ],
)
def test_convnet_equals_one_built_from_torch_nn(shape, width, depth, padding):
    network = build("convnet", shape, 7, width=width, depth=depth)
    theta, batch = weights(network), noise(5, *shape)
    ordinary = ordinary_convnet(theta, depth, padding)
    torch.testing.assert_close(logits(network, theta, batch), ordinary(batch))
    torch.testing.assert_close(embed(network, theta, batch), ordinary[0](batch))


@pytest.mark.parametrize(("shape", "pad"), [(CIFAR, 0), (MNIST, 2), (DIGITS, 12)])
def test_lenet_equals_one_built_from_torch_nn(shape, pad):
    ordinary = nn.Sequential(
        *(nn.Conv2d(shape[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, 7),
    )
    assert_same(build("lenet", shape, 7), ordinary, shape, pad)


@pytest.mark.parametrize(("shape", "pad", "side"), [(CIFAR, 0, 4), (MNIST, 2, 4), (DIGITS, 0, 1)])
def test_alexnet_equals_one_built_from_torch_nn(shape, pad, side):
    ordinary = nn.Sequential(
        *(nn.Conv2d(shape[0], 128, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(192, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 192, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(192, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(192 * side * side, 7)),
    )
    assert_same(build("alexnet", shape, 7), ordinary, shape, pad)


def instance_norm(channels):
    return nn.InstanceNorm2d(channels, affine=True)


@pytest.mark.parametrize(
    ("name", "column", "side", "pad"),
    [("vgg11", "A", 28, 2), ("vgg11", "A", 8, 12), ("vgg16", "D", 64, 0)],
)
def test_vgg_equals_torchvisions_convolutions(name, column, side, pad):
    plan = [v if v == "M" else v // 16 for v in torchvision.models.vgg.cfgs[column]]
    body = torchvision.models.vgg.make_layers(plan, batch_norm=True)
    for number, layer in enumerate(body):
        if isinstance(layer, nn.BatchNorm2d):
            body[number] = instance_norm(layer.num_features)
    ordinary = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 7))
    assert_same(build(name, (3, side, side), 7, width=4), ordinary, (3, side, side), pad)


@pytest.mark.parametrize(
    ("norm", "theirs", "size", "pad"),
    [
        ("instance", instance_norm, 28, 2),
        ("instance", instance_norm, 8, 4),
        ("batch", nn.BatchNorm2d, 28, 2),
        ("none", nn.Identity, 32, 0),
    ],
)
def test_resnet_equals_torchvisions(norm, theirs, size, pad):
    """With the first layer that small images have."""
    ordinary = torchvision.models.resnet18(num_classes=7, norm_layer=theirs)
    ordinary.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    ordinary.maxpool = nn.Identity()
    network = build("resnet18", (3, size, size), 7, norm=norm)
    assert_same(network, ordinary, (3, size, size), pad)


@pytest.mark.parametrize(("size", "pad"), [(32, 0), (28, 2)])
def test_mobilenet_equals_torchvisions_with_two_strides_less(size, pad):
    ordinary = torchvision.models.mobilenet_v2(num_classes=7, dropout=0.0)
    ordinary.features[0][0].stride = (1, 1)
    ordinary.features[2].conv[1][0].stride = (1, 1)
    assert_same(build("mobilenet_v2", (3, size, size), 7), ordinary, (3, size, size), pad)


@pytest.mark.parametrize(("side", "padded", "patch"), [(32, 32, 4), (8, 8, 2), (30, 32, 4)])
def test_vit_equals_torchvisions(side, padded, patch):
    ordinary = VisionTransformer(padded, patch, 2, 3, 12, 48, num_classes=7)
    network = build("vit", (3, side, side), 7, width=12, depth=2)
    assert_same(network, ordinary, (3, side, side), (padded - side) // 2)


def test_vit_pads_an_oblong_to_a_square_about_it():
    network = build("vit", (1, 9, 15), 4, width=6, depth=1)  # patches of 2
    theta, batch = weights(network), noise(2, 1, 9, 15)
    square = build("vit", (1, 16, 16), 4, width=6, depth=1)
    placed = F.pad(batch, (0, 1, 3, 4))  # 15 -> 16 wide, 9 -> 16 high
    torch.testing.assert_close(logits(network, theta, batch), logits(square, theta, placed))


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize("shape", [DIGITS, MNIST, (3, 64, 64)])
def test_every_network_takes_every_data_set_to_the_second_derivative(name, shape):
    network = build(name, shape, 10, **narrow(name))
    theta = initial_parameters(network, stream())
    batch = noise(2, *shape).requires_grad_()
    features = embed(network, theta, batch)
    assert features.shape == (2, network.head.in_features)
    head = F.linear(features, theta["head.weight"], theta["head.bias"])
    torch.testing.assert_close(head, logits(network, theta, batch))
    leaves = [value.requires_grad_() for value in theta.values()]
    loss = F.cross_entropy(logits(network, theta, batch), torch.tensor([3, 3]))
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    assert all(layer.isfinite().all() and layer.any() for layer in gradients)
    sum(layer.pow(2).sum() for layer in gradients).backward(inputs=[batch])
    assert batch.grad.isfinite().all()
    assert all(image.any() for image in batch.grad)


@pytest.mark.parametrize(
    ("norm", "axes", "groups"),
    [("instance", (2, 3), 8), ("group", (2, 3), 4), ("layer", (2, 3), 1), ("batch", (0, 2, 3), 8)],
)
def test_norms_are_what_their_names_say(norm, axes, groups):
    maps = 3 + 2 * noise(5, 8, 4, 4)
    parts = maps.view(5, groups, 8 // groups * 4, 4)
    mean = parts.mean(axes, keepdim=True)
    variance = (parts - mean).pow(2).mean(axes, keepdim=True)
    expected = ((parts - mean) / (variance + 1e-5).sqrt()).view(maps.shape)
    torch.testing.assert_close(layers.NORMS[norm](8)(maps), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(layers.NORMS["none"](8)(maps), maps)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("convnet", MNIST, {"norm": "bacth"}, "'bacth' is not a norm; did you mean 'batch'? allow"),
        ("convnet", MNIST, {"depth": "deep"}, "depth='deep' must be a whole number of at least 1"),
        ("alexnet", MNIST, {"norm": "batch"}, "'norm' is not a parameter; allowed: none"),
        ("resnet", MNIST, {}, "'resnet' is not a network; did you mean 'resnet18'? allowed: mlp"),
        ("vit", MNIST, {"width": 100}, "width=100 is not a multiple of 3 heads; choose one"),
        ("convnet", (3, 7, 32), {"depth": 3}, "images of at least 8 pixels, got 7x32; choose"),
        ("convnet", (30,), {}, "but these are vector data of shape (30,); choose mlp, linear"),
        ("text_cnn", MNIST, {}, "the network 'text_cnn' takes sequence data, but these are image"),
        ("mlp", (7, 4), {}, "the network 'mlp' takes image or vector data, but these are sequence"),
        ("text_cnn", (7, 4), {"dropout": 2}, "the network 'text_cnn': dropout=2 must be a number"),
    ],
)
def test_what_a_network_cannot_be_is_refused_in_one_sentence(name, shape, options, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{re.escape(message)}[^\n]*$"):
        build(name, shape, 10, **options)


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 9, 7), (1, 1, 2, 2)])
def test_average_pool_is_that_of_torch_up_to_its_second_derivative(shape):
    batch = noise(*shape).double().requires_grad_()
    torch.testing.assert_close(layers.AveragePool()(batch), F.avg_pool2d(batch, 2))
    assert torch.autograd.gradcheck(layers.AveragePool(), batch)
    assert torch.autograd.gradgradcheck(layers.AveragePool(), batch)
