"""The benchmarks at their smallest: both ways agree, and every table is there."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import growth, kernels, published, scale, statistics


def test_a_quick_run_measures_every_case(capsys):
    """Both ways agree to rounding, or there is no measurement."""
    kernels.main(["--quick"])
    rows = capsys.readouterr().out.splitlines()[1:]
    names = [case.name for case in kernels.cases(kernels.QUICK)]
    assert [re.split(r"\s\s+", row)[0] for row in rows] == names
    assert all(float(row.split()[-1]) < 1e-4 for row in rows)
    theirs = {"large": 1e6 * torch.ones(4), "small": torch.ones(4)}
    ours = {**theirs, "small": torch.tensor([1, 1, 1, 1.1])}
    with pytest.raises(AssertionError, match=r"a case: small are 5\.0e-02 apart"):
        kernels.measure(kernels.Case("a case", lambda: theirs, lambda: ours), 1)


def test_a_short_study_stands_beside_what_was_published(tmp_path):
    """The published setting of DM: 1,000 steps of training, a ConvNet of width 128."""
    settings = published.settings("mnist", seeds=2, networks=1)
    assert (settings["network"]["width"], settings["training"]["steps"]) == (128, 1000)
    settings |= {"data": {"name": "digits"}, "network": {"name": "convnet", "width": 4, "depth": 2}}
    settings["training"] |= {"steps": 5, "augmentation": "none"}
    settings["methods"]["dm"] |= {"iterations": 2}
    settings |= {"workers": 1, "results": str(tmp_path), "cache": str(tmp_path / "cache")}
    [row] = published.compare_published(settings, "mnist").to_dict("records")
    assert (row["published"], row["deviation"]) == pytest.approx((97.5, 0.1))
    assert 0 < row["accuracy"] < 100
    assert 0 < row["seconds"] < 10


def test_the_page_of_statistics_keeps_its_text_and_gets_new_tables(tmp_path, monkeypatch):
    """On two studies a row, so that no number is looked at."""
    page = tmp_path / "statistics.md"
    kept = statistics.PAGE.read_text()
    page.write_text(kept)
    smallest = {"STUDIES": 2, "DRAWS": 40, "PAGE": page, "CELLS": statistics.CELLS[:1]}
    smallest |= {"ProcessPoolExecutor": InThisProcess, "coverage": partial(statistics.coverage, 2)}
    for name, value in (smallest | {"plan": partial(statistics.plan, studies=2)}).items():
        monkeypatch.setattr(statistics, name, value)
    statistics.main()
    heads = [re.findall(r"(?m)^\|.*\n\| ---", text) for text in (kept, page.read_text())]
    assert heads[0] == heads[1]
    assert len(heads[0]) == 6
    texts = [re.sub(r"(?m)^\|.*\n", "", text) for text in (kept, page.read_text())]
    assert texts[0] == texts[1]


class InThisProcess(ThreadPoolExecutor):
    """A pool of one thread, where a test needs no process."""

    def __init__(self, *_, **__):
        super().__init__(1)


@pytest.mark.parametrize(("exponent", "memory"), [(1.5, 1.0), (0.0, np.nan)])
def test_slopes_are_those_of_powers_with_their_intervals(exponent, memory):
    """Memory that does not grow has no slope."""
    sizes = np.array([1, 10, 100, 1000])
    rows = {"axis": "k", "job": "a job", "size": sizes, "seconds": 0.1 * sizes**exponent}
    megabytes = [0.5] * 4 if exponent == 0 else [0.0, 3.0, 30.0, 300.0]
    fitted = growth.exponents(pd.DataFrame({**rows, "megabytes": megabytes}))
    for name, expected in (("seconds", exponent), ("megabytes", memory)):
        row = fitted.set_index("measure").loc[name]
        assert row["exponent"] == pytest.approx(expected, abs=1e-9, nan_ok=True)
        if expected:
            assert [row["low"], row["high"]] == pytest.approx([expected] * 2, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("case", growth.CASES, ids=lambda case: f"{case.axis}-{case.job}")
def test_every_case_runs_at_its_smallest_size(case):
    case.make(case.sizes[0])()
    assert list(case.sizes) == sorted(case.sizes)


def test_the_cost_of_imagenet_is_the_count_of_images_times_the_seconds_of_each():
    seconds = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    table = scale.costs(pd.DataFrame({"seconds": seconds}, index=range(6)))
    days = table.set_index(["ipc", "what"])["days of a core"] * 86400
    assert days[10, "dm"] == pytest.approx(20_000 * (256_000 + 10_000 * 2))
    # ten outer steps: matching, and nine times fifty epochs of S
    matching, training = 10 * (256_000 * 3 + 10_000 * 4), 9 * 50 * 10_000 * 5
    assert days[10, "dc, dsa"] == pytest.approx(1000 * (matching + training))
    assert days[50, "mtt, one expert"] == pytest.approx(50 * 1_281_167 * 5)
    # a GPU of 20 TFLOP/s against a core that passes an image of 429 MFLOP in a second
    ratio = table["hours of a GPU"] * 3600 / (table["days of a core"] * 86400)
    assert ratio.to_numpy() == pytest.approx(429e6 / 20e12)
