"""The published figures are well formed, and stand beside ours with the settings that differ."""

from types import SimpleNamespace

import pandas as pd
import pytest

from ddlib.methods import METHODS
from ddlib.methods.common import finished
from ddlib.methods.distribution import DistributionMatching
from ddlib.methods.patches import RealisticPatches
from ddlib.methods.trajectory import TrajectoryMatching
from ddlib.study import published
from ddlib.training.recipe import Recipe

REFERENCE = Recipe(steps=1000, batch_size=256, schedule="step", augmentation="dsa")
FULL = pd.DataFrame({"accuracy": [0.8]})
NETWORK = {"name": "convnet", "width": 128, "depth": 3}

# Under this protocol:
UNPUBLISHED = {"kernel_herding", "k_means", "imported"}


def plan(data="cifar10", recipe=REFERENCE, network=NETWORK, images=50_000, trials=(), **options):
    """Return what `differences` reads of a study's plan."""
    methods = options.pop("methods", {"dm": ("dm", DistributionMatching())})
    learned = options.pop("learned_step_size", False)
    return SimpleNamespace(
        first=SimpleNamespace(recipe=recipe, network=network, learned_step_size=learned),
        settings=SimpleNamespace(data={"name": data, **options}, extensions=None),
        dataset=SimpleNamespace(name=data, train=SimpleNamespace(labels=range(images))),
        methods=methods,
        trials=trials,
    )


def accuracies(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["method", "ipc", "k", "accuracy"])


OURS = accuracies(("dm", 1, 10, 0.2), ("dm", 10, 100, 0.4), ("dm", 2, 20, 0.3), ("own", 1, 10, 0.1))


def test_every_figure_is_a_fraction_with_a_tag_and_stands_once():
    table = published.read()
    assert table["accuracy"].between(0.01, 1).all()
    assert (table["deviation"].dropna() < 0.05).all()
    assert set(table["tag"]) == {"paper", "readme", "unverified"}
    assert not table.duplicated(["data", "method", "ipc"]).any()
    library = {name for name, entry in METHODS.items() if entry.modules[-1].startswith("ddlib.")}
    assert library - UNPUBLISHED <= set(table["method"])
    assert (table["ipc"].isna() == (table["method"] == "all data")).all()


def test_figures_join_at_equal_data_method_and_ipc():
    found = published.beside(OURS, FULL, "cifar10")
    # PAD's table: DM 26.0 and 48.9 at 1 and 10 images a class, 84.8 for all of CIFAR-10
    assert found["method"].tolist() == ["dm", "dm", "all data"]
    assert found["published"].tolist() == [0.26, 0.489, 0.848]
    assert found["difference"].tolist() == pytest.approx([-0.06, -0.089, -0.048])
    # 1000 epochs of one batch of 256 each
    assert found["steps"].tolist() == [1000, 1000, pd.NA]
    large = published.beside(accuracies(("dm", 50, 500, 0.5)), FULL, "cifar10")
    assert large["steps"].iloc[0] == 2000
    nothing = published.beside(OURS, FULL, "digits")
    assert nothing.empty
    assert published.differences(plan("digits"), nothing).startswith("Nothing is published for dig")


def test_settings_that_differ_stand_in_a_table():
    found = published.beside(OURS, FULL, "cifar10")
    assert published.differences(plan(), found) == "No setting differs."
    other = plan(
        recipe=Recipe(steps=300, batch_size=64, learning_rate=0.03),
        methods={"dm": ("dm", DistributionMatching(iterations=100))},
        network=NETWORK | {"width": 32},
        images=25_000,
        classes=["cat", "dog"],
    )
    lines = published.differences(other, found).splitlines()
    assert lines[2:] == [
        "| setting | here | papers |",
        "|---|---|---|",
        "| classes | ['cat', 'dog'] | all |",
        "| images to train on | 25,000 | 50,000 |",
        "| network | convnet width 32 depth 3 | convnet width 128 depth 3 |",
        "| batch_size | 64 | 256 |",
        "| learning_rate | 0.03 | 0.01 |",
        "| schedule | cosine | step |",
        "| steps of training, at every k here | 300 | 1,000 |",
        "| augmentation (dm) | none | dsa |",
        "| dm: iterations | 100 | 20000 |",
    ]


