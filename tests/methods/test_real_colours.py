"""On real colour images, DM brings class means nearer to each other also in networks unseen."""

import os
from pathlib import Path

import pytest
import torch

from ddlib.data.load import load
from ddlib.methods.common import initial_images
from ddlib.methods.distribution import DistributionMatching, distil
from ddlib.networks import functional as networks
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("DDLIB_DATA"), reason="DDLIB_DATA names no folder of real data"
    ),
]


def keep_few_of_imagenette(tmp_path, monkeypatch):
    """Have DDLIB_DATA name a folder with the first images of every class alone, for speed."""
    whole = next(Path(os.environ["DDLIB_DATA"]).glob("imagenette2*"))
    for split, count in (("train", 30), ("val", 2)):
        for members in (whole / split).iterdir():
            few = tmp_path / whole.name / split / members.name
            few.mkdir(parents=True)
            for image in sorted(members.iterdir())[:count]:
                (few / image.name).symlink_to(image.resolve())
    monkeypatch.setenv("DDLIB_DATA", str(tmp_path))


@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
def test_dm_lowers_its_objective_in_unseen_networks(tmp_path, monkeypatch, name):
    if name == "imagenette":
        keep_few_of_imagenette(tmp_path, monkeypatch)
    dataset = load(name, image_size=32, per_class=30)
    assert dataset.train.images.shape == (300, 3, 32, 32)
    network = networks.build("convnet", dataset.image_shape, 10, width=16)
    real = [dataset.train.images[dataset.train.labels == label] for label in range(10)]

    def distance(images):
        total = 0.0
        for number in range(3):
            theta = initial_parameters(network, generator("unseen", number))
            means = [networks.embed(network, theta, each).mean(0) for each in real]
            features = networks.embed(network, theta, images)
            total += sum((a - b).square().sum() for a, b in zip(means, features, strict=True))
        return total

    parameters = DistributionMatching(iterations=40, real_batch=20, augmentation="none")
    made = distil(dataset, network, [1], 0, parameters)[1]
    with torch.no_grad():
        before = distance(initial_images(dataset, 1, "real", 0))
        assert distance(made.images) < 0.7 * before
