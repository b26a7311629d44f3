"""On real digits, one distilled image a class must teach more than one random image a class."""

import os
from dataclasses import replace

import pytest
import torch

from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.methods import METHODS, trajectory
from ddlib.methods.generators import unet_losses
from ddlib.networks import functional as networks
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("DDLIB_DATA"), reason="DDLIB_DATA names no folder of real data"
    ),
]

RUNS = {
    "random": {},
    "dm": {
        "iterations": 40,
        "real_batch": 32,
        "learning_rate": 1,
        "initialisation": "real",
        "augmentation": "none",
    },
    "dc": {"iterations": 18, "real_batch": 32, "learning_rate": 2, "initialisation": "real"},
    "dsa": {"iterations": 18, "real_batch": 32, "learning_rate": 2, "augmentation": "dsa_no_flip"},
    "mtt": {
        "iterations": 20,
        "student_steps": 10,
        "expert_epochs": 2,
        "max_start": 1,
        "learning_rate": 200,
        "step_size": 0.05,
        "step_size_learning_rate": 1e-5,
        "augmentation": "none",
        "experts": 1,
        "expert_steps": 40,
        "expert_batch": 64,
        "expert_learning_rate": 0.05,
        "expert_augmentation": "none",
    },
    "mgd3": {
        "unet_channels": [8, 16, 16],
        "unet_steps": 60,
        "unet_batch_size": 16,
        "steps": 10,
        "stop": 3,
        "guidance": 1,
        "classifier_free_guidance": 2,
    },
}


@pytest.fixture(scope="module")
def mnist():
    whole = load("mnist")  # a fifth of its test images is enough, and five times as fast
    return replace(whole, test=Split(whole.test.images[:2000], whole.test.labels[:2000]))


def build(dataset):
    return networks.build("convnet", dataset.image_shape, 10, width=16, depth=3)


def prepare(dataset, name, folder):
    """Make the files that a method works from; return their paths."""
    method, paths = METHODS[name], []
    parameters = method.parameters.read(RUNS[name], name)
    for number, job in enumerate(method.preparation.jobs(parameters, [1])):
        paths.append(folder / f"{name}-{number}")
        paths[-1].write_bytes(method.preparation.make(dataset, build(dataset), job))
    return paths


def distil(dataset, name, *prepared, **changes):
    """Return one distilled image a class."""
    method = METHODS[name]
    parameters = method.parameters.read(RUNS[name] | changes, name)
    return method.distil(dataset, build(dataset), [1], 0, parameters, *prepared)[1]


def accuracy(dataset, synthetic):
    """Mean accuracy of two networks on the test images."""
    recipe = Recipe(steps=150, batch_size=64, learning_rate=0.03)
    images, labels = synthetic.images, synthetic.labels
    scores = [
        train_and_score(build(dataset), images, labels, dataset.test, recipe, (0, evaluation))
        for evaluation in range(2)
    ]
    return sum(score.accuracy for score in scores) / 2


@pytest.fixture(scope="module")
def random_accuracy(mnist):
    return accuracy(mnist, distil(mnist, "random"))


def test_random_images_already_teach_something(random_accuracy):
    assert 0.3 < random_accuracy < 0.7  # chance is 0.1, all digits 0.98


@pytest.mark.parametrize("name", ["dm", "dc", "dsa"])
def test_distilled_images_beat_random_ones_by_five_points(mnist, random_accuracy, name):
    assert accuracy(mnist, distil(mnist, name)) >= random_accuracy + 0.05


def test_mtt_comes_nearer_to_its_experts_and_beats_random_images(
    mnist, random_accuracy, tmp_path, monkeypatch
):
    losses, match = [], trajectory.match
    monkeypatch.setattr(
        trajectory, "match", lambda *given: losses.append(match(*given)) or losses[-1]
    )
    made = distil(mnist, "mtt", prepare(mnist, "mtt", tmp_path))
    assert torch.stack(losses[-5:]).mean() < 0.9 * torch.stack(losses[:5]).mean()
    assert accuracy(mnist, made) > random_accuracy


def test_mgd3_guides_images_to_their_modes_and_beats_random_ones(mnist, random_accuracy, tmp_path):
    prepared = prepare(mnist, "mgd3", tmp_path)
    losses = unet_losses(prepared[0])
    assert losses[-10:].mean() < 0.5 * losses[:5].mean()
    free, guided = (distil(mnist, "mgd3", prepared, guidance=scale) for scale in (0, 1))
    means = torch.stack([mnist.train.images[mnist.train.labels == c].mean(0) for c in range(10)])
    near, far = ((each.images - means).square().mean() for each in (guided, free))
    assert near < 0.5 * far
    assert accuracy(mnist, guided) > random_accuracy
