import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from draws import ordinary_convnet, ordinary_mlp, stream
from sklearn.metrics import accuracy_score, recall_score
from torch import nn

from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.devices import precision
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.training.divergence import DivergedError, Watch
from ddlib.training.loop import batches, score, train, train_and_score
from ddlib.training.recipe import OPTIMISERS, Recipe, hold_out, search_length

PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}


def sgd(steps, batch_size, learning_rate, *rest, **more):
    """A recipe; rest: momentum, weight decay and schedule."""
    more |= dict(zip(("momentum", "weight_decay", "schedule"), rest, strict=False))
    return Recipe(steps=steps, batch_size=batch_size, learning_rate=learning_rate, **more)


@pytest.fixture(scope="module")
def network(tiny):
    return build("mlp", tiny.sample_shape, tiny.class_count, width=10, depth=2)


@pytest.fixture
def theta(network):
    return initial_parameters(network, stream(11))


MOMENTUM = partial(torch.optim.SGD, momentum=0.9)


@pytest.mark.parametrize(
    ("kind", "name", "schedule", "theirs"),
    [
        ("mlp", "sgd", "constant", MOMENTUM),
        ("mlp", "sgd", "step", MOMENTUM),
        ("batch norm", "sgd", "cosine", MOMENTUM),
        ("mlp", "nesterov", "constant", partial(MOMENTUM, nesterov=True)),
        ("mlp", "rmsprop", "constant", torch.optim.RMSprop),
        ("mlp", "adam", "constant", torch.optim.Adam),
        ("mlp", "adamw", "constant", torch.optim.AdamW),
    ],
)
def test_training_is_a_plain_loop(tiny, network, kind, name, schedule, theirs):
    """Batch norms gather running statistics, which the score is taken with."""
    if kind == "batch norm":
        network = build("convnet", tiny.sample_shape, 3, width=6, depth=2, norm="batch")
    theta = initial_parameters(network, stream(11))
    recipe = sgd(6, 32, 0.02, 0.9, 0.01, schedule, optimizer=name)
    images, labels = tiny.train.samples, tiny.train.labels
    trained = train(network, theta, images, labels, recipe, stream(4))
    convnet = kind == "batch norm" and ordinary_convnet(theta, 2, norm=nn.BatchNorm2d).train()
    ordinary = convnet or ordinary_mlp(theta)
    optimiser = theirs(ordinary.parameters(), lr=0.02, weight_decay=0.01)
    factors = {
        "constant": lambda step: 1,
        "cosine": lambda step: (1 + math.cos(math.pi * step / 6)) / 2,
        "step": lambda step: 1 if step < 3 else 0.1,
    }
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, factors[schedule])
    for _, rows in zip(range(6), batches(120, 32, stream(4)), strict=False):
        optimiser.zero_grad()
        F.cross_entropy(ordinary(images[rows]), labels[rows]).backward()
        optimiser.step()
        rate.step()
    statistics = [value for key, value in ordinary.named_buffers() if "running" in key]
    for ours, value in zip(trained.values(), [*ordinary.parameters(), *statistics], strict=True):
        torch.testing.assert_close(ours, value.detach(), rtol=1e-4, atol=1e-5)
        assert not ours.requires_grad
    assert not torch.allclose(trained["head.weight"], theta["head.weight"], atol=1e-3)
    assert name in OPTIMISERS
    scores, result = ordinary.eval()(tiny.test.samples).detach(), score(network, trained, tiny.test)
    assert result.accuracy == (scores.argmax(1) == tiny.test.labels).double().mean().item()
    expected = F.cross_entropy(scores, tiny.test.labels).item()
    assert result.cross_entropy == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("count", "size"), [(10, 4), (5, 4), (100, 32)])
