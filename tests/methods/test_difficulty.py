"""DATM: which epochs it matches, and which samples and labels it starts from."""

import numpy as np
import pytest
import torch
from draws import ordinary_convnet, prepare

from ddlib.methods import METHODS
from ddlib.methods.common import class_members
from ddlib.methods.difficulty import DifficultyAlignedMatching
from ddlib.methods.trajectory import jobs
from ddlib.networks.functional import build, unflatten
from ddlib.parameters import at_ipc
from ddlib.seeds import generator
from ddlib.training.divergence import DivergedError

distil = METHODS["datm"].distil


def settings(**changes):
    short = {"iterations": 0, "student_steps": 2, "expert_epochs": 1, "max_start": 5}
    rates = {"learning_rate": 10, "step_size": 0.05, "step_size_learning_rate": 1e-4}
    few = {"experts": 3, "expert_steps": 5, "expert_learning_rate": 0.1, "expert_batch": 30}
    plain = {"augmentation": "none", "expert_augmentation": "none", "label_snapshot": 2}
    return DifficultyAlignedMatching(**{**short, **rates, **few, **plain, **changes})


@pytest.fixture(scope="module")
def experts(tiny, network, tmp_path_factory):
    """The files of three experts with the snapshots 0 to 5."""
    folder = tmp_path_factory.mktemp("experts")
    return prepare(METHODS["datm"], settings(), [1], tiny, network, folder)[0]


def test_the_range_of_starts_opens_evenly():
    changes = {"min_start": {1: 0, 50: 40}, "max_start": {1: 20, 50: 60}}
    parameters = settings(iterations=100, expansion={1: 0.5, 50: 1.0}, **changes)
    ends = [parameters.starts(1, iteration) for iteration in (0, 25, 50, 99)]
    assert ends == [(0, 10), (0, 15), (0, 20), (0, 20)]
    assert [parameters.starts(50, iteration) for iteration in (0, 50)] == [(40, 50), (40, 55)]
    assert parameters.replace(first_share=0.0).starts(50, 0) == (40, 41)
    assert parameters.replace(expansion=0.0).starts(50, 0) == (40, 60)


def test_an_empty_range_is_refused():
    with pytest.raises(ValueError, match="min_start=40 is not below max_start=40 at ipc 50, so"):
        settings(min_start={1: 0, 50: 40}, max_start={1: 4, 10: 40})
    rounded = settings(min_start={1: 0, 11: 5}, max_start={1: 1, 11: 6})  # 1.5 and 2.5 at 4
    with pytest.raises(ValueError, match="min_start=2 is not below max_start=2 at ipc 4, so"):
        METHODS["datm"].check(rounded, None, None, [1, 4])


def test_the_defaults_are_the_published_numbers():
    """Of CIFAR-10, at ipc 1, 10 and 50: half of the range until iteration 0, 1,000 and 2,000."""
    parameters = DifficultyAlignedMatching(iterations=10_000)
    full = {1: 4, 10: 20, 50: 40}
    for ipc, iteration in ((1, 0), (10, 1000), (50, 2000)):
        assert parameters.starts(ipc, iteration) == (0, full[ipc])
        assert ipc == 1 or parameters.starts(ipc, iteration // 20) < (0, 0.6 * full[ipc])
    rates = [at_ipc(parameters.label_learning_rate, ipc) for ipc in full]
    sums = [rate / (1 - parameters.momentum) for rate in rates]  # of the steps of one gradient
    assert sums == pytest.approx([5 / 0.1, 2 / 0.1, 2 / 0.1])


def test_batch_norms_are_refused(tiny):
    """Experts keep no running statistics; labels would depend on what stands beside a sample."""
    network = build("convnet", tiny.sample_shape, 3, width=6, depth=2, norm="batch")
    with pytest.raises(ValueError, match="has batch norms; choose norm: instance"):
        distil(tiny, network, [1], 0, settings(), [])


def test_experts_reach_the_last_target_and_the_labels():
    assert {job["epochs"] for job in jobs(settings(), [1])} == {5}  # start 4, target 5
    assert {job["epochs"] for job in jobs(settings(label_snapshot=9), [1])} == {9}


def test_only_snapshots_of_the_range_are_matched(tiny, network, experts, tmp_path):
    """Weights that are not numbers lie outside: two before, and two past the part that is open."""
    poisoned = []
    for path in experts:
        weights = np.load(path)
        weights[[0, 1, 4, 5]] = np.nan
        poisoned.append(tmp_path / path.name)
        poisoned[-1].write_bytes(b"")
        with poisoned[-1].open("wb") as file:
            np.save(file, weights)
    changes = {"min_start": 2, "expansion": 1.0, "iterations": 8}
    inside = settings(**changes, first_share=0.1, label_learning_rate=0.0)
    short = inside.replace(iterations=1)
    assert distil(tiny, network, [1], 0, short, poisoned)[1].samples.isfinite().all()
    outside = inside.replace(first_share=1.0)
    assert isinstance(distil(tiny, network, [1], 0, outside, poisoned)[1], DivergedError)


@pytest.mark.parametrize("snapshot", [0, 2])
def test_samples_and_labels_come_from_the_experts(tiny, network, experts, snapshot):
    """Untrained experts are often wrong, trained ones seldom; both by a loop over samples."""
    distilled = distil(tiny, network, [25], 4, settings(label_snapshot=snapshot), experts)[25]
    flats = [torch.from_numpy(np.load(path)[snapshot]) for path in experts]
    ordinary = [ordinary_convnet(unflatten(network, flat), 2) for flat in flats]
    stream, samples, labels, fallbacks = generator("random members", 4), [], [], 0
    for label, members in enumerate(class_members(tiny)):
        order = members[torch.randperm(40, generator=stream)]
        images = tiny.train.samples[order]
        right = ordinary[0](images).argmax(1) == label
        chosen = [*images[right], *images[~right]][:25]
        samples += chosen
        for image in chosen:
            scores = torch.cat([expert(image[None]).detach() for expert in ordinary])
            agreeing = [row for row in scores if row.argmax() == label]
            soft = torch.full((3,), 0.05)
            soft[label] = 0.9
            labels.append(torch.stack(agreeing).mean(0).softmax(0) if agreeing else soft)
            fallbacks += not agreeing
    torch.testing.assert_close(distilled.samples, torch.stack(samples))
    torch.testing.assert_close(distilled.labels, torch.stack(labels), rtol=1e-4, atol=1e-5)
    assert (fallbacks > 0) == (snapshot == 0)


def test_labels_are_learned_unless_their_rate_is_zero(tiny, network, experts):
    start, still, moved = (
        distil(tiny, network, [2], 0, settings(iterations=n, label_learning_rate=rate), experts)[2]
        for n, rate in ((0, 5.0), (2, 0.0), (2, 5.0))
    )
    assert torch.equal(still.labels, start.labels)
    assert (moved.labels - start.labels).abs().max() > 1e-3
    assert not torch.equal(moved.samples, start.samples)
    torch.testing.assert_close(moved.labels.sum(1), torch.ones(6))
