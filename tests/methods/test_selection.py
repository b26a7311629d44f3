from itertools import combinations

import numpy as np
import pytest
import torch

from ddlib.data.base import DataSet, Split
from ddlib.methods import METHODS, selection
from ddlib.methods.common import class_members, random_members, real_batches
from ddlib.methods.selection import (
    FeatureSelection,
    RandomSelection,
    herding,
    herding_order,
    k_center,
    k_center_order,
    random,
)
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator

CONTROLS = {
    "random": (random, RandomSelection()),
    "herding": (herding, FeatureSelection(steps=20)),
    "k_center": (k_center, FeatureSelection(steps=20)),
}


@pytest.fixture(scope="module")
def network(tiny):
    return build("convnet", tiny.image_shape, tiny.class_count, width=4, depth=2)


def cloud(count, size, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=stream, dtype=torch.float64)


def herd_by_hand(points, count):
    mean, chosen = points.mean(0), []
    for _ in range(count):
        best, best_distance = None, np.inf
        for candidate in range(len(points)):
            if candidate in chosen:
                continue
            distance = np.linalg.norm(mean - points[[*chosen, candidate]].mean(0))
            if distance < best_distance:
                best, best_distance = candidate, distance
        chosen.append(best)
    return chosen


def cover_by_hand(points, count):
    chosen = [int(np.argmin([np.linalg.norm(point - points.mean(0)) for point in points]))]
    while len(chosen) < count:
        reach = [min(np.linalg.norm(point - points[c]) for c in chosen) for point in points]
        chosen.append(int(np.argmax(reach)))
    return chosen


def covering_radius(points, centres):
    return max(min(np.linalg.norm(point - points[c]) for c in centres) for point in points)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("count", "size"), [(25, 6), (40, 2), (12, 30)])
def test_both_orders_equal_naive_double_loops(count, size, seed):
    points = cloud(count, size, seed) + 3  # off the origin, so that the mean matters
    assert herding_order(points, 10).tolist() == herd_by_hand(points.numpy(), 10)
    assert k_center_order(points, 10).tolist() == cover_by_hand(points.numpy(), 10)


@pytest.mark.parametrize("order", [herding_order, k_center_order])
def test_the_first_pick_is_nearest_to_the_mean(order):
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [1.5, 1.0]])  # mean (1.375, 1.25)
    assert order(points, 1).tolist() == [3]


def test_herding_balances_what_it_took_before():
    # Mean 0: after 1.0 only -1.1 brings the running mean back near it.
    points = torch.tensor([[1.0], [5.0], [-1.1], [-4.9]])
    assert herding_order(points, 2).tolist() == [0, 2]


@pytest.mark.parametrize("order", [herding_order, k_center_order])
def test_a_shorter_order_is_a_prefix_and_the_longest_takes_each_point_once(order):
    points = cloud(20, 5)
    longest = order(points, 20).tolist()
    assert sorted(longest) == list(range(20))
    for count in (1, 2, 7, 19):
        assert order(points, count).tolist() == longest[:count]


@pytest.mark.parametrize("order", [herding_order, k_center_order])
def test_points_that_coincide_are_still_taken_once_each(order):
    points = torch.cat([torch.ones(4, 2), torch.zeros(2, 2)])
    assert sorted(order(points, 6).tolist()) == list(range(6))


@pytest.mark.parametrize("seed", range(8))
def test_k_center_covers_within_twice_the_best_radius(seed):
    points = cloud(10, 2, seed).numpy()
    for count in (2, 3, 4):
        best = min(covering_radius(points, some) for some in combinations(range(10), count))
        greedy = k_center_order(torch.from_numpy(points), count).tolist()
        assert best <= covering_radius(points, greedy) <= 2 * best


def positions(dataset, images):
    """The training index of each image, which must be there exactly."""
    found = []
    for image in images:
        [[where]] = (dataset.train.images == image).flatten(1).all(1).nonzero().tolist()
        found.append(where)
    return found


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_gives_each_class_ipc_real_images_of_its_own(tiny, network, name):
    select, parameters = CONTROLS[name]
    sets = select(tiny, network, [1, 3, 40], 5, parameters)
    assert list(sets) == [1, 3, 40]
    for ipc, synthetic in sets.items():
        assert synthetic.labels.tolist() == [0] * ipc + [1] * ipc + [2] * ipc
        chosen = positions(tiny, synthetic.images)
        assert len(set(chosen)) == 3 * ipc
        assert tiny.train.labels[chosen].tolist() == synthetic.labels.tolist()
        assert (synthetic.data, synthetic.method, synthetic.seed) == ("tiny", name, 5)
        assert synthetic.classes == tiny.classes
        assert synthetic.normalisation == tiny.normalisation
        assert synthetic.ipc == ipc


