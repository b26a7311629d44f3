"""Estimates that cost less: off by default, and each does what it says."""

import math
import warnings
from dataclasses import asdict, replace

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from ddlib.methods import METHODS, distribution, gradient, matching
from ddlib.methods.common import class_members, real_batches
from ddlib.methods.matching import BatchMatching, Matching, Plateau, RealBatches, representatives
from ddlib.networks.functional import build, embed
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator

OFF = {"plateau": 0.0, "window": 100, "representatives": 0, "keep": 10}
DM = {"iterations": 6, "real_batch": 8, "augmentation": "dsa"}
DC = {"iterations": 6, "outer_steps": 2, "inner_epochs": 1, "real_batch": 8}
GIVEN = {"dm": DM, "dc": DC, "dsa": DC}


def distilled(dataset, network, method, ipcs=(2,), seed=0, **changes):
    parameters = METHODS[method].parameters.read({**GIVEN[method], **changes}, method)
    return METHODS[method].distil(dataset, network, ipcs, seed, parameters)


@pytest.fixture
def real_passes(monkeypatch):
    """The rows of every batch of real images that a method asked for."""
    seen = []
    draw = RealBatches.draw

    def record(self, network, theta):
        seen.append(draw(self, network, theta))
        return seen[-1]

    monkeypatch.setattr(RealBatches, "draw", record)
    return seen


@pytest.mark.parametrize("method", GIVEN)
def test_nothing_is_saved_unless_asked_for(method):
    given = asdict(METHODS[method].parameters())
    assert {name: given[name] for name in OFF} == OFF
    assert given.get("pool", 0) == 0
    assert asdict(METHODS["mtt"].parameters())["plateau"] == 0


# A pool of networks.


def test_a_pool_computes_what_is_real_once_a_network(tiny, network, drawn_weights, real_passes):
    distilled(tiny, network, "dm", pool=3, iterations=8)
    assert len(real_passes) == 3
    heads = [theta["head.weight"] for theta in drawn_weights]
    assert len(heads) == 8
    for turn, head in enumerate(heads):
        assert torch.equal(head, heads[turn % 3])
    assert not torch.equal(heads[0], heads[1])


@pytest.mark.parametrize("changes", [{}, {"configurations": [{"network": {"name": "mlp"}}, {}]}])
def test_a_pool_of_all_iterations_is_the_method_itself(tiny, network, changes):
    plain, pooled = (
        distilled(tiny, network, "dm", pool=pool, **changes)[2].images for pool in (0, 6)
    )
    assert torch.equal(plain, pooled)


def test_a_pool_of_one_matches_that_network_at_its_batch(tiny, network, drawn_weights, real_passes):
    """Plain gradient descent on one fixed objective, written out."""
    rate, changes = 0.5, {"momentum": 0.0, "augmentation": "none"}
    start = distilled(tiny, network, "dm", iterations=0, **changes)[2].images
    made = distilled(tiny, network, "dm", pool=1, learning_rate=rate, **changes)[2].images
    theta, rows = drawn_weights[0], torch.cat(real_passes[0])
    real = embed(network, theta, tiny.train.images[rows]).view(3, 8, -1).mean(1)
    images = start
    for _ in range(DM["iterations"]):
        images = images.detach().requires_grad_()
        means = embed(network, theta, images).view(3, 2, -1).mean(1)
        images = images - rate * torch.autograd.grad((means - real).pow(2).sum(), images)[0]
    torch.testing.assert_close(made, images.detach(), rtol=1e-4, atol=1e-5)
    assert (made - start).abs().max() > 0.01


def test_sizes_of_a_pool_are_what_each_is_alone(tiny, network):
    together = distilled(tiny, network, "dm", (1, 2, 5), pool=2)
    for ipc in (1, 2, 5):
        alone = distilled(tiny, network, "dm", (ipc,), pool=2)
        assert torch.equal(together[ipc].images, alone[ipc].images)


# Representative batches.


def test_representatives_stand_for_their_clusters(tiny):
    """Candidates in groups that nobody could mistake: one of each is chosen, the middle one."""
    middles = torch.eye(8).view(8, 1, 8, 1).expand(8, 1, 8, 8) * 10
    around = torch.tensor([0.0, 1.0, -1.0, 0.4, -0.4])  # the first is the mean
    images = torch.cat([middle + 0.1 * around[:, None, None, None] for middle in middles])
    labels = torch.zeros(len(images), dtype=torch.int64)
    one = replace(tiny, train=replace(tiny.train, images=images, labels=labels), classes=("ant",))
    pixels = build("mlp", tiny.image_shape, 1, width=64, depth=1)  # whose features they are
    theta = initial_parameters(pixels, generator("weights"))
    chosen = representatives(one, pixels, theta, [torch.arange(40)], 8, 0)
    assert sorted(chosen[0].tolist()) == list(range(0, 40, 5))