def test_batches_are_cut_from_whole_permutations_of_their_generator(count, size):
    """A set that is not larger than a batch is one batch in its own order."""
    first, again, other = (batches(count, size, stream(seed)) for seed in (0, 0, 1))
    drawn = torch.stack([next(first) for _ in range(count)])
    permutations = drawn.view(size, count)
    assert torch.equal(permutations.sort().values, torch.arange(count).expand(size, count))
    assert len(permutations.unique(dim=0)) == size  # shuffled anew each time
    assert torch.equal(drawn, torch.stack([next(again) for _ in range(count)]))
    assert not torch.equal(drawn, torch.stack([next(other) for _ in range(count)]))
    for whole in (batches(size, size, stream()), batches(size, 256, stream())):
        assert [next(whole).tolist() for _ in range(3)] == [list(range(size))] * 3


def test_training_is_its_generators_and_leaves_its_arguments_as_they_were(tiny, network, theta):
    arguments = [tiny.train.samples, tiny.train.labels, *theta.values()]
    copies = [tensor.clone() for tensor in arguments]
    recipe, state = sgd(5, 16, 0.1, augmentation="dsa"), torch.get_rng_state()
    first, again, other = (
        train(network, theta, *arguments[:2], recipe, stream(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, arguments, copies))
    for name, value in first.items():
        assert not value.requires_grad
        assert torch.equal(value, again[name])
        assert not torch.equal(value, other[name])


@pytest.mark.parametrize("rate", [1e8, 1e30])
def test_divergence_names_the_step_at_which_a_naive_loop_breaks(tiny, network, theta, rate):
    images, labels = tiny.train.samples, tiny.train.labels
    ordinary, broken = ordinary_mlp(theta), 0
    optimiser = torch.optim.SGD(ordinary.parameters(), rate)
    while (loss := F.cross_entropy(ordinary(images), labels)).isfinite():
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        broken += 1
        assert broken < 100
    with pytest.raises(DivergedError) as raised:
        train(network, theta, images, labels, sgd(100, 256, rate, **PLAIN), stream())
    assert pickle.loads(pickle.dumps(raised.value)).step == raised.value.step == broken >= 1
    sentence = "the training loss stopped being a finite number at step {}; choose a smaller "
    assert str(raised.value) == sentence.format(broken) + "learning rate"
    with pytest.raises(DivergedError, match=r"the test loss stopped .* at step 1"):
        train_and_score(network, images, labels, tiny.test, sgd(1, 256, 1e30, **PLAIN), 0)


@pytest.mark.parametrize("first", [0, 99, 100, 149])
def test_a_watch_names_the_first_number_that_is_not_finite(first):
    """It reads its numbers every hundred steps, and at the end."""
    watch, steps = Watch(), []
    with pytest.raises(DivergedError, match=f"a number stopped .* at step {first};"):  # noqa: PT012
        for step in range(150):
            steps.append(step)
            watch.finite(step, "a number", torch.tensor([1.0, math.inf if step >= first else 0]))
        watch.check()
    assert len(steps) == (100 if first < 100 else 150)


@pytest.mark.parametrize("counts", [(40, 23, 0), (40, 24, 0), (40, 1, 24), (40, 40, 40)])
def test_the_score_is_that_of_scikit_learn_over_every_image(tiny, network, theta, counts):
    """Balanced accuracy is the mean over the classes that are there."""
    places = [(tiny.train.labels == label).nonzero()[:, 0] for label in range(3)]
    rows = torch.cat([part[:count] for part, count in zip(places, counts, strict=True)])
    images, labels = tiny.train.samples[rows], tiny.train.labels[rows]
    result = score(network, theta, Split(images, labels))
    ordinary = ordinary_mlp({name: value.double() for name, value in theta.items()})
    scores = ordinary(images.double()).detach()
    predicted = scores.argmax(1)
    assert result.accuracy == accuracy_score(labels, predicted)
    balanced = recall_score(labels, predicted, average="macro", labels=labels.unique())
    assert result.balanced_accuracy == pytest.approx(balanced, abs=1e-12)
    expected = F.cross_entropy(scores, labels).item()
    assert result.cross_entropy == pytest.approx(expected, rel=1e-5)


def test_one_seed_gives_one_score_and_the_same_start_to_every_set(tiny, network):
    def scored(count, recipe, seed):
        images, labels = tiny.train.samples[:count], tiny.train.labels[:count]
        return train_and_score(network, images, labels, tiny.test, recipe, seed)

    first, again, other = (scored(120, sgd(10, 16, 0.1), seed) for seed in ((0, 1), (0, 1), (1, 0)))
    assert first == again
    assert first != other
    still = sgd(1, 16, 0.0)
    assert scored(3, still, 3) == scored(120, still, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"learning_rate": math.nan}, "learning_rate=nan must be"),
        ({"schedule": "cosin"}, "'cosin' is not a schedule; did you mean 'cosine'"),
        ({"augmentation": "dsa_flip"}, "'dsa_flip' is not an augmentation; .*allowed: none, dsa"),
        ({"label_smoothing": 2}, "label_smoothing=2 must be a number of at least 0 and at most 1"),
        ({"optimizer": "nesterov", "momentum": 0.0}, "needs a momentum above 0"),
    ],
)
def test_a_bad_recipe_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**given)


