import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.devices import precision
from ddlib.networks.functional import build, logits
from ddlib.networks.initial import initial_parameters
from ddlib.networks.layers import Network
from ddlib.training import loop as training
from ddlib.training.divergence import CHECK_EVERY, DivergedError, Watch
from ddlib.training.loop import batches, score, train, train_and_score, training_steps
from ddlib.training.recipe import SCHEDULES, Recipe

PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def network(tiny):
    return build("mlp", tiny.image_shape, tiny.class_count, width=10, depth=2)


@pytest.fixture
def theta(network):
    return initial_parameters(network, stream(11))


@pytest.fixture
def seen(monkeypatch):
    """The image batches that training passes to the network, as they come."""
    batches_seen = []

    def record(network, theta, images, **options):
        batches_seen.append(images.clone())
        return logits(network, theta, images, **options)

    monkeypatch.setattr(training, "logits", record)
    return batches_seen


def perceptron(values, images):
    """The two-layer MLP by hand; values: [weight, bias, weight, bias]."""
    hidden = (images.flatten(1) @ values[0].T + values[1]).clamp(min=0)
    return hidden @ values[2].T + values[3]


def nats(values, images, labels):
    """Mean cross-entropy by hand."""
    scores = perceptron(values, images)
    right = scores[torch.arange(len(labels)), labels]
    return (scores.exp().sum(1).log() - right).mean()


def sgd_by_hand(theta, images, labels, index_batches, rates, momentum=0.0, decay=0.0):
    """SGD as Sutskever et al. (ICML 2013) has it in PyTorch's form, in float64."""
    values = [value.double() for value in theta.values()]
    velocity = [torch.zeros_like(value) for value in values]
    for batch, rate in zip(index_batches, rates, strict=True):
        values = [value.detach().requires_grad_() for value in values]
        loss = nats(values, images[batch].double(), labels[batch])
        gradients = torch.autograd.grad(loss, values)
        for i, gradient in enumerate(gradients):
            velocity[i] = momentum * velocity[i] + gradient + decay * values[i].detach()
            values[i] = values[i].detach() - rate * velocity[i]
    return values


def assert_same_weights(theta, values):
    for ours, theirs in zip(theta.values(), values, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.9, 0.1), (0.5, 5e-4)]
)
def test_full_batch_sgd_equals_a_hand_written_loop(tiny, network, theta, momentum, decay):
    recipe = Recipe(
        steps=12,
        batch_size=256,
        learning_rate=0.1,
        momentum=momentum,
        weight_decay=decay,
        schedule="constant",
    )
    images, labels = tiny.train.images, tiny.train.labels
    trained = train(network, theta, images, labels, recipe, stream())
    everything = [torch.arange(120)] * 12
    by_hand = sgd_by_hand(theta, images, labels, everything, [0.1] * 12, momentum, decay)
    assert_same_weights(trained, by_hand)


def test_mini_batch_sgd_takes_the_batches_of_its_generator(tiny, network, theta):
    recipe = Recipe(
        steps=9,
        batch_size=32,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.01,
        schedule="constant",
    )
    images, labels = tiny.train.images, tiny.train.labels
    trained = train(network, theta, images, labels, recipe, stream(4))
    source = batches(120, 32, stream(4))
    drawn = [next(source) for _ in range(9)]
    by_hand = sgd_by_hand(theta, images, labels, drawn, [0.1] * 9, 0.9, 0.01)
    assert_same_weights(trained, by_hand)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.1] * 6),
        ("cosine", [0.05 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]),
        ("step", [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]),
    ],
)
def test_the_schedule_sets_the_rate_of_every_step(tiny, network, theta, schedule, rates):
    recipe = Recipe(
        steps=6,
        batch_size=256,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0,
        schedule=schedule,
    )
    images, labels = tiny.train.images, tiny.train.labels
    trained = train(network, theta, images, labels, recipe, stream())
    everything = [torch.arange(120)] * 6
    assert_same_weights(trained, sgd_by_hand(theta, images, labels, everything, rates, 0.9))


def test_schedules_have_their_known_values():
    shares = (0.0, 0.25, 0.49, 0.5, 0.75, 1.0)
    assert [SCHEDULES["constant"](share) for share in shares] == [1] * 6
    assert [SCHEDULES["step"](share) for share in shares] == [1, 1, 1, 0.1, 0.1, 0.1]
    root = math.sqrt(0.5)
    cosine = [SCHEDULES["cosine"](share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert cosine == pytest.approx([1, (1 + root) / 2, 0.5, (1 - root) / 2, 0])


def test_batches_are_cut_from_whole_permutations():
    source = batches(10, 4, stream())
    drawn = [next(source) for _ in range(25)]
    assert {len(batch) for batch in drawn} == {4}
    passes = torch.cat(drawn).view(10, 10)
    for one in passes:
        assert sorted(one.tolist()) == list(range(10))
    assert len({tuple(one.tolist()) for one in passes}) == 10  # shuffled anew each time


def test_batches_just_below_the_size_of_the_set():
    source = batches(5, 4, stream())
    passes = torch.cat([next(source) for _ in range(5)]).view(4, 5)
    assert all(sorted(one.tolist()) == [0, 1, 2, 3, 4] for one in passes)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 4), (4, 4), (10, 256)])
