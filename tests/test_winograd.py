"""Convolutions with fewer products: PyTorch's numbers and derivatives, where they apply."""

import pytest
import torch
import torch.nn.functional as F

from ddlib import winograd
from ddlib.devices import precision
from ddlib.networks import build, embed, initial_parameters
from ddlib.seeds import generator
from ddlib.winograd import Convolution


def make(count, channels, outputs, height, width):
    """Return images, a kernel, a bias, and what their convolution is multiplied with."""
    stream = generator("winograd", count, channels, height)
    images = torch.randn(count, channels, height, width, generator=stream)
    kernel = torch.randn(outputs, channels, 3, 3, generator=stream) / (9 * channels) ** 0.5
    bias = torch.randn(outputs, generator=stream)
    weights = torch.randn(count, outputs, height, width, generator=stream)
    return images, kernel, bias, weights


def derivatives(layer, images, kernel, bias, weights):
    """Return a convolution, its first derivatives, and those of their length, as float64."""
    given = [each.clone().requires_grad_() for each in (images, kernel, bias)]
    made = layer(*given)
    first = torch.autograd.grad((made.tanh() * weights).sum(), given, create_graph=True)
    length = sum((each / each.detach().norm()).pow(2).sum() for each in first)
    return [each.detach().double() for each in (made, *first, *torch.autograd.grad(length, given))]


@pytest.mark.parametrize(
    ("count", "channels", "outputs", "height", "width"),
    [(67, 128, 128, 8, 8), (19, 96, 128, 16, 16), (9, 128, 96, 8, 20), (64, 100, 97, 4, 4)],
)
def test_numbers_and_derivatives_are_those_of_an_exact_convolution(
    count, channels, outputs, height, width
):
    given = make(count, channels, outputs, height, width)
    layer = Convolution(channels, outputs)
    assert layer.is_faster_for(given[0])
    assert height == 4 or count % winograd.parts_of(given[0])  # several parts, the last one smaller

    def ours(images, kernel, bias):
        weights = {"weight": kernel, "bias": bias}
        return torch.func.functional_call(layer, weights, (images,))

    exact = derivatives(
        lambda images, kernel, bias: F.conv2d(images, kernel, bias, padding=1),
        *(each.double() for each in given),
    )
    for made, wanted in zip(derivatives(ours, *given), exact, strict=True):
        assert (made - wanted).norm() < 2e-5 * wanted.norm()


def test_an_image_is_convolved_alike_in_whatever_company():
    images, kernel, _, _ = make(40, 96, 96, 8, 8)
    together = winograd.Convolve.apply(images, kernel)
    alone = torch.cat([winograd.Convolve.apply(each, kernel) for each in images.split(1)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_no_more_is_kept_for_the_way_back_than_images_and_kernel():
    images, kernel, _, _ = make(4, 96, 96, 8, 8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda kept: kept):
        winograd.Convolve.apply(images, kernel.requires_grad_())
    assert [each.shape for each in kept] == [images.shape, kernel.shape]


@pytest.mark.parametrize(
    ("channels", "outputs", "padding", "shape", "dtype"),
    [
        (95, 128, 1, (16, 95, 8, 8), torch.float32),
        (128, 95, 1, (16, 128, 8, 8), torch.float32),
        (96, 96, 1, (16, 96, 8, 10), torch.float32),
        (96, 96, 1, (15, 96, 8, 8), torch.float32),
        (96, 96, 1, (3, 96, 32, 32), torch.float32),
        (96, 96, 1, (96, 32, 32), torch.float32),
        (96, 96, (1, 3), (16, 96, 8, 8), torch.float32),
        (96, 96, 1, (16, 96, 8, 8), torch.float64),
        (96, 96, 1, (16, 96, 8, 8), torch.bfloat16),
    ],
)
def test_elsewhere_it_is_pytorchs_own(channels, outputs, padding, shape, dtype):
    layer = Convolution(channels, outputs, padding).to(dtype)
    images = torch.randn(shape, generator=generator("images"), dtype=torch.float32).to(dtype)
    wanted = F.conv2d(images, layer.weight, layer.bias, padding=padding)
    assert torch.equal(layer(images), wanted)


def test_it_is_pytorchs_own_on_accelerators_and_in_other_precisions():
    layer, images = Convolution(96, 96), torch.randn(16, 96, 8, 8, generator=generator("images"))
    assert layer.is_faster_for(images)
    assert not torch.equal(layer(images), F.conv2d(images, layer.weight, layer.bias, padding=1))
    assert not layer.is_faster_for(images.to("meta"))
    assert not layer.to(torch.bfloat16).is_faster_for(images)
    with precision("bf16", "cpu"):
        assert not layer.float().is_faster_for(images)
        wanted = F.conv2d(images, layer.weight, layer.bias, padding=1)
        assert torch.equal(layer(images), wanted)
        assert wanted.dtype == torch.bfloat16


def test_images_with_other_channels_are_refused_in_pytorchs_words():
    with pytest.raises(RuntimeError, match="to have 96 channels, but got 97 channels"):
        Convolution(96, 96)(torch.ones(16, 97, 8, 8))


def test_a_published_convnet_has_the_features_of_one_in_float64():
    network = build("convnet", (3, 32, 32), 10, width=128, depth=3)
    theta = initial_parameters(network, generator("weights"), "cpu")
    assert all(network.body[place].is_faster_for(torch.empty(32, 128, 8, 8)) for place in (4, 8))
    images = torch.randn(33, 3, 32, 32, generator=generator("images"))
    exact = embed(network, {name: each.double() for name, each in theta.items()}, images.double())
    made = embed(network, theta, images).double()
    assert (made - exact).norm() < 1e-5 * exact.norm()
