"""Blocks in fewer passes over memory: the numbers and derivatives of layer after layer."""

import gc
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from ddlib import winograd
from ddlib.blocks import Blocks
from ddlib.devices import precision
from ddlib.networks import build, initial_parameters, logits
from ddlib.seeds import generator
from ddlib.training import OPTIMISERS, Recipe, training_steps
from ddlib.zoo import Network

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 18, 28), (1, 27, 24)]


def make(shape, width=96, norm="instance", depth=3):
    """Return a body and its weights, whose norms are no identity."""
    network = build("convnet", shape, 10, width=width, norm=norm, depth=depth)
    stream = generator("blocks", shape)
    theta = initial_parameters(network, stream)
    body = {name[5:]: value for name, value in theta.items() if name.startswith("body.")}
    moved = {
        name: value + 0.3 * torch.randn(value.shape, generator=stream)
        if value.dim() == 1
        else value
        for name, value in body.items()
    }
    return network.body, moved


def draw(count, shape):
    return torch.randn(count, *shape, generator=generator("images", count, shape))


def layer_after_layer(body):
    return nn.Sequential(*body)


def through(body, theta, images):
    return functional_call(body, theta, (images,))


def far(made, wanted):
    return float((made.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


def in_float64(theta):
    return {name: value.double() for name, value in theta.items()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [17, 40])
def test_features_are_those_of_float64(shape, count):
    body, theta = make(shape)
    images = draw(count, shape)
    made = through(body, theta, images)
    assert not torch.equal(made, through(layer_after_layer(body), theta, images))
    exact = through(layer_after_layer(body), in_float64(theta), images.double())
    assert far(made, exact) < 2e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_images_are_those_of_float64(shape):
    """Up to the activations, alike where images are blank, that rounding takes over ReLU's kink."""
    body, theta = make(shape)
    images = draw(40, shape)
    features = through(body, theta, images)
    along = torch.randn(features.shape, generator=generator("along"))

    def gradient(body, theta, images):
        images = images.clone().requires_grad_()
        (through(body, theta, images).tanh() * along.to(images.dtype)).sum().backward()
        return images.grad

    made = gradient(body, theta, images)
    assert not torch.equal(made, gradient(layer_after_layer(body), theta, images))
    exact = gradient(layer_after_layer(body), in_float64(theta), images.double())
    assert far(made, exact) < 2e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_of_derivatives_by_weights_are_those_of_float64(shape):
    body, theta = make(shape, depth=1)
    images = draw(9, shape)

    def derivatives(body, theta, images):
        images = images.clone().requires_grad_()
        theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
        made = through(body, theta, images)
        weights = [value for value in theta.values() if value.dim() > 1]
        first = torch.autograd.grad(made.tanh().mean(), weights, create_graph=True)
        length = sum(each.pow(2).sum() for each in first)
        return [*first, torch.autograd.grad(length, images)[0]]

    exact = derivatives(layer_after_layer(body), in_float64(theta), images.double())
    for made, wanted in zip(derivatives(body, theta, images), exact, strict=True):
        assert far(made, wanted) < 3e-3


def test_every_weight_has_a_gradient_where_gradients_of_weights_are_asked_for():
    body, theta = make((1, 28, 28))
    images = draw(8, (1, 28, 28))
    theta = {name: value.requires_grad_() for name, value in theta.items()}
    found = torch.autograd.grad(through(body, theta, images).sum(), list(theta.values()))
    by_name = dict(zip(theta, found, strict=True))
    assert not by_name["0.bias"].any()  # instance norm takes a bias away
    assert all(by_name[name].any() for name in theta if not name.endswith("bias"))


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"width": 95}, torch.float32),
        ({"width": 96, "norm": "group"}, torch.float32),
        ({"width": 96, "norm": "batch"}, torch.float32),
        ({"width": 96, "norm": "none"}, torch.float32),
        ({"width": 96}, torch.float64),
    ],
)
def test_elsewhere_a_block_is_its_layers_to_the_byte(options, dtype):
    body, theta = make((1, 28, 28), **options)
    theta = {name: value.to(dtype) for name, value in theta.items()}
    images = draw(12, (1, 28, 28)).to(dtype)
    assert torch.equal(
        through(body, theta, images), through(layer_after_layer(body), theta, images)
    )


