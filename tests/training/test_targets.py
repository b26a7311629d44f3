"""Soft labels: losses against formulas by hand, and a teacher who sees what the student sees."""

import numpy as np
import pytest
import torch
from draws import noise, stream
from scipy.special import rel_entr, softmax
from torch import nn

from ddlib.networks.functional import build, logits
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.training.augment import STAGES, augmented
from ddlib.training.loop import train, train_and_score
from ddlib.training.recipe import Recipe
from ddlib.training.targets import Teacher

TEMPERATURE = 3.0


def fixed_teacher(loss="kl", temperature=TEMPERATURE, class_count=3):
    """A linear teacher whose scores are easily computed by hand."""
    network = Network(nn.Flatten(), nn.Linear(64, class_count))
    theta = {"head.weight": noise(class_count, 64), "head.bias": noise(class_count, seed=2)}
    return Teacher(network, theta, temperature, loss)


def teacher_scores(images):
    return images.flatten(1).double() @ noise(3, 64).double().T + noise(3, seed=2).double()


def cross_entropy(said, wanted):
    return -(wanted * np.log(said)).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        ("cross_entropy", cross_entropy),
        ("kl", lambda said, wanted: rel_entr(wanted, said).sum(1).mean()),
        ("mse", lambda said, wanted: ((said - wanted) ** 2).sum(1).mean()),
    ],
)
def test_losses_are_their_formulas_at_a_temperature(tiny, loss, by_hand, smoothing):
    """Both softmaxes are taken at the temperature; the loss is multiplied by its square."""
    images, scores = tiny.train.samples[:9], noise(9, 3, seed=4)
    wanted = softmax(teacher_scores(images).numpy() / TEMPERATURE, axis=1)
    said = softmax(scores.double().numpy() / TEMPERATURE, axis=1)
    expected = 9 * by_hand(said, (1 - smoothing) * wanted + smoothing / 3)
    ours = fixed_teacher(loss).loss_of(scores, images, smoothing)
    assert ours.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("augmentation", ["none", "flip", "mixup", "cutmix"])
def test_the_teacher_labels_what_the_student_sees(tiny, monkeypatch, augmentation):
    """One step moves a linear student's bias by -rate * T * mean(softmaxes' difference).

    The softmaxes are those of the augmented images, which a flip and a mixture change.
    """
    monkeypatch.setitem(STAGES, "flip", [("flip",)])
    network = fixed_teacher().network
    theta = {"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)}
    recipe = Recipe(steps=1, learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    recipe = recipe.model_copy(update={"augmentation": augmentation})
    batch = tiny.train.samples[:20], tiny.train.labels[:20]
    moved = train(network, theta, *batch, recipe, stream(6), teacher=fixed_teacher())
    seen, _ = augmented(*batch, augmentation, stream(6))
    wanted, plain = (
        -0.1 * TEMPERATURE * (1 / 3 - (teacher_scores(images) / TEMPERATURE).softmax(1)).mean(0)
        for images in (seen, batch[0])
    )
    torch.testing.assert_close(moved["head.bias"].double(), wanted, rtol=1e-4, atol=1e-6)
    assert torch.allclose(wanted, plain, atol=1e-3) == (augmentation == "none")


def test_soft_labels_of_a_set_train_as_their_closed_form(tiny):
    """The head's bias moves by -rate * mean(softmax - labels), smoothed; one-hot ones are hard."""
    network = build("mlp", tiny.sample_shape, 3, width=10, depth=2)
    theta, images = initial_parameters(network, stream(11)), tiny.train.samples
    recipe = Recipe(steps=1, learning_rate=0.1, momentum=0.0, weight_decay=0.0, label_smoothing=0.3)
    soft = noise(120, 3, seed=5).softmax(1)
    moved = train(network, theta, images, soft, recipe, stream())
    difference = logits(network, theta, images).softmax(1) - (0.7 * soft + 0.1)
    expected = theta["head.bias"] - 0.1 * difference.mean(0)
    torch.testing.assert_close(moved["head.bias"], expected, rtol=1e-4, atol=1e-6)
    hard = tiny.train.labels
    scores = [
        train_and_score(network, images, labels, tiny.test, recipe.replace(steps=20), 0)
        for labels in (hard, nn.functional.one_hot(hard, 3).float())
    ]
    assert scores[0].cross_entropy == pytest.approx(scores[1].cross_entropy, rel=1e-4)


def test_a_teacher_stays_as_it_is_and_uses_its_running_statistics(tiny):
    network = build("convnet", tiny.sample_shape, 3, width=4, depth=2, norm="batch")
    recipe = Recipe(steps=10, batch_size=32)
    batch = tiny.train.samples, tiny.train.labels
    theta = train(network, initial_parameters(network, stream(1)), *batch, recipe, stream(2))
    before = {name: value.clone() for name, value in theta.items()}
    teacher = Teacher(network, theta)
    train(network, initial_parameters(network, stream(3)), *batch, recipe, stream(4), None, teacher)
    assert all(torch.equal(theta[name], value) for name, value in before.items())
    one_by_one = torch.cat([teacher.labels(image[None]) for image in tiny.test.samples])
    torch.testing.assert_close(one_by_one, teacher.labels(tiny.test.samples), rtol=1e-4, atol=1e-6)


def test_a_teacher_of_other_classes_is_refused(tiny):
    network, recipe = fixed_teacher().network, Recipe(steps=1)
    sentence = "the teacher knows 5 classes and the student 3; choose a teacher that was trained"
    with pytest.raises(ValueError, match=sentence):
        train_and_score(
            *(network, tiny.train.samples, tiny.train.labels, tiny.test, recipe, 0),
            teacher=fixed_teacher(class_count=5),
        )
