"""What trainings show: how configurations that share a network move the same weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddlib import probing
from ddlib.configurations import Configuration
from ddlib.coverage import update_distance
from ddlib.data import DataSet, load
from ddlib.seeds import generator
from ddlib.training import batches

BASE = {
    **{"network": {"name": "mlp", "width": 8, "depth": 1}, "steps": 8, "batch_size": 16},
    **{"learning_rate": 0.1, "weight_decay": 0.0, "schedule": "constant", "momentum": 0.0},
}


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits")


def read(**changes) -> Configuration:
    return Configuration.read({**BASE, **changes}, "the configuration under test")


def fields(dataset: DataSet, **named: Configuration) -> dict[str, np.ndarray]:
    return probing.update_fields(dataset, named, 0)


def test_the_first_state_is_the_start_and_plain_descent_is_the_sum_of_its_steps(digits):
    """By hand: five steps of gradient descent from the initial weights, batch by batch."""
    own = read()
    network = own.build(digits.image_shape, digits.class_count)
    theta = own.initial(network, generator("shared state", 0))
    names = [name for name, _ in network.named_parameters()]
    moved = {name: theta[name].clone() for name in names}
    drawn = batches(len(digits.train.labels), 16, generator("shared batches", 0))
    for _ in range(probing.BURST):
        rows = next(drawn)
        for value in moved.values():
            value.requires_grad_()
        scores = torch.func.functional_call(network, moved, (digits.train.images[rows],))
        loss = torch.nn.functional.cross_entropy(scores, digits.train.labels[rows])
        slopes = torch.autograd.grad(loss, list(moved.values()))
        moved = {
            name: (value - 0.1 * slope).detach()
            for (name, value), slope in zip(moved.items(), slopes, strict=True)
        }
    expected = torch.cat([(moved[name] - theta[name]).flatten() for name in names])
    found = fields(digits, own=own)["own"]
    assert found.shape == (probing.SPANS, len(expected))
    torch.testing.assert_close(torch.tensor(found[0]).float(), expected, rtol=1e-4, atol=1e-6)


def test_states_are_apart_and_one_seed_gives_the_same_bytes(digits):
    before = torch.random.get_rng_state()
    first, again = (fields(digits, own=read(), adam=read(optimizer="adam")) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for name in first:
        assert np.array_equal(first[name], again[name])
        assert len(np.unique(first[name], axis=0)) == probing.SPANS


def test_where_training_starts_from_is_no_matter_and_the_optimiser_is(digits):
    found = fields(
        digits,
        own=read(),
        orthogonal=read(initialisation="orthogonal"),
        slower=read(learning_rate=1e-4),
        slowest=read(learning_rate=1e-5),
        momentum=read(momentum=0.9),
        adam=read(optimizer="adam", learning_rate=0.001),
        mixup=read(augmentation="mixup"),
    )
    distance = update_distance(list(found.values()), list(found))["own"]
    assert distance["orthogonal"] == 0
    assert distance["slower"] == pytest.approx(distance["slowest"], rel=0.1)
    assert 0.1 < distance["momentum"] < distance["adam"]
    assert 0.1 < distance["mixup"] < distance["adam"]


def test_configurations_of_other_networks_are_refused(digits):
    other = read(network={"name": "mlp", "width": 9, "depth": 1})
    with pytest.raises(ValueError, match=r"^'wide' has other weights than 'own'; compare"):
        fields(digits, own=read(), wide=other)


def test_a_network_with_batch_norm_moves_from_the_shared_statistics(digits):
    network = {"name": "convnet", "width": 4, "depth": 1, "norm": "batch"}
    own = read(network=network)
    twin = replace(own, initialisation="orthogonal")
    found = fields(digits, own=own, twin=twin)
    assert np.array_equal(found["own"], found["twin"])
    assert np.isfinite(found["own"]).all()
