import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddlib.data.base import DataSet, Split
from ddlib.methods import gradient
from ddlib.methods.common import real_batches
from ddlib.methods.gradient import (
    GradientMatching,
    SiameseGradientMatching,
    distance,
    distil,
    inner_recipe,
    match,
    weight_gradients,
)
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError

EVERYTHING = 40  # a real batch of all images of a class
PLAIN = [augment.Draw("none")] * 3  # what the images of three classes go through: nothing


@pytest.fixture(scope="module")
def perceptron(tiny):
    return build("mlp", tiny.image_shape, tiny.class_count, width=10, depth=2)


def settings(**changes):
    given = {"iterations": 2, "outer_steps": 2, "inner_epochs": 2, "real_batch": 8, **changes}
    return GradientMatching(**given)


def weights(network, seed=0, dtype=torch.float32):
    theta = initial_parameters(network, torch.Generator().manual_seed(seed))
    return {name: value.to(dtype) for name, value in theta.items()}


def in_float64(dataset: DataSet) -> DataSet:
    return replace(dataset, train=Split(dataset.train.images.double(), dataset.train.labels))


def everything(dataset: DataSet) -> list[torch.Tensor]:
    return [(dataset.train.labels == c).nonzero().flatten() for c in range(dataset.class_count)]


def ordinary_mlp(theta):
    first, last = theta["body.1.weight"], theta["head.weight"]
    ordinary = nn.Sequential(nn.Flatten(), nn.Linear(*first.T.shape), nn.ReLU())
    ordinary.append(nn.Linear(*last.T.shape)).to(first.dtype)
    flat = nn.utils.parameters_to_vector(theta.values())
    nn.utils.vector_to_parameters(flat.clone(), ordinary.parameters())
    return ordinary


def row_distance(ours, theirs):
    """The distance of two rows by its formula, in Python's own numbers."""
    dot = sum(a * b for a, b in zip(ours, theirs, strict=True))
    our_norm, their_norm = (math.sqrt(sum(a * a for a in row)) for row in (ours, theirs))
    return 1 - dot / (our_norm * their_norm + 1e-6)


def reference_distance(ours, theirs):
    """Autograd through a loop over layers and rows, parameters of one dimension left out."""
    total = 0
    for our_layer, their_layer in zip(ours, theirs, strict=True):
        if our_layer.dim() < 2:
            continue
        for a, b in zip(our_layer, their_layer, strict=True):
            a, b = a.reshape(-1), b.reshape(-1)
            if not a.any():  # a dead unit stays so nearby, but sqrt has no slope at 0
                total = total + 1
                continue
            total = total + 1 - a.dot(b) / (a.dot(a).sqrt() * b.dot(b).sqrt() + 1e-6)
    return total


def reference_match(ordinary, dataset, batch, images, drawn=PLAIN):
    """The reference's way: one graph over all classes, one sum, differentiated once."""
    parameters = list(ordinary.parameters())
    ipc = len(images) // dataset.class_count
    total = 0
    for label, rows in enumerate(batch):
        seen = augment.apply(dataset.train.images[rows], drawn[label])
        real_loss = F.cross_entropy(ordinary(seen), dataset.train.labels[rows])
        real = [value.detach() for value in torch.autograd.grad(real_loss, parameters)]
        synthetic = images[label * ipc : (label + 1) * ipc]
        labels = torch.tensor([label] * ipc)
        loss = F.cross_entropy(ordinary(augment.apply(synthetic, drawn[label])), labels)
        made = torch.autograd.grad(loss, parameters, create_graph=True)
        total = total + reference_distance(made, real)
    return total


