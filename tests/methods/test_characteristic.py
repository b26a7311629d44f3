"""NCFM against explicit complex sums, a closed form, and a run written out."""

import cmath
import math

import pytest
import torch
import torch.nn.functional as F
from draws import decoded_by_hand, filled, noise, ordinary_convnet, prepare
from torch import nn

from ddlib.methods import METHODS
from ddlib.methods.characteristic import CharacteristicMatching, discrepancy, frequency_network
from ddlib.methods.common import initial_images
from ddlib.methods.trained import first_weights, read_network
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

distil = METHODS["ncfm"].distil


def settings(**changes):
    few = {"iterations": 3, "real_batch": 40, "networks": 2, "frequencies": 5, "momentum": 0.8}
    pool = {"steps": 4, "batch_size": 16, "learning_rate": 0.1}
    return CharacteristicMatching(augmentation="none", pool=Recipe(**pool), **few | changes)


@pytest.fixture(scope="module")
def pool(tiny, network, tmp_path_factory):
    """The files of two networks trained on D."""
    folder = tmp_path_factory.mktemp("pool")
    return prepare(METHODS["ncfm"], settings(), [1, 2], tiny, network, folder)[0]


def explicit(features, frequency):
    """The characteristic function at one frequency: a loop over samples, in complex numbers."""
    dots = [sum(t * x for t, x in zip(frequency, row, strict=True)) for row in features.tolist()]
    return sum(cmath.exp(1j * dot) for dot in dots) / len(dots)


def explicit_discrepancy(ours, theirs, frequencies, amplitude):
    total = 0.0
    for one, other in zip(ours, theirs, strict=True):
        for t in frequencies.tolist():
            f, g = explicit(one, t), explicit(other, t)
            angle = cmath.phase(f) - cmath.phase(g)
            square = amplitude * (abs(f) - abs(g)) ** 2
            square += (1 - amplitude) * 2 * abs(f) * abs(g) * (1 - math.cos(angle))
            total += math.sqrt(square) / len(frequencies)
    return total


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 1.0])
def test_the_loss_equals_complex_loops(amplitude):
    ours = [noise(size, 4, seed=size, dtype=torch.float64) for size in (3, 5)]
    theirs = [noise(size, 4, seed=size, dtype=torch.float64) for size in (7, 2)]
    frequencies = noise(6, 4, seed=9, dtype=torch.float64)
    loss = discrepancy(ours, theirs, frequencies, amplitude)
    assert loss.item() == pytest.approx(explicit_discrepancy(ours, theirs, frequencies, amplitude))
    assert discrepancy(ours, ours, frequencies, amplitude).item() < 1e-5


def test_many_gaussian_features_give_the_closed_form():
    """N(mean, s^2 I) has exp(i <t, mean> - s^2 |t|^2 / 2), which shifts and widths change apart."""
    t, count = torch.tensor([[0.5, -1.0], [1.2, 0.3]], dtype=torch.float64), 400_000
    draws = noise(count, 2, dtype=torch.float64), noise(count, 2, seed=2, dtype=torch.float64)
    mean, width = torch.tensor([0.7, -0.4], dtype=torch.float64), 1.5
    shifted, wide = draws[1] + mean, width * draws[1]
    squares, angles = t.square().sum(1), t @ mean
    lengths = (-squares / 2).exp()
    error = 4 / math.sqrt(count)  # four standard errors of either function
    by_phase = (2 * lengths.square() * (1 - angles.cos())).sqrt().mean().item()
    assert discrepancy([draws[0]], [shifted], t, 0.0).item() == pytest.approx(by_phase, abs=error)
    by_length = (lengths - (-(width**2) * squares / 2).exp()).abs().mean().item()
    assert discrepancy([draws[0]], [wide], t, 1.0).item() == pytest.approx(by_length, abs=error)
    assert discrepancy([draws[0]], [wide], t, 0.0).item() < 2 * error
    assert min(by_phase, by_length) > 20 * error


