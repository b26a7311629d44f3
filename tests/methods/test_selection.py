"""Random, herding and k-center against naive double loops."""

import numpy as np
import pytest
import torch
from draws import noise

from ddlib.methods import selection
from ddlib.methods.common import random_members
from ddlib.methods.selection import FeatureSelection, RandomSelection, herding, k_center, random
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

CONTROLS = {
    "random": (random, RandomSelection()),
    "herding": (herding, FeatureSelection(steps=20)),
    "k_center": (k_center, FeatureSelection(steps=20)),
}


def herd_by_hand(points, count):
    mean, chosen = points.mean(0), []
    for _ in range(count):
        free = [row for row in range(len(points)) if row not in chosen]
        chosen.append(min(free, key=lambda r: np.linalg.norm(mean - points[[*chosen, r]].mean(0))))
    return chosen


def cover_by_hand(points, count):
    chosen = [int(np.argmin([np.linalg.norm(point - points.mean(0)) for point in points]))]
    while len(chosen) < count:
        reach = [min(np.linalg.norm(point - points[c]) for c in chosen) for point in points]
        chosen.append(int(np.argmax(reach)))
    return chosen


@pytest.mark.parametrize(("count", "size", "seed"), [(25, 6, 0), (40, 2, 1), (12, 30, 2)])
def test_both_orders_equal_naive_double_loops(count, size, seed):
    points = noise(count, size, seed=seed, dtype=torch.float64) + 3  # off the origin
    assert selection.herding_order(points, 10).tolist() == herd_by_hand(points.numpy(), 10)
    assert selection.k_center_order(points, 10).tolist() == cover_by_hand(points.numpy(), 10)
    alike = torch.tensor([[1.0], [1], [1], [1], [0], [0]])
    for order in (selection.herding_order, selection.k_center_order):  # each point once
        assert sorted(order(alike, 6).tolist()) == list(range(6))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_gives_nested_sizes_of_real_images(tiny, network, members, name):
    select, parameters = CONTROLS[name]
    sets = select(tiny, network, [2, 17, 40], 5, parameters)
    for ipc, synthetic in sets.items():
        images = synthetic.samples.view(3, ipc, 1, 8, 8)
        assert torch.equal(images, sets[40].samples.view(3, 40, 1, 8, 8)[:, :ipc])
        for label, rows in enumerate(members):
            matches = (images[label][:, None] == tiny.train.samples[rows]).flatten(2).all(2)
            assert matches.sum(1).tolist() == [1] * ipc
            assert matches.sum(0).max() == 1


@pytest.mark.parametrize(
    ("select", "by_hand"), [(herding, herd_by_hand), (k_center, cover_by_hand)]
)
@pytest.mark.parametrize(("norm", "steps"), [("instance", 0), ("instance", 12), ("batch", 0)])
def test_features_decide(tiny, members, ordinary_convnet, select, by_hand, norm, steps):
    """The network is trained on D; if not, its batch norms see 16 images of every class."""
    network = build("convnet", tiny.sample_shape, 3, width=6, depth=2, norm=norm)
    parameters = FeatureSelection(steps=steps, batch_size=17, learning_rate=0.3)
    images = select(tiny, network, [8], 4, parameters)[8].samples.view(3, 8, 1, 8, 8)
    theta = initial_parameters(network, generator("feature weights", 4))
    if steps:
        recipe = Recipe(steps=12, batch_size=17, learning_rate=0.3)
        real = tiny.train.samples, tiny.train.labels
        theta = train(network, theta, *real, recipe, generator("feature batches", 4))
    layer = {"instance": torch.nn.InstanceNorm2d, "batch": torch.nn.BatchNorm2d}[norm]
    ordinary = ordinary_convnet(theta, 2, norm=layer).train()
    ordinary(tiny.train.samples[random_members(tiny, 16, 4)])
    features = ordinary.eval()[0](tiny.train.samples).detach().double().numpy()
    for label, rows in enumerate(members):
        assert torch.equal(images[label], tiny.train.samples[rows[by_hand(features[rows], 8)]])