def test_defaults_are_the_published_ones():
    assert vars(GradientMatching()) == {
        "iterations": 1000,
        "outer_steps": {1: 1, 10: 10, 20: 20, 30: 30, 40: 40, 50: 50},
        "inner_epochs": {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10},
        "learning_rate": 0.1,
        "momentum": 0.5,
        "network_learning_rate": 0.01,
        "network_batch": 256,
        "real_batch": 256,
        "initialisation": "noise",
        "augmentation": "none",
        "configurations": [],
        "average": "arithmetic",
    }
    changed = {"initialisation": "real", "augmentation": "dsa"}
    assert vars(SiameseGradientMatching()) == vars(GradientMatching()) | changed


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
def test_distance_equals_a_loop_over_layers_and_rows(scale):
    stream = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (5, 4, 1, 2), (3, 7)]
    ours, theirs = (
        [scale * torch.randn(s, generator=stream, dtype=torch.float64) for s in shapes]
        for _ in range(2)
    )
    expected = 0.0
    for our_layer, their_layer in zip(ours, theirs, strict=True):
        for our_row, their_row in zip(our_layer.tolist(), their_layer.tolist(), strict=True):
            flat = [torch.tensor(row).double().flatten().tolist() for row in (our_row, their_row)]
            expected += row_distance(*flat)
    assert distance(ours, theirs).item() == pytest.approx(expected, rel=1e-6)


def test_distance_by_hand():
    # Rows (3, 4) and (4, 3): cosine 24/25; rows (1, 0) and (0, 2): 0; rows (1, 1), (-2, -2): -1.
    ours = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0]])
    theirs = torch.tensor([[4.0, 3.0], [0.0, 2.0], [-2.0, -2.0]])
    assert distance([ours], [theirs]).item() == pytest.approx(0.04 + 1 + 2, abs=1e-5)
    # The same numbers as one 3-channel row: dot 24 + 0 - 4 = 20, norms sqrt(28) and sqrt(37).
    ours, theirs = ours.view(1, 3, 1, 2), theirs.view(1, 3, 1, 2)
    expected = 1 - 20 / math.sqrt(28 * 37)
    assert distance([ours], [theirs]).item() == pytest.approx(expected, abs=1e-5)


def test_small_rows_are_held_back_by_the_epsilon():
    # Parallel rows of norm 1e-3: 1 - 1e-6 / (1e-6 + 1e-6) = 1/2, where a cosine would give 0.
    row = [torch.tensor([[1e-3, 0.0]], dtype=torch.float64)]
    assert distance(row, row).item() == pytest.approx(0.5)


def test_a_row_without_gradient_counts_one_and_stays_finite():
    dead = torch.zeros(2, 3, requires_grad=True)
    value = distance([dead], [torch.ones(2, 3)])
    assert value.item() == 2
    value.backward()
    assert dead.grad.isfinite().all()


def test_the_published_convnet_has_394_rows():
    network = build("convnet", (1, 28, 28), 10)
    theta = {name: value.requires_grad_() for name, value in weights(network).items()}
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    made = weight_gradients(network, theta, images, 4)
    assert sum(len(layer) for layer in made) == 394  # 3 x 128 channels and 10 classes
    large = [1e6 * layer for layer in made]  # far above the epsilon
    assert distance(large, large).item() == pytest.approx(0, abs=0.01)
    assert distance(large, [-layer for layer in large]).item() == pytest.approx(788, abs=0.01)
    assert distance(large, [0 * layer for layer in large]).item() == 394


def test_weight_gradients_are_those_of_ordinary_training_without_biases_and_norms(
    tiny, network, ordinary_convnet
):
    theta = weights(network)
    images = tiny.train.images[:5]
    ordinary = ordinary_convnet(theta, 2)
    F.cross_entropy(ordinary(images), torch.tensor([1] * 5)).backward()
    expected = [value.grad for value in ordinary.parameters() if value.dim() > 1]
    theta = {name: value.requires_grad_() for name, value in theta.items()}
    made = weight_gradients(network, theta, images, 1)
    assert [tuple(layer.shape) for layer in made] == [(6, 1, 3, 3), (6, 6, 3, 3), (3, 24)]
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert not ours.requires_grad


