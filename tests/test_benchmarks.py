"""The benchmarks at their smallest: both ways agree, and every table is there."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from clusters import in_process

from benchmarks import gpu_check, growth, kernels, scale, statistics

QUICK = ["--device", "cpu", "--quick", "--data", "digits"]


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


def test_a_gpu_is_checked_step_by_step_and_every_line_is_kept(tmp_path, capsys):
    """The stand-in for a GPU: a CPU, at tiny sizes. Two networks in turn are equal to the bit."""
    out = tmp_path / "checks.json"
    gpu_check.main([*QUICK, "--out", str(out)])
    rows, lines = json.loads(out.read_text()), capsys.readouterr().out.splitlines()
    assert len(rows) == len(lines) == 10
    assert {row["verdict"] for row in rows} == {"pass"}
    assert rows[0]["what"] == "loss on all data"
    steps = [f"{name}{where}" for where in ("", ", 16 px") for name in gpu_check.CORE]
    assert [row["what"] for row in rows[1:9]] == steps
    assert rows[9]["measured"].startswith("0e+00 apart, ")


def test_a_check_that_fails_is_named_and_what_came_before_is_kept(tmp_path, monkeypatch):
    """No step takes less than no memory; the other checks still take place."""
    monkeypatch.setattr(gpu_check, "SMALL_GPU", 0)
    monkeypatch.setattr(gpu_check, "fall", lambda *_: 1 / 0)
    with pytest.raises(SystemExit, match="failed: loss on all data, DM iteration, ") as stopped:
        gpu_check.main([*QUICK, "--out", str(tmp_path / "checks.json")])
    assert "together" not in stopped.value.code
    rows = json.loads((tmp_path / "checks.json").read_text())
    assert rows[0]["measured"] == "ZeroDivisionError: division by zero"
    assert [row["verdict"] for row in rows] == 9 * ["FAIL"] + ["pass"]


def test_the_limit_ends_the_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "fall", lambda *_: time.sleep(30))
    start = time.monotonic()
    gpu_check.main([*QUICK, "--limit", "1", "--out", str(tmp_path / "checks.json")])
    assert time.monotonic() - start < 20
    assert "the time is over" in capsys.readouterr().out
    assert not (tmp_path / "checks.json").exists()


def test_profiles_stand_beside_what_was_published(tmp_path, monkeypatch):
    """One random image of each of two clear classes beats 64.9 %, published for ten digits."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "mnist").mkdir()
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 20, (40, 8, 8), dtype=np.uint8)
    images += 200 * labels[:, None, None].astype(np.uint8)
    for split in ("train", "test"):
        arrays = {"images": images, "labels": labels, "class_names": ["0", "1"]}
        np.savez(tmp_path / "mnist" / f"{split}.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    with in_process() as address:
        study = {"network": {"name": "mlp", "width": 16}, "training": {"steps": 30}, "seeds": 1}
        study |= {"methods": {"random": {}}, "reference": "same_steps"}
        study |= {"results": "results", "cache": "cache", "scheduler_address": address}
        for name, k in (("./mnist", 2), ("digits", 10)):
            settings = study | {"data": {"name": name}, "k": [k]}
            (tmp_path / f"{k}.yaml").write_text(json.dumps(settings))
        measured, passes = gpu_check.profile("2.yaml", "cpu")
        assert re.fullmatch(r"random at ipc 1 \d+\.\d% \(64\.9%\)", measured)
        assert passes
        assert gpu_check.profile("10.yaml", "cpu") == ("nothing is published for it", False)


def test_the_page_of_statistics_keeps_its_text_and_gets_new_tables(tmp_path, monkeypatch):
    """On two studies a row, so that no number is looked at."""
    page = tmp_path / "statistics.md"
    kept = statistics.PAGE.read_text()
    page.write_text(kept)
    smallest = {"STUDIES": 2, "DRAWS": 40, "PAGE": page, "CELLS": statistics.CELLS[:1]}
    smallest |= {"ProcessPoolExecutor": InThisProcess, "coverage": partial(statistics.coverage, 2)}
    smallest |= {"claims": partial(statistics.claims, studies=2), "COUNTS": [5]}
    smallest["EQUAL"] = {"5 of 4": ([4], 5)}
    for name in ("hold_gap", "hold_plan", "differ"):
        smallest[name] = partial(getattr(statistics, name), studies=2)
    for name, value in (smallest | {"plan": partial(statistics.plan, studies=2)}).items():
        monkeypatch.setattr(statistics, name, value)
    statistics.main()
    heads = [re.findall(r"(?m)^\|.*\n\| ---", text) for text in (kept, page.read_text())]
    assert heads[0] == heads[1]
    assert len(heads[0]) == 11
    texts = [re.sub(r"(?m)^\|.*\n", "", text) for text in (kept, page.read_text())]
    assert texts[0] == texts[1]


class InThisProcess(ThreadPoolExecutor):
    """A pool of one thread, where a test needs no process."""

    def __init__(self, *_, **__):
        super().__init__(1)


def test_slopes_are_those_of_powers_with_their_intervals():
    """Memory that does not grow has no slope."""
    sizes = np.array([1, 10, 100, 1000])
    rows = {"axis": "k", "size": sizes, "seconds": 0.1 * sizes**1.5}
    for megabytes, power in (([0.0, 3.0, 30.0, 300.0], 1), ([0.5] * 4, np.nan)):
        fitted = growth.exponents(pd.DataFrame({**rows, "job": "a job", "megabytes": megabytes}))
        for measure, expected in (("seconds", 1.5), ("megabytes", power)):
            row = fitted.set_index("measure").loc[measure, ["exponent", "low", "high"]]
            assert row.tolist() == pytest.approx([expected] * 3, abs=1e-6, nan_ok=True)


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
