"""A study of images of which one class has a hundred times as many as the other."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from clusters import in_process

from ddlib.figures import scaling as charts
from ddlib.stats import laws, verdicts
from ddlib.study.run import run
from ddlib.study.settings import Settings
from ddlib.words import scaling as words

STUDY = {
    "network": {"name": "linear"},
    "training": {"steps": 200, "batch_size": 64, "learning_rate": 0.1},
    "methods": {"random": None, "dm": {"iterations": 3, "augmentation": "none"}},
    "k": [2, 10, 20, 40, 100],
    "seeds": 2,
    "reference": "same_steps",
}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder, draws = tmp_path_factory.mktemp("imbalance"), np.random.default_rng(0)
    for part, counts in (("train", (5000, 50)), ("test", (1000, 10))):
        labels = np.repeat([0, 1], counts)
        images = draws.normal(110 + 40 * labels[:, None, None], 60, (len(labels), 4, 4))
        images = images.clip(0, 255).astype(np.uint8)
        np.savez(folder / part, images=images, labels=labels, class_names=["cat", "dog"])
    places = {"results": str(folder / "study"), "cache": str(folder / "cache")}
    with in_process() as address:
        data = {"name": str(folder)}
        yield run(Settings.read(STUDY | places | {"data": data, "scheduler_address": address}))


def test_gaps_are_of_balanced_accuracy_and_may_be_negative(result):
    """Of all data, networks learn little of the rare class; of S they learn both alike."""
    assert set(result.trials["measure"]) == set(result.references["measure"]) == {"balanced"}
    full = result.references.set_index("seed")
    assert (full["accuracy"] > 0.98).all()
    for row in result.trials.itertuples():
        gap = full["balanced_accuracy"][row.seed] - row.balanced_accuracy
        assert (row.status, row.gap_error) == ("ok", pytest.approx(gap))
    means = result.trials.groupby(["method", "k"])["gap_error"].mean()
    assert means.min() < -0.05
    for name in ("trials", "references"):
        balanced, whole = getattr(result, name)["balanced_accuracy"], result.as_measured
        np.testing.assert_allclose(getattr(whole, name)["accuracy"], balanced)
    teachers = pd.DataFrame({"accuracy": [0.9], "balanced_accuracy": [0.6]})
    assert replace(result, teachers=teachers).as_measured.teachers["accuracy"].tolist() == [0.6]


def test_figure_fit_and_sentences_say_so(result):
    trials, fits = result.trials, laws.fit_table(result.trials, "gap_error", draws=100)
    figure = charts.gap_against_k(trials, fits, "gap_error", "gap").to_json()
    by_method = trials.groupby("method", sort=False)
    paragraphs = words.scaling(fits, "in balanced test error", 1e-3).split("\n\n")
    for (method, rows), paragraph in zip(by_method, paragraphs, strict=True):
        negative = rows.groupby("k")["gap_error"].mean() <= 0
        ks = list(negative.index[negative])
        start = f"**{method}.** On average, networks trained on S are no worse than those trained "
        listed = f"{', '.join(map(str, ks[:-1]))} and {ks[-1]}."
        assert paragraph.startswith(f"{start}on D at k = {listed}")
        assert verdicts.verdict(fits[method]).outcome != "survives"
        assert f"({(rows['gap_error'] <= 0).sum()} ≤ 0)" in figure
    assert words.effort(result.references).endswith(words.BALANCED)