@pytest.mark.parametrize("kind", ["convnet", "mlp"])
@pytest.mark.parametrize("ipc", [1, 3])
def test_match_equals_one_graph_over_the_summed_loss(
    tiny, network, perceptron, ordinary_convnet, kind, ipc
):
    dataset = in_float64(tiny)
    body = network if kind == "convnet" else perceptron
    theta = weights(body, seed=3, dtype=torch.float64)
    ordinary = ordinary_convnet(theta, 2) if kind == "convnet" else ordinary_mlp(theta)
    stream = torch.Generator().manual_seed(1)
    start = torch.randn(3 * ipc, 1, 8, 8, generator=stream, dtype=torch.float64)
    batch = [rows[label : label + 7 + label] for label, rows in enumerate(everything(tiny))]

    images = start.clone().requires_grad_()
    value = match(dataset, body, theta, batch, images, PLAIN)
    naive_images = start.clone().requires_grad_()
    naive = reference_match(ordinary, dataset, batch, naive_images)
    naive.backward()
    assert value.item() == pytest.approx(naive.item(), rel=1e-9)
    torch.testing.assert_close(images.grad, naive_images.grad, rtol=1e-7, atol=1e-9)
    assert naive_images.grad.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["convnet", "mlp"])
def test_match_has_the_gradient_that_finite_differences_give(tiny, network, perceptron, kind):
    dataset, batch = in_float64(tiny), everything(tiny)
    body = network if kind == "convnet" else perceptron
    theta = weights(body, seed=3, dtype=torch.float64)
    stream = torch.Generator().manual_seed(1)
    start = torch.randn(6, 1, 8, 8, generator=stream, dtype=torch.float64)
    images = start.clone().requires_grad_()
    match(dataset, body, theta, batch, images, PLAIN)
    width = 1e-6
    for flat in torch.randperm(start.numel(), generator=stream)[:12].tolist():
        nudge = torch.zeros_like(start).view(-1)
        nudge[flat] = width
        values = [
            match(dataset, body, theta, batch, images.requires_grad_(), PLAIN)
            for images in (start + nudge.view_as(start), start - nudge.view_as(start))
        ]
        slope = (values[0] - values[1]).item() / (2 * width)
        assert images.grad.view(-1)[flat].item() == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_match_adds_to_the_gradient_and_leaves_the_weights(tiny, network):
    theta = weights(network)
    before = {name: value.clone() for name, value in theta.items()}
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    match(tiny, network, theta, everything(tiny), images, PLAIN)
    once = images.grad.clone()
    match(tiny, network, theta, everything(tiny), images, PLAIN)
    torch.testing.assert_close(images.grad, 2 * once)
    for name, value in theta.items():
        assert torch.equal(value, before[name])
        assert not value.requires_grad
        assert value.grad is None


def test_images_that_are_the_real_batch_match_it(tiny, network):
    batch = [rows[:4] for rows in everything(tiny)]
    images = tiny.train.images[torch.cat(batch)].clone().requires_grad_()
    same = match(tiny, network, weights(network), batch, images, PLAIN)
    others = [rows[4:8] for rows in everything(tiny)]
    assert same < 0.1 * match(tiny, network, weights(network), others, images, PLAIN)


@pytest.fixture
def counted(monkeypatch):
    """Stand-ins for matching and training that only note how they were called."""
    calls = []

    def count_match(dataset, network, theta, batch, images, drawn):
        calls.append(("match", theta, images.detach().clone()))
        return torch.ones(())

    def count_train(network, theta, images, labels, recipe, stream, see):
        assert not images.requires_grad
        calls.append(("train", recipe, images.clone(), labels.clone()))
        return {name: value + 1 for name, value in theta.items()}

    monkeypatch.setattr(gradient, "match", count_match)
    monkeypatch.setattr(gradient, "train", count_train)
    return calls


@pytest.mark.parametrize(
    ("ipc", "outer", "epochs"),
    [
        (10, 10, 50),
        (20, 20, 25),
        (30, 30, 20),
        (40, 40, 15),
        (50, 50, 10),
        (5, 5, 23),  # 1 + 4/9 x 49 = 22.8
        (12, 12, 45),  # 50 - 2/10 x 25
        (46, 46, 12),  # 15 - 6/10 x 5
        (80, 50, 10),  # past the table: its last entry
    ],
)
def test_loops_follow_the_published_tables(tiny, network, counted, ipc, outer, epochs):
    distil(tiny, network, [ipc], 0, GradientMatching(iterations=2))
    kinds = [call[0] for call in counted]
    assert kinds == (["match", "train"] * (outer - 1) + ["match"]) * 2
    for _, recipe, _, labels in (call for call in counted if call[0] == "train"):
        assert recipe.steps == epochs  # k <= 256: an epoch is one batch
        assert labels.tolist() == [0] * ipc + [1] * ipc + [2] * ipc