def test_a_small_set_is_one_batch_in_its_own_order(count, size):
    source = batches(count, size, stream())
    for _ in range(3):
        assert next(source).tolist() == list(range(count))


def test_batches_are_their_generators():
    first, again, other = (batches(100, 32, stream(seed)) for seed in (0, 0, 1))
    drawn = torch.stack([next(first) for _ in range(20)])
    assert torch.equal(drawn, torch.stack([next(again) for _ in range(20)]))
    assert not torch.equal(drawn, torch.stack([next(other) for _ in range(20)]))


@pytest.mark.parametrize("count", [1, 3, 16, 17, 120])
def test_the_number_of_steps_does_not_depend_on_the_size_of_the_set(
    tiny, network, theta, seen, count
):
    recipe = Recipe(steps=7, batch_size=16, learning_rate=0.01)
    train(network, theta, tiny.train.images[:count], tiny.train.labels[:count], recipe, stream())
    assert [len(batch) for batch in seen] == [min(count, 16)] * 7


def test_training_leaves_what_it_is_given_as_it_was(tiny, network, theta):
    images, labels = tiny.train.images.clone(), tiny.train.labels.clone()
    before = {name: value.clone() for name, value in theta.items()}
    trained = train(
        network,
        theta,
        images,
        labels,
        Recipe(steps=3, batch_size=16, learning_rate=0.1, augmentation="dsa"),
        stream(),
    )
    assert torch.equal(images, tiny.train.images)
    assert torch.equal(labels, tiny.train.labels)
    for name, value in theta.items():
        assert torch.equal(value, before[name])
        assert not value.requires_grad
        assert not trained[name].requires_grad
        assert not torch.equal(trained[name], before[name])


