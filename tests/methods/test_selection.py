"""Random, herding, kernel herding and k-center against naive double loops."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from draws import ordinary_convnet, prepare

from ddlib.methods import METHODS, selection
from ddlib.methods.common import class_members, random_members
from ddlib.methods.selection import (
    FeatureSelection,
    KernelSelection,
    RandomSelection,
    herding,
    k_center,
    kernel_herding,
    random,
)
from ddlib.networks.functional import build, embed
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training.loop import train
from ddlib.training.recipe import Recipe

CONTROLS = {
    "random": (random, RandomSelection()),
    "herding": (herding, FeatureSelection(steps=20)),
    "k_center": (k_center, FeatureSelection(steps=20)),
    "kernel_herding": (kernel_herding, KernelSelection(steps=20, bandwidth=0.5)),
}
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
def test_features_decide(tiny, members, select, by_hand, norm, steps):
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


@pytest.mark.parametrize("name", ["herding", "k_center", "kernel_herding", "nearest_to_centroid"])
def test_one_trained_network_serves_all_sizes_and_seeds(tiny, network, tmp_path, name):
    """Its features give the sets of a network that was trained as long by hand."""
    entry = METHODS[name]
    recipe = Recipe(steps=9, batch_size=50, learning_rate=0.3)
    parameters = entry.parameters(features="trained", training=recipe)
    more = prepare(entry, parameters, [2, 5], tiny, network, tmp_path)
    assert len(more[0]) == 1
    first, other = (entry.distil(tiny, network, [2, 5], seed, parameters, *more) for seed in (0, 1))
    assert not prepare(entry, parameters.replace(features="steps"), [2], tiny, network, tmp_path)[0]
    if name != "nearest_to_centroid":  # whose k-means starts from other samples
        assert torch.equal(first[5].samples, other[5].samples)
    if name == "herding":
        theta = initial_parameters(network, generator("pool weights", 0))
        real = tiny.train.samples, tiny.train.labels
        theta = train(network, theta, *real, recipe, generator("pool batches", 0))
        features = embed(network, theta, tiny.train.samples).detach()
        rows = [
            members[herd_by_hand(features[members].double().numpy(), 5)]
            for members in class_members(tiny)
        ]
        assert torch.equal(first[5].samples, tiny.train.samples[torch.cat(rows)])


@pytest.mark.parametrize(
    ("select", "by_hand", "options"),
    [
        (herding, herd_by_hand, {}),
        (k_center, cover_by_hand, {}),
        *((kernel_herding, herd_kernels_by_hand, {"bandwidth": width}) for width in (0.3, 2.0)),
    ],
)
def test_choices_from_the_samples_themselves_equal_naive_double_loops(
    tiny, members, select, by_hand, options
):
    parameters = KernelSelection(features="input", **options)
    images = select(tiny, None, [10], 0, parameters)[10].samples
    flat = tiny.train.samples.flatten(1).double().numpy()
    rows = torch.cat([own[by_hand(flat[own], 10, **options)] for own in members])
    assert torch.equal(images, tiny.train.samples[rows])
