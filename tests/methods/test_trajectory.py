"""MTT against one graph through all of a student's steps, and against its published formulas."""

import io
import itertools
import json
import math
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from draws import in_float64, noise, ordinary_convnet, prepare, stream

from ddlib.methods import METHODS
from ddlib.methods.common import initial_images
from ddlib.methods.trajectory import TrajectoryMatching, jobs, train_expert, unroll
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError

distil = METHODS["mtt"].distil
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
NORMS = {"instance": torch.nn.InstanceNorm2d, "batch": torch.nn.BatchNorm2d}


def settings(**changes):
    short = {"iterations": 3, "student_steps": 3, "expert_epochs": 1, "max_start": 2}
    rates = {"learning_rate": 10, "step_size": 0.05, "step_size_learning_rate": 1e-4}
    few = {"experts": 2, "expert_steps": 5, "expert_learning_rate": 0.1, "expert_batch": 30}
    plain = {"augmentation": "none", "expert_augmentation": "none"}
    return TrajectoryMatching(**{**short, **rates, **few, **plain, **changes})


@pytest.fixture(scope="module")
def experts(tiny, network, tmp_path_factory):
    """The files of two experts with the snapshots 0, 1 and 2."""
    folder = tmp_path_factory.mktemp("experts")
    return prepare(METHODS["mtt"], settings(), [1, 2, 3], tiny, network, folder)[0]


def job(**changes):
    given = {"expert": 1, "epochs": 2, "epoch_steps": 0, "batch_size": 60, "learning_rate": 0.1}
    return given | {"momentum": 0.0, "weight_decay": 0.0, "augmentation": "none"} | changes


@pytest.mark.parametrize(
    ("changes", "ipcs", "epochs"),
    [
        ({}, [1, 50, 10], 41),  # the last start is 39, its target 41
        ({}, [1], 3),
        ({"max_start": {1: 9, 10: 1}, "expert_epochs": {1: 1, 10: 4}}, [1, 10], 9),
    ],
)
def test_experts_are_trained_no_further_than_the_last_target(changes, ipcs, epochs):
    planned = jobs(TrajectoryMatching(experts=3, **changes), ipcs)
    assert json.loads(json.dumps(planned)) == planned
    recipe = {"batch_size": 256, "learning_rate": 0.01, "momentum": 0.0, "weight_decay": 0.0}
    recipe |= {"augmentation": "dsa", "epoch_steps": 0, "epochs": epochs}
    assert planned == [{"expert": number, **recipe} for number in range(3)]
    assert planned == jobs(TrajectoryMatching(experts=3, **changes, learning_rate=3), ipcs)


def batches(count, size, stream):
    """Yield batches cut from permutations that follow one another."""
    pending = []
    while True:
        while len(pending) < size:
            pending += torch.randperm(count, generator=stream).tolist()
        rows, pending = torch.tensor(pending[:size]), pending[size:]
        yield rows


