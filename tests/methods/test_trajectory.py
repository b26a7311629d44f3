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
from ddlib.methods import trajectory
from ddlib.methods.common import initial_images
from ddlib.methods.trajectory import TrajectoryMatching, distil, jobs, make, match
from ddlib.networks.functional import build, flatten, unflatten
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.training import augment
from ddlib.training.divergence import DivergedError

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
IPCS = [1, 2, 3]


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
        paths[-1].write_bytes(make(dataset, network, job))
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
    assert vars(TrajectoryMatching()) == {
        "iterations": 5000,
        "student_steps": {1: 50, 10: 30, 50: 30},
        "expert_epochs": 2,
        "max_start": {1: 2, 10: 20, 50: 40},
        "learning_rate": {1: 100, 10: 100, 50: 1000},
        "step_size": {1: 0.01, 10: 0.001, 50: 0.001},
        "step_size_learning_rate": {1: 1e-7, 10: 1e-5, 50: 1e-5},
        "momentum": 0.5,
        "synthetic_batch": 0,
        "initialisation": "real",
        "augmentation": "dsa",
        "gradient": "exact",
        "experts": 100,
        "expert_steps": 0,
        "expert_learning_rate": 0.01,
        "expert_momentum": 0,
        "expert_weight_decay": 0,
        "expert_batch": 256,
        "expert_augmentation": "dsa",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient": "telsa"}, "'telsa' is not a gradient; did you mean 'tesla'"),
        ({"max_start": {1: 2, 10: 0}}, r"max_start\[10\]=0 must be a whole number of at least 1"),
        ({"synthetic_batch": {1: 2.5}}, r"synthetic_batch\[1\]=2.5 must be a whole number"),
        ({"student_steps": 0}, "student_steps=0 must be a whole number of at least 1"),
        ({"expert_steps": None}, "expert_steps=None must be a whole number of at least 0"),
    ],
)
def test_bad_parameters_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "ipcs", "epochs"),
    [
        ({}, [1, 50, 10], 41),  # the last start is 39, its target 41
        ({}, [1, 10], 21),
        ({}, [1], 3),
        ({"max_start": 1, "expert_epochs": {1: 3, 10: 1}}, [1, 10], 3),
        ({"max_start": {1: 9, 10: 1}, "expert_epochs": {1: 1, 10: 4}}, [1, 10], 9),
    ],
)
def test_experts_are_trained_no_further_than_the_last_target(changes, ipcs, epochs):
    planned = jobs(TrajectoryMatching(experts=3, **changes), ipcs)
    assert [job.pop("expert") for job in planned] == [0, 1, 2]
    for job in planned:
        assert job == {
            "epochs": epochs,
            "epoch_steps": 0,
            "batch_size": 256,
            "learning_rate": 0.01,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "augmentation": "dsa",
        }
    assert json.loads(json.dumps(planned)) == planned


def test_experts_for_larger_sizes_begin_as_those_for_small_ones(tiny, network):
    parameters = settings(experts=1, max_start={1: 1, 3: 3})
    short, long = (
        np.load(io.BytesIO(make(tiny, network, job)))
        for ipcs in ([1], [1, 3])
        for job in jobs(parameters, ipcs)
    )
    assert (len(short), len(long)) == (2, 4)
    assert np.array_equal(short, long[:2])


def test_experts_do_not_depend_on_what_only_students_use():
    student = {"iterations": 9, "student_steps": 7, "learning_rate": 3, "gradient": "tesla"}
    assert jobs(settings(**student), IPCS) == jobs(settings(), IPCS)
    assert jobs(settings(expert_learning_rate=0.2), IPCS) != jobs(settings(), IPCS)


