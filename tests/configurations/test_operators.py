"""Update operators: how configurations that share a network move the same weights."""

from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from draws import filled
from torch import nn

from ddlib.configurations.configuration import Configuration
from ddlib.configurations.operators import BURST, STATES, update_fields
from ddlib.data.base import DataSet
from ddlib.data.load import load
from ddlib.seeds import generator
from ddlib.stats.distances import update_distance
from ddlib.training.loop import batches, train, training_steps
from ddlib.training.recipe import OPTIMISERS

MLP = {"name": "mlp", "width": 8, "depth": 1}
NORMED = {"name": "convnet", "width": 4, "depth": 1, "norm": "batch"}
BASE = {
    **{"network": MLP, "steps": 8, "batch_size": 16, "schedule": "constant"},
    **{"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.0},
}


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits")


def read(**changes) -> Configuration:
    return Configuration.read({**BASE, **changes}, "the configuration under test")


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("network", [MLP, NORMED], ids=["mlp", "batch norm"])
def test_updates_on_the_batches_of_a_training_are_the_training(tiny, name, network):
    changes = {"schedule": "cosine", "learning_rate": 0.003, "momentum": 0.9}
    chosen = read(optimizer=name, network=network, **changes)
    built = chosen.build(tiny.sample_shape, 3)
    theta = chosen.initial(built, generator("start"))
    batch = tiny.train.samples[:16], tiny.train.labels[:16]
    whole = train(built, theta, *batch, chosen.recipe, generator("unused"))
    moved = chosen.update(built, theta, [batch] * 8, generator("unused"))
    assert moved.keys() == whole.keys()
    assert all(torch.equal(moved[key], value) for key, value in whole.items())


@pytest.mark.parametrize("number", [0, 1])
def test_a_state_is_moved_by_the_sum_of_the_steps_of_plain_descent(digits, number):
    """Five steps of gradient descent, batch by batch, from a state of a training."""
    own, real = read(), digits.train
    network = own.build(**digits.sizes)
    theta = own.initial(network, generator("shared state", 0))
    training = real.samples, real.labels, own.recipe, generator("shared training", 0)
    steps = training_steps(network, theta, *training)
    *_, theta = theta, *islice(steps, number * own.steps // STATES)
    ordinary = filled(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), theta.values())
    optimiser = torch.optim.SGD(ordinary.parameters(), 0.1)
    drawn = batches(len(real.labels), 16, generator("shared batches", 0))
    for rows in islice(drawn, number * BURST, (number + 1) * BURST):
        optimiser.zero_grad()
        F.cross_entropy(ordinary(real.samples[rows]), real.labels[rows]).backward()
        optimiser.step()
    moved = zip(ordinary.parameters(), theta.values(), strict=True)
    expected = torch.cat([(ours - start).detach().flatten() for ours, start in moved])
    fields = update_fields(digits, {"own": own}, 0)["own"]
    assert fields.shape == (STATES, len(expected))
    torch.testing.assert_close(torch.tensor(fields[number]).float(), expected, rtol=1e-4, atol=1e-6)


def test_one_seed_gives_the_same_bytes_and_what_diverges_is_left_out(digits):
    before = torch.random.get_rng_state()
    named = {"own": read(), "wild": read(learning_rate=1e38), "adam": read(optimizer="adam")}
    first, again = (update_fields(digits, named, 0) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert list(first) == ["own", "adam"]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    wild_first = {name: named[name] for name in ("wild", "own", "adam")}
    after = update_fields(digits, wild_first, 0)
    assert list(after) == list(first)
    assert all(np.array_equal(first[name], after[name]) for name in first)
    assert update_fields(digits, {"wild": read(learning_rate=1e38)}, 0) == {}
    named = {"own": read(), "wide": read(network={"name": "mlp", "width": 9, "depth": 1})}
    with pytest.raises(ValueError, match=r"^'wide' has other weights than 'own'; compare"):
        update_fields(digits, named, 0)
    named["wide"] = soft = read(labels={"regime": "soft"})
    with pytest.raises(ValueError, match=r"^'wide' has soft labels, but updates are compared on"):
        update_fields(digits, named, 0)
    with pytest.raises(ValueError, match="an update has no teacher for soft labels; choose regime"):
        soft.update(soft.build(**digits.sizes), {}, [], generator("unused"))
    few = update_fields(digits, {"own": read(network=NORMED, steps=2)}, 0)["own"]
    assert few.shape[0] == STATES  # fewer steps than states repeat the start
    assert np.isfinite(few).all()


def test_where_training_starts_from_is_no_matter_and_the_optimiser_is(digits):
    named = {
        "own": read(),
        "orthogonal": read(initialisation="orthogonal"),
        **{"slower": read(learning_rate=1e-4), "slowest": read(learning_rate=1e-5)},
        **{"momentum": read(momentum=0.9), "mixup": read(augmentation="mixup")},
        "adam": read(optimizer="adam", learning_rate=0.001),
    }
    fields = update_fields(digits, named, 0)
    distance = update_distance(list(fields.values()), list(fields))["own"]
    assert distance["orthogonal"] == 0
    assert distance["slower"] == pytest.approx(distance["slowest"], rel=0.1)
    assert 0.1 < distance["momentum"] < distance["adam"]
    assert 0.1 < distance["mixup"] < distance["adam"]
