"""The benchmarks at their smallest: both ways agree, and a run is kept."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks import growth, published, statistics, statistics_coverage, statistics_planner
from benchmarks.__main__ import main, measure
from benchmarks.cases import (
    QUICK,
    SHAPES,
    Case,
    all_cases,
)


def test_a_quick_run_measures_every_case(capsys):
    """Both ways agree to rounding, or there is no measurement."""
    main(["--quick"])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split("  ")[0] for row in rows] == [case.name for case in all_cases(QUICK)]
    assert all(float(row.split()[-1]) < 1e-2 for row in rows)
    main(["--quick", "--only", "real side"])
    assert len(capsys.readouterr().out.splitlines()) == 3
    with pytest.raises(SystemExit):
        main(["--quick", "--only", "reel side"])
    assert "'reel side' is no part of a case's name: DC outer" in capsys.readouterr().err
    theirs = {"large": 1e6 * torch.ones(4), "small": torch.ones(4)}
    ours = {**theirs, "small": torch.tensor([1, 1, 1, 1.1])}
    wrong = Case("a case", "mnist", lambda: theirs, lambda: ours)
    with pytest.raises(AssertionError, match=r"a case on mnist: small are 5\.0e-02 apart"):
        measure(wrong, 1)


def test_a_shorter_run_stands_beside_what_was_published(tmp_path, capsys, monkeypatch):
    small = published.Setting("digits", "none", (91.0, 0.5, "paper"), 4, 3, steps=9, iterations=4)
    monkeypatch.setitem(published.SETTINGS, "mnist", small)
    monkeypatch.setattr(published, "FULL", QUICK)
    monkeypatch.setitem(SHAPES, "digits", (1, 8, 8))
    monkeypatch.setattr(published, "ProcessPoolExecutor", InThisProcess)

    def run(*words):
        published.main(["--data", "mnist", "--results", str(tmp_path), *words])
        times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        return sorted(capsys.readouterr().out.splitlines()[:2]), times

    seeds, kept = run("--seeds", "2")
    suffixes = [".json", ".safetensors", ".seconds"]
    assert sorted(path.suffix for path in kept) == sorted(2 * suffixes)
    assert run("--seeds", "2") == (seeds, kept)
    scores = {path: path.read_text() for path in kept if path.suffix == ".json"}
    for path in scores:
        path.unlink()
    _, now = run("--seeds", "2")  # the sets are there
    assert {path for path in kept if now[path] != kept[path]} == scores.keys()
    assert {path: path.read_text() for path in scores} == scores
    run("--seeds", "1", "--networks", "2")  # on the set that is there
    [two] = set(tmp_path.glob("*.json")) - scores.keys()
    record = json.loads(two.read_text())
    assert record["accuracy"] == pytest.approx(50 * sum(record["each"]))
    _, files = run("--seeds", "1", "--learning-rate", "0")
    assert len(files) == 10  # another setting is run anew


def test_the_ratio_is_of_published_hours_to_those_of_a_seed():
    records = [{"accuracy": 48.0, "seconds": 1000.0}, {"accuracy": 50.0, "seconds": 3000.0}]
    row = published.summary(published.SETTINGS["cifar10"], records, obvious=3.6)
    values = ["cifar10", "2", "48.9", "±", "0.6", "(paper)", "49.0", "(48.0-50.0)"]
    values += ["20.0", "0.56", "36"]
    assert row.split() == values


def test_the_page_of_statistics_holds_every_section(tmp_path, monkeypatch):
    """On two studies a row, so that no number is looked at."""
    monkeypatch.setattr(statistics, "STUDIES", 2)
    monkeypatch.setattr(statistics, "DRAWS", 40)
    monkeypatch.setattr(statistics, "PAGE", tmp_path / "statistics.md")
    monkeypatch.setattr(statistics, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(statistics_planner, "CELLS", [(0.3, 0.5)])
    report = statistics_coverage.report
    monkeypatch.setattr(statistics_coverage, "report", lambda: report(2))
    statistics.main()
    page = (tmp_path / "statistics.md").read_text()
    kept = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text()
    for text in (page, kept):
        assert sum(line.startswith("| --- |") for line in text.splitlines()) == 7
    heads = [line for line in page.splitlines() if line.startswith("#")]
    assert heads == [line for line in kept.splitlines() if line.startswith("#")]


class InThisProcess(ThreadPoolExecutor):
    """A pool of one thread, where a test needs no process."""

    def __init__(self, *_, **__):
        super().__init__(1)


# ---- growth ----


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


@pytest.mark.parametrize("number", range(len(growth.CASES)))
def test_every_case_runs_at_its_smallest_size(number):
    case = growth.CASES[number]
    case.make(case.sizes[0])()
    assert list(case.sizes) == sorted(case.sizes)


def test_a_case_is_measured_in_a_process_of_its_own_and_drawn():
    [number] = (i for i, case in enumerate(growth.CASES) if case.job == "distances")
    points = growth.grow([number], count=1)
    [row] = points.to_dict("records")
    assert (row["axis"], row["job"], row["size"]) == ("configurations", "distances", 50)
    assert 0 < row["seconds"] < 10
    chart = growth.figure(points, growth.exponents(points))
    assert [len(row["hconcat"]) for row in chart.to_dict()["vconcat"]] == [1, 1]
    assert Image.open(io.BytesIO(growth.picture(chart))).mode == "P"  # few colours, a small file
