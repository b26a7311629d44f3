"""A study under several label regimes, against naive loops."""

import itertools
import json
import re
from dataclasses import replace

import grids
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from draws import decoded_by_hand
from grids import DIGITS, DM, GRID

from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.distilled import load_distilled
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.seeds import generator
from ddlib.study.plan import make_plan
from ddlib.study.run import run
from ddlib.study.settings import Settings
from ddlib.training.loop import batches
from ddlib.words.scaling import effort

TEACHER = {"network": {"name": "mlp", "width": 24, "depth": 2}, "steps": 60}
SOFT = {"regime": "soft", "teacher": TEACHER, "temperature": 2.0, "loss": "kl"}
MTT = {
    **{"iterations": 2, "student_steps": 3, "expert_epochs": 1, "max_start": 1, "experts": 1},
    **{"expert_steps": 5, "expert_learning_rate": 0.1, "expert_batch": 16, "learning_rate": 1},
    **{"step_size": 0.1, "step_size_learning_rate": 0.0},
    **{"augmentation": "none", "expert_augmentation": "none", "label_learning_rate": 1.0},
}
STUDY = GRID | {
    "methods": {"random": None, "mtt": MTT},
    "configurations": {
        "hard": {},
        "soft": {"labels": SOFT},
        "learned": {"labels": {"regime": "learned"}, "learned_step_size": True},
    },
}


