"""A finding says where it comes from, and its trials can be computed again."""

import json
import platform
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from grids import settings

from ddlib.explore import findings
from ddlib.methods import METHODS
from ddlib.study import check
from ddlib.study.run import run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def study(tmp_path_factory, address):
    """Return the results folder of a study of digits."""
    root = tmp_path_factory.mktemp("study")
    run(settings(root / "methods" / "tiny", scheduler_address=address))
    return root / "methods" / "tiny"


@pytest.fixture
def finding(study, tmp_path):
    """Return a copy of the study as a finding."""
    [place] = findings.write_findings([study], target=tmp_path / "findings")
    return place


def lines(capsys, *arguments: str) -> list[str]:
    """Return what a check prints about trials, and its last line."""
    check.main([*map(str, arguments)])
    return printed(capsys)


def printed(capsys) -> list[str]:
    text = capsys.readouterr().out
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line and not line.startswith("trials:")]


def test_a_study_says_where_it_comes_from(study):
    text = (study / "provenance.json").read_text()
    origin = json.loads(text)
    git = ["git", "-C", ROOT, "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    assert origin["commit"] == (head or None)
    assert origin["versions"]["python"] == platform.python_version()
    assert {"torch", "torchvision", "numpy", "scipy", "scikit-learn"} < set(origin["versions"])
    [machine] = origin["machines"]
    assert machine["cores"] >= 1
    assert machine["cpu"]
    assert origin["workers"] == 1
    costs = pd.read_parquet(study / "costs.parquet")
    assert origin["core_hours"]["evaluations"] == round(costs["evaluate_seconds"].sum() / 3600, 3)
    assert origin["date"] == str(pd.Timestamp.now("UTC").date())
    assert platform.node() not in text
    assert str(study.parents[1]) not in text


def test_a_rerun_that_computes_nothing_keeps_provenance(study, tmp_path, address):
    folder = shutil.copytree(study.parent, tmp_path / "copy") / "tiny"
    (folder / "provenance.json").write_text("{}")
    run(settings(folder, scheduler_address=address))
    assert (folder / "provenance.json").read_text() == "{}"
    (folder / "provenance.json").unlink()  # stopped before it was written
    run(settings(folder, scheduler_address=address))
    origin = json.loads((folder / "provenance.json").read_text())
    assert (origin["machines"], origin["workers"]) == ([], None)
    assert origin["core_hours"]["evaluations"] >= 0


def test_trials_of_a_finding_are_computed_again_bit_for_bit(finding, capsys):
    head, *rows, last = lines(capsys, finding.parents[1], "--sample", "5", "--references")
    assert head.startswith("methods/tiny: 5 trials, about ")
    trials = [row for row in rows if " method " in row]
    assert len(trials) == 5
    references = {row.split("configuration")[1] for row in rows if " reference " in row}
    assert references == {row.split("configuration")[1] for row in trials}
    assert all(row.startswith("bit-equal: ") for row in rows)
    assert last == f"{len(rows)} recomputed: {len(rows)} bit-equal"
    again = lines(capsys, finding, "--sample", "5", "--references")
    assert again == [head, *rows, last]
    other = lines(capsys, finding, "--sample", "5", "--seed", "1")
    assert set(other[1:-1]) != set(trials)
    two = lines(capsys, finding, "--method", "random", "--sample", "99", "--method", "dm")
    assert {row.split()[2] for row in two[1:-1]} == {"random,", "dm,"}
    assert two[-1] == "8 recomputed: 8 bit-equal"


@pytest.mark.parametrize(
    ("column", "factor"), [("gap_error", 0), ("cross_entropy", np.nan), ("cross_entropy", 1 + 1e-9)]
)
def test_gaps_that_do_not_follow_and_scores_that_are_lost_or_moved_are_found(
    finding, capsys, column, factor
):
    """On the same CPU any other bit is found."""
    table = pd.read_parquet(finding / "trials.parquet")
    table[column] *= factor
    table.to_parquet(finding / "trials.parquet")
    with pytest.raises(SystemExit):
        check.main([str(finding), "--sample", "1"])
    *_, last = printed(capsys)
    equal = "DIFFERS" if column == "cross_entropy" else "bit-equal"
    assert last == f"1 recomputed: 1 {equal}; wrong gaps: methods/tiny"


def test_what_was_falsified_or_fails_is_found(finding, capsys, monkeypatch):
    table = pd.read_parquet(finding / "trials.parquet")
    places = [
        table.query("method == @method and ipc == 2 and seed == @seed").index
        for method, seed in (("random", 0), ("random", 1), ("dm", 0))
    ]
    table.loc[places[0][1], "accuracy"] += 5
    table.loc[places[1], "cross_entropy"] += 1e-5
    table.loc[places[2], "status"] = "diverged"
    table.to_parquet(finding / "trials.parquet")
    (finding / "provenance.json").unlink()  # so not the same CPU for sure, and a tolerance

    def fails(*arguments):
        raise ValueError("no memory")

    monkeypatch.setitem(METHODS, "dc", replace(METHODS["dc"], function=fails))
    with pytest.raises(SystemExit) as stopped:
        check.main([str(finding), "--sample", "99"])
    assert stopped.value.code == 1
    _, note, tables, _, *rows, last = printed(capsys)
    assert note == "note: it does not say where it was computed"
    gaps = "gap_cross_entropy, gap_error_same_steps and gap_cross_entropy_same_steps"
    assert tables == f"DIFFERS: error, gap_error, {gaps}, from its own scores"
    text = "12 recomputed: 5 bit-equal, 1 within tolerance and 6 DIFFERS; wrong gaps: methods/tiny"
    assert last == text
    rows = {row.split(": ")[1]: row for row in rows}
    found = rows["method random, ipc 2, configuration own, seed 0"]
    assert found.startswith("DIFFERS: ")
    assert "accuracy by 5 (tolerance " in found
    assert "balanced accuracy by 0 (" in found
    found = rows["method random, ipc 2, configuration own, seed 1"]
    assert found.startswith("within tolerance: ")
    spread = table.query("method == 'random' and ipc == 2")["cross_entropy"].std()
    assert found.endswith(f"cross entropy by 1e-05 (tolerance {max(spread, 0.02):.2g})")
    found = rows["method dm, ipc 2, configuration own, seed 0"]
    assert "DIFFERS" in found
    assert "diverged in the finding, ok here" in found
    found = rows["method dc, ipc 1, configuration own, seed 1"]
    assert "DIFFERS" in found
    assert "ok in the finding, failed here: ValueError: no memory" in found


def test_other_versions_machines_and_code_are_named(finding, capsys):
    origin = json.loads((finding / "provenance.json").read_text())
    origin["versions"]["torch"] = "1.0"
    origin["machines"][0]["cpu"] = "Abacus"
    (finding / "provenance.json").write_text(json.dumps(origin))
    costs = pd.read_parquet(finding / "costs.parquet")
    costs.assign(set="another").to_parquet(finding / "costs.parquet")
    _, *notes, row, last = lines(capsys, finding, "--sample", "1")
    assert notes[0].startswith("note: it was computed with torch 1.0, here is ")
    assert notes[1].startswith("note: it was computed on Abacus ")
    assert notes[2].startswith("note: its data, the code that decides results, or libraries")
    assert len(notes) == 3
    assert (row[:9], last) == ("bit-equal", "1 recomputed: 1 bit-equal")
    (finding / "provenance.json").write_text(json.dumps(origin | {"machines": []}))
    _, _, note, *_ = lines(capsys, finding, "--sample", "1")
    assert note.startswith("note: it was computed on a machine that is not known, here is ")


def test_what_cannot_be_checked_is_said_in_a_sentence(finding, capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        check.main([str(finding), "--method", "dm", "mtt"])
    allowed = "allowed: random, dm, dc"
    assert printed(capsys) == [
        f"methods/tiny: not checked: 'mtt' is not a method of this finding; {allowed}",
        "nothing was recomputed; not checked: methods/tiny",
    ]
    table = json.loads((finding / "settings.json").read_text())
    table["data"] = {"name": "mnist"}
    (finding / "settings.json").write_text(json.dumps(table))
    monkeypatch.setenv("DDLIB_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        check.main([str(finding)])
    [reason, last] = printed(capsys)
    assert reason.startswith("methods/tiny: not checked: data set mnist is not in ")
    advice = ": set DDLIB_DATA to a folder that holds it; the parameters of a new study may instead"
    assert advice in reason
    assert last == "nothing was recomputed; not checked: methods/tiny"
    with pytest.raises(SystemExit, match="'elsewhere' is no finding; give `findings`, or a folder"):
        check.main(["elsewhere"])
    with pytest.raises(SystemExit, match="--sample=-1 chooses no trial; give at least 1"):
        check.main([str(finding), "--sample", "-1"])
