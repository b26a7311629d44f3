"""The published figures are well formed, and stand beside ours with the settings that differ."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pandas as pd
import pytest

from ddlib.methods import METHODS
from ddlib.methods.common import finished
from ddlib.methods.distribution import DistributionMatching
from ddlib.methods.trajectory import TrajectoryMatching
from ddlib.parameters import Parameters
from ddlib.study import published
from ddlib.training.recipe import Recipe

REFERENCE = Recipe(steps=1000, batch_size=256, schedule="step", augmentation="dsa")


@dataclass
class Plan:
    """What `differences` reads of a study's plan."""

    recipe: Recipe = REFERENCE
    methods: dict = field(default_factory=lambda: {"dm": ("dm", DistributionMatching())})
    network: dict = field(default_factory=lambda: {"name": "convnet", "width": 128, "depth": 3})
    options: dict = field(default_factory=lambda: {"name": "cifar10", "classes": None})
    trials: list = field(default_factory=list)

    @property
    def first(self):
        return SimpleNamespace(recipe=self.recipe, network=self.network)

    @property
    def settings(self):
        return SimpleNamespace(data=self.options, extensions=None)

    images: int = 50_000

    @property
    def dataset(self):
        labels = range(self.images)
        return SimpleNamespace(name=self.options["name"], train=SimpleNamespace(labels=labels))


@pytest.fixture
def ours() -> pd.DataFrame:
    rows = [("dm", 1, 10, 0.2), ("dm", 10, 100, 0.4), ("dm", 2, 20, 0.3), ("mine", 1, 10, 0.1)]
    return pd.DataFrame(rows, columns=["method", "ipc", "k", "accuracy"])


FULL = pd.DataFrame({"accuracy": [0.8]})


def test_every_figure_is_a_fraction_with_a_tag_and_stands_once():
    table = published.read()
    assert table["accuracy"].between(0.01, 1).all()
    assert (table["deviation"].dropna() < 0.05).all()
    assert set(table["tag"]) == {"paper", "readme", "unverified"}
    assert not table.duplicated(["data", "method", "ipc"]).any()
    assert set(METHODS) <= set(table["method"])
    assert (table["ipc"].isna() == (table["method"] == "all data")).all()
    assert table.loc[table["ipc"].isna(), "data"].tolist() == list(table["data"].unique())


def test_figures_join_at_equal_data_method_and_ipc(ours):
    found = published.beside(ours, FULL, "cifar10")
    # PAD's table: DM 26.0 and 48.9 at 1 and 10 images a class, 84.8 for all of CIFAR-10
    assert found["method"].tolist() == ["dm", "dm", "all data"]
    assert found["published"].tolist() == [0.26, 0.489, 0.848]
    assert found["difference"].tolist() == pytest.approx([-0.06, -0.089, -0.048])
    # 1000 epochs of one batch of 256 each
    assert found["steps"].tolist() == [1000, 1000, pd.NA]
    assert published.beside(ours, FULL, "digits").empty


def test_steps_count_the_batches_of_an_epoch(ours):
    large = ours.assign(ipc=50, k=500).head(1)
    assert published.beside(large, FULL, "cifar10")["steps"].iloc[0] == 2000


def test_equal_settings_have_no_difference(ours):
    found = published.beside(ours, FULL, "cifar10")
    assert published.differences(Plan(), found) == "No difference."


def test_every_difference_of_setting_is_told(ours):
    plan = Plan(
        recipe=Recipe(steps=300, batch_size=64, learning_rate=0.03),
        methods={
            "dm": ("dm", DistributionMatching(iterations=100)),
            "random": ("random", Parameters()),
        },
        network={"name": "convnet", "width": 32, "depth": 3},
        options={"name": "cifar10", "classes": ["cat", "dog"], "per_class": None},
    )
    text = published.differences(plan, published.beside(ours, FULL, "cifar10"))
    for point in (
        "- data: classes = ['cat', 'dog'], where the papers take all",
        "- network: convnet width 32 depth 3, where the papers take convnet width 128 depth 3",
        "- batch_size = 64, where the papers take 256",
        "- learning_rate = 0.03, where the papers take 0.01",
        "- schedule = cosine, where the papers take step",
        "- 300 steps of training at every k, where the papers' take 1,000",
        "- augmentation none, where dm had dsa",
        "- dm: iterations 100 (papers: 20000)",
    ):
        assert f"{point}\n" in f"{text}\n"
    assert "real_batch" not in text
    assert "momentum" not in text


