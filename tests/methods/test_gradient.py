"""DC and DSA against the reference algorithm, written out with ordinary networks."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from draws import decoded_by_hand, ordinary_convnet, ordinary_mlp
from torch import nn

from ddlib.data.normalise import Whitening
from ddlib.methods import METHODS
from ddlib.methods.common import fresh_networks, random_members, real_batches
from ddlib.methods.gradient import (
    GradientMatching,
    SiameseGradientMatching,
    inner_recipe,
    row_cosine_distance,
)
from ddlib.networks.functional import build
from ddlib.seeds import generator
from ddlib.training import augment

distil = METHODS["dc"].distil
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
DRAWS = "matching augmentation"  # the name of a stream


@pytest.fixture(scope="module")
def perceptron(tiny):
    return build("mlp", tiny.sample_shape, tiny.class_count, width=10, depth=2)


def settings(**changes):
    short = {"iterations": 2, "outer_steps": 3, "inner_epochs": 4, "real_batch": 36}
    rates = {"learning_rate": 0.2, "network_learning_rate": 0.05}
    return GradientMatching(**short | rates | changes)


def reference_distance(ours, theirs):
    """Autograd through a loop over layers and rows, parameters of one dimension left out."""
    total = 0
    for our_layer, their_layer in zip(ours, theirs, strict=True):
        if our_layer.dim() < 2:
            continue
        for a, b in zip(our_layer, their_layer, strict=True):
            a, b = a.reshape(-1), b.reshape(-1)
            if not a.any():  # a dead unit stays so nearby, but sqrt has no slope at 0
                total = total + 1
                continue
            total = total + 1 - a.dot(b) / (a.dot(a).sqrt() * b.dot(b).sqrt() + 1e-6)
    return total


def reference_match(ordinary, dataset, batch, images, drawn):
    """The reference's way: one graph over all classes, one sum, differentiated once."""
    parameters = list(ordinary.parameters())
    ipc = len(images) // dataset.class_count
    total = 0
    for label, rows in enumerate(batch):
        seen = augment.apply(dataset.train.samples[rows], drawn[label])
        real_loss = F.cross_entropy(ordinary(seen), dataset.train.labels[rows])
        real = [value.detach() for value in torch.autograd.grad(real_loss, parameters)]
        synthetic = augment.apply(images[label * ipc : (label + 1) * ipc], drawn[label])
        loss = F.cross_entropy(ordinary(synthetic), torch.tensor([label] * ipc))
        slopes = torch.autograd.grad(loss, parameters, create_graph=True)
        total = total + reference_distance(slopes, real)
    return total


def test_the_distance_by_hand():
    # Rows (3, 4) and (4, 3): cosine 24/25; rows (1, 0) and (0, 2): 0; rows (1, 1), (-2, -2): -1.
    ours = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    theirs = torch.tensor([[4.0, 3.0], [0.0, 2.0], [-2.0, -2.0]])
    assert row_cosine_distance([ours], [theirs]).item() == pytest.approx(0.04 + 1 + 2, abs=1e-5)
    # Parallel rows of norm 1e-3: 1 - 1e-6 / (1e-6 + 1e-6) = 1/2, where a cosine would give 0.
    small = [torch.tensor([[1e-3, 0.0]], dtype=torch.float64)]
    assert row_cosine_distance(small, small).item() == pytest.approx(0.5)
    dead = torch.zeros(2, 3, requires_grad=True)
    value = row_cosine_distance([dead], [torch.ones(2, 3)])
    value.backward()
    assert value.item() == 2
    assert dead.grad.isfinite().all()


@pytest.mark.parametrize(
    ("k", "epochs", "steps"), [(3, 50, 50), (256, 10, 10), (257, 10, 20), (1000, 10, 40)]
)
def test_an_inner_epoch_is_as_many_batches_as_the_set_needs(k, epochs, steps):
    recipe = inner_recipe(SiameseGradientMatching(inner_epochs=epochs), 100, k)
    assert (recipe.steps, recipe.batch_size, recipe.learning_rate) == (steps, 256, 0.01)
    assert (recipe.momentum, recipe.weight_decay, recipe.schedule) == (0, 0, "constant")
    assert (recipe.optimizer, recipe.augmentation) == ("sgd", "dsa")