def test_representatives_are_next_to_the_centroids_of_features(tiny, network, monkeypatch):
    theta = initial_parameters(network, generator("weights"))
    candidates = next(real_batches(tiny, 30, generator("real")))
    found, k_means = [], matching.k_means

    def record(*arguments):
        found.append(k_means(*arguments))
        return found[-1]

    monkeypatch.setattr(matching, "k_means", record)
    chosen = representatives(tiny, network, theta, candidates, 5, 0)
    assert len(found) == len(chosen) == 3
    for means, rows, picked in zip(found, candidates, chosen, strict=True):
        with torch.no_grad():
            features = embed(network, theta, tiny.train.images[rows])
        for cluster, one in enumerate(picked.tolist()):
            centre = torch.from_numpy(means.cluster_centers_[cluster])
            members = [
                row for row, own in zip(range(30), means.labels_, strict=True) if own == cluster
            ]
            nearest = min(members, key=lambda row: float((features[row] - centre).norm()))
            assert one == int(rows[nearest])
        assert len(set(picked.tolist())) == 5


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_batch_of_representatives_serves_as_long_as_it_is_kept(tiny, norm, real_passes):
    network = build("convnet", tiny.image_shape, 3, width=6, depth=2, norm=norm)
    distilled(tiny, network, "dm", representatives=3, real_batch=12, keep=4, iterations=9)
    assert [len(rows) for batch in real_passes for rows in batch] == [3] * 27
    own = [torch.cat(batch).tolist() for batch in real_passes]
    assert own[0] == own[1] == own[3] != own[4] == own[7] != own[8]
    for label, members in enumerate(class_members(tiny)):
        assert all(set(batch[label].tolist()) <= set(members.tolist()) for batch in real_passes)


@pytest.mark.parametrize("method", ["dm", "dc", "dsa"])
def test_one_seed_gives_one_set_of_representatives(tiny, network, method):
    one, again, other = (
        distilled(tiny, network, method, seed=seed, representatives=3, keep=2)[2].images
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, distilled(tiny, network, method)[2].images)


def test_a_class_of_few_images_keeps_them_all(tiny, network):
    theta = initial_parameters(network, generator("weights"))
    rows = [members[:4] for members in class_members(tiny)]
    chosen = representatives(tiny, network, theta, rows, 4, 0)
    assert [own.tolist() for own in chosen] == [own.tolist() for own in rows]