def test_the_same_generator_gives_the_same_bytes_and_the_global_state_is_left_alone(
    tiny, network, theta
):
    recipe = Recipe(steps=5, batch_size=16, learning_rate=0.1, augmentation="dsa")
    before = torch.get_rng_state()
    first, again, other = (
        train(network, theta, tiny.train.images, tiny.train.labels, recipe, stream(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert not torch.equal(value, other[name])


def test_augmentation_treats_each_image_of_a_batch_by_itself(tiny, network, theta, seen):
    same = tiny.train.images[:1].expand(8, -1, -1, -1)
    labels = tiny.train.labels[:1].expand(8)
    train(
        network,
        theta,
        same,
        labels,
        Recipe(steps=20, batch_size=8, learning_rate=0.01, augmentation="dsa"),
        stream(),
    )
    differing = sum(len(batch.unique(dim=0)) > 1 for batch in seen)
    assert differing > 10  # one family a batch; only "flip" can leave eight images in two kinds
    seen.clear()
    train(network, theta, same, labels, Recipe(steps=3, batch_size=8, learning_rate=0.01), stream())
    assert all(torch.equal(batch, same) for batch in seen)


@pytest.mark.parametrize("rate", [1e8, 1e30])
def test_divergence_is_reported_with_the_step_at_which_a_naive_loop_breaks(
    tiny, network, theta, rate
):
    images, labels = tiny.train.images, tiny.train.labels
    values, broken = list(theta.values()), 0
    while True:
        values = [value.detach().requires_grad_() for value in values]
        loss = F.cross_entropy(perceptron(values, images), labels)
        if not np.isfinite(loss.item()):
            break
        gradients = torch.autograd.grad(loss, values)
        values = [value - rate * slope for value, slope in zip(values, gradients, strict=True)]
        broken += 1
        assert broken < 100
    with pytest.raises(DivergedError) as raised:
        train(
            network,
            theta,
            images,
            labels,
            Recipe(steps=100, batch_size=256, learning_rate=rate, **PLAIN),
            stream(),
        )
    assert raised.value.step == broken >= 1
    assert str(raised.value) == (
        f"the training loss stopped being a finite number at step {broken}; "
        "choose a smaller learning rate"
    )


def test_a_divergence_survives_the_way_back_from_a_worker_process():
    error = pickle.loads(pickle.dumps(DivergedError(7, "the matching loss")))
    assert error.step == 7
    assert str(error) == (
        "the matching loss stopped being a finite number at step 7; choose a smaller learning rate"
    )
    error = pickle.loads(pickle.dumps(DivergedError(3, "the step size", "fell below zero")))
    assert str(error) == "the step size fell below zero at step 3; choose a smaller learning rate"


def test_a_divergence_after_the_last_step_is_found_on_the_test_set(tiny, network):
    recipe = Recipe(steps=1, batch_size=256, learning_rate=1e30, **PLAIN)
    with pytest.raises(DivergedError, match=r"the test loss stopped .* at step 1") as raised:
        train_and_score(network, tiny.train.images, tiny.train.labels, tiny.test, recipe, 0)
    assert raised.value.step == 1


@pytest.mark.parametrize("count", [1, 63, 64, 65, 120, 128])
def test_the_score_is_over_every_image(tiny, network, theta, count):
    images, labels = tiny.train.images, tiny.train.labels
    images, labels = torch.cat([images, images])[:count], torch.cat([labels, labels])[:count]
    values = [value.double().numpy() for value in theta.values()]
    right, total = 0, 0.0
    for image, label in zip(images.double().numpy(), labels.tolist(), strict=True):
        hidden = np.maximum(values[0] @ image.ravel() + values[1], 0)
        scores = values[2] @ hidden + values[3]
        right += int(np.argmax(scores) == label)
        total += np.log(np.exp(scores).sum()) - scores[label]
    result = score(network, theta, Split(images, labels))
    assert result.accuracy == right / count
    assert result.cross_entropy == pytest.approx(total / count, rel=1e-5)


def test_a_network_that_knows_nothing_scores_the_closed_form(tiny, network, theta):
    nothing = {name: torch.zeros_like(value) for name, value in theta.items()}
    result = score(network, nothing, tiny.test)
    assert result.cross_entropy == pytest.approx(math.log(3))
    assert result.accuracy == pytest.approx(1 / 3)  # ties go to class 0, a third of the set


def test_training_learns_what_can_be_learnt(tiny):
    # Prototypes are 11 apart with noise of 0.7 a pixel: the classes hardly overlap.
    network = build("convnet", tiny.image_shape, 3, width=8, depth=2)
    result = train_and_score(
        network,
        tiny.train.images,
        tiny.train.labels,
        tiny.test,
        Recipe(steps=60, batch_size=32, learning_rate=0.05),
        0,
    )
    assert result.accuracy > 0.95
    assert result.cross_entropy < 0.2


def test_one_seed_gives_one_score_and_the_same_start_to_every_set(tiny, network):
    recipe, train_set = Recipe(steps=10, batch_size=16, learning_rate=0.1), tiny.train
    first, again, other = (
        train_and_score(network, train_set.images, train_set.labels, tiny.test, recipe, seed)
        for seed in ((0, 1), (0, 1), (1, 0))
    )
    assert first == again
    assert first != other
    still = Recipe(steps=1, batch_size=16, learning_rate=0.0)
    starts = [
        train_and_score(
            network, train_set.images[:count], train_set.labels[:count], tiny.test, still, 3
        )
        for count in (3, 120)
    ]
    assert starts[0] == starts[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"learning_rate": math.nan}, "learning_rate=nan must be"),
        ({"schedule": "cosin"}, "'cosin' is not a schedule; did you mean 'cosine'"),
        ({"augmentation": "dsa_flip"}, "'dsa_flip' is not an augmentation; .*allowed: none, dsa"),
    ],
)
def test_a_bad_recipe_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**given)


def test_training_under_batch_norm_equals_an_ordinary_model_trained_by_a_plain_loop(
    tiny, ordinary_convnet
):
    network = build("convnet", tiny.image_shape, 3, width=6, depth=2, norm="batch")
    theta = initial_parameters(network, stream(11))
    recipe = Recipe(
        steps=15,
        batch_size=32,
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=0.01,
        schedule="cosine",
    )
    images, labels = tiny.train.images, tiny.train.labels
    trained = train(network, theta, images, labels, recipe, stream(4))
    ordinary = ordinary_convnet(theta, 2, norm=nn.BatchNorm2d).train()
    optimiser = torch.optim.SGD(ordinary.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 15)
    source = batches(120, 32, stream(4))
    for _ in range(15):
        batch = next(source)
        optimiser.zero_grad()
        F.cross_entropy(ordinary(images[batch]), labels[batch]).backward()
        optimiser.step()
        schedule.step()
    layers = [layer for layer in ordinary.modules() if isinstance(layer, nn.BatchNorm2d)]
    statistics = [value for layer in layers for value in (layer.running_mean, layer.running_var)]
    expected = [*ordinary.parameters(), *statistics]
    assert len(trained) == len(expected) == 14
    for ours, theirs in zip(trained.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-5)
        assert not ours.requires_grad
    assert set(theta) == set(trained) - {name for name in trained if "running" in name}

    ordinary.eval()
    scores = ordinary(tiny.test.images).detach()
    result = score(network, trained, tiny.test)
    assert result.accuracy == (scores.argmax(1) == tiny.test.labels).double().mean().item()
    nats = F.cross_entropy(scores, tiny.test.labels).item()
    assert result.cross_entropy == pytest.approx(nats, rel=1e-3)
    again = train(network, theta, images, labels, recipe, stream(4))
    assert all(torch.equal(value, again[name]) for name, value in trained.items())