SMALLER = {"name": "mlp", "width": 6, "depth": 2}
FAMILY = [
    {"network": {"name": "mlp", "width": 10, "depth": 2}, "learning_rate": 0.05},
    {"network": SMALLER, "optimizer": "adam", "learning_rate": 0.01},
]
RUNS = {
    "convnet": {},
    "dsa": {"augmentation": "dsa"},
    "batch norm": {},
    "mlp": {},
    "family": {"configurations": FAMILY, "iterations": 5},
    "geometric": {"configurations": FAMILY, "iterations": 5, "average": "geometric"},
    "factor": {"factor": 2, "initialisation": "real"},
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_equals_the_reference_algorithm_written_out(tiny, network, perceptron, kind):
    """Iterations of three outer steps with four inner epochs between.

    An augmentation is drawn once for both sides of a class, and for each image in inner epochs.
    Batch norms take statistics from 16 real images a class and keep them while gradients are
    matched; training on S moves them again. For configurations, an iteration takes the network
    and the optimizer of one. With a factor, networks see the smaller images that each image holds.
    """
    norms, convolves = kind == "batch norm", kind in ("convnet", "dsa", "batch norm", "factor")
    batch_norms = build("convnet", (1, 8, 8), 3, width=6, depth=2, norm="batch")
    body = batch_norms if norms else network if convolves else perceptron
    parameters = settings(**RUNS[kind])
    factor, families = parameters.factor, augment.STRATEGIES[parameters.augmentation]
    images = start = distil(tiny, body, [2], 0, parameters.replace(iterations=0))[2].samples
    distilled = distil(tiny, body, [2], 0, parameters)[2].samples
    velocity, samples = torch.zeros_like(start), real_batches(tiny, 16, generator("statistics", 0))
    batches, draws = real_batches(tiny, 36, generator("real", 0)), generator(DRAWS, 0)
    networks = fresh_networks(tiny, body, parameters.configurations, 0)
    drawn = list(islice(networks, parameters.iterations))
    for number, (_, options, theta) in enumerate(drawn):
        stream = generator("inner batches", 0, number, 2)
        layer = nn.BatchNorm2d if norms else nn.InstanceNorm2d
        ordinary = ordinary_convnet(theta, 2, norm=layer) if convolves else ordinary_mlp(theta)
        for outer in range(3):
            if norms:
                ordinary.train()(tiny.train.samples[torch.cat(next(samples))])
                ordinary.eval()
            images = images.detach().requires_grad_()
            shared = [augment.draw(families, 1, draws) for _ in range(3)]
            seen = decoded_by_hand(images, factor)
            total = reference_match(ordinary, tiny, next(batches), seen, shared)
            total = total.log() if kind == "geometric" else total
            velocity = 0.5 * velocity + torch.autograd.grad(total, images)[0]
            images = (images - 0.2 * velocity).detach()
            adam, rate = options.get("optimizer") == "adam", options.get("learning_rate", 0.05)
            kinds = torch.optim.SGD, torch.optim.Adam
            optimiser = kinds[adam](ordinary.train().parameters(), rate)
            for _ in range(4 if outer < 2 else 0):
                optimiser.zero_grad()
                seen, labels = decoded_by_hand(images, factor), LABELS.repeat_interleave(factor**2)
                seen = augment.apply(seen, augment.draw(families, len(seen), stream))
                F.cross_entropy(ordinary(seen), labels).backward()
                optimiser.step()
    assert len({chosen for chosen, _, _ in drawn}) == (2 if parameters.configurations else 1)
    torch.testing.assert_close(distilled, images, rtol=1e-3, atol=1e-4)
    assert (distilled - start).abs().max() > 0.01


def test_multi_formation_starts_from_real_images_and_refuses_what_does_not_fit(tiny, network):
    """Each stored image holds four shrunken ones of its class."""
    for name in ("dm", "dc", "dsa"):
        entry = METHODS[name]
        parameters = entry.parameters(iterations=0, initialisation="real", factor=2)
        stored = entry.distil(tiny, network, [2], 3, parameters)[2]
        assert (stored.k, stored.factor, stored.samples.shape) == (6, 2, (6, 1, 8, 8))
        real = tiny.train.at(random_members(tiny, 8, 3)).view(6, 4, 1, 8, 8)
        small = F.avg_pool2d(real.flatten(0, 1), 2).view(6, 4, 4, 4)
        for place, corner in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            rows, columns = (slice(start, start + 4) for start in corner)
            torch.testing.assert_close(stored.samples[:, 0, rows, columns], small[:, place])
        for change, ipc, message in (
            ({"factor": 3}, 1, "factor=3 does not divide images of 8 x 8 pixels; choose from 1, 2"),
            ({}, 11, "starts ipc=11 from 44 real images of each class, but .* has 40; choose a sm"),
        ):
            with pytest.raises(ValueError, match=message):
                entry.distil(tiny, network, [1, ipc], 0, parameters.replace(**change))
    whitened = replace(tiny, normalisation=Whitening(torch.zeros(64), torch.eye(64)))
    with pytest.raises(ValueError, match="factor=2 makes images smaller, but zca: true has mixed"):
        entry.distil(whitened, network, [1], 0, parameters)
    parameters = parameters.replace(factor=1)
    assert entry.distil(whitened, network, [1], 0, parameters)[1].factor == 1
