"""MTT against one graph through all of a student's steps, and against its published formulas."""

import io
import itertools
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddlib.data.base import Split
from ddlib.methods import METHODS, trajectory
from ddlib.methods.common import initial_images
from ddlib.methods.trajectory import TrajectoryMatching, jobs, train_expert, unroll
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError

distil = METHODS["mtt"].distil
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
IPCS = [1, 2, 3]
NORMS = {"instance": torch.nn.InstanceNorm2d, "batch": torch.nn.BatchNorm2d}


def settings(**changes):
    given = {
        "iterations": 3,
        "student_steps": 3,
        "expert_epochs": 1,
        "max_start": 2,
        "learning_rate": 10,
        "step_size": 0.05,
        "step_size_learning_rate": 1e-4,
        "augmentation": "none",
        "experts": 2,
        "expert_steps": 5,
        "expert_learning_rate": 0.1,
        "expert_batch": 30,
        "expert_augmentation": "none",
        **changes,
    }
    return TrajectoryMatching(**given)


def prepare(dataset, network, parameters, folder):
    paths = []
    for job in jobs(parameters, IPCS):
        paths.append(folder / f"{len(paths)}.npy")
        paths[-1].write_bytes(train_expert(dataset, network, job))
    return paths


@pytest.fixture(scope="module")
def experts(tiny, network, tmp_path_factory):
    """The files of two experts with the snapshots 0, 1 and 2."""
    return prepare(tiny, network, settings(), tmp_path_factory.mktemp("experts"))


def job(**changes):
    given = {"expert": 1, "epochs": 2, "epoch_steps": 0, "batch_size": 60, "learning_rate": 0.1}
    return given | {"momentum": 0.0, "weight_decay": 0.0, "augmentation": "none"} | changes


def snapshots(content):
    return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))


# The parameters and the experts.


def test_defaults_are_the_published_ones():
    own = TrajectoryMatching()
    assert (own.iterations, own.momentum, own.synthetic_batch) == (5000, 0.5, 0)
    assert (own.initialisation, own.augmentation, own.gradient) == ("real", "dsa", "exact")
    assert own.student_steps == {1: 50, 10: 30, 50: 30}
    assert (own.expert_epochs, own.max_start) == (2, {1: 2, 10: 20, 50: 40})
    assert own.learning_rate == {1: 100, 10: 100, 50: 1000}
    assert own.step_size == {1: 0.01, 10: 0.001, 50: 0.001}
    assert own.step_size_learning_rate == {1: 1e-7, 10: 1e-5, 50: 1e-5}
    assert (own.experts, own.expert_steps, own.expert_batch) == (100, 0, 256)
    assert (own.expert_learning_rate, own.expert_momentum, own.expert_weight_decay) == (0.01, 0, 0)
    assert own.expert_augmentation == "dsa"


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


@pytest.mark.parametrize(("norm", "momentum"), [("instance", 0.0), ("instance", 0.9), ("batch", 0)])
def test_snapshots_equal_an_ordinary_loop_of_sgd(tiny, ordinary_convnet, norm, momentum):
    """Two epochs of two batches of half the 120 images; momentum lasts from epoch to epoch."""
    network = build("convnet", tiny.image_shape, tiny.class_count, width=6, depth=2, norm=norm)
    rows = snapshots(train_expert(tiny, network, job(momentum=momentum, weight_decay=0.01)))
    theta = initial_parameters(network, generator("expert weights", 1))
    ordinary = ordinary_convnet(theta, 2, norm=NORMS[norm])
    parameters = list(ordinary.parameters())
    optimiser = torch.optim.SGD(parameters, lr=0.1, momentum=momentum, weight_decay=0.01)
    stream = generator("expert batches", 1)
    expected = [torch.nn.utils.parameters_to_vector(parameters).detach().clone()]
    for _ in range(2):
        for batch in torch.randperm(120, generator=stream).split(60):
            optimiser.zero_grad()
            scores = ordinary(tiny.train.images[batch])
            F.cross_entropy(scores, tiny.train.labels[batch]).backward()
            optimiser.step()
        expected.append(torch.nn.utils.parameters_to_vector(parameters).detach().clone())
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, torch.stack(expected), rtol=1e-5, atol=1e-6)
    for earlier, later in itertools.pairwise(rows):
        assert (earlier - later).norm() > 0.1


@pytest.mark.parametrize(("epoch_steps", "batch", "steps"), [(0, 50, 3), (0, 999, 1), (7, 50, 7)])
def test_an_epoch_is_the_steps_asked_for_or_a_pass_over_the_set(
    tiny, network, epoch_steps, batch, steps
):
    """A snapshot every so many steps of one training, that of a snapshot every step."""
    long = snapshots(
        train_expert(tiny, network, job(epochs=2, epoch_steps=epoch_steps, batch_size=batch))
    )
    each = snapshots(
        train_expert(tiny, network, job(epochs=2 * steps, epoch_steps=1, batch_size=batch))
    )
    assert torch.equal(long, each[::steps])