@pytest.mark.parametrize("name", CONTROLS)
def test_sizes_are_nested_and_do_not_depend_on_which_are_asked_for(tiny, network, name):
    select, parameters = CONTROLS[name]
    sets = select(tiny, network, [2, 5, 17], 0, parameters)
    by_class = {ipc: made.images.view(3, ipc, 1, 8, 8) for ipc, made in sets.items()}
    assert torch.equal(by_class[5][:, :2], by_class[2])
    assert torch.equal(by_class[17][:, :5], by_class[5])
    alone = select(tiny, network, [5], 0, parameters)[5]
    assert torch.equal(alone.images, sets[5].images)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_its_seed(tiny, network, name):
    select, parameters = CONTROLS[name]
    before = torch.get_rng_state()
    first, again, other = (select(tiny, network, [6], s, parameters)[6].images for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_selection_finds_every_member(tiny):
    # 40 members missed in 400 draws: a chance of 40 x (39/40)^400 = 0.002.
    firsts = torch.stack([random_members(tiny, 1, seed) for seed in range(400)])
    for label in range(3):
        members = (tiny.train.labels == label).nonzero().flatten()
        assert torch.equal(firsts[:, label].unique(), members)


@pytest.mark.parametrize(
    ("select", "by_hand"), [(herding, herd_by_hand), (k_center, cover_by_hand)]
)
def test_the_features_of_an_untrained_network_decide(
    tiny, network, ordinary_convnet, monkeypatch, select, by_hand
):
    theta = initial_parameters(network, torch.Generator().manual_seed(42))
    monkeypatch.setattr(selection, "initial_parameters", lambda *_: theta)
    made = select(tiny, network, [8], 0, FeatureSelection(steps=0))[8]
    with torch.no_grad():
        features = ordinary_convnet(theta, 2)[0](tiny.train.images).double().numpy()
    for label in range(3):
        members = (tiny.train.labels == label).nonzero().flatten()
        expected = members[by_hand(features[members], 8)]
        assert torch.equal(made.images[8 * label : 8 * label + 8], tiny.train.images[expected])


def test_untrained_batch_norms_take_their_statistics_from_all_classes(tiny, ordinary_convnet):
    network = build("convnet", tiny.image_shape, 3, width=6, depth=2, norm="batch")
    controls = herding(tiny, network, [2], 4, FeatureSelection(steps=0))
    theta = initial_parameters(network, generator("feature weights", 4))
    ordinary = ordinary_convnet(theta, 2, norm=torch.nn.BatchNorm2d).train()
    ordinary(tiny.train.images[random_members(tiny, 16, 4)])
    ordinary.eval()
    for label, members in enumerate(class_members(tiny)):
        picks = herding_order(ordinary[0](tiny.train.images[members]).detach(), 2)
        chosen = controls[2].images[2 * label : 2 * label + 2]
        assert torch.equal(chosen, tiny.train.images[members[picks]])


def test_features_are_trained_on_the_whole_real_set_as_the_parameters_say(
    tiny, network, monkeypatch
):
    calls = []

    def record(network, theta, images, labels, recipe, stream):
        calls.append((images, labels, recipe))
        return theta

    monkeypatch.setattr(selection, "train", record)
    parameters = FeatureSelection(steps=12, batch_size=17, learning_rate=0.3)
    herding(tiny, network, [1, 2], 0, parameters)
    [(images, labels, recipe)] = calls  # once, whatever the number of sizes and classes
    assert torch.equal(images, tiny.train.images)
    assert torch.equal(labels, tiny.train.labels)
    assert (recipe.steps, recipe.batch_size, recipe.learning_rate) == (12, 17, 0.3)
    assert recipe.augmentation == "none"
    herding(tiny, network, [1, 2], 0, FeatureSelection(steps=0))
    assert len(calls) == 1


def test_every_registered_method_shares_one_signature(tiny, network, tmp_path):
    given = {
        "random": {},
        "herding": {"steps": 2},
        "k_center": {"steps": 2},
        "dm": {"iterations": 1, "real_batch": 4},
        "dc": {"iterations": 1, "real_batch": 4, "outer_steps": 2, "inner_epochs": 1},
        "dsa": {"iterations": 1, "real_batch": 4, "outer_steps": 2, "inner_epochs": 1},
        "mtt": {"iterations": 1, "student_steps": 1, "experts": 2, "expert_steps": 1},
        "mgd3": {"steps": 2, "stop": 1, "unet_steps": 2, "unet_channels": [8]},
    }
    assert set(given) == set(METHODS)
    for name, method in METHODS.items():
        parameters, more = method.parameters.read(given[name], name), []
        if method.preparation:
            jobs = method.preparation.jobs(parameters, [1, 2])
            more.append([tmp_path / f"{name}-{number}" for number in range(len(jobs))])
            for job, path in zip(jobs, more[0], strict=True):
                path.write_bytes(method.preparation.make(tiny, network, job))
        outcomes = method.distil(tiny, network, [1, 2], 0, parameters, *more)
        assert list(outcomes) == [1, 2]
        for ipc, made in outcomes.items():
            assert (made.method, made.ipc, made.seed) == (name, ipc, 0)
            assert made.parameters == {**vars(method.parameters()), **given[name]}
            assert made.images.isfinite().all()


def test_class_members_are_all_of_a_class_in_ascending_order(tiny):
    for label, members in enumerate(class_members(tiny)):
        expected = [i for i, other in enumerate(tiny.train.labels.tolist()) if other == label]
        assert members.tolist() == expected


def uneven(tiny: DataSet) -> DataSet:
    """The tiny set with 40, 7 and 1 images a class."""
    kept = torch.cat(
        [(tiny.train.labels == label).nonzero().flatten()[:n] for label, n in enumerate((40, 7, 1))]
    )
    train = Split(tiny.train.images[kept], tiny.train.labels[kept])
    return DataSet("uneven", train, tiny.test, tiny.normalisation, tiny.classes)


def test_real_batches_hold_each_image_at_most_once_and_reach_every_image(tiny):
    dataset = uneven(tiny)
    source = real_batches(dataset, 10, torch.Generator().manual_seed(0))
    reached = set()
    for batch in (next(source) for _ in range(60)):
        assert [len(rows) for rows in batch] == [10, 7, 1]  # a small class gives all it has
        for label, rows in enumerate(batch):
            assert len(rows.unique()) == len(rows)
            assert (dataset.train.labels[rows] == label).all()
        reached |= set(torch.cat(batch).tolist())
    assert reached == set(range(48))  # 40 missed in 60 draws of a quarter: chance 1e-6
