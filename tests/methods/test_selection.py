"""Random, herding, kernel herding and k-center against naive double loops."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from draws import SMALL, ordinary_convnet, prepare

from ddlib.methods import METHODS, selection
from ddlib.methods.common import random_members
from ddlib.methods.selection import KernelSelection
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

ORDERS = (
    selection.herding_order,
    selection.k_center_order,
    partial(selection.kernel_herding_order, parameters=KernelSelection()),
)


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


def herd_kernels_by_hand(points, count, bandwidth):
    """Each choice makes the squared maximum mean discrepancy of t + 1 points and the class least.

    Of two sets it is the mean kernel within the first, plus that within the second, minus twice
    that between them. A point's kernel with itself is always 1.
    """
    variance = sum(np.var(values) for values in points.T)

    def kernel(one, other):
        return math.exp(-((one - other) ** 2).sum() / (2 * bandwidth**2 * variance))

    values = np.array([[kernel(one, other) for other in points] for one in points])
    chosen = []
    for _ in range(count):
        discrepancies = {}
        for row in set(range(len(points))) - set(chosen):
            rows = [*chosen, row]
            within, between = values[np.ix_(rows, rows)].mean(), values[rows].mean()
            discrepancies[row] = within - 2 * between + values.mean()
        chosen.append(min(discrepancies, key=discrepancies.get))
    return chosen


def test_orders_choose_each_point_once():
    alike = torch.tensor([[1.0], [1], [1], [1], [0], [0]])
    for order in ORDERS:
        assert sorted(order(alike, 6).tolist()) == list(range(6))
        assert order(alike[:1], 1).tolist() == [0]


@pytest.mark.parametrize("name", ["random", "herding", "k_center", "kernel_herding"])
def test_a_control_gives_nested_sizes_of_real_images(tiny, network, members, tmp_path, name):
    entry, parameters = METHODS[name], METHODS[name].parameters(**SMALL[name])
    more = prepare(entry, parameters, [40], tiny, network, tmp_path)
    sets = entry.distil(tiny, network, [2, 17, 40], 5, parameters, *more)
    for ipc, synthetic in sets.items():
        images = synthetic.samples.view(3, ipc, 1, 8, 8)
        assert torch.equal(images, sets[40].samples.view(3, 40, 1, 8, 8)[:, :ipc])
        for label, rows in enumerate(members):
            matches = (images[label][:, None] == tiny.train.samples[rows]).flatten(2).all(2)
            assert matches.sum(1).tolist() == [1] * ipc
            assert matches.sum(0).max() == 1


BY_HAND = {"herding": herd_by_hand, "k_center": cover_by_hand}
BY_HAND["kernel_herding"] = partial(herd_kernels_by_hand, bandwidth=0.3)
LAYERS = {"instance": torch.nn.InstanceNorm2d, "batch": torch.nn.BatchNorm2d}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize(
    ("features", "norm", "steps"),
    [
        ("input", "instance", 0),
        ("steps", "instance", 0),
        ("steps", "instance", 12),
        ("steps", "batch", 0),  # batch norms see 16 images of every class
        ("trained", "instance", 9),
    ],
)
def test_choices_equal_naive_double_loops_over_features(
    tiny, members, tmp_path, name, features, norm, steps
):
    """The features are the samples, or those of each seed's own network, or of one for all."""
    entry, real = METHODS[name], tiny.train
    network = build("convnet", tiny.sample_shape, 3, width=6, depth=2, norm=norm)
    options = {"steps": steps, "batch_size": 17, "learning_rate": 0.3}
    recipe = Recipe(**options | {"steps": max(steps, 1)})
    parameters = KernelSelection(features=features, training=recipe, bandwidth=0.3, **options)
    more = prepare(entry, parameters, [2, 8], tiny, network, tmp_path)
    assert len(more[0]) == (features == "trained")
    images, other = (entry.distil(tiny, network, [8], n, parameters, *more)[8] for n in (4, 5))
    assert torch.equal(images.samples, other.samples) == (features != "steps")
    stream, seed = ("pool", 0) if features == "trained" else ("feature", 4)
    theta = initial_parameters(network, generator(f"{stream} weights", seed))
    if steps:
        draws = generator(f"{stream} batches", seed)
        theta = train(network, theta, real.samples, real.labels, recipe, draws)
    ordinary = ordinary_convnet(theta, 2, norm=LAYERS[norm]).train()
    ordinary(real.samples[random_members(tiny, 16, 4)])
    seen = real.samples.flatten(1) if features == "input" else ordinary.eval()[0](real.samples)
    points = seen.detach().double().numpy()
    rows = torch.cat([own[BY_HAND[name](points[own], 8)] for own in members])
    assert torch.equal(images.samples, real.samples[rows])
