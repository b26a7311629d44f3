"""What holds for every method in the registry, one's own too."""

from dataclasses import replace

import pytest
import torch

from ddlib.data.base import Split
from ddlib.methods import METHODS, Method
from ddlib.parameters import Parameters


def mine(dataset, network, ipcs, seed, parameters):
    return dict.fromkeys(ipcs, seed)


OWN = Method(mine, Parameters, shares=True)


@pytest.mark.parametrize("name", [*METHODS, "mine"])
def test_sizes_that_the_smallest_class_cannot_fill_are_refused(tiny, network, name):
    method = METHODS.get(name, OWN)
    labels, counts = tiny.train.labels, (9, 3, 5)
    rows = torch.cat([(labels == c).nonzero()[:n, 0] for c, n in enumerate(counts)])
    few = replace(tiny, train=Split(tiny.train.images[rows], labels[rows]))
    more = [[]] if method.preparation else []
    with pytest.raises(ValueError, match="ipc=4 is more than the 3 images of class bee; choose"):
        method.distil(few, network, [1, 4], 0, method.parameters(), *more)


def test_sizes_that_fit_reach_the_method(tiny, network):
    assert OWN.distil(tiny, network, [1, 40], 7, Parameters()) == {1: 7, 40: 7}
    assert __name__ in OWN.modules
