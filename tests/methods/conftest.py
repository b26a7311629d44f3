"""What the tests of DM and DC share."""

import pytest

from ddlib.methods import matching
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters


@pytest.fixture(scope="module")
def network(tiny):
    return build("convnet", tiny.image_shape, tiny.class_count, width=6, depth=2)


@pytest.fixture
def drawn_weights(monkeypatch):
    """The initial weights that distillation draws, in order."""
    drawn = []

    def record(*arguments):
        drawn.append(initial_parameters(*arguments))
        return drawn[-1]

    monkeypatch.setattr(matching, "initial_parameters", record)
    return drawn