@pytest.fixture(scope="module")
def settings(address, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    search = {"search_seconds": {"mtt": {1: 10.0, 4: 40.0}}}
    changes = STUDY | search | {"scheduler_address": address}
    return grids.settings(folder / "study", **changes)


@pytest.fixture(scope="module")
def result(settings):
    return run(settings)


def ordinary(width, stream):
    """A network of torch's own with the weights that the library draws."""
    theta = initial_parameters(build("mlp", (1, 8, 8), 3, width=width, depth=2), stream)
    layers = torch.nn.Linear(64, width), torch.nn.Linear(width, 3)
    model = torch.nn.Sequential(torch.nn.Flatten(), layers[0], torch.nn.ReLU(), layers[1])
    torch.nn.utils.vector_to_parameters(
        torch.cat([value.flatten() for value in theta.values()]), model.parameters()
    )
    return model


def trained(model, batches_of, loss_of, steps, rate=0.05):
    """Train by a plain loop; loss_of: (scores, images, labels) -> loss."""
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _, (images, labels) in zip(range(steps), batches_of, strict=False):
        optimiser.zero_grad()
        loss_of(model(images), images, labels).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def hard_loss(scores, _, labels):
    return F.cross_entropy(scores, labels)


def drawn(split, stream):
    for rows in batches(len(split.labels), 16, stream):
        yield split.at(rows), split.labels[rows]


@pytest.fixture(scope="module")
def dataset():
    return load(**DIGITS)


@pytest.fixture(scope="module")
def teacher(dataset):
    start = ordinary(24, generator("teacher weights"))
    return trained(start, drawn(dataset.train, generator("teacher batches")), hard_loss, 60)


def soft_loss(teacher):
    """Kullback and Leibler's divergence at a temperature of 2, times 4, written out."""

    def loss(scores, images, _):
        with torch.no_grad():
            wanted = (teacher(images) / 2).softmax(1)
        return 4 * (wanted * (wanted.log() - (scores / 2).log_softmax(1))).sum(1).mean()

    return loss


def scored(model, split):
    scores = model(split.at(slice(None))).detach()
    right, labels = scores.argmax(1) == split.labels, split.labels
    balanced = torch.stack([right[labels == label].double().mean() for label in range(3)]).mean()
    return right.double().mean().item(), balanced.item(), F.cross_entropy(scores, labels).item()


def sets(result, configuration):
    """Yield the rows of a configuration and the distilled set of each."""
    paths = {(t.method, t.ipc, t.seed): t.set_path for t in result.plan.trials}
    for row in result.under(configuration).trials.itertuples():
        yield row, load_distilled(paths[row.method, row.ipc, row.seed])


@pytest.mark.parametrize("regime", ["hard", "soft", "learned"])
def test_every_set_is_evaluated_under_its_regime_as_by_a_naive_loop(
    result, dataset, teacher, regime
):
    """Random images, the control, as well as what was learned; soft labels replace learned ones."""
    loss_of = soft_loss(teacher) if regime == "soft" else hard_loss
    for row, synthetic in sets(result, regime):
        assert (row.status, row.labels) == ("ok", regime)
        learned = regime == "learned" and row.method == "mtt"
        labels = synthetic.labels if learned else synthetic.hard_labels
        rate = synthetic.learned["step_size"] if learned else 0.05
        model = ordinary(16, generator("evaluation weights", (row.seed, row.evaluation)))
        same = itertools.repeat((synthetic.samples, labels))
        accuracy, balanced, nats = scored(trained(model, same, loss_of, 20, rate), dataset.test)
        assert row.cross_entropy == pytest.approx(nats, rel=1e-3)
        assert (row.accuracy, row.balanced_accuracy) == pytest.approx((accuracy, balanced))
        assert row.learning_rate == pytest.approx(rate)


def test_a_set_of_images_within_images_is_evaluated_on_what_they_hold(address, dataset, tmp_path):
    """Twelve images of a quarter of the side, enlarged: four of each class in one stored image."""
    changes = {"methods": {"formed": DM | {"method": "dm", "factor": 2}}, "k": [3], "seeds": 1}
    changes |= {"scheduler_address": address}
    for row, synthetic in sets(run(grids.settings(tmp_path / "study", **changes)), "own"):
        assert (row.k, synthetic.k, synthetic.factor) == (3, 3, 2)
        seen = decoded_by_hand(synthetic.samples, 2), torch.arange(3).repeat_interleave(4)
        model = ordinary(16, generator("evaluation weights", (0, row.evaluation)))
        model = trained(model, itertools.repeat(seen), hard_loss, 20)
        accuracy, _, nats = scored(model, dataset.test)
        assert (row.accuracy, row.cross_entropy) == pytest.approx((accuracy, nats), rel=1e-3)


def test_gaps_are_to_a_network_on_all_data_with_the_same_teacher(result, dataset, teacher):
    soft = result.under("soft")
    full = soft.references.query("reference == 'same_steps' and seed == 1").iloc[0]
    model = ordinary(16, generator("evaluation weights", (1, 0)))
    real = drawn(dataset.train, generator("evaluation batches", (1, 0)))
    accuracy, _, nats = scored(trained(model, real, soft_loss(teacher), 20), dataset.test)
    assert full["cross_entropy"] == pytest.approx(nats, rel=1e-3)
    for row in soft.trials.query("seed == 1").itertuples():
        assert row.gap_error_same_steps == pytest.approx(accuracy - row.accuracy)


def test_one_teacher_is_trained_and_its_scores_are_in_the_results(result, dataset, teacher):
    row = result.teachers.set_index("configuration").loc["soft"]
    ours = row["accuracy"], row["balanced_accuracy"], row["cross_entropy"]
    assert ours == pytest.approx(scored(teacher, dataset.test), rel=1e-3)
    assert (row["network"], row["steps"], len(result.teachers)) == ("mlp", 60, 1)
    assert len(list((result.plan.cache / "teachers").glob("*.safetensors"))) == 1
    kept = pd.read_parquet(result.plan.folder / "teachers.parquet")
    pd.testing.assert_frame_equal(kept, result.teachers)


def test_costs_hold_the_teachers_seconds_and_those_of_the_search(result):
    file = next((result.plan.cache / "teachers").glob("*.seconds"))
    costs = result.costs.groupby("configuration")["teacher_seconds"].unique()
    assert costs["soft"].tolist() == [json.loads(file.read_text())]
    assert costs["hard"].tolist() == costs["learned"].tolist() == [0]
    search = result.costs.groupby(["method", "ipc"])["search_seconds"].first()
    assert search["mtt"].to_dict() == {ipc: 10.0 * ipc for ipc in result.plan.ipcs}
    assert search["random"].isna().all()
    assert result.plan.ipcs[-1] <= 4


def test_regimes_are_parts_that_differ_in_labels_alone(result):
    assert len(list((result.plan.folder / "distilled").glob("*.safetensors"))) == 2 * 2 * 2
    parts = result.regimes
    assert list(parts) == ["hard", "soft"]  # the third trains at another learning rate, too
    assert set(parts["soft"].trials["labels"]) == set(parts["soft"].trials["configuration"])
    assert list(parts["hard"].teachers.index) == []


def test_methods_that_learn_labels_count_under_these_alone(result):
    assert set(result.regimes["hard"].trials["method"]) == {"random", "mtt"}
    learned = {"learned": {"labels": {"regime": "learned"}}}
    configurations = {"configurations": STUDY["configurations"] | learned}
    plan = replace(result.plan, settings=Settings.read(result.plan.settings.table | configurations))
    parts = replace(result, plan=plan).regimes
    assert {name: set(part.trials["method"]) for name, part in parts.items()} == {
        **{"hard": {"random"}, "soft": {"random"}, "learned": {"random", "mtt"}}
    }
    assert set(parts["soft"].costs["method"]) == {"random"}


def test_a_rerun_makes_only_what_is_missing(settings, result):
    files = [*result.plan.cache.rglob("*.safetensors"), *result.plan.folder.rglob("*.safetensors")]
    lost = next(trial for trial in result.plan.trials if trial.configuration == "soft")
    stamps, record = {file: file.stat().st_mtime_ns for file in files}, lost.path.read_bytes()
    lost.path.unlink()
    again = run(settings)
    pd.testing.assert_frame_equal(again.trials, result.trials)
    ours, theirs = (json.loads(text) | {"seconds": 0} for text in (lost.path.read_bytes(), record))
    assert ours == theirs
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items())


