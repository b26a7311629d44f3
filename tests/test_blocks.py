"""Blocks in fewer passes over memory: the numbers and derivatives of layer after layer."""

import gc

import pytest
import torch
from torch import nn
from torch.func import functional_call

from ddlib import winograd
from ddlib.blocks import Blocks
from ddlib.devices import precision
from ddlib.networks import build, initial_parameters
from ddlib.seeds import generator

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 16, 24)]


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
@pytest.mark.parametrize("count", [4, 17, 40])
def test_features_are_those_of_float64(shape, count):
    body, theta = make(shape)
    images = draw(count, shape)
    made = through(body, theta, images)
    assert not torch.equal(made, through(layer_after_layer(body), theta, images))
    exact = through(layer_after_layer(body), in_float64(theta), images.double())
    assert far(made, exact) < 2e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [4, 40])
def test_gradients_of_images_are_those_of_float64(shape, count):
    """Up to a few activations that rounding takes over ReLU's kink."""
    body, theta = make(shape)
    images = draw(count, shape)
    features = through(body, theta, images)
    along = torch.randn(features.shape, generator=generator("along"))

    def gradient(body, theta, images):
        images = images.clone().requires_grad_()
        (through(body, theta, images).tanh() * along.to(images.dtype)).sum().backward()
        return images.grad

    made = gradient(body, theta, images)
    assert not torch.equal(made, gradient(layer_after_layer(body), theta, images))
    exact = gradient(layer_after_layer(body), in_float64(theta), images.double())
    assert far(made, exact) < 3e-3


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


def test_no_gradient_keeps_no_activations():
    body, theta = make((1, 28, 28))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda each: each):
        through(body, theta, draw(8, (1, 28, 28)))
    assert sum(each.numel() for each in kept) <= 3 * sum(each.numel() for each in theta.values())


def test_a_kernel_that_is_changed_in_place_is_mapped_anew():
    kernel = torch.randn(96, 96, 3, 3, generator=generator("kernel"))
    for turned in (False, True):
        before = winograd.map_kernel(kernel, turned)
        assert winograd.map_kernel(kernel, turned) is before
        kernel.mul_(2)
        assert torch.allclose(winograd.map_kernel(kernel, turned), 2 * before)


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