@pytest.mark.parametrize(
    ("norm", "momentum", "size", "epoch_steps", "steps"),
    [
        ("instance", 0.0, 60, 0, 2),  # of 120 images
        ("instance", 0.9, 50, 0, 3),
        ("batch", 0.0, 50, 5, 5),
    ],
)
def test_snapshots_equal_an_ordinary_loop_of_sgd(tiny, norm, momentum, size, epoch_steps, steps):
    """Two epochs, each a pass or the steps asked for; momentum lasts from epoch to epoch."""
    network = build("convnet", tiny.sample_shape, tiny.class_count, width=6, depth=2, norm=norm)
    recipe = job(momentum=momentum, weight_decay=0.01, batch_size=size, epoch_steps=epoch_steps)
    content = train_expert(tiny, network, recipe)
    assert train_expert(tiny, network, recipe) == content
    theta = initial_parameters(network, generator("expert weights", 1))
    ordinary = ordinary_convnet(theta, 2, norm=NORMS[norm])
    parameters = list(ordinary.parameters())
    optimiser = torch.optim.SGD(parameters, lr=0.1, momentum=momentum, weight_decay=0.01)
    expected = [torch.nn.utils.parameters_to_vector(parameters).detach().clone()]
    batch = batches(120, size, generator("expert batches", 1))
    for _ in range(2):
        for _ in range(steps):
            rows = next(batch)
            optimiser.zero_grad()
            F.cross_entropy(ordinary(tiny.train.samples[rows]), tiny.train.labels[rows]).backward()
            optimiser.step()
        expected.append(torch.nn.utils.parameters_to_vector(parameters).detach().clone())
    snapshots = torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))
    torch.testing.assert_close(snapshots, torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert (expected[1] - expected[2]).norm() > 0.1


def test_an_expert_that_diverges_says_so(tiny, network):
    sentence = "the training loss of expert 1 stopped .*; choose a smaller expert_learning_rate$"
    with pytest.raises(DivergedError, match=sentence):
        train_expert(tiny, network, job(learning_rate=1e30))


def ordinary_scores(flat, images, norm):
    """The logits of the ConvNet of width 6 and depth 2, from torch's plain functions."""
    values = list(flat.split([54, 6, 6, 6, 324, 6, 6, 6, 72, 3]))
    for channels in (1, 6):
        kernel, bias, scale, shift = (values.pop(0) for _ in range(4))
        images = F.conv2d(images, kernel.view(6, channels, 3, 3), bias, padding=1)
        if norm == "batch":
            images = F.batch_norm(images, None, None, scale, shift, training=True)
        else:
            images = F.instance_norm(images, weight=scale, bias=shift)
        images = F.avg_pool2d(F.relu(images), 2)
    return F.linear(images.flatten(1), values[0].view(3, 24), values[1])


def naive_unroll(start, target, images, step_size, steps, norm="instance", labels=LABELS):
    """The loss in one graph through every step; labels: classes, or probabilities."""
    theta = start.clone().requires_grad_()
    for rows, draw in steps:
        scores = ordinary_scores(theta, augment.apply(images[rows], draw), norm)
        loss = F.cross_entropy(scores, labels[rows])
        theta = theta - step_size * torch.autograd.grad(loss, theta, create_graph=True)[0]
    return ((theta - target) ** 2).sum() / ((start - target) ** 2).sum()


@pytest.fixture(scope="module")
def pair(experts):
    """The first two snapshots of an expert, in float64."""
    return torch.from_numpy(np.load(experts[0])).double()[:2]


def student(step_size=0.3):
    images = noise(6, 1, 8, 8, dtype=torch.float64)
    return images.requires_grad_(), torch.tensor(step_size).double().requires_grad_()


def changing_steps(count):
    """Batches of four of the six images, each with an augmentation of its own."""
    source, families = stream(2), augment.STRATEGIES["dsa"]
    rows = (torch.randperm(6, generator=source)[:4] for _ in range(count))
    return [(batch, augment.draw(families, 4, source)) for batch in rows]


def test_tesla_is_its_formula_and_twice_the_published_code(network, pair):
    """d loss / d X of Cui et al. with theta_i held: 2 (theta_N - target)^T (-alpha d g_i / d X).

    The published code leaves out the 2, but for the step size.
    """
    (start, target), steps = pair, changing_steps(5)
    images, step_size = student()
    _, *ours = unroll(network, images, LABELS, step_size, start, target, steps, "tesla")
    alpha, total = step_size.item(), torch.zeros_like(start)
    slopes = []
    for rows, draw in steps:
        theta = (start - alpha * total).requires_grad_()
        scores = ordinary_scores(theta, augment.apply(images[rows], draw), "instance")
        loss = F.cross_entropy(scores, LABELS[rows])
        slopes.append(torch.autograd.grad(loss, theta, create_graph=True)[0])
        total = total + slopes[-1].detach()
    scale = (start - target).square().sum()
    published = torch.zeros_like(images)
    for slope in slopes:
        along = (alpha * (target - start) + alpha**2 * total) @ slope / scale
        published += torch.autograd.grad(along, images)[0]
    torch.testing.assert_close(ours[0], 2 * published, rtol=1e-8, atol=1e-12)
    missed = (start - step_size * total - target).square().sum() / scale
    [by_step_size] = torch.autograd.grad(missed, step_size)
    assert ours[1].item() == pytest.approx(by_step_size.item(), rel=1e-8)


@pytest.mark.parametrize("gradient", ["exact", "tesla"])
def test_graphs_do_not_grow_with_the_number_of_steps(network, pair, gradient):
    """The most bytes that autograd's graphs hold at once: those of one step."""

    def most_held(count):
        now = most = 0

        def release(size):
            nonlocal now
            now -= size

        def hold(tensor):
            nonlocal now, most
            held, now = tensor.detach(), now + tensor.nbytes
            most = max(most, now)
            weakref.finalize(held, release, tensor.nbytes)
            return held

        images, step_size = student()
        steps = changing_steps(1) * count
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held):
            unroll(network, images, LABELS, step_size, *pair, steps, gradient)
        return most

    assert most_held(12) == most_held(1) > 0