def test_experts_differ_in_weights_and_batches_and_repeat_to_the_byte(tiny, network):
    first, again, other, augmented = (
        train_expert(tiny, network, job(expert=number, augmentation=augmentation))
        for number, augmentation in ((0, "none"), (0, "none"), (1, "none"), (0, "dsa"))
    )
    assert first == again
    assert (snapshots(first) - snapshots(other)).norm(dim=1).min() > 1
    assert torch.equal(snapshots(first)[0], snapshots(augmented)[0])
    assert not torch.equal(snapshots(first)[1], snapshots(augmented)[1])


def test_an_expert_that_diverges_says_so(tiny, network):
    sentence = "the training loss of expert 1 stopped .*; choose a smaller expert_learning_rate$"
    with pytest.raises(DivergedError, match=sentence):
        train_expert(tiny, network, job(learning_rate=1e30))


# The objective and its gradients.


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


def naive_unroll(start, target, images, step_size, steps, norm="instance"):
    """The loss in one graph through every step."""
    theta = start.clone().requires_grad_()
    for rows, draw in steps:
        scores = ordinary_scores(theta, augment.apply(images[rows], draw), norm)
        loss = F.cross_entropy(scores, LABELS[rows])
        theta = theta - step_size * torch.autograd.grad(loss, theta, create_graph=True)[0]
    return ((theta - target) ** 2).sum() / ((start - target) ** 2).sum()


@pytest.fixture(scope="module")
def pair(experts):
    """The first two snapshots of an expert, in float64."""
    return torch.from_numpy(np.load(experts[0])).double()[:2]


def student(step_size=0.3):
    stream = torch.Generator().manual_seed(1)
    images = torch.randn(6, 1, 8, 8, generator=stream, dtype=torch.float64)
    return images.requires_grad_(), torch.tensor(step_size).double().requires_grad_()


def whole_steps(count):
    return [(torch.arange(6), augment.Draw("none"))] * count


def changing_steps(count):
    """Batches of four of the six images, each with an augmentation of its own."""
    stream = torch.Generator().manual_seed(2)
    families = augment.STRATEGIES["dsa"]
    return [
        (torch.randperm(6, generator=stream)[:4], augment.draw(families, 4, stream))
        for _ in range(count)
    ]


@pytest.mark.parametrize("steps", [whole_steps(1), whole_steps(4), changing_steps(6)])
@pytest.mark.parametrize("norm", NORMS)
def test_loss_and_gradients_equal_one_graph_through_all_steps(pair, steps, norm):
    """Under batch norm, students normalise by their own batch."""
    network = build("convnet", (1, 8, 8), 3, width=6, depth=2, norm=norm)
    images, step_size = student()
    before = images.detach().clone(), pair.clone()
    loss, by_images, by_step_size = unroll(network, images, LABELS, step_size, *pair, steps)
    naive = naive_unroll(*pair, images, step_size, steps, norm)
    naive.backward()
    assert loss.item() == pytest.approx(naive.item(), rel=1e-8)
    torch.testing.assert_close(by_images, images.grad, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(by_step_size, step_size.grad, rtol=1e-7, atol=1e-9)
    assert by_images.abs().max() > 1e-4
    assert torch.equal(images, before[0])
    assert torch.equal(pair, before[1])
    assert not pair.requires_grad


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


class Held:
    """A tensor that autograd holds on to."""

    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize("gradient", ["exact", "tesla"])
def test_graphs_do_not_grow_with_the_number_of_steps(network, pair, gradient):
    """The most bytes that autograd's graphs hold at once: those of one step."""

    def most_held(compute):
        now, most = [0], [0]

        def release(size):
            now[0] -= size

        def hold(tensor):
            held = Held(tensor)
            now[0] += tensor.nbytes
            most[0] = max(most[0], now[0])
            weakref.finalize(held, release, tensor.nbytes)
            return held

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held.tensor):
            compute()
        return most[0]

    def ours(count):
        images, step_size = student()
        steps = changing_steps(1) * count
        return most_held(lambda: unroll(network, images, LABELS, step_size, *pair, steps, gradient))

    def naive(count):
        steps = changing_steps(1) * count
        return most_held(lambda: naive_unroll(*pair, *student(), steps).backward())

    assert naive(12) > 3.5 * naive(3)  # the measure sees a graph that grows
    assert ours(12) == ours(1) < naive(2)


# Distillation.


@pytest.fixture
def matched(monkeypatch):
    """Stand in for matching: note what is matched, and leave S as it is."""
    calls = []

    def record(network, images, labels, step_size, start, target, steps, gradient):
        calls.append({"start": start, "target": target, "steps": steps, "gradient": gradient})
        return torch.ones(()), torch.zeros_like(images), torch.zeros_like(step_size)

    monkeypatch.setattr(trajectory, "unroll", record)
    return calls


@pytest.fixture
def numbered(tmp_path):
    """Files of three experts whose snapshot t is filled with 100 x expert + t."""
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for number, path in enumerate(paths):
        rows = 100 * number + np.arange(20, dtype=np.float32)
        np.save(path, np.repeat(rows[:, None], 4, axis=1))
    return paths