def test_training_goes_on_from_the_statistics_it_is_given(tiny):
    network = build("convnet", tiny.image_shape, 3, width=4, norm="batch")
    theta = initial_parameters(network, stream())
    still, images, labels = (
        Recipe(steps=5, batch_size=256, learning_rate=0.0, **PLAIN),
        tiny.train.images,
        tiny.train.labels,
    )
    once = train(network, theta, images, labels, still, stream())
    before = once["body.1.running_var"].clone()
    twice = train(network, once, images, labels, still, stream())
    assert torch.equal(once["body.1.running_var"], before)
    # At fixed weights a batch moves the variance a tenth of the way from 1 to its own.
    own = (before - 0.9**5) / (1 - 0.9**5)
    torch.testing.assert_close(twice["body.1.running_var"], own + 0.9**10 * (1 - own))


@pytest.mark.parametrize("first", [0, 98, 99, 100, 149])
def test_a_watch_names_the_first_number_that_is_not_sound(first):
    seen = []

    def look():
        watch = Watch()
        for step in range(150):
            seen.append(step)
            watch.see(torch.tensor(step < first), DivergedError(step, "a number"))
        watch.check()

    with pytest.raises(DivergedError) as raised:
        look()
    assert raised.value.step == first
    assert len(seen) == (100 if first < 100 else 150)


def test_a_watch_says_again_what_it_has_said():
    watch = Watch()
    watch.finite(3, "a number", torch.tensor([1.0, math.inf]))
    for _ in range(2):
        with pytest.raises(DivergedError, match="a number stopped being a finite number at step 3"):
            watch.check()
        watch.finite(4, "another", torch.tensor(math.nan))


def test_a_training_that_diverged_ends_at_the_next_look(network, theta, tiny):
    images, labels = tiny.train.images, tiny.train.labels
    steps = training_steps(
        network,
        theta,
        images,
        labels,
        Recipe(steps=1000, batch_size=256, learning_rate=1e30),
        stream(),
    )
    done = 0
    with pytest.raises(DivergedError):
        for done, _ in enumerate(steps, 1):  # noqa: B007
            pass
    assert done == CHECK_EVERY - 1


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_bf16_trains_as_well_as_float32(norm):
    """Accuracies on 599 digits after 150 steps; chance is 0.1."""
    digits = load("digits")
    network = build("convnet", digits.image_shape, 10, width=16, norm=norm)
    given = network, digits.train.images, digits.train.labels, digits.test
    accuracies = []
    for rounding in ("float32", "bf16"):
        with precision(rounding, "cpu"):
            accuracies.append(train_and_score(*given, Recipe(steps=150, batch_size=64), 0).accuracy)
    assert accuracies[0] > 0.9
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.02)


@pytest.fixture
def dropping(tiny):
    """A network that drops half of its features, and what the dropout gives, pass by pass."""
    network = Network(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), nn.Linear(64, 3))
    passed = []
    network.body.register_forward_hook(lambda *called: passed.append(called[2]))
    return network, initial_parameters(network, stream(11)), passed


def test_dropout_is_drawn_from_the_stream_of_the_training(tiny, dropping):
    network, theta, passed = dropping
    given = (
        network,
        theta,
        tiny.train.images,
        tiny.train.labels,
        Recipe(steps=5, batch_size=120, learning_rate=0.1),
    )
    trained = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(trained))
        before = torch.get_rng_state()
        trained.append(train(*given, stream(seed))["head.weight"])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])
    dropped = torch.stack(passed[:5]) == 0
    assert dropped.double().mean() == pytest.approx(0.5, abs=0.01)  # of 38,400: four deviations
    alike = (dropped[1:] == dropped[:-1]).double().mean()
    assert alike == pytest.approx(0.5, abs=0.012)  # from step to step it is drawn anew


def test_scores_drop_nothing(tiny, dropping):
    network, theta, _ = dropping
    train(
        network,
        theta,
        tiny.train.images,
        tiny.train.labels,
        Recipe(steps=2, batch_size=16),
        stream(),
    )
    exact = F.linear(tiny.test.images.flatten(1), theta["head.weight"], theta["head.bias"])
    result = score(network, theta, tiny.test)
    assert result.cross_entropy == pytest.approx(F.cross_entropy(exact, tiny.test.labels).item())
    assert result.accuracy == (exact.argmax(1) == tiny.test.labels).double().mean().item()