def test_candidates_that_are_alike_stand_once(tiny, network):
    """k-means leaves clusters empty where there are fewer points than clusters."""
    theta = initial_parameters(network, generator("weights"))
    rows = [members[:3].repeat(4) for members in class_members(tiny)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        chosen = representatives(tiny, network, theta, rows, 6, 0)
    for own, candidates in zip(chosen, rows, strict=True):
        assert sorted(own.tolist()) == sorted(set(candidates.tolist()))


def test_every_network_of_a_pool_has_representatives_of_its_own(tiny, network, real_passes):
    given = {"pool": 3, "representatives": 3, "real_batch": 12, "iterations": 7}
    distilled(tiny, network, "dm", **given)
    own = [torch.cat(batch).tolist() for batch in real_passes]
    assert len(own) == 3
    assert own[0] != own[1] != own[2] != own[0]


def test_more_representatives_than_candidates_are_refused():
    with pytest.raises(ValueError, match="representatives=9 are chosen from real_batch=8 images; "):
        METHODS["dm"].parameters.read({"representatives": 9, "real_batch": 8}, "dm")


# An end at a plateau.


def test_a_plateau_is_two_windows_that_hardly_differ():
    plateau = Plateau(Matching(plateau=0.1, window=2))
    losses = [8.0, 8.0, 4.0, 8.0, 5.0, 5.1, 4.0, 5.4]  # means 8, 6, 5.05, 4.7: -25 %, -16 %, -7 %
    ended = [plateau.reached(torch.tensor(loss)) for loss in losses]
    assert ended == [False] * 7 + [True]


def test_a_loss_that_is_no_number_is_no_plateau():
    plateau = Plateau(Matching(plateau=0.1, window=1))
    assert not any(plateau.reached(torch.tensor(loss)) for loss in (1.0, math.nan, math.nan))


@pytest.mark.parametrize("method", ["dm", "dc", "dsa"])
def test_a_method_ends_at_its_plateau(tiny, network, drawn_weights, method, monkeypatch):
    """It ends after the window that says so, and leaves the images that it had then."""
    monkeypatch.setattr(Plateau, "reached", lambda self, loss: len(drawn_weights) == 4)
    ended = distilled(tiny, network, method)[2].images
    assert len(drawn_weights) == 4
    monkeypatch.undo()
    assert torch.equal(ended, distilled(tiny, network, method, iterations=4)[2].images)


def test_a_size_ends_at_its_own_plateau(tiny, network):
    """A pool's losses come again, so a still set is at its plateau in its second window."""
    rates = {1: 0.0, 2: 1.0}
    given = {"pool": 2, "window": 2, "plateau": 1e-9, "learning_rate": rates, "iterations": 20}
    given |= {"augmentation": "none"}
    made = distilled(tiny, network, "dm", (1, 2), **given)
    assert torch.equal(made[1].images, distilled(tiny, network, "dm", (1,), iterations=0)[1].images)
    alone = distilled(tiny, network, "dm", (2,), **given)
    assert torch.equal(made[2].images, alone[2].images)
    four = distilled(tiny, network, "dm", (2,), **{**given, "iterations": 4})
    assert not torch.equal(made[2].images, four[2].images)


def test_matching_trajectories_ends_at_its_plateau(tiny, network, tmp_path, monkeypatch):
    given = {"experts": 1, "expert_steps": 2, "max_start": 2, "student_steps": 2, "iterations": 9}
    entry = METHODS["mtt"]
    parameters = entry.parameters.read({**given, "plateau": 0.5}, "mtt")
    path = tmp_path / "expert"
    [job] = entry.preparation.jobs(parameters, [2])
    path.write_bytes(entry.preparation.make(tiny, network, job))
    calls = []
    monkeypatch.setattr(
        Plateau, "reached", lambda self, loss: calls.append(loss) or len(calls) == 3
    )
    ended = entry.distil(tiny, network, [2], 0, parameters, [path])[2].images
    assert len(calls) == 3
    monkeypatch.undo()
    three = replace(parameters, iterations=3, plateau=0.0)
    assert torch.equal(ended, entry.distil(tiny, network, [2], 0, three, [path])[2].images)


def test_the_plateau_of_gradient_matching_looks_at_the_mean_of_an_iteration(
    tiny, network, monkeypatch
):
    values, seen, match = [], [], gradient.match

    def record(*arguments):
        values.append(match(*arguments))
        return values[-1]

    monkeypatch.setattr(gradient, "match", record)
    monkeypatch.setattr(Plateau, "reached", lambda self, loss: seen.append(loss))
    distilled(tiny, network, "dc")
    assert len(seen) == 6
    torch.testing.assert_close(torch.stack(seen), torch.stack(values).view(6, 2).mean(1))


def test_a_share_of_one_is_refused():
    with pytest.raises(ValueError, match=r"the method: plateau=1.0 is a share; choose 0 \(never\)"):
        BatchMatching.read({"plateau": 1.0}, "the method")


def test_the_objective_falls_as_without_a_pool(tiny, network):
    """On networks that no method saw: a pool of a fifth of the iterations is as good, nearly."""
    given = {"iterations": 60, "real_batch": 16, "learning_rate": 2.0, "augmentation": "none"}
    sets = {
        "start": distilled(tiny, network, "dm", **{**given, "iterations": 0}),
        "plain": distilled(tiny, network, "dm", **given),
        "pool": distilled(tiny, network, "dm", **given, pool=12),
    }
    missed = {}
    for name, made in sets.items():
        total = 0.0
        for seed in range(10):
            theta = initial_parameters(network, generator("unseen", seed))
            with torch.no_grad():
                real, ours = (
                    distribution.class_means(embed(network, theta, images), labels, 3)
                    for images, labels in (
                        (tiny.train.images, tiny.train.labels),
                        (made[2].images, made[2].labels),
                    )
                )
            total += float(distribution.objective(ours, real))
        missed[name] = total
    assert missed["plain"] < 0.5 * missed["start"]
    assert missed["pool"] < 0.6 * missed["start"]