@pytest.mark.parametrize(("norm", "momentum"), [("instance", 0.0), ("instance", 0.9), ("batch", 0)])
def test_snapshots_equal_an_ordinary_loop_of_sgd(tiny, ordinary_convnet, norm, momentum):
    """Two epochs of two batches of half the 120 images; momentum lasts from epoch to epoch."""
    network = build("convnet", tiny.image_shape, tiny.class_count, width=6, depth=2, norm=norm)
    made = snapshots(make(tiny, network, job(momentum=momentum, weight_decay=0.01)))
    theta = initial_parameters(network, generator("expert weights", 1))
    layer = {"instance": torch.nn.InstanceNorm2d, "batch": torch.nn.BatchNorm2d}[norm]
    ordinary = ordinary_convnet(theta, 2, norm=layer)
    parameters = list(ordinary.parameters())
    optimiser = torch.optim.SGD(parameters, lr=0.1, momentum=momentum, weight_decay=0.01)
    stream = generator("expert batches", 1)
    expected = [torch.nn.utils.parameters_to_vector(parameters).detach().clone()]
    for _ in range(2):
        for rows in torch.randperm(120, generator=stream).split(60):
            optimiser.zero_grad()
            F.cross_entropy(ordinary(tiny.train.images[rows]), tiny.train.labels[rows]).backward()
            optimiser.step()
        expected.append(torch.nn.utils.parameters_to_vector(parameters).detach().clone())
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, torch.stack(expected), rtol=1e-5, atol=1e-6)
    for earlier, later in itertools.pairwise(made):
        assert (earlier - later).norm() > 0.1  # copies, not views of weights that moved on