def test_at_one_image_a_class_the_network_is_never_trained(tiny, network, counted):
    distil(tiny, network, [1], 0, GradientMatching(iterations=7))
    assert [call[0] for call in counted] == ["match"] * 7
    firsts = [call[1]["head.weight"] for call in counted]
    assert len({tuple(value.flatten().tolist()) for value in firsts}) == 7  # a fresh one each time


def test_the_network_goes_on_from_where_training_left_it(tiny, network, counted):
    distil(tiny, network, [2], 0, settings(iterations=2, outer_steps=3))
    thetas = [call[1]["head.bias"] for call in counted if call[0] == "match"]
    for first in (0, 3):
        for later in (1, 2):
            torch.testing.assert_close(thetas[first + later], thetas[first] + later)
    assert not torch.equal(thetas[0], thetas[3])


def test_inner_training_is_plain_sgd_over_the_images_as_they_are(tiny, network, monkeypatch):
    seen = []
    train, matching = gradient.train, gradient.match

    def record_match(*arguments):
        seen.append(("match", arguments[4].detach().clone()))
        return matching(*arguments)

    def record_train(network, theta, images, labels, recipe, stream, see):
        seen.append(("train", images.clone()))
        return train(network, theta, images, labels, recipe, stream)

    monkeypatch.setattr(gradient, "match", record_match)
    monkeypatch.setattr(gradient, "train", record_train)
    distil(tiny, network, [2], 0, settings(iterations=1, outer_steps=3))
    assert [kind for kind, _ in seen] == ["match", "train", "match", "train", "match"]
    assert not torch.equal(seen[0][1], seen[1][1])  # S has moved once before training
    assert torch.equal(seen[1][1], seen[2][1])


@pytest.mark.parametrize(
    ("k", "epochs", "steps"),
    [(3, 50, 50), (256, 10, 10), (257, 10, 20), (300, 10, 20), (1000, 10, 40)],
)
def test_an_inner_epoch_is_as_many_batches_as_the_set_needs(k, epochs, steps):
    recipe = inner_recipe(GradientMatching(inner_epochs=epochs), 100, k)
    assert recipe.steps == steps
    assert vars(recipe) == {
        "steps": steps,
        "batch_size": 256,
        "learning_rate": 0.01,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "augmentation": "none",
        "optimizer": "sgd",
        "label_smoothing": 0.0,
    }


def test_no_inner_epochs_is_no_training(tiny, network, counted):
    assert inner_recipe(settings(inner_epochs=0), 2, 6) is None
    distil(tiny, network, [2], 0, settings(inner_epochs=0, outer_steps=3, iterations=1))
    assert [call[0] for call in counted] == ["match"] * 3


def test_iterations_may_be_a_table(tiny, network, counted):
    parameters = settings(iterations={1: 6, 3: 2}, outer_steps=1)
    for ipc, expected in ((1, 6), (2, 4), (3, 2), (9, 2)):
        counted.clear()
        distil(tiny, network, [ipc], 0, parameters)
        assert len(counted) == expected