def test_bf16_trains_as_well_as_float32():
    """Accuracies on 599 digits after 100 steps; chance is 0.1."""
    digits = load("digits")
    network = build("convnet", digits.sample_shape, 10, width=16, norm="batch")
    arguments = network, digits.train.samples, digits.train.labels, digits.test
    accuracies = []
    for rounding in ("float32", "bf16"):
        with precision(rounding, "cpu"):
            result = train_and_score(*arguments, Recipe(steps=100, batch_size=64), 0)
            accuracies.append(result.accuracy)
    assert accuracies[0] > 0.9
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.02)


def test_dropout_is_drawn_from_the_stream_of_the_training_and_not_at_a_score(tiny):
    network = Network(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), nn.Linear(64, 3))
    theta, passes = initial_parameters(network, stream(11)), []
    network.body.register_forward_hook(lambda *call: passes.append(call[2]))
    trained = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(trained))
        before, batch = torch.get_rng_state(), (tiny.train.samples, tiny.train.labels)
        after = train(network, theta, *batch, sgd(5, 120, 0.1), stream(seed))
        trained.append(after["head.weight"])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])
    dropped = torch.stack(passes[:5]) == 0
    assert dropped.double().mean() == pytest.approx(0.5, abs=0.01)  # of 38,400: four deviations
    alike = (dropped[1:] == dropped[:-1]).double().mean()
    assert alike == pytest.approx(0.5, abs=0.012)  # from step to step it is drawn anew
    exact = F.linear(tiny.test.samples.flatten(1), theta["head.weight"], theta["head.bias"])
    result = score(network, theta, tiny.test)
    assert result.cross_entropy == pytest.approx(F.cross_entropy(exact, tiny.test.labels).item())


@pytest.mark.parametrize(
    ("most", "risks", "steps", "tried"),
    [
        (1000, {100: 0.5, 200: 0.4, 400: 0.3, 800: 0.3, 1000: 0.1}, 400, 4),  # level: it ends
        (1000, {100: 0.5, 200: 0.4, 400: 0.3, 800: 0.2, 1000: 0.1}, 1000, 5),
        (250, {100: 0.5, 200: 0.4, 250: 0.41}, 200, 3),
        (1000, {100: math.inf, 200: math.inf}, 100, 2),  # both diverged
        (1000, {100: math.inf, 200: 0.5, 400: 0.6}, 200, 3),
        (60, {}, 100, 0),  # no choice: nothing is trained
    ],
)
def test_training_is_lengthened_until_its_risk_no_longer_falls(most, risks, steps, tried):
    found = search_length(100, most, risks.__getitem__)
    assert found == (steps, list(risks.items())[:tried])


def test_the_same_share_of_every_class_is_held_out():
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 3 + [3])
    held = hold_out(labels, 0.1)
    assert labels[held].bincount(minlength=4).tolist() == [10, 2, 1, 0]
    assert torch.equal(held, hold_out(labels, 0.1))
    assert labels[hold_out(labels, 0.9)].bincount().tolist() == [90, 18, 2]
    with pytest.raises(ValueError, match="no class has two training samples, so none can be held"):
        hold_out(torch.arange(5), 0.1)