def test_parameters_are_compared_at_the_sizes_shown_with_those_for_the_data_set():
    ours = pd.DataFrame({"method": "mtt", "ipc": [10], "k": [1000], "accuracy": 0.3})
    found = published.beside(ours, FULL, "cifar100")
    # the author's table for CIFAR-100 at ipc 10: N = 20, M = 2, starts below 20, rate 1000
    theirs = {
        "student_steps": {10: 20, 50: 7},
        "max_start": 20,
        "learning_rate": 1000,
        "step_size": 0.01,
        "step_size_learning_rate": 1e-5,
        "synthetic_batch": 1000,
    }
    for parameters, told in (
        (TrajectoryMatching(**theirs), []),
        (TrajectoryMatching(**theirs | {"max_start": 5}), ["max_start 5 (papers:"]),
        (TrajectoryMatching(), ["student_steps", "learning_rate", "step_size"]),
    ):
        plan = Plan(methods={"mtt": ("mtt", parameters)}, options={"name": "cifar100"})
        lines = published.differences(plan, found).splitlines()
        lines = [line for line in lines if line.startswith("- mtt:")]
        assert len(lines) == bool(told)
        assert all(text in line for line in lines for text in told)


def test_a_smaller_training_set_is_told(ours):
    found = published.beside(ours, FULL, "cifar10")
    half = published.differences(Plan(images=25_000), found)
    assert "- 25,000 images to train on, where the public set has 50,000" in half
    assert published.differences(Plan(images=50_000), found) == "No difference."


def test_notes_and_doubts_are_told():
    ours = pd.DataFrame({"method": ["mtt", "dm"], "ipc": 1, "k": 10, "accuracy": 0.3})
    text = published.differences(Plan(), published.beside(ours, FULL, "cifar10"))
    assert "- published for mtt: best of many test evaluations, ZCA" in text
    plan = Plan(options={"name": "mnist"})
    text = published.differences(plan, published.beside(ours, FULL, "mnist"))
    assert "- not verified in the paper itself: all data and dm" in text


def test_a_learned_step_size_that_no_network_is_evaluated_with_is_told(tiny, tmp_path):
    trials = []
    for ipc, seed, step_size in ((1, 0, 0.01), (1, 1, 0.03), (10, 0, 0.25)):
        path, parameters = tmp_path / f"{ipc}-{seed}", TrajectoryMatching()
        images = tiny.train.images[: 3 * ipc]
        finished(tiny, images, "mtt", parameters, seed, {"step_size": step_size}).save(path)
        trials.append(SimpleNamespace(set_path=path, method="mtt", ipc=ipc))
    trials.append(SimpleNamespace(set_path=tmp_path / "failed", method="mtt", ipc=50))
    point = (
        "- mtt: it learned step_size 0.02 at ipc 1 and 0.25 at ipc 10, which its paper evaluates "
        "with; here all sets are evaluated at learning_rate = 0.01"
    )
    ours = pd.DataFrame({"method": ["mtt"], "ipc": 1, "k": 10, "accuracy": 0.3})
    for data in ("cifar10", "digits"):
        plan = Plan(trials=trials, options={"name": data})
        found = published.beside(ours, FULL, data)
        assert found.empty == (data == "digits")
        assert point in published.differences(plan, found).splitlines()


def test_a_set_that_is_not_whole_is_named(ours, tmp_path):
    trial = SimpleNamespace(set_path=tmp_path / "torn", method="dm", ipc=1)
    trial.set_path.write_bytes(b"")
    found = published.beside(ours, FULL, "cifar10")
    with pytest.raises(ValueError, match=rf"^{trial.set_path} is not whole \(.*\); delete it, and"):
        published.differences(Plan(trials=[trial]), found)


def test_nothing_published_is_said(ours):
    plan = Plan(options={"name": "digits"})
    found = published.beside(ours, FULL, "digits")
    assert published.differences(plan, found).startswith("Nothing is published for digits")