@pytest.mark.parametrize("kind", ["convnet", "mlp"])
def test_a_run_equals_the_reference_algorithm_written_out(
    tiny, network, perceptron, ordinary_convnet, drawn_weights, kind
):
    """Two iterations of three outer steps with four inner epochs between, by hand."""
    body = network if kind == "convnet" else perceptron
    ipc, labels = 2, torch.tensor([0, 0, 1, 1, 2, 2])
    start = distil(tiny, body, [ipc], 0, settings(iterations=0))[ipc].images
    parameters = settings(
        outer_steps=3,
        inner_epochs=4,
        learning_rate=0.2,
        network_learning_rate=0.05,
        real_batch=EVERYTHING,
    )
    made = distil(tiny, body, [ipc], 0, parameters)[ipc].images
    images, velocity = start, torch.zeros_like(start)
    assert len(drawn_weights) == 2
    for theta in drawn_weights:
        ordinary = ordinary_convnet(theta, 2) if kind == "convnet" else ordinary_mlp(theta)
        for outer in range(3):
            images = images.detach().requires_grad_()
            total = reference_match(ordinary, tiny, everything(tiny), images)
            velocity = 0.5 * velocity + torch.autograd.grad(total, images)[0]
            images = (images - 0.2 * velocity).detach()
            for _ in range(4 if outer < 2 else 0):
                ordinary.zero_grad()
                F.cross_entropy(ordinary(images), labels).backward()
                with torch.no_grad():
                    for value in ordinary.parameters():
                        value -= 0.05 * value.grad
    torch.testing.assert_close(made, images, rtol=1e-3, atol=1e-4)
    assert (made - start).abs().max() > 0.05


def test_a_run_under_batch_norm_equals_the_reference_algorithm_written_out(
    tiny, ordinary_convnet, drawn_weights
):
    """Statistics from 16 real images a class, then frozen; inner training moves them again."""
    network = build("convnet", tiny.image_shape, 3, width=6, depth=2, norm="batch")
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    start = distil(tiny, network, [2], 0, settings(iterations=0))[2].images
    parameters = settings(
        outer_steps=3, learning_rate=0.2, network_learning_rate=0.05, real_batch=EVERYTHING
    )
    made = distil(tiny, network, [2], 0, parameters)[2].images
    samples = real_batches(tiny, 16, generator("statistics", 0))
    images, velocity = start, torch.zeros_like(start)
    for theta in drawn_weights:
        ordinary = ordinary_convnet(theta, 2, norm=nn.BatchNorm2d)
        for outer in range(3):
            sample = torch.cat(next(samples))
            assert tiny.train.labels[sample].bincount().tolist() == [16, 16, 16]
            ordinary.train()(tiny.train.images[sample])
            ordinary.eval()
            images = images.detach().requires_grad_()
            total = reference_match(ordinary, tiny, everything(tiny), images)
            velocity = 0.5 * velocity + torch.autograd.grad(total, images)[0]
            images = (images - 0.2 * velocity).detach()
            ordinary.train()
            for _ in range(2 if outer < 2 else 0):
                ordinary.zero_grad()
                F.cross_entropy(ordinary(images), labels).backward()
                with torch.no_grad():
                    for value in ordinary.parameters():
                        value -= 0.05 * value.grad
    torch.testing.assert_close(made, images, rtol=1e-3, atol=1e-4)
    assert (made - start).abs().max() > 0.05


def test_each_size_is_distilled_by_itself(tiny, network):
    parameters = settings(learning_rate={1: 0.1, 3: 0.3})
    together = distil(tiny, network, [1, 2, 3], 0, parameters)
    for ipc in (1, 2, 3):
        alone = distil(tiny, network, [ipc], 0, parameters)[ipc]
        torch.testing.assert_close(together[ipc].images, alone.images, rtol=1e-6, atol=1e-6)
    constant = distil(tiny, network, [2], 0, parameters.replace(learning_rate=0.2))[2]
    torch.testing.assert_close(together[2].images, constant.images, rtol=1e-5, atol=1e-5)


