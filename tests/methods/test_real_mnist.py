"""On real digits, one distilled image a class must teach more than one random image a class."""

import os

import pytest

from ddlib import data, networks
from ddlib.methods import METHODS
from ddlib.training import Recipe, train_and_score

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("DDLIB_DATA"), reason="DDLIB_DATA names no folder of real data"
    ),
]

RUNS = {
    "random": {},
    "dm": {
        "iterations": 60,
        "real_batch": 32,
        "learning_rate": 1,
        "initialisation": "real",
        "augmentation": "none",
    },
    "dc": {"iterations": 50, "real_batch": 32, "learning_rate": 1, "initialisation": "real"},
}


@pytest.fixture(scope="module")
def mnist():
    return data.load("mnist")


def accuracy(dataset, name):
    """Mean accuracy of two networks on the whole test set, after distilling one image a class."""
    network = networks.build("convnet", dataset.image_shape, 10, width=16, depth=3)
    method = METHODS[name]
    parameters = method.parameters.read(RUNS[name], name)
    synthetic = method.distil(dataset, network, [1], 0, parameters)[1]
    recipe = Recipe(steps=300, batch_size=64, learning_rate=0.03)
    images, labels = synthetic.images, synthetic.labels
    scores = [
        train_and_score(network, images, labels, dataset.test, recipe, (0, evaluation))
        for evaluation in range(2)
    ]
    return sum(score.accuracy for score in scores) / 2


@pytest.fixture(scope="module")
def random_accuracy(mnist):
    return accuracy(mnist, "random")


def test_random_images_already_teach_something(random_accuracy):
    assert 0.3 < random_accuracy < 0.7  # chance is 0.1, all digits 0.98


@pytest.mark.parametrize("name", ["dm", "dc"])
def test_distilled_images_beat_random_ones_by_five_points(mnist, random_accuracy, name):
    assert accuracy(mnist, name) >= random_accuracy + 0.05
