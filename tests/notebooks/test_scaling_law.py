"""Notebook 01 as papermill runs it: what it leaves behind, and what it refuses."""

import pandas as pd
import pytest
from papermill.exceptions import PapermillExecutionError
from running import NOTEBOOKS, TINY, execute, outputs

from ddlib.publish.page import NUMBERS

NOTEBOOK = NOTEBOOKS / "01_scaling_law.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, execute(NOTEBOOK, folder, **TINY, results=str(folder / "results"))


def test_it_leaves_figures_a_table_and_sentences(executed):
    folder, notebook = executed
    charts = outputs(notebook, "application/vnd.vegalite.v5+json")
    assert len(charts) == 5 + 1  # the explorer
    assert len(outputs(notebook, "image/png")) == 5 + 1
    assert "random" in outputs(notebook, NUMBERS)[0]
    trials = pd.read_parquet(folder / "results" / "trials.parquet")
    assert len(trials) == 3 * 4 * 3
    assert (trials.query("status == 'ok'").groupby("method").size() == 12).all()
    box, *reading = outputs(notebook, "text/markdown")
    assert [line.split(":")[0] for line in box.splitlines()] == [
        *("> - **random", "> - **dm", "> - **dc")
    ]
    reading = " ".join(reading)
    assert reading.count("**dm.**") == reading.count("**random.**") == 2
    assert reading.count("<details>") >= 5  # tables


def test_what_failed_is_shown_as_failed(executed):
    _, notebook = executed
    (cell,) = [cell for cell in notebook.cells if cell["id"] == "code-24"]
    failures = cell["outputs"][0]["data"]["text/plain"]
    assert failures.count("diverged") == 12
    assert "stopped being a finite number at step" in failures


def test_a_wrong_parameter_fails_before_anything_runs(tmp_path):
    """What else is wrong, and what is said of it, is in `test_study`."""
    with pytest.raises(PapermillExecutionError) as stopped:
        execute(NOTEBOOK, tmp_path, **{**TINY, "k": [15]}, results=str(tmp_path / "results"))
    sentence = "k=15 is not a multiple of the 10 classes of digits; choose 10 or 20"
    assert sentence in str(stopped.value.evalue)
    assert not (tmp_path / "results").exists()