def test_one_seed_gives_one_set_and_the_global_state_is_left_alone(tiny, network):
    before = torch.get_rng_state()
    first, again, other = (distil(tiny, network, [2], seed, settings())[2] for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (first.data, first.method, first.seed, other.seed) == ("tiny", "dc", 0, 1)
    assert not first.images.requires_grad


@pytest.mark.parametrize("kind", ["convnet", "mlp"])
def test_gradients_match_better_on_networks_that_were_not_matched(tiny, network, perceptron, kind):
    body = network if kind == "convnet" else perceptron
    parameters = settings(iterations=40, outer_steps=1, learning_rate=0.5, real_batch=16)
    start = distil(tiny, body, [1], 0, parameters.replace(iterations=0))[1].images
    made = distil(tiny, body, [1], 0, parameters)[1].images
    before, after = (
        sum(
            match(
                *(tiny, body, weights(body, 10_000 + seed), everything(tiny)),
                *(images.requires_grad_(), PLAIN),
            ).item()
            for seed in range(5)
        )
        for images in (start.clone(), made.clone())
    )
    assert after < 0.75 * before


def test_a_size_that_diverges_leaves_the_others_as_they_are(tiny, perceptron):
    parameters = settings(learning_rate={1: 0.1, 2: 1e30, 3: 0.1}, iterations=3)
    outcomes = distil(tiny, perceptron, [1, 2, 3], 0, parameters)
    assert isinstance(outcomes[2], DivergedError)
    assert "stopped being a finite number at step" in str(outcomes[2])
    for ipc in (1, 3):
        alone = distil(tiny, perceptron, [ipc], 0, parameters.replace(learning_rate=0.1))[ipc]
        torch.testing.assert_close(outcomes[ipc].images, alone.images, rtol=1e-6, atol=1e-6)


def test_divergence_names_the_outer_step(tiny, network, monkeypatch):
    values = iter([1.0, 1.0, 1.0, 1.0, math.inf, math.nan])
    monkeypatch.setattr(gradient, "match", lambda *_: torch.tensor(next(values)))
    outcome = distil(tiny, network, [1], 0, settings(iterations=3, outer_steps=2))[1]
    assert isinstance(outcome, DivergedError)
    assert outcome.step == 4  # the fifth of six, counted from 0
    assert "the matching loss" in str(outcome)


def test_pixels_that_overflow_in_the_last_step_are_a_divergence_too(tiny, network, monkeypatch):
    def overflow(dataset, network, theta, batch, images, drawn):
        images.grad = torch.full_like(images, 1e38)
        return torch.ones(())

    monkeypatch.setattr(gradient, "match", overflow)
    parameters = settings(iterations=1, outer_steps=1, learning_rate=100.0)
    outcome = distil(tiny, network, [1], 0, parameters)[1]
    assert isinstance(outcome, DivergedError)
    assert "a pixel stopped being a finite number at step 1" in str(outcome)


# DSA: the same, under augmentation that both sides share.


@pytest.mark.parametrize("family", augment.FAMILIES)
def test_under_augmentation_match_equals_one_graph_over_the_summed_loss(
    tiny, network, ordinary_convnet, family
):
    dataset, batch = in_float64(tiny), [rows[:6] for rows in everything(tiny)]
    theta = weights(network, seed=3, dtype=torch.float64)
    stream = torch.Generator().manual_seed(1)
    drawn = [augment.draw([family], 1, stream) for _ in range(3)]
    start = torch.randn(6, 1, 8, 8, generator=stream, dtype=torch.float64)
    images, naive_images = (start.clone().requires_grad_() for _ in range(2))
    value = match(dataset, network, theta, batch, images, drawn)
    ordinary = ordinary_convnet(theta, 2)
    naive = reference_match(ordinary, dataset, batch, naive_images, drawn)
    naive.backward()
    assert value.item() == pytest.approx(naive.item(), rel=1e-5)
    torch.testing.assert_close(images.grad, naive_images.grad, rtol=1e-5, atol=1e-7)
    assert images.grad.abs().max() > 1e-3


def test_both_sides_of_a_class_go_through_one_draw_and_classes_through_their_own(
    tiny, network, monkeypatch
):
    applied = []
    apply = augment.apply

    def record(images, drawn):
        if not drawn.values or len(next(iter(drawn.values.values()))) == 1:  # not inner training
            applied.append((drawn, len(images)))
        return apply(images, drawn)

    monkeypatch.setattr(augment, "apply", record)
    parameters = SiameseGradientMatching(iterations=2, outer_steps=2, inner_epochs=1, real_batch=8)
    before = torch.get_rng_state()
    distil(tiny, network, [2], 0, parameters)
    assert torch.equal(torch.get_rng_state(), before)
    assert [count for _, count in applied] == [8, 2] * 3 * 4
    draws = [drawn for drawn, _ in applied]
    assert all(real is made for real, made in zip(draws[::2], draws[1::2], strict=True))
    assert len({id(drawn) for drawn in draws}) == 3 * 4
    assert len({drawn.family for drawn in draws}) > 1


def test_the_network_is_trained_under_draws_of_each_images_own(tiny, network, counted):
    parameters = SiameseGradientMatching(iterations=1, outer_steps=2, augmentation="dsa_no_flip")
    distil(tiny, network, [10], 0, parameters)
    [recipe] = [call[1] for call in counted if call[0] == "train"]
    assert recipe.augmentation == "dsa_no_flip"


def test_dsa_gives_a_set_of_its_own_name_and_one_seed_one_set(tiny, network):
    given = {"iterations": 3, "outer_steps": 1, "real_batch": 8}
    first, again = (
        distil(tiny, network, [2], 0, SiameseGradientMatching(**given))[2] for _ in range(2)
    )
    assert first.method == "dsa"
    assert torch.equal(first.images, again.images)
    plain = distil(tiny, network, [2], 0, SiameseGradientMatching(**given, augmentation="none"))[2]
    dc = distil(tiny, network, [2], 0, GradientMatching(**given, initialisation="real"))[2]
    assert torch.equal(plain.images, dc.images)
    assert not torch.equal(plain.images, first.images)


@pytest.mark.parametrize("average", ["arithmetic", "geometric"])
def test_for_a_family_every_iteration_takes_the_network_and_the_optimizer_of_one_of_it(
    tiny, network, drawn_weights, average
):
    """Six iterations by hand, each for the configuration whose network was drawn."""
    family = [
        {"network": {"name": "mlp", "width": 10, "depth": 2}, "learning_rate": 0.05},
        {
            "network": {"name": "mlp", "width": 6, "depth": 2},
            "optimizer": "adam",
            "learning_rate": 0.01,
        },
    ]
    parameters = settings(
        iterations=6,
        inner_epochs=3,
        learning_rate=0.2,
        real_batch=EVERYTHING,
        configurations=family,
        average=average,
    )
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    images = distil(tiny, network, [2], 0, parameters.replace(iterations=0))[2].images
    made = distil(tiny, network, [2], 0, parameters)[2].images
    velocity, widths = torch.zeros_like(images), []
    for theta in drawn_weights:
        ordinary = ordinary_mlp(theta)
        widths.append(len(theta["body.1.bias"]))
        for outer in range(2):
            images = images.detach().requires_grad_()
            total = reference_match(ordinary, tiny, everything(tiny), images)
            total = total if average == "arithmetic" else total.log()
            velocity = 0.5 * velocity + torch.autograd.grad(total, images)[0]
            images = (images - 0.2 * velocity).detach()
            weights = list(ordinary.parameters())
            if widths[-1] == 10:
                optimiser = torch.optim.SGD(weights, 0.05)
            else:
                optimiser = torch.optim.Adam(weights, 0.01)
            for _ in range(3 if outer == 0 else 0):
                optimiser.zero_grad()
                F.cross_entropy(ordinary(images), labels).backward()
                optimiser.step()
    assert set(widths) == {6, 10}
    torch.testing.assert_close(made, images, rtol=1e-3, atol=1e-4)


def test_a_family_of_the_studys_own_configuration_gives_the_same_bytes(tiny, perceptron):
    own = {"network": {"name": "mlp", "width": 10, "depth": 2}, "optimizer": "sgd"}
    plain, alone = (
        distil(tiny, perceptron, [2], 0, settings(configurations=given))[2].images
        for given in ([], [own, own])
    )
    assert torch.equal(plain, alone)


def test_a_bad_family_to_distil_for_is_refused_when_it_is_read():
    with pytest.raises(ValueError, match=r"configurations\[1\]: 'adm' is not an optimizer"):
        settings(configurations=[{}, {"optimizer": "adm"}])
