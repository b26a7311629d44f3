"""Scores of networks: accuracy, and balanced accuracy where classes differ in size."""

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from ddlib.data.base import Split
from ddlib.networks import functional as networks
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training import loop as training


def test_balanced_accuracy_is_that_of_scikit_learn(tiny):
    network = networks.build("mlp", tiny.image_shape, 3, width=8, depth=1)
    theta = initial_parameters(network, generator("some"))
    kept = torch.cat(
        [(tiny.test.labels == label).nonzero()[:n, 0] for label, n in ((0, 20), (1, 3))]
    )
    test = Split(tiny.test.images[kept], tiny.test.labels[kept])  # of class 2 there is none
    score = training.score(network, theta, test)
    predicted = networks.logits(network, theta, test.images).argmax(1)
    assert 0 < score.accuracy < 1
    kept = predicted < 2  # scikit-learn drops classes that are predicted only, with a warning
    expected = balanced_accuracy_score(test.labels, predicted.where(kept, 1 - test.labels))
    assert score.balanced_accuracy == pytest.approx(expected, abs=1e-15)
    assert score.accuracy == float((predicted == test.labels).double().mean())


def test_a_network_that_names_one_class_has_the_accuracy_of_the_class(tiny):
    network = networks.build("mlp", tiny.image_shape, 3, width=8, depth=1)
    theta = initial_parameters(network, generator("some"))
    theta = {name: torch.zeros_like(value) for name, value in theta.items()}
    theta["head.bias"][1] = 1.0
    rows = torch.cat(
        [(tiny.test.labels == label).nonzero()[:n, 0] for label, n in enumerate((1, 18, 1))]
    )
    score = training.score(network, theta, Split(tiny.test.images[rows], tiny.test.labels[rows]))
    assert (score.accuracy, score.balanced_accuracy) == (0.9, 1 / 3)
