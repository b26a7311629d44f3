"""Networks trained together are what they are one after another."""

import pytest
from accelerator import DeviceTensor, accelerator, moved
from draws import in_float64, narrow
from torch import nn

from ddlib.networks import zoo
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training.augment import AUGMENTATIONS
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import OPTIMISERS, Recipe
from ddlib.training.targets import Teacher
from ddlib.training.together import train_and_score_all

SEEDS = [(3, 0), (3, 1), (3, 2)]
CONVNET = {"name": "convnet", "width": 4, "depth": 2}


def started(dataset, shape):
    """Return a network, weights of float64 for each of SEEDS, and the data set in float64."""
    network = build(**shape, **dataset.sizes)
    fresh = [initial_parameters(network, generator("evaluation weights", seed)) for seed in SEEDS]
    thetas = [{name: value.double() for name, value in theta.items()} for theta in fresh]
    return network, thetas, in_float64(dataset)


def sets(dataset):
    """Return three sets of 21 images, one for each of SEEDS."""
    rows = [slice(start, start + 21) for start in (0, 7, 14)]
    return [(dataset.train.samples[part], dataset.train.labels[part]) for part in rows]


def train_there(dataset, recipe, network, thetas, taught=None):
    """Return the scores of three networks trained together elsewhere, and how often that waited."""
    with accelerator() as on:
        wrapped = [on_device(theta) for theta in thetas]
        dataset, teacher = moved(dataset), taught and Teacher(network, on_device(taught))
        training = dataset.test, recipe, SEEDS, wrapped, teacher
        results = train_and_score_all(network, sets(dataset), *training)
        return results, sum(on.waits.values())


def train_here(dataset, recipe, network, thetas, taught=None):
    """Return the scores of the same networks one after another on a CPU, or how they diverged."""
    training = dataset.test, recipe, SEEDS, thetas, taught and Teacher(network, taught)
    return train_and_score_all(network, sets(dataset), *training)


def on_device(theta):
    return {name: DeviceTensor(value) for name, value in theta.items()}


def agree(dataset, recipe, shape=CONVNET, taught=False):
    network, thetas, dataset = started(dataset, shape)
    weights = thetas[0] if taught else None
    results = train_there(dataset, recipe, network, thetas, weights)[0]
    alone = train_here(dataset, recipe, network, thetas, weights)
    for ours, theirs in zip(results, alone, strict=True):
        assert ours.accuracy == pytest.approx(theirs.accuracy, abs=1e-9)
        assert ours.cross_entropy == pytest.approx(theirs.cross_entropy, rel=1e-9)
    assert len({score.cross_entropy for score in alone}) == len(alone)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_each_draws_its_own_batches_and_augmentation(tiny, augmentation):
    agree(tiny, Recipe(steps=4, batch_size=8, augmentation=augmentation, label_smoothing=0.1))


def test_a_teacher_labels_what_each_of_them_sees(tiny):
    recipe = Recipe(steps=4, batch_size=8, augmentation="dsa", label_smoothing=0.1)
    agree(tiny, recipe, taught=True)


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_every_optimiser_moves_each_as_if_alone(tiny, optimizer):
    recipe = Recipe(steps=6, batch_size=8, optimizer=optimizer, schedule="step")
    agree(tiny, recipe, {"name": "mlp", "width": 8})


@pytest.mark.parametrize("name", [name for name in zoo.NETWORKS if "image" in zoo.KINDS[name]])
def test_every_network_can_be_stacked_or_is_trained_alone(tiny, name):
    agree(tiny, Recipe(steps=1, batch_size=8), {"name": name, **narrow(name)})


class Halving(nn.Module):
    """A layer that does otherwise in training than in testing, without chance."""

    def forward(self, features):
        return features / 2 if self.training else features


OWN = {
    "halving": lambda: nn.Sequential(nn.Flatten(), Halving()),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()),
    "buffer": lambda: nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten()),
}


@pytest.mark.parametrize("layer", OWN)
def test_layers_of_ones_own_train_as_alone(tiny, layer, monkeypatch):
    def own(sample_shape, class_count):
        return Network(OWN[layer](), nn.Linear(64, class_count))

    monkeypatch.setitem(zoo.NETWORKS, "own", own)
    agree(tiny, Recipe(steps=4, batch_size=8), {"name": "own"})


def test_one_that_diverges_takes_no_other_with_it(tiny):
    network, thetas, dataset = started(tiny, CONVNET)
    recipe = Recipe(steps=3, batch_size=8)
    fine = train_here(dataset, recipe, network, thetas)
    thetas[1]["head.weight"] *= 1e308
    (first, lost, last), few = train_there(dataset, recipe, network, thetas)
    alone = train_here(dataset, recipe, network, thetas)[1]
    assert isinstance(lost, DivergedError)
    assert str(lost) == str(alone)
    for ours, theirs in ((first, fine[0]), (last, fine[2])):
        assert ours.cross_entropy == pytest.approx(theirs.cross_entropy, rel=1e-9)
    many = train_there(dataset, Recipe(steps=6, batch_size=8), network, thetas)[1]
    assert few == many <= 10  # it waits for the losses, and for what each network scores


def test_a_cpu_trains_one_after_another_and_says_the_same_of_what_diverges(tiny):
    network, thetas, dataset = started(tiny, {"name": "mlp", "width": 8})
    recipe = Recipe(steps=3)
    assert train_here(dataset, recipe, network, thetas) == [
        train_and_score(network, *labelled, dataset.test, recipe, seed, theta)
        for labelled, seed, theta in zip(sets(dataset), SEEDS, thetas, strict=True)
    ]
    wild = Recipe(steps=9, batch_size=8, learning_rate=1e30)
    lost = train_here(dataset, wild, network, thetas)
    assert [type(outcome) for outcome in lost] == [DivergedError] * 3
    assert list(map(str, lost)) == list(map(str, train_there(dataset, wild, network, thetas)[0]))