@pytest.mark.parametrize(
    ("size", "augmentation", "norm", "soft"),
    [
        (6, "none", "instance", False),
        (4, "dsa", "instance", True),
        (4, "dsa", "batch", False),
        (6, "none", "batch", True),
    ],
)
def test_a_run_equals_the_algorithm_written_out(tiny, experts, size, augmentation, norm, soft):
    """Three iterations in float64, each a graph through all steps, every pair as it was drawn.

    Images, step size and soft labels have momentum. Labels start from nine tenths of a sample's
    class: of logits ln 18, 0 and 0. Under batch norm, students normalise by their own batch.
    """
    dataset = in_float64(tiny)
    network = build("convnet", tiny.sample_shape, 3, width=6, depth=2, norm=norm)
    parameters = settings(
        **{"learning_rate": {1: 10, 3: 30}, "step_size": {1: 0.2, 3: 0.4}},
        **{"step_size_learning_rate": 1e-3, "augmentation": augmentation},
        **{"label_learning_rate": 10.0 * soft, "synthetic_batch": size if size < 6 else None},
    )
    distilled = distil(dataset, network, [2], 0, parameters, experts)[2]
    state = [initial_images(dataset, 2, "real", 0), torch.tensor(0.3).double()]
    state += [math.log(18) * F.one_hot(LABELS, 3).double()] * soft
    trained = [torch.from_numpy(np.load(path)).double() for path in experts]
    source, families = generator("expert starts", 0), augment.STRATEGIES[augmentation]
    velocity, rates = [torch.zeros_like(value) for value in state], (20, 1e-3, 10)
    for iteration in range(3):
        number, place = (2 * torch.rand(2, generator=source, dtype=torch.float64)).long().tolist()
        draws = generator("student", 0, iteration)
        rows = batches(6, size, draws) if size < 6 else itertools.repeat(torch.arange(6))
        steps = [(next(rows), augment.draw(families, size, draws)) for _ in range(3)]
        images, step_size, *labels = state = [value.detach().requires_grad_() for value in state]
        labels = labels[0].softmax(1) if soft else LABELS
        pair = trained[number][place : place + 2]
        loss = naive_unroll(*pair, images, step_size, steps, norm, labels)
        slopes = torch.autograd.grad(loss, state)
        velocity = [0.5 * old + new for old, new in zip(velocity, slopes, strict=True)]
        state = [value - rate * v for value, rate, v in zip(state, rates, velocity, strict=False)]
    torch.testing.assert_close(distilled.samples, state[0].detach(), rtol=1e-5, atol=1e-5)
    assert distilled.learned == {"step_size": pytest.approx(state[1].item(), rel=1e-5)}
    assert abs(state[1].item() - 0.3) > 1e-4
    if soft:
        wanted = state[2].detach().softmax(1)
        torch.testing.assert_close(distilled.labels, wanted, rtol=1e-5, atol=1e-6)
        assert (wanted.amax(1) - 0.9).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_size": 1e30}, "the matching loss stopped being a finite number at step 0"),
        ({"step_size_learning_rate": 3e38}, "step size stopped being a finite number at step 1"),
        # A step that is far too long falls.
        ({"step_size": 3.0, "step_size_learning_rate": 1e3}, "fell to zero or below at step 0"),
    ],
)
def test_a_step_size_that_diverges_says_how(tiny, network, experts, changes, message):
    outcome = distil(tiny, network, [1], 0, settings(iterations=1, **changes), experts)[1]
    assert isinstance(outcome, DivergedError)
    assert f"{message}; choose a smaller step_size" in str(outcome)


def test_a_student_that_takes_no_steps_is_refused():
    with pytest.raises(ValueError, match="mtt: step_size=0 must be a number above 0"):
        TrajectoryMatching.read({"step_size": 0}, "mtt")
