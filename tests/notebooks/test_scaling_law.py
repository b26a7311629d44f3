"""Notebook 01 as papermill runs it: what it leaves behind, and what it refuses."""

from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_scaling_law.ipynb"
TINY = {
    "data": {"name": "digits"},
    "network": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 20, "batch_size": 64},
    "methods": {
        "random": {},
        "dm": {"iterations": 2, "real_batch": 8, "learning_rate": {1: 1, 10: 10}},
        "dc": {"iterations": 1, "real_batch": 8, "learning_rate": 1e30},
    },
    "k": [10, 20, 40, 80],
    "seeds": 3,
    "draws": 100,
}


def execute(folder: Path, cwd: Path | None = None, **parameters) -> nbformat.NotebookNode:
    out = folder / "out.ipynb"
    papermill.execute_notebook(NOTEBOOK, out, parameters, cwd=cwd, progress_bar=False)
    return nbformat.read(out, 4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    notebook = execute(folder, **TINY, results=str(folder / "results"), cache=str(folder / "cache"))
    return folder, notebook


def outputs(notebook, kind):
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def test_it_leaves_figures_a_table_and_sentences(executed):
    folder, notebook = executed
    charts = outputs(notebook, "application/vnd.vegalite.v5+json")
    assert len(charts) == 5
    assert len(outputs(notebook, "image/png")) == 5
    trials = pd.read_parquet(folder / "results" / "trials.parquet")
    assert len(trials) == 3 * 4 * 3
    assert (trials.query("status == 'ok'").groupby("method").size() == 12).all()
    reading = " ".join(outputs(notebook, "text/markdown"))
    assert reading.count("**dm.**") == reading.count("**random.**") == 2


def test_what_failed_is_shown_as_failed(executed):
    _, notebook = executed
    failures = notebook.cells[-1]["outputs"][0]["data"]["text/plain"]
    assert failures.count("diverged") == 12
    assert "stopped being a finite number at step" in failures


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"sedes": 3}, "'sedes' is not a parameter of this study; did you mean 'seeds'?"),
        (
            {"methods": {"dn": {}}},
            "'dn' is not a method; allowed: random, herding, k_center, dm, dc, dsa",
        ),
        ({"k": [15]}, "k=15 is not a multiple of the 10 classes of digits; choose 10 or 20"),
    ],
)
def test_a_wrong_parameter_fails_before_anything_runs(tmp_path, wrong, sentence):
    given = {**TINY, "results": str(tmp_path / "results"), **wrong}
    with pytest.raises(PapermillExecutionError) as stopped:
        execute(tmp_path, **given)
    assert sentence in str(stopped.value.evalue)
    assert not (tmp_path / "results").exists()


def test_it_runs_from_its_own_folder_as_jupyterlab_does(executed):
    folder, _ = executed
    before = (folder / "results" / "trials.parquet").read_bytes()
    execute(
        folder,
        cwd=NOTEBOOK.parent,
        **TINY,
        results=str(folder / "results"),
        cache=str(folder / "cache"),
    )
    assert (folder / "results" / "trials.parquet").read_bytes() == before