@pytest.mark.parametrize(("epoch_steps", "batch", "steps"), [(0, 50, 9), (0, 999, 3), (7, 50, 21)])
def test_an_epoch_is_the_steps_asked_for_or_a_pass_over_the_set(
    tiny, network, monkeypatch, epoch_steps, batch, steps
):
    taken = []
    train = trajectory.training_steps

    def record(*arguments):
        for theta in train(*arguments):
            taken.append(flatten(network, theta))
            yield theta

    monkeypatch.setattr(trajectory, "training_steps", record)
    made = snapshots(make(tiny, network, job(epochs=3, epoch_steps=epoch_steps, batch_size=batch)))
    assert len(taken) == steps
    assert made.shape == (4, len(taken[0]))
    for epoch in (1, 2, 3):
        assert torch.equal(made[epoch], taken[epoch * steps // 3 - 1])


def test_experts_differ_in_weights_and_batches_and_repeat_to_the_byte(tiny, network):
    before = torch.get_rng_state()
    first, again, other = (make(tiny, network, job(expert=number)) for number in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again
    assert (snapshots(first) - snapshots(other)).norm(dim=1).min() > 1


def test_experts_see_augmented_images(tiny, network):
    plain, augmented = (make(tiny, network, job(augmentation=name)) for name in ("none", "dsa"))
    assert torch.equal(snapshots(plain)[0], snapshots(augmented)[0])
    assert not torch.equal(snapshots(plain)[1], snapshots(augmented)[1])


def test_an_expert_that_diverges_says_so(tiny, network):
    sentence = "the training loss of expert 1 stopped .*; choose a smaller expert_learning_rate$"
    with pytest.raises(DivergedError, match=sentence):
        make(tiny, network, job(learning_rate=1e30))


def test_flat_weights_are_the_weights_in_the_order_of_the_network(network):
    theta = initial_parameters(network, torch.Generator().manual_seed(0))
    flat = flatten(network, theta)
    back = unflatten(network, flat)
    assert list(back) == list(theta)
    assert all(torch.equal(back[name], theta[name]) for name in theta)
    back["head.bias"].zero_()
    assert not flat[-3:].any()  # views
    assert theta["head.bias"].any()  # of a copy


# The objective and its gradients.


def batch_norm(images, weight, bias):
    return F.batch_norm(images, None, None, weight, bias, training=True)


def ordinary_scores(flat, images, norm=F.instance_norm):
    """The logits of the ConvNet of width 6 and depth 2, from torch's plain functions."""
    sizes = [54, 6, 6, 6, 324, 6, 6, 6, 72, 3]
    values = list(flat.split(sizes))
    for channels in (1, 6):
        kernel, bias, scale, shift = (values.pop(0) for _ in range(4))
        images = F.conv2d(images, kernel.view(6, channels, 3, 3), bias, padding=1)
        images = norm(images, weight=scale, bias=shift)
        images = F.avg_pool2d(F.relu(images), 2)
    return F.linear(images.flatten(1), values[0].view(3, 24), values[1])


def naive_unroll(start, target, images, step_size, steps, norm=F.instance_norm):
    """The loss in one graph through every step."""
    theta = start.clone().requires_grad_()
    for rows, drawn in steps:
        seen = augment.apply(images[rows], drawn)
        loss = F.cross_entropy(ordinary_scores(theta, seen, norm), LABELS[rows])
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
def test_loss_and_gradients_equal_one_graph_through_all_steps(network, pair, steps):
    images, step_size = student()
    loss = match(network, images, LABELS, step_size, *pair, steps)
    naive_images, naive_step_size = student()
    naive = naive_unroll(*pair, naive_images, naive_step_size, steps)
    naive.backward()
    assert loss.item() == pytest.approx(naive.item(), rel=1e-8)
    torch.testing.assert_close(images.grad, naive_images.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(step_size.grad, naive_step_size.grad, rtol=1e-8, atol=1e-10)
    assert naive_images.grad.abs().max() > 1e-4


@pytest.mark.parametrize("steps", [whole_steps(3), changing_steps(3)])
def test_under_batch_norm_students_normalise_by_their_own_batch(pair, steps):
    network = build("convnet", (1, 8, 8), 3, width=6, depth=2, norm="batch")
    images, step_size = student()
    loss = match(network, images, LABELS, step_size, *pair, steps)
    naive_images, naive_step_size = student()
    naive = naive_unroll(*pair, naive_images, naive_step_size, steps, batch_norm)
    naive.backward()
    assert loss.item() == pytest.approx(naive.item(), rel=1e-8)
    torch.testing.assert_close(images.grad, naive_images.grad, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(step_size.grad, naive_step_size.grad, rtol=1e-7, atol=1e-9)
    assert naive_images.grad.abs().max() > 1e-4


def test_gradients_are_those_that_finite_differences_give(network, pair):
    steps, width = whole_steps(4), 1e-5

    def value(images, step_size):
        return naive_unroll(*pair, images, step_size, steps).item()

    images, step_size = student()
    match(network, images, LABELS, step_size, *pair, steps)
    start, alpha = images.detach(), step_size.detach()
    slope = (value(start, alpha + width) - value(start, alpha - width)) / (2 * width)
    assert step_size.grad.item() == pytest.approx(slope, rel=1e-5)
    for flat in torch.randperm(start.numel(), generator=torch.Generator().manual_seed(0))[:6]:
        nudge = torch.zeros_like(start).view(-1)
        nudge[flat] = width
        nudge = nudge.view_as(start)
        slope = (value(start + nudge, alpha) - value(start - nudge, alpha)) / (2 * width)
        assert images.grad.view(-1)[flat].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_gradients_are_set_not_added_and_inputs_are_left_alone(network, pair):
    images, step_size = student()
    before = [images.detach().clone(), pair.clone()]
    match(network, images, LABELS, step_size, *pair, whole_steps(2))
    once = images.grad.clone(), step_size.grad.clone()
    match(network, images, LABELS, step_size, *pair, whole_steps(2))
    assert torch.equal(images.grad, once[0])
    assert torch.equal(step_size.grad, once[1])
    assert torch.equal(images, before[0])
    assert torch.equal(pair, before[1])
    assert not pair.requires_grad


@pytest.mark.parametrize("gradient", ["exact", "tesla"])
def test_no_step_loses_nothing_and_teaches_nothing(network, pair, gradient):
    images, step_size = student()
    loss = match(network, images, LABELS, step_size, *pair, [], gradient)
    assert loss.item() == pytest.approx(1)
    assert not images.grad.any()
    assert not step_size.grad


def test_one_step_has_nothing_to_drop(network, pair):
    exact, tesla = student(), student()
    match(network, exact[0], LABELS, exact[1], *pair, whole_steps(1), "exact")
    match(network, tesla[0], LABELS, tesla[1], *pair, whole_steps(1), "tesla")
    torch.testing.assert_close(exact[0].grad, tesla[0].grad, rtol=1e-12, atol=0)
    assert exact[1].grad.item() == pytest.approx(tesla[1].grad.item(), rel=1e-12)


def test_tesla_drops_exactly_what_the_weights_owe_to_the_images():
    """Softmax regression in two steps, from its gradient in closed form.

    With a_2 = d loss / d theta_2 and H = d g_1 / d theta_1, the exact a_1 is a_2 - alpha H a_2
    where TESLA has a_2. So exact - TESLA is alpha^2 (d g_0 / d X)^T H a_2 for the images, and
    alpha <H a_2, g_0> for the step size.
    """
    network = build("mlp", (1, 2, 2), 3, depth=1)
    stream = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 15, generator=stream, dtype=torch.float64)
    start_images = torch.randn(6, 1, 2, 2, generator=stream, dtype=torch.float64)
    alpha = 0.7

    def slope(theta, images):
        """(softmax - one hot) times the inputs, averaged: weights (3, 4), then biases (3,)."""
        inputs = torch.cat([images.flatten(1), torch.ones(6, 1, dtype=torch.float64)], 1)
        weights = torch.cat([theta[:12].view(3, 4), theta[12:, None]], 1)
        wrong = (inputs @ weights.T).softmax(1) - F.one_hot(LABELS, 3)
        by_weight = wrong.T @ inputs / 6
        return torch.cat([by_weight[:, :4].flatten(), by_weight[:, 4]])

    jacobian = torch.autograd.functional.jacobian
    first = slope(start, start_images)
    middle = start - alpha * first
    end = middle - alpha * slope(middle, start_images)
    adjoint = 2 * (end - target) / (start - target).square().sum()
    dropped = jacobian(lambda theta: slope(theta, start_images), middle).T @ adjoint
    by_images = jacobian(lambda images: slope(start, images), start_images).flatten(1)
    expected = alpha**2 * (by_images.T @ dropped).view_as(start_images)

    made = {}
    for gradient in ("exact", "tesla"):
        images = start_images.clone().requires_grad_()
        step_size = torch.tensor(alpha).double().requires_grad_()
        match(network, images, LABELS, step_size, start, target, whole_steps(2), gradient)
        made[gradient] = images.grad, step_size.grad
    difference = made["exact"][0] - made["tesla"][0]
    torch.testing.assert_close(difference, expected, rtol=1e-6, atol=1e-10)
    assert expected.abs().max() > 1e-3
    difference = made["exact"][1] - made["tesla"][1]
    assert difference.item() == pytest.approx(alpha * (dropped @ first).item(), rel=1e-6)


def test_tesla_is_its_formula_and_twice_the_published_code(network, pair):
    """d loss / d X of Cui et al. with theta_i held: 2 (theta_N - target)^T (-alpha d g_i / d X).

    The published code leaves out the 2, but for the step size.
    """
    (start, target), steps = pair, changing_steps(5)
    images, step_size = student()
    match(network, images, LABELS, step_size, start, target, steps, "tesla")
    alpha, total = step_size.item(), torch.zeros_like(start)
    plain, _ = student()
    slopes = []
    for rows, drawn in steps:
        theta = (start - alpha * total).requires_grad_()
        seen = augment.apply(plain[rows], drawn)
        loss = F.cross_entropy(ordinary_scores(theta, seen), LABELS[rows])
        slopes.append(torch.autograd.grad(loss, theta, create_graph=True)[0])
        total = total + slopes[-1].detach()
    scale = (start - target).square().sum()
    published = torch.zeros_like(plain)
    for slope in slopes:
        along = (alpha * (target - start) + alpha**2 * total) @ slope / scale
        published += torch.autograd.grad(along, plain)[0]
    torch.testing.assert_close(images.grad, 2 * published, rtol=1e-8, atol=1e-12)
    learned = torch.tensor(alpha).double().requires_grad_()
    missed = (start - learned * total - target).square().sum() / scale
    [by_step_size] = torch.autograd.grad(missed, learned)
    assert step_size.grad.item() == pytest.approx(by_step_size.item(), rel=1e-8)


class Held:
    """A tensor that autograd holds on to."""

    def __init__(self, tensor):
        self.tensor = tensor


def most_held(compute):
    """The largest number of bytes that autograd's graphs hold at once during `compute`."""
    now, most = 0, 0

    def release(size):
        nonlocal now
        now -= size

    def hold(tensor):
        nonlocal now, most
        held = Held(tensor)
        now += tensor.nbytes
        most = max(most, now)
        weakref.finalize(held, release, tensor.nbytes)
        return held

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held.tensor):
        compute()
    return most


@pytest.mark.parametrize("gradient", ["exact", "tesla"])
def test_graphs_do_not_grow_with_the_number_of_steps(network, pair, gradient):
    def ours(count):
        images, step_size = student()
        steps = changing_steps(1) * count
        return most_held(lambda: match(network, images, LABELS, step_size, *pair, steps, gradient))

    def naive(count):
        images, step_size = student()
        steps = changing_steps(1) * count
        return most_held(lambda: naive_unroll(*pair, images, step_size, steps).backward())

    assert naive(12) > 3.5 * naive(3)  # the measure sees a graph that grows
    assert ours(12) == ours(3) == ours(1)
    assert ours(12) < naive(2)


# Distillation.


@pytest.fixture
def matched(monkeypatch):
    """Stand in for matching: note what is matched, and leave S as it is."""
    calls = []

    def record(network, images, labels, step_size, start, target, steps, gradient):
        calls.append({"start": start, "target": target, "steps": steps, "gradient": gradient})
        images.grad, step_size.grad = torch.zeros_like(images), torch.zeros_like(step_size)
        return torch.ones(())

    monkeypatch.setattr(trajectory, "match", record)
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


def test_starts_are_drawn_from_their_range_and_targets_lie_so_many_snapshots_on(
    tiny, network, matched, numbered
):
    parameters = settings(iterations=600, max_start=4, expert_epochs=3, student_steps=1)
    distil(tiny, network, [1], 0, parameters, numbered)
    drawn = places(matched)
    assert all(target == start + 3 for start, target in drawn)
    counts = np.bincount([start for start, _ in drawn], minlength=300)
    assert set(np.flatnonzero(counts)) == {100 * e + t for e in range(3) for t in range(4)}
    # 600 draws over 12 places: 50 each, with a deviation of 6.8.
    assert counts[counts > 0].min() > 20
    assert counts.max() < 80


def test_every_size_matches_the_same_experts(tiny, network, matched, numbered):
    parameters = settings(
        iterations=40,
        max_start={1: 4, 3: 8},
        expert_epochs={1: 1, 3: 2},
        student_steps={1: 2, 3: 4},
    )
    distil(tiny, network, [1, 2, 3], 0, parameters, numbered)
    small, middle, large = places(matched[:40]), places(matched[40:80]), places(matched[80:])
    assert {target - start for start, target in small} == {1}
    assert {target - start for start, target in large} == {2}
    for (s, _), (m, _), (b, _) in zip(small, middle, large, strict=True):
        assert s // 100 == m // 100 == b // 100
        assert s % 100 == b % 100 // 2  # the same place in a range twice as long
    assert [len(call["steps"]) for call in matched[::40]] == [2, 3, 4]
    matched.clear()
    distil(tiny, network, [3], 0, parameters, numbered)
    assert places(matched) == large
    matched.clear()
    distil(tiny, network, [3], 1, parameters, numbered)
    assert places(matched) != large


def test_all_of_s_in_its_order_is_a_batch(tiny, network, matched, numbered):
    distil(tiny, network, [2], 0, settings(iterations=1), numbered)
    assert [rows.tolist() for rows, _ in matched[0]["steps"]] == [list(range(6))] * 3


def test_smaller_batches_take_every_image_once_before_any_twice(tiny, network, matched, numbered):
    parameters = settings(synthetic_batch=2, student_steps=6, iterations=3)
    distil(tiny, network, [2], 0, parameters, numbered)
    for call in matched:
        rows = [rows for rows, _ in call["steps"]]
        assert [len(batch) for batch in rows] == [2] * 6
        for epoch in (rows[:3], rows[3:]):
            assert sorted(torch.cat(epoch).tolist()) == list(range(6))
    orders = {tuple(torch.cat([rows for rows, _ in call["steps"]]).tolist()) for call in matched}
    assert len(orders) == 3


@pytest.mark.parametrize(("ipc", "size"), [(1, 2), (2, 3), (3, 4), (4, 4)])
def test_the_batch_of_s_may_be_a_table(tiny, network, matched, numbered, ipc, size):
    parameters = settings(synthetic_batch={1: 2, 3: 4}, iterations=1)
    distil(tiny, network, [ipc], 0, parameters, numbered)
    assert [len(rows) for rows, _ in matched[0]["steps"]] == [size] * 3


def test_every_image_of_every_step_has_an_augmentation_of_its_own(tiny, network, matched, numbered):
    parameters = settings(augmentation="dsa_no_flip", student_steps=8, iterations=5)
    distil(tiny, network, [2], 0, parameters, numbered)
    draws = [drawn for call in matched for _, drawn in call["steps"]]
    assert {drawn.family for drawn in draws} == set(augment.STRATEGIES["dsa_no_flip"])
    strengths = [value for drawn in draws for value in drawn.values.values()]
    assert {len(value) for value in strengths} == {6}
    everything = torch.cat(strengths).tolist()
    assert len(set(everything)) > 0.99 * len(everything)


def test_the_named_gradient_is_taken(tiny, network, matched, numbered):
    for gradient in ("exact", "tesla"):
        distil(tiny, network, [1], 0, settings(gradient=gradient, iterations=1), numbered)
        assert matched.pop()["gradient"] == gradient


def test_a_run_equals_the_algorithm_written_out(tiny, network, experts):
    """Three iterations in float64: momentum of images and step size, every pair as it was drawn."""
    dataset = replace(tiny, train=Split(tiny.train.images.double(), tiny.train.labels))
    parameters = settings(
        learning_rate={1: 10, 3: 30}, step_size={1: 0.2, 3: 0.4}, step_size_learning_rate=1e-3
    )
    made = distil(dataset, network, [2], 0, parameters, experts)[2]
    images, step_size = (
        initial_images(dataset, 2, "real", 0),
        torch.tensor(0.3, dtype=torch.float64),
    )
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
    torch.testing.assert_close(made.images, images.detach(), rtol=1e-8, atol=1e-8)
    assert made.learned == {"step_size": pytest.approx(step_size.item(), rel=1e-8)}
    assert abs(step_size.item() - 0.3) > 1e-4
    assert (made.images - initial_images(dataset, 2, "real", 0)).abs().max() > 0.01


@pytest.mark.parametrize("augmentation", ["none", "dsa"])
def test_all_sizes_together_are_what_each_is_alone(tiny, network, experts, augmentation):
    parameters = settings(augmentation=augmentation, synthetic_batch=4)
    together = distil(tiny, network, [1, 2, 3], 0, parameters, experts)
    for ipc in (1, 2, 3):
        alone = distil(tiny, network, [ipc], 0, parameters, experts)[ipc]
        assert torch.equal(together[ipc].images, alone.images)
        assert together[ipc].learned == alone.learned


def test_one_seed_gives_one_set_and_the_global_state_is_left_alone(tiny, network, experts):
    before = torch.get_rng_state()
    parameters = settings(augmentation="dsa")
    first, again, other = (
        distil(tiny, network, [2], seed, parameters, experts)[2] for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.images, again.images)
    assert first.learned == again.learned
    assert not torch.equal(first.images, other.images)
    assert torch.equal(first.labels, LABELS)
    assert (first.data, first.method, first.seed, other.seed) == ("tiny", "mtt", 0, 1)
    assert first.parameters["student_steps"] == 3
    assert not first.images.requires_grad


def test_no_iterations_leave_the_first_images_and_the_step_size(tiny, network, experts):
    made = distil(tiny, network, [2], 0, settings(iterations=0), experts)[2]
    assert torch.equal(made.images, initial_images(tiny, 2, "real", 0))
    assert made.learned == {"step_size": pytest.approx(0.05)}


@pytest.mark.parametrize(
    ("norm", "gradient"), [("instance", "exact"), ("instance", "tesla"), ("batch", "exact")]
)
def test_students_come_nearer_to_the_experts(tiny, tmp_path, monkeypatch, norm, gradient):
    network = build("convnet", tiny.image_shape, tiny.class_count, width=6, depth=2, norm=norm)
    losses = []
    monkeypatch.setattr(
        trajectory, "match", lambda *given: losses.append(match(*given)) or losses[-1]
    )
    parameters = settings(iterations=60, student_steps=5, learning_rate=30, gradient=gradient)
    distil(tiny, network, [2], 0, parameters, prepare(tiny, network, parameters, tmp_path))
    assert torch.stack(losses[-10:]).mean() < 0.9 * torch.stack(losses[:10]).mean()


def test_a_size_that_diverges_leaves_the_others_as_they_are(tiny, network, experts):
    parameters = settings(learning_rate={1: 10.0, 2: 1e38})
    outcomes = distil(tiny, network, [1, 2], 0, parameters, experts)
    assert isinstance(outcomes[2], DivergedError)
    assert str(outcomes[2]).startswith("the matching loss stopped being a finite number at step 1;")
    alone = distil(tiny, network, [1], 0, parameters, experts)[1]
    assert torch.equal(outcomes[1].images, alone.images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"step_size": 1e30},
            "the matching loss stopped being a finite number at step 0; choose a smaller step_size",
        ),
        (
            {"learning_rate": 3e38, "step_size": 9.0, "step_size_learning_rate": 0},
            "a pixel stopped being a finite number at step 1;",
        ),
        (
            {"step_size_learning_rate": 3e38},
            "the learned step size stopped being a finite number at step 1; choose a smaller "
            "step_size_learning_rate",
        ),
    ],
)
def test_numbers_that_overflow_in_the_only_step_are_named(tiny, network, experts, changes, message):
    outcome = distil(tiny, network, [1], 0, settings(iterations=1, **changes), experts)[1]
    assert isinstance(outcome, DivergedError)
    assert str(outcome).startswith(message)


def test_a_step_size_that_would_climb_is_a_divergence(tiny, network, experts):
    parameters = settings(step_size=3.0, step_size_learning_rate=1e3)  # far too long: it falls
    outcome = distil(tiny, network, [1], 0, parameters, experts)[1]
    assert isinstance(outcome, DivergedError)
    assert str(outcome) == (
        "the learned step size fell to zero or below at step 0; choose a smaller "
        "step_size_learning_rate"
    )


def test_a_perceptron_is_matched_as_well(tiny, tmp_path):
    perceptron = build("mlp", tiny.image_shape, tiny.class_count, width=10, depth=2)
    prepared = prepare(tiny, perceptron, settings(), tmp_path)
    made = distil(tiny, perceptron, [1], 0, settings(), prepared)[1]
    assert (made.images - initial_images(tiny, 1, "real", 0)).abs().max() > 1e-3