@pytest.mark.parametrize(
    ("place", "layer"),
    [(2, nn.GELU()), (3, nn.MaxPool2d(2)), (1, nn.GroupNorm(96, 96, affine=False)), (7, nn.Tanh())],
)
def test_another_layer_in_its_place_is_that_layer(place, layer):
    body, theta = make((1, 28, 28))
    body[place] = layer
    theta = {name: value for name, value in theta.items() if name in dict(body.named_parameters())}
    images = draw(8, (1, 28, 28))
    exact = through(layer_after_layer(body), in_float64(theta), images.double())
    assert far(through(body, theta, images), exact) < 2e-5


@pytest.mark.parametrize("part", [slice(4), slice(7), slice(-1), slice(4, 8), slice(5, 9)])
def test_a_part_of_a_body_is_those_layers(part):
    body, theta = make((1, 28, 28))
    layers, images = list(body), draw(8, (1, 28, 28))
    kept = {name: theta[name] for name in body[part].state_dict()}
    start = {name: theta[name] for name in body[: part.start or 0].state_dict()}
    given = through(nn.Sequential(*layers[: part.start or 0]), start, images)
    wanted = nn.Sequential(OrderedDict(list(body.named_children())[part]))
    exact = through(wanted, in_float64(kept), given.double())
    made = through(body[part], kept, given)
    assert made.shape == exact.shape
    assert far(made, exact) < 2e-5


def test_images_of_an_odd_side_lose_their_last_row():
    body, theta = make((1, 28, 28), depth=1)
    images = draw(8, (1, 27, 28))
    assert torch.equal(
        through(body, theta, images), through(layer_after_layer(body), theta, images)
    )


def test_no_images_have_no_features():
    body, theta = make((1, 28, 28))
    assert through(body, theta, draw(0, (1, 28, 28))).shape == (0, 96 * 4 * 4)


@pytest.mark.parametrize("trained", ["4.weight", "4.bias", "5.weight", "5.bias"])
def test_one_weight_that_is_trained_has_its_gradient(trained):
    body, theta = make((1, 28, 28), depth=2)
    images = draw(8, (1, 28, 28))

    def gradient(body, theta, images):
        wanted = theta[trained].clone().requires_grad_()
        through(body, theta | {trained: wanted}, images).tanh().sum().backward()
        return wanted.grad

    made = gradient(body, theta, images)
    exact = gradient(layer_after_layer(body), in_float64(theta), images.double())
    assert float((made - exact).norm()) < 3e-3 * max(1.0, float(exact.norm()))


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_training_is_that_of_the_layers(optimizer):
    """Fused optimisers move weights without a word to what is kept of kernels."""
    network = build("convnet", (1, 28, 28), 10, width=96, depth=3)
    plain = Network(layer_after_layer(network.body), network.head)
    theta = initial_parameters(network, generator("training"))
    images, labels = draw(16, (1, 28, 28)), torch.arange(16) % 10
    rate = 0.001 if optimizer == "rmsprop" else 0.01
    recipe = Recipe(steps=4, optimizer=optimizer, learning_rate=rate)

    def losses(network, theta, images):
        steps = training_steps(network, theta, images, labels, recipe, generator("batches"))
        return [float(F.cross_entropy(logits(network, now, images), labels)) for now in steps]

    made = losses(network, theta, images)
    assert made[-1] < made[0]
    assert made == pytest.approx(losses(plain, in_float64(theta), images.double()), rel=2e-3)