def test_a_pool_is_trained_on_all_data(tiny, network, pool):
    recipe = Recipe(steps=4, batch_size=16, learning_rate=0.1)
    for number, path in enumerate(pool):
        start = first_weights(network, number, "cpu")
        batches = generator("pool batches", number)
        theta = train(network, start, tiny.train.samples, tiny.train.labels, recipe, batches)
        assert all(torch.equal(theta[n], v) for n, v in read_network(path, "cpu").items())
    assert not torch.equal(read_network(pool[0], "cpu")["head.weight"], theta["head.weight"])


def ordinary_chooser(theta):
    """The network that chooses frequencies, as torch.nn means it to be built."""
    layers = []
    for activation in (nn.LeakyReLU(0.2), nn.LeakyReLU(0.2), nn.Tanh()):
        layers += [nn.Linear(24, 24), nn.BatchNorm1d(24), activation]
    return filled(nn.Sequential(*layers), theta.values())


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_a_run_equals_the_min_max_written_out(tiny, network, pool, rate):
    """Three iterations over all of D: Adam by hand, down for S and up for the frequencies.

    Each stored image holds four; one augmentation of an iteration serves these and D. The
    seed is one whose gradients are nowhere near 0, where rounding would turn a step of Adam.
    """
    changes = {"learning_rate": 0.05, "calibration": 0.1, "factor": 2, "augmentation": "dsa"}
    parameters = settings(frequency_learning_rate=rate).replace(**changes)
    distilled = distil(tiny, network, [2], 4, parameters, pool)[2].samples
    images, applied = initial_images(tiny, 2, "real", 4, factor=2).requires_grad_(), set()
    mine, draws = torch.optim.Adam([images], lr=0.05, betas=(0.8, 0.999)), generator("pool", 4)
    theta = initial_parameters(frequency_network(24), generator("frequency weights", 4))
    chooser = ordinary_chooser(theta)
    rival = torch.optim.Adam(chooser.parameters(), lr=rate)
    labels = tiny.train.labels
    for iteration in range(3):
        place, share = torch.rand(2, generator=draws, dtype=torch.float64).tolist()
        number = int(2 * place)
        first, end = first_weights(network, number, "cpu"), read_network(pool[number], "cpu")
        between = {name: (1 - share) * value + share * end[name] for name, value in first.items()}
        body, end = (
            ordinary_convnet({name: theta[name] for name in first}, 2) for theta in (between, end)
        )
        stream = generator("characteristic function", 4, iteration)
        drawn = augment.draw(augment.STRATEGIES["dsa"], 1, stream)
        applied.add(drawn.family)
        random = torch.randn(5, 24, generator=stream, dtype=torch.float32)
        t = chooser(random) if rate else random
        views = [tiny.train.samples, decoded_by_hand(images, 2)]
        views = [augment.apply(samples, drawn) for samples in views]
        real, seen = (F.normalize(body[0](samples).flatten(1)) for samples in views)
        loss = 0
        for label in range(3):
            rows = slice(8 * label, 8 * label + 8)
            f = torch.exp(1j * (seen[rows] @ t.T)).mean(0)
            g = torch.exp(1j * (real[labels == label].detach() @ t.T)).mean(0)
            loss = loss + (f - g).abs().mean() / math.sqrt(2)
            loss = loss + 0.1 * F.cross_entropy(end(views[1][rows]), torch.full((8,), label))
        mine.zero_grad()
        rival.zero_grad()
        loss.backward()
        for value in chooser.parameters():
            value.grad = -value.grad if rate else None
        mine.step()
        rival.step()
    torch.testing.assert_close(distilled, images.detach(), rtol=1e-3, atol=1e-4)
    start = initial_images(tiny, 2, "real", 4, factor=2)
    assert (distilled - start).abs().max() > 0.05
    assert applied == {"color", "cutout", "scale"}
