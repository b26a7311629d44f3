"""Networks trained together are what they are one after another."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from accelerator import There, accelerator, moved
from torch import nn

from ddlib.devices import precision
from ddlib.networks import layers, zoo
from ddlib.networks.functional import build, logits
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.seeds import generator
from ddlib.training import together
from ddlib.training.augment import AUGMENTATIONS
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import OPTIMISERS, Recipe
from ddlib.training.together import stacked_logits, train_and_score_all

SEEDS = [(3, 0), (3, 1), (3, 2)]
CONVNET = {"name": "convnet", "width": 4, "depth": 2}


def in_float64(dataset):
    """Return the data set in numbers in which another order of sums shows nowhere."""
    splits = {
        name: replace(split, images=split.images.double())
        for name, split in (("train", dataset.train), ("test", dataset.test))
    }
    return replace(dataset, **splits)


def prepared(dataset, shape):
    network = build(**shape, image_shape=dataset.image_shape, class_count=dataset.class_count)
    fresh = [initial_parameters(network, generator("evaluation weights", seed)) for seed in SEEDS]
    thetas = [{name: value.double() for name, value in theta.items()} for theta in fresh]
    return network, thetas, in_float64(dataset)


def sets(dataset):
    """Return three sets of 21 images, one for each of SEEDS."""
    rows = [slice(start, start + 21) for start in (0, 7, 14)]
    return [(dataset.train.images[own], dataset.train.labels[own]) for own in rows]


def train_there(dataset, recipe, shape=CONVNET):
    """Return the scores of three networks trained together elsewhere, and how often that waited."""
    network, thetas, dataset = prepared(dataset, shape)
    with accelerator() as on:
        there = [{name: There(value) for name, value in theta.items()} for theta in thetas]
        dataset = moved(dataset)
        made = train_and_score_all(network, sets(dataset), dataset.test, recipe, SEEDS, there)
        return made, sum(on.waits.values())


def train_here(dataset, recipe, shape=CONVNET):
    """Return the scores of the same networks one after another on a processor."""
    network, thetas, dataset = prepared(dataset, shape)
    given = zip(sets(dataset), SEEDS, thetas, strict=True)
    return [
        train_and_score(network, *own, dataset.test, recipe, seed, theta)
        for own, seed, theta in given
    ]


def agree(dataset, recipe, shape=CONVNET):
    made, alone = train_there(dataset, recipe, shape)[0], train_here(dataset, recipe, shape)
    assert len(made) == len(alone)
    for ours, theirs in zip(made, alone, strict=True):
        assert ours.accuracy == pytest.approx(theirs.accuracy, abs=1e-9)
        assert ours.cross_entropy == pytest.approx(theirs.cross_entropy, rel=1e-9)
    assert len({score.cross_entropy for score in alone}) == len(alone)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_each_draws_its_own_batches_and_augmentation(tiny, augmentation):
    recipe = Recipe(steps=6, batch_size=8, augmentation=augmentation, label_smoothing=0.1)
    agree(tiny, recipe)


def test_networks_beyond_a_pass_are_the_next_group(tiny, monkeypatch):
    sizes, train = [], together._train_stacked
    monkeypatch.setattr(together, "ACCELERATOR_PIXELS", 16 * 64)
    monkeypatch.setattr(
        together, "_train_stacked", lambda *given: sizes.append(len(given[3])) or train(*given)
    )
    recipe = Recipe(steps=2, batch_size=8)
    agree(tiny, recipe)
    assert sizes == [2, 1]


def test_in_bf16_both_ways_round_factors_alone(tiny, monkeypatch):
    """Logits are float32 in both, and so the losses; their sizes agree as far as bf16 goes."""
    network, thetas, _ = prepared(tiny, CONVNET)
    thetas = [{name: value.float() for name, value in theta.items()} for theta in thetas]
    stacked = {name: torch.stack([theta[name] for theta in thetas]) for name in thetas[0]}
    images = tiny.test.images
    exact = torch.stack([logits(network, theta, images) for theta in thetas])
    with (
        precision("bf16", "cpu"),
        patch.object(layers.AveragePool, "forward", lambda _, images: F.avg_pool2d(images, 2)),
    ):
        alone = torch.stack([logits(network, theta, images) for theta in thetas])
        made = stacked_logits(network, stacked, images.expand(3, *images.shape))
    assert alone.dtype == made.dtype == torch.float32
    for rounded in (alone, made):
        assert 0 < (rounded - exact).norm() / exact.norm() < 0.02


def test_training_together_waits_for_no_step(tiny):
    few, many = (train_there(tiny, Recipe(steps=n, batch_size=8))[1] for n in (3, 30))
    assert few == many == 3  # for the losses, for what is right, and for the nats


def test_one_that_diverges_takes_no_other_with_it(tiny):
    recipe = Recipe(steps=9, batch_size=8)
    network, thetas, dataset = prepared(tiny, CONVNET)
    thetas[1]["head.weight"] *= 1e308
    dataset, (fine, _, also) = moved(dataset), train_here(tiny, recipe)
    with accelerator():
        there = [{name: There(value) for name, value in theta.items()} for theta in thetas]
        given = network, sets(dataset), dataset.test, recipe, SEEDS
        first, lost, last = train_and_score_all(*given, there)
    with pytest.raises(DivergedError) as alone:
        train_and_score(network, *sets(in_float64(tiny))[1], *given[2:4], SEEDS[1], thetas[1])
    assert isinstance(lost, DivergedError)
    assert str(lost) == str(alone.value)
    for ours, theirs in ((first, fine), (last, also)):
        assert ours.cross_entropy == pytest.approx(theirs.cross_entropy, rel=1e-9)


def test_all_that_diverge_say_so_on_either_device(tiny):
    recipe = Recipe(steps=9, batch_size=8, learning_rate=1e30)
    made = train_there(tiny, recipe)[0]
    assert [type(one) for one in made] == [DivergedError] * 3
    network, thetas, dataset = prepared(tiny, CONVNET)
    here = train_and_score_all(network, sets(dataset), dataset.test, recipe, SEEDS, thetas)
    assert [str(one) for one in here] == [str(one) for one in made]


def test_a_processor_trains_one_after_another(tiny, monkeypatch):
    network = build("mlp", tiny.image_shape, 3, width=8)
    thetas = [initial_parameters(network, generator("weights", seed)) for seed in SEEDS]
    recipe, every = Recipe(steps=3), zip(sets(tiny), SEEDS, thetas, strict=True)
    monkeypatch.setattr(together, "_train_stacked", None)
    made = train_and_score_all(network, sets(tiny), tiny.test, recipe, SEEDS, thetas)
    assert made == [
        train_and_score(network, *own, tiny.test, recipe, seed, theta) for own, seed, theta in every
    ]


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_every_optimiser_moves_each_as_if_alone(tiny, optimizer):
    recipe = Recipe(steps=6, batch_size=8, optimizer=optimizer, schedule="step")
    agree(tiny, recipe, {"name": "mlp", "width": 8})


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_every_network_can_be_stacked_or_is_trained_alone(tiny, name):
    options = {"vit": {"width": 12}, "lenet": {}, "alexnet": {}}.get(name, {"width": 4})
    agree(tiny, Recipe(steps=2, batch_size=8), {"name": name, **options})


OWN = {
    "halving": lambda: nn.Sequential(nn.Flatten(), Halving()),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()),
    "buffer": lambda: nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten()),
}


class Halving(nn.Module):
    """A layer that does otherwise in training than in testing, without chance."""

    def forward(self, features):
        return features / 2 if self.training else features


@pytest.mark.parametrize("layer", OWN)
def test_layers_of_ones_own_train_as_alone(tiny, layer, monkeypatch):
    def own(image_shape, class_count):
        return Network(OWN[layer](), nn.Linear(64, class_count))

    monkeypatch.setitem(zoo.NETWORKS, "own", own)
    agree(tiny, Recipe(steps=4, batch_size=8), {"name": "own"})