def test_a_teacher_that_diverges_is_named(address, tmp_path):
    """Neither the networks on S nor those on all data are trained then."""
    labels = SOFT | {"teacher": TEACHER | {"learning_rate": 1e30}}
    changes = {"methods": {"random": None}, "configurations": {"soft": {"labels": labels}}}
    changes |= {"seeds": 1, "scheduler_address": address}
    result = run(grids.settings(tmp_path / "study", **changes))
    assert set(result.failures["status"]) == {"diverged"}
    start = "a teacher or a prepared file that it needs: the training loss stopped"
    assert result.failures["message"].str.startswith(start).all()
    assert effort(result.references).endswith("see Failures.")


def planned(tmp_path, **changes):
    return make_plan(grids.settings(tmp_path / "study", **STUDY | changes))


def test_hard_and_learned_labels_share_their_networks_on_all_data(result):
    paths = {}
    for full in result.plan.references:
        paths.setdefault(full.configuration, []).append(full.path)
    assert paths["hard"] == paths["learned"]
    assert not set(paths["hard"]) & set(paths["soft"])
    lengths = [result.plan.length_path(name) for name in ("hard", "learned", "soft")]
    assert lengths[0] == lengths[1] != lengths[2]
    rows = result.references.drop(columns="configuration").groupby(result.references.configuration)
    hard, learned = (rows.get_group(name).reset_index(drop=True) for name in ("hard", "learned"))
    pd.testing.assert_frame_equal(hard, learned)


def test_a_teacher_decides_only_what_it_teaches(tmp_path):
    """Another teacher changes the trials and references of its configuration, and no set."""
    other = STUDY["configurations"]["soft"] | {"labels": SOFT | {"teacher": {"steps": 61}}}
    before = planned(tmp_path)
    after = planned(tmp_path, configurations=STUDY["configurations"] | {"soft": other})
    for ours, theirs in zip(before.trials, after.trials, strict=True):
        assert ours.set_path == theirs.set_path
        assert (ours.path == theirs.path) == (ours.configuration != "soft")
    colder = STUDY["configurations"]["soft"] | {"labels": SOFT | {"temperature": 1.0}}
    after = planned(tmp_path, configurations=STUDY["configurations"] | {"soft": colder})
    assert after.teacher_path("soft") == before.teacher_path("soft")
    assert [after.teacher_path(name) for name in ("hard", "learned")] == [None, None]


@pytest.mark.parametrize(
    ("train", "test", "asked", "measure"),
    [
        ([30, 20, 20], [10, 10, 10], None, "accuracy"),
        ([31, 20, 20], [10, 10, 10], None, "balanced"),
        ([20, 20, 20], [10, 10, 16], None, "balanced"),
        ([31, 20, 20], [10, 10, 10], "accuracy", "accuracy"),
        ([20, 20, 20], [10, 10, 10], "balanced", "balanced"),
    ],
)
def test_gaps_are_balanced_where_classes_differ_in_size(tmp_path, train, test, asked, measure):
    """By more than half: 30 to 20 is not, 31 to 20 is."""
    plan = planned(tmp_path, measure=asked)
    splits = {
        name: Split(torch.zeros(sum(counts), 1), torch.arange(3).repeat_interleave(counts))
        for name, counts in (("train", torch.tensor(train)), ("test", torch.tensor(test)))
    }
    assert replace(plan, dataset=replace(plan.dataset, **splits)).measure == measure


def test_gaps_and_errors_follow_the_measure(settings, result):
    balanced = run(Settings.read(settings.table | {"measure": "balanced"}))
    for ours, name in ((result, "accuracy"), (balanced, "balanced_accuracy")):
        assert set(ours.trials["measure"]) == {name.removesuffix("_accuracy")}
        full = ours.references.query("reference == 'converged'")
        full = full.set_index(["configuration", "seed"])[name]
        for row in ours.trials.itertuples():
            gap = full[row.configuration, row.seed] - getattr(row, name)
            assert row.gap_error == pytest.approx(gap)
            assert row.error == pytest.approx(1 - getattr(row, name))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"regime": "sofd"}, "labels: 'sofd' is not a regime; did you mean 'soft'? allowed: hard,"),
        (
            {"loss": "kl"},
            "labels: regime 'hard' has no teacher, and so no loss; choose regime: soft",
        ),
        (
            {"regime": "learned", "temperature": 2.0},
            "regime 'learned' has no teacher, and so no temp",
        ),
        ({"regime": "soft", "loss": "ce"}, "'ce' is not a loss; allowed: cross_entropy, kl, mse"),
        (
            {"regime": "soft", "teacher": {"stepz": 3}},
            "'stepz' is not a parameter of a teacher; did",
        ),
        ({"regime": "soft", "teacher": {"steps": 0}}, "teacher: steps=0 must be a whole number"),
        ({"regime": "soft", "temperature": 0}, "labels: temperature=0 must be a number above 0"),
    ],
)
def test_bad_labels_are_refused_in_one_sentence(labels, sentence):
    for changes in ({"labels": labels}, {"configurations": {"own": {"labels": labels}}}):
        with pytest.raises(ValueError, match=re.escape(sentence)) as raised:
            Settings.read(GRID | {"results": "none"} | changes)
        assert "\n" not in str(raised.value)
