"""On real digits, one distilled image a class must teach more than one random image a class."""

import os
from dataclasses import replace

import pytest
from draws import prepare

from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.methods import METHODS
from ddlib.networks.functional import build
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("DDLIB_DATA"), reason="DDLIB_DATA names no folder of real data"
    ),
]

BATCHES = {"iterations": 18, "real_batch": 32, "learning_rate": 2, "initialisation": "real"}
STUDENTS = {"iterations": 20, "student_steps": 8, "max_start": 1, "learning_rate": 200}
STUDENTS |= {"step_size": 0.05, "step_size_learning_rate": 1e-5, "augmentation": "none"}
EXPERTS = {"experts": 1, "expert_steps": 40, "expert_batch": 64, "expert_learning_rate": 0.05}
GUIDED = {"steps": 10, "stop": 3, "guidance": 1, "classifier_free_guidance": 2}
RUNS = {
    "random": {},
    "dm": BATCHES | {"iterations": 40, "learning_rate": 1, "augmentation": "none"},
    "dc": BATCHES,
    "dsa": BATCHES | {"augmentation": "dsa_no_flip"},
    "mtt": STUDENTS | EXPERTS | {"expert_augmentation": "none"},
    "mgd3": GUIDED | {"unet_channels": [8, 16, 16], "unet_steps": 60, "unet_batch_size": 16},
}


@pytest.fixture(scope="module")
def mnist():
    whole = load("mnist")  # a fifth of its test images is enough, and five times as fast
    return replace(whole, test=Split(whole.test.samples[:2000], whole.test.labels[:2000]))


@pytest.fixture(scope="module")
def network(mnist):
    return build("convnet", mnist.sample_shape, 10, width=16, depth=3)


@pytest.fixture(scope="module")
def accuracy(mnist, network, tmp_path_factory):
    """Distil one image a class by a method; the mean accuracy of two networks."""

    def score(name):
        method = METHODS[name]
        parameters = method.parameters.read(RUNS[name], name)
        more = prepare(method, parameters, [1], mnist, network, tmp_path_factory.mktemp(name))
        synthetic = method.distil(mnist, network, [1], 0, parameters, *more)[1]
        recipe = Recipe(steps=150, batch_size=64, learning_rate=0.03)
        given = network, synthetic.samples, synthetic.labels, mnist.test, recipe
        return sum(train_and_score(*given, (0, number)).accuracy for number in range(2)) / 2

    return score


@pytest.fixture(scope="module")
def random_accuracy(accuracy):
    return accuracy("random")


@pytest.mark.parametrize(
    ("name", "points"), [("dm", 5), ("dc", 5), ("dsa", 5), ("mtt", 0), ("mgd3", 0)]
)
def test_distilled_images_beat_random_ones(accuracy, random_accuracy, name, points):
    assert 0.3 < random_accuracy < 0.7  # chance is 0.1, all digits 0.98
    assert accuracy(name) > random_accuracy + points / 100