def test_parameters_are_compared_at_the_sizes_shown_with_those_for_the_data_set():
    found = published.beside(accuracies(("mtt", 10, 1000, 0.3)), FULL, "cifar100")
    # the author's table for CIFAR-100 at ipc 10: N = 20, M = 2, starts below 20, rate 1000
    theirs = {
        "student_steps": {10: 20, 50: 7},
        "max_start": 20,
        "learning_rate": 1000,
        "step_size": 0.01,
        "step_size_learning_rate": 1e-5,
        "synthetic_batch": 1000,
    }
    for changes, differ in (({}, set()), ({"max_start": 5}, {"max_start"})):
        methods = {"mtt": ("mtt", TrajectoryMatching(**theirs | changes))}
        text = published.differences(plan("cifar100", methods=methods), found)
        lines = [line for line in text.splitlines() if line.startswith("| mtt: ")]
        assert {line.split()[2] for line in lines} == differ


def test_a_network_of_a_method_is_compared_as_it_is():
    found = published.beside(accuracies(("rded", 10, 100, 0.3)), FULL, "cifar10")
    taught = RealisticPatches(network=NETWORK | {"norm": "batch"})
    text = published.differences(plan(methods={"rded": ("rded", taught)}), found)
    assert "| rded: network | {'name': 'convnet', 'width': 128, 'depth': 3" in text


def test_of_a_training_the_options_that_differ_are_listed():
    found = published.beside(accuracies(("herding", 10, 100, 0.3)), FULL, "cifar10")
    changes = {"features": "trained", "training": {"steps": 980, "momentum": 0.5}}
    shorter = METHODS["herding"].parameters.read(changes, "herding")
    text = published.differences(plan(methods={"herding": ("herding", shorter)}), found)
    rows = [line for line in text.splitlines() if line.startswith("| herding: ")]
    assert "| herding: training.steps | 980 | 3920 |" in rows
    assert "| herding: training.momentum | 0.5 | 0.9 |" in rows
    assert not any("training |" in row for row in rows)


def test_notes_and_doubts_are_told():
    ours = accuracies(("mtt", 1, 10, 0.3), ("dm", 1, 10, 0.3))
    text = published.differences(plan(), published.beside(ours, FULL, "cifar10"))
    assert "- published for mtt: best of many test evaluations, ZCA" in text
    text = published.differences(plan("mnist"), published.beside(ours, FULL, "mnist"))
    assert "- not verified in the paper itself: all data and dm" in text


def test_a_learned_step_size_that_no_network_is_evaluated_with_is_told(tiny, tmp_path):
    trials = []
    for ipc, seed, step_size in ((1, 0, 0.01), (1, 1, 0.03), (10, 0, 0.25)):
        path, parameters = tmp_path / f"{ipc}-{seed}", TrajectoryMatching()
        images = tiny.train.samples[: 3 * ipc]
        finished(tiny, images, "mtt", parameters, seed, {"step_size": step_size}).save(path)
        trials.append(SimpleNamespace(set_path=path, method="mtt", ipc=ipc))
    trials.append(SimpleNamespace(set_path=tmp_path / "failed", method="mtt", ipc=50))
    point = (
        "- mtt: it learned step_size 0.02 at ipc 1 and 0.25 at ipc 10, which its paper evaluates "
        "with; here all sets are evaluated at learning_rate = 0.01"
    )
    for data in ("cifar10", "digits"):
        found = published.beside(accuracies(("mtt", 1, 10, 0.3)), FULL, data)
        assert found.empty == (data == "digits")
        assert point in published.differences(plan(data, trials=trials), found).splitlines()
    own = published.differences(plan(trials=trials, learned_step_size=True), found)
    assert point.split("; ")[0] + "; so does this study" in own.splitlines()


@pytest.mark.parametrize("whitened", [True, False])
def test_whitening_differs_from_each_method_s_own(whitened):
    """MTT's figure at ipc 1 was published on whitened images, DM's on images as they are."""
    found = published.beside(accuracies(("mtt", 1, 10, 0.3), ("dm", 1, 10, 0.3)), FULL, "cifar10")
    rows = published.differing(plan(zca=whitened), found.query("method != 'all data'"))
    whose = "dm" if whitened else "mtt"
    assert rows == [(f"zca ({whose})", whitened, not whitened)]
