"""The benchmarks at their smallest: both ways agree, and a run is kept."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import (
    compiled,
    machine,
    published,
    statistics,
    statistics_coverage,
    statistics_planner,
)
from benchmarks.__main__ import line, main, measure
from benchmarks.cases import (
    QUICK,
    SHAPES,
    Case,
    all_cases,
    difference,
    distribution_matching,
    evaluation,
    gradient_matching,
    make_setting,
)
from benchmarks.cases import test_pass as scored
from benchmarks.processes import Workers
from ddlib.data.base import Split
from ddlib.networks.functional import embed, logits

KINDS = ("reference", "reference_kept", "reference_workers", "ours", "workers")


def test_a_quick_run_measures_every_case_and_keeps_it(tmp_path, capsys):
    main(["--quick", "--threads", "1", "--results", str(tmp_path)])
    [path] = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert path.name == f"{kept['commit']}-quick-1threads.json"
    assert (kept["threads"], kept["scale"]["width"]) == (1, QUICK.width)
    names = [(record["case"], record["data"]) for record in kept["cases"]]
    assert names == [(case.name, case.data) for case in all_cases(QUICK)]
    for record in kept["cases"]:
        assert 0 <= record["difference"] < 1e-2
        assert all(0 < taken < 60 for [taken] in record["seconds"].values())
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(names) + 2  # a head, and where it is kept


def test_a_name_of_no_case_is_refused_with_all_of_them(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--quick", "--only", "reel side", "--results", str(tmp_path)])
    assert (
        "'reel side' is no part of a case's name: DC outer step, DM iter" in capsys.readouterr().err
    )


def test_one_case_can_be_chosen(tmp_path):
    chosen = ["--only", "real side", "--repeats", "2"]
    main(["--quick", "--threads", "1", "--results", str(tmp_path), *chosen])
    [path] = tmp_path.iterdir()
    records = json.loads(path.read_text())["cases"]
    assert [record["case"] for record in records] == ["DM real side"] * 2
    assert [len(taken) for taken in records[0]["seconds"].values()] == [2] * 5


def test_what_was_measured_before_a_case_failed_is_kept(tmp_path, monkeypatch):
    def run(scale, only):
        taken = {kind: [1.0] for kind in KINDS}
        yield {"case": "first", "data": "mnist", "seconds": taken, "least_seconds": None}
        raise AssertionError("second on mnist: results are apart")

    monkeypatch.setattr("benchmarks.__main__.run", run)
    with pytest.raises(AssertionError, match="second on mnist"):
        main(["--quick", "--threads", "1", "--results", str(tmp_path)])
    [path] = tmp_path.iterdir()
    assert path.suffix == ".partial"
    assert [record["case"] for record in json.loads(path.read_text())["cases"]] == ["first"]


@pytest.mark.parametrize("data", SHAPES)
def test_the_obvious_network_is_the_librarys(data):
    setting = make_setting(QUICK, data)
    images = setting.dataset.test.images[:5]
    network = setting.convnet(setting.theta)
    theirs = logits(setting.network, setting.theta, images)
    torch.testing.assert_close(network(images), theirs)
    body = embed(setting.network, setting.theta, images)
    torch.testing.assert_close(network.body(images), body)


def test_results_that_are_apart_are_no_measurement():
    theirs = {"large": 1e6 * torch.ones(4), "small": torch.ones(4)}
    ours = {**theirs, "small": torch.tensor([1, 1, 1, 1.1])}
    wrong = Case("a case", "mnist", lambda: theirs, lambda: ours)
    with pytest.raises(AssertionError, match=r"a case on mnist: small are 5\.0e-02 apart"):
        measure(wrong, NoWorkers(), 1)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("make", [scored, evaluation])
def test_scores_of_other_images_are_apart(data, make):
    setting = make_setting(replace(QUICK, width=16, test=120), data)
    theirs = make(setting).reference()
    other = [
        Split(split.images.flip(0), split.labels)
        for split in (setting.dataset.train, setting.dataset.test)
    ]
    changed = replace(setting.dataset, train=other[0], test=other[1])
    ours = make(replace(setting, dataset=changed)).ours()
    with pytest.raises(AssertionError, match=r"on mnist: (nats|accuracies) are"):
        difference(theirs, ours, "on mnist")


def test_workers_do_a_case_each_at_the_same_time():
    case = next(all_cases(QUICK))
    with Workers(QUICK, 2) as workers:
        results = workers.run(case)
    for own in results:
        torch.testing.assert_close(own, case.ours())
    assert len(results) == 2


def test_ratios_are_of_runs_side_by_side_and_the_share_is_of_the_best():
    taken = {"reference": [6.0, 4.0, 9.0], "reference_kept": [3.0, 4.0, 3.0]}
    taken["reference_workers"] = [2.0, 2.0, 3.0]
    seconds = {**taken, "ours": [2.0, 2.0, 3.0], "workers": [1.0, 2.0, 3.0]}
    printed = line({"case": "c", "data": "d", "seconds": seconds, "least_seconds": 1.5})
    assert printed.split() == [
        *("c", "d", "6.000", "2.000"),
        *(
            "3.00",
            "(2.00-3.00)",
            "1.50",
            "(1.00-2.00)",
            "3.00",
            "(2.00-6.00)",
            "1.00",
            "(1.00-2.00)",
        ),
        *("75%", "4.00"),
    ]


def test_the_least_time_grows_with_the_number_of_images():
    theta = make_setting(QUICK, "mnist").theta
    one, ten = (machine.least_seconds(theta, SHAPES["mnist"], count) for count in (1, 10))
    assert 0 < one < ten
    trained = machine.least_seconds(theta, SHAPES["mnist"], 0, 10)
    assert trained > 1.2 * ten


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("method", ["dm", "dc", "dsa"])
def test_small_cases_of_both_ways_to_match_agree_to_rounding(data, method):
    setting = make_setting(QUICK, data)
    strategy = {"dc": "none"}.get(method, setting.strategy)
    if method == "dm":
        case = distribution_matching(setting, QUICK.ipcs, "DM")
    else:
        case = gradient_matching(setting, method, strategy)
    theirs, ours = case.reference(), case.ours()
    assert all(part.abs().max() > 1e-6 for part in theirs.values())
    assert difference(theirs, ours, method) < 1e-4


def test_compiling_is_earned_back_by_what_each_iteration_saves():
    assert compiled.line("mnist", 6.0, [2.0, 3.0, 2.5], [2.0, 1.5, 1.0]).split()[-1] == "6"
    assert compiled.line("mnist", 6.0, [2.0], [2.0]).split()[-1] == "inf"


@pytest.mark.parametrize("data", SHAPES)
def test_a_compiled_real_side_is_measured(data):
    taken = compiled.measure(QUICK, data, backend="eager")  # what needs no C++ compiler
    compiling, plain, made = taken
    assert len(plain) == len(made) == 3
    assert min(compiling, *plain, *made) > 0
    assert compiled.line(data, *taken).split()[0] == data


def test_a_shorter_run_stands_beside_what_was_published(tmp_path, capsys, monkeypatch):
    small = published.Setting("digits", "none", (91.0, 0.5, "paper"), 4, 3, steps=9, iterations=4)
    monkeypatch.setitem(published.SETTINGS, "mnist", small)
    monkeypatch.setattr(published, "FULL", QUICK)
    monkeypatch.setitem(SHAPES, "digits", (1, 8, 8))
    monkeypatch.setattr(published, "ProcessPoolExecutor", InThisProcess)
    asked = ["--data", "mnist", "--seeds", "2", "--results", str(tmp_path)]
    published.main(asked)
    first = capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    suffixes = [".json", ".safetensors", ".seconds"]
    assert sorted(path.suffix for path in kept) == sorted(2 * suffixes)
    published.main(asked)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept
    seeds, again = first.splitlines()[:2], capsys.readouterr().out.splitlines()
    assert sorted(again[:2]) == sorted(seeds)
    assert again[-1].split()[:5] == ["digits", "2", "91.0", "±", "0.5"]
    scores = {path: path.read_text() for path in kept if path.suffix == ".json"}
    for path in scores:
        path.unlink()
    published.main(asked)  # the sets are there
    now = {path: path.stat().st_mtime_ns for path in kept}
    assert {path for path in kept if now[path] != kept[path]} == scores.keys()
    assert {path: path.read_text() for path in scores} == scores
    published.main([*asked, "--seeds", "1", "--networks", "2"])  # on the set that is there
    [two] = set(tmp_path.glob("*.json")) - scores.keys()
    record = json.loads(two.read_text())
    assert record["accuracy"] == pytest.approx(50 * sum(record["each"]))
    [one] = [json.loads(text) for path, text in scores.items() if path.name.startswith("digits-0")]
    assert one["accuracy"] == 100 * record["each"][0]
    published.main([*asked, "--seeds", "1", "--learning-rate", "0"])
    assert len(list(tmp_path.iterdir())) == 10  # another setting is run anew


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


class NoWorkers:
    """Workers, where a case never gets to them."""

    def run(self, case, way="ours"):
        return []


class InThisProcess(ThreadPoolExecutor):
    """A pool of one thread, where a test needs no process."""

    def __init__(self, *_, **__):
        super().__init__(1)
