"""Update operators: how configurations that share a network move the same weights."""

import numpy as np
import pytest
import torch

from ddlib.configurations import operators
from ddlib.configurations.configuration import Configuration, State
from ddlib.data.base import DataSet
from ddlib.data.load import load
from ddlib.seeds import generator
from ddlib.stats.distances import update_distance
from ddlib.training.loop import batches, training_steps

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
    return operators.update_fields(dataset, named, 0)


def test_the_first_state_is_the_start_and_plain_descent_is_the_sum_of_its_steps(digits):
    """By hand: five steps of gradient descent from the initial weights, batch by batch."""
    own = read()
    network = own.build(digits.image_shape, digits.class_count)
    theta = own.initial(network, generator("shared state", 0))
    names = [name for name, _ in network.named_parameters()]
    moved = {name: theta[name].clone() for name in names}
    drawn = batches(len(digits.train.labels), 16, generator("shared batches", 0))
    for _ in range(operators.BURST):
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
    assert found.shape == (operators.STATES, len(expected))
    torch.testing.assert_close(torch.tensor(found[0]).float(), expected, rtol=1e-4, atol=1e-6)


def test_later_states_are_the_weights_of_a_training(digits):
    """The second state by hand: a quarter of the first configuration's training."""
    own = read()
    network = own.build(digits.image_shape, digits.class_count)
    theta = own.initial(network, generator("shared state", 0))
    split, stream = digits.train, generator("shared training", 0)
    steps = training_steps(network, theta, split.images, split.labels, own.recipe, stream)
    for _ in range(own.recipe.steps // operators.STATES):
        state = next(steps)
    state = {name: value.clone() for name, value in state.items()}
    drawn = batches(len(split.labels), 16, generator("shared batches", 0))
    drawn = [next(drawn) for _ in range(2 * operators.BURST)][operators.BURST :]
    moved, carried = state, State.start((0, 1))
    for rows in drawn:
        batch = split.images[rows], split.labels[rows]
        moved, carried = own.update(network, moved, carried, batch)
    parts = [(moved[name] - state[name]).flatten() for name, _ in network.named_parameters()]
    assert np.array_equal(fields(digits, own=own)["own"][1], torch.cat(parts).double().numpy())


def test_one_seed_gives_the_same_bytes(digits):
    before = torch.random.get_rng_state()
    first, again = (fields(digits, own=read(), adam=read(optimizer="adam")) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for name in first:
        assert np.array_equal(first[name], again[name])


def test_one_that_diverges_is_left_out(digits):
    found = fields(digits, own=read(), wild=read(learning_rate=1e38), adam=read(optimizer="adam"))
    assert list(found) == ["own", "adam"]


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


def test_batch_norms_run_and_fewer_steps_than_states_repeat_the_start(digits):
    network = {"name": "convnet", "width": 4, "depth": 1, "norm": "batch"}
    found = fields(digits, own=read(network=network, steps=2))["own"]
    assert found.shape[0] == operators.STATES
    assert np.isfinite(found).all()
