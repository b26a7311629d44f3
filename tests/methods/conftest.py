"""What the tests of methods share: a small network and a UNet."""

import pytest
import torch
from chains import JOB

from ddlib.methods.generators import unet
from ddlib.networks.functional import build


@pytest.fixture(scope="module")
def network(tiny):
    return build("convnet", tiny.sample_shape, tiny.class_count, width=6, depth=2)


@pytest.fixture(scope="session")
def unet_file(tiny, tmp_path_factory):
    """The file of a small UNet trained on the tiny set."""
    path = tmp_path_factory.mktemp("unet") / "unet.safetensors"
    path.write_bytes(unet.train(tiny, None, JOB))
    return path


@pytest.fixture(scope="session")
def members(tiny):
    """The indices of the training images of each class, by a loop."""
    labels = tiny.train.labels.tolist()
    return [torch.tensor([i for i, own in enumerate(labels) if own == c]) for c in range(3)]