def test_weights_of_inference_mode_are_taken():
    body, theta = make((1, 28, 28))
    images = draw(8, (1, 28, 28))
    made = through(body, theta, images)
    with torch.inference_mode():
        copies = {name: value.clone() for name, value in theta.items()}
        assert torch.equal(through(body, copies, images), made)


def test_in_bfloat16_a_block_is_its_layers_to_the_byte():
    body, theta = make((3, 32, 32))
    images = draw(12, (3, 32, 32))
    with precision("bf16", "cpu"):
        made = through(body, theta, images)
        assert torch.equal(made, through(layer_after_layer(body), theta, images))


def test_three_channels_on_the_way_back_go_layer_by_layer():
    body, theta = make((3, 32, 32), depth=1)
    images = draw(12, (3, 32, 32)).requires_grad_()
    plain = through(layer_after_layer(body), theta, images)
    assert torch.equal(through(body, theta, images), plain)
    with torch.no_grad():
        assert not torch.equal(through(body, theta, images), plain)


def test_a_blank_image_is_no_division_by_zero():
    body, theta = make((1, 28, 28))
    images = torch.zeros(8, 1, 28, 28)
    images[4:] = 3.0
    exact = through(layer_after_layer(body), in_float64(theta), images.double())
    assert far(through(body, theta, images), exact) < 2e-5


@pytest.mark.parametrize("along", [torch.sum, lambda features: features.tanh().sum()])
def test_second_derivatives_by_images_alone_are_those_of_float64(along):
    body, theta = make((1, 28, 28), depth=2)
    images = draw(8, (1, 28, 28))

    def second(body, theta, images):
        images = images.clone().requires_grad_()
        features = along(through(body, theta, images))
        (first,) = torch.autograd.grad(features, images, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), images)[0]

    made = second(body, theta, images)
    exact = second(layer_after_layer(body), in_float64(theta), images.double())
    assert far(made, exact) < 3e-3


def test_a_kernel_that_is_changed_in_place_is_mapped_anew():
    kernel = torch.randn(96, 96, 3, 3, generator=generator("kernel"))
    for turned in (False, True):
        before = winograd.map_kernel(kernel, turned)
        assert winograd.map_kernel(kernel, turned) is before
        kernel.mul_(2)
        assert torch.allclose(winograd.map_kernel(kernel, turned), 2 * before)


def test_a_kernel_that_is_trained_is_mapped_anew():
    kernel = nn.Parameter(torch.randn(96, 96, 3, 3, generator=generator("kernel")))
    optimiser = torch.optim.SGD([kernel], lr=1.0, fused=True)
    winograd.map_kernel(kernel)
    kernel.grad = torch.ones_like(kernel)
    optimiser.step()
    assert torch.equal(winograd.map_kernel(kernel), winograd.map_kernel(kernel.detach().clone()))


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_step_of_training_is_counted_as_a_change(optimizer):
    network = build("convnet", (1, 28, 28), 10, width=96, depth=3)
    theta = initial_parameters(network, generator("training"))
    recipe = Recipe(steps=2, optimizer=optimizer)
    images, labels = draw(8, (1, 28, 28)), torch.arange(8)
    steps = training_steps(network, theta, images, labels, recipe, generator("batches"))
    kernel = next(steps)["body.4.weight"]
    winograd.map_kernel(kernel)
    next(steps)  # overwrites it
    assert torch.equal(winograd.map_kernel(kernel), winograd.map_kernel(kernel.clone()))


def test_what_was_mapped_goes_with_its_kernel():
    gc.collect()
    before = len(winograd._MAPPED)
    kernel = torch.ones(96, 96, 3, 3)
    winograd.map_kernel(kernel)
    assert len(winograd._MAPPED) == before + 1
    del kernel
    gc.collect()
    assert len(winograd._MAPPED) == before


def test_a_body_is_a_sequence_of_its_layers():
    body, _ = make((1, 28, 28))
    assert isinstance(body, Blocks)
    assert len(body) == 13
    assert isinstance(body[-1], nn.Flatten)