def places(calls):
    return [(int(call["start"][0]), int(call["target"][0])) for call in calls]


def test_pairs_are_drawn_alike_often_and_every_size_matches_the_same_experts(
    tiny, network, matched, numbered
):
    tables = {"max_start": {1: 4, 3: 8}, "expert_epochs": {1: 1, 3: 2}}
    parameters = settings(iterations=600, student_steps={1: 1, 3: 3}, **tables)
    distil(tiny, network, [1, 3], 0, parameters, numbered)
    small, large = places(matched[:600]), places(matched[600:])
    assert {target - start for start, target in small} == {1}
    assert {target - start for start, target in large} == {2}
    for (s, _), (b, _) in zip(small, large, strict=True):
        assert s // 100 == b // 100
        assert s % 100 == b % 100 // 2  # the same place in a range twice as long
    counts = np.bincount([start for start, _ in small], minlength=300)
    assert set(np.flatnonzero(counts)) == {100 * e + t for e in range(3) for t in range(4)}
    # 600 draws over 12 places: 50 each, with a deviation of 6.8.
    assert 20 < counts[counts > 0].min() <= counts.max() < 80
    assert [len(call["steps"]) for call in matched[::600]] == [1, 3]


@pytest.mark.parametrize(("ipc", "size"), [(1, 2), (2, 3), (3, 4), (4, 4)])
def test_batches_of_s_take_every_image_once_before_any_twice_under_its_own_augmentation(
    tiny, network, matched, numbered, ipc, size
):
    given = {"synthetic_batch": {1: 2, 3: 4}, "student_steps": 12, "gradient": "tesla"}
    parameters = settings(**given, augmentation="dsa_no_flip")
    distil(tiny, network, [ipc], 0, parameters, numbered)
    for call in matched:
        assert call["gradient"] == "tesla"
        assert [len(rows) for rows, _ in call["steps"]] == [size] * 12
        epoch = torch.cat([rows for rows, _ in call["steps"]])[: 3 * ipc].tolist()
        assert sorted(epoch) == list(range(3 * ipc))
    draws = [draw for call in matched for _, draw in call["steps"]]
    assert {draw.family for draw in draws} == set(augment.STRATEGIES["dsa_no_flip"])
    strengths = [value for draw in draws for value in draw.values.values()]
    assert {len(value) for value in strengths} == {size}
    assert len(torch.cat(strengths).unique()) > 0.98 * sum(map(len, strengths))


def test_a_batch_of_0_is_all_of_s_in_its_order(tiny, network, matched, numbered):
    distil(tiny, network, [2], 0, settings(iterations=1), numbered)
    assert [rows.tolist() for rows, _ in matched[0]["steps"]] == [list(range(6))] * 3


def test_a_run_equals_the_algorithm_written_out(tiny, network, experts):
    """Three iterations in float64: momentum of images and step size, every pair as it was drawn."""
    dataset = replace(tiny, train=Split(tiny.train.images.double(), tiny.train.labels))
    parameters = settings(
        learning_rate={1: 10, 3: 30}, step_size={1: 0.2, 3: 0.4}, step_size_learning_rate=1e-3
    )
    distilled = distil(dataset, network, [2], 0, parameters, experts)[2]
    images, step_size = initial_images(dataset, 2, "real", 0), torch.tensor(0.3).double()
    trained = [torch.from_numpy(np.load(path)).double() for path in experts]
    stream = generator("expert starts", 0)
    velocity = [torch.zeros_like(images), torch.zeros_like(step_size)]
    for _ in range(3):
        number, place = (2 * torch.rand(2, generator=stream, dtype=torch.float64)).long().tolist()
        images, step_size = images.detach().requires_grad_(), step_size.detach().requires_grad_()
        pair = trained[number][place : place + 2]
        loss = naive_unroll(*pair, images, step_size, whole_steps(3))
        slopes = torch.autograd.grad(loss, [images, step_size])
        velocity = [0.5 * old + new for old, new in zip(velocity, slopes, strict=True)]
        images = images - 20 * velocity[0]
        step_size = step_size - 1e-3 * velocity[1]
    torch.testing.assert_close(distilled.images, images.detach(), rtol=1e-6, atol=1e-6)
    assert distilled.learned == {"step_size": pytest.approx(step_size.item(), rel=1e-6)}
    assert abs(step_size.item() - 0.3) > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"step_size": 1e30},
            "the matching loss stopped being a finite number at step 0; choose a smaller step_size",
        ),
        (
            {"step_size_learning_rate": 3e38},
            "the learned step size stopped being a finite number at step 1; choose a smaller "
            "step_size_learning_rate",
        ),
        (
            {"step_size": 3.0, "step_size_learning_rate": 1e3},  # far too long: it falls
            "the learned step size fell to zero or below at step 0; choose a smaller "
            "step_size_learning_rate",
        ),
    ],
)
def test_a_step_size_that_diverges_says_how(tiny, network, experts, changes, message):
    outcome = distil(tiny, network, [1], 0, settings(iterations=1, **changes), experts)[1]
    assert isinstance(outcome, DivergedError)
    assert str(outcome) == message
