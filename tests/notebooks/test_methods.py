"""Notebook 02 as papermill runs it: with a method that fails, and with little to compare."""

import pandas as pd
import pytest
from running import NOTEBOOKS, TINY, execute, outputs

NOTEBOOK = NOTEBOOKS / "02_methods.ipynb"


def sentences(notebook) -> list[str]:
    """Return what the notebook says: all but tables, and the remarks in the place of empty ones."""
    remarks = ("None.", "MGD3 is not in this study.", "No labels of a teacher.", "No trial failed.")
    texts = outputs(notebook, "text/markdown")
    return [text for text in texts if text not in remarks and not text.startswith("<details>")]


@pytest.fixture(scope="module")
def executed(tmp_path_factory, address):
    folder = tmp_path_factory.mktemp("study")
    study = {**TINY, "results": str(folder / "results"), "scheduler_address": address}
    study |= {"configurations": {"hard": {}, "soft": {"labels": {"regime": "soft"}}}}
    return folder, execute(NOTEBOOK, folder, **study)


def test_it_leaves_figures_tables_and_sentences(executed):
    folder, notebook = executed
    assert len(outputs(notebook, "application/vnd.vegalite.v5+json")) == 5
    assert len(pd.read_parquet(folder / "results" / "trials.parquet")) == 2 * 3 * 4 * 3
    box, _, _, orders, against, seconds, surrogates, labels, published = sentences(notebook)
    assert orders.startswith(("No two methods differ", "- **soft** keeps the order"))
    starts = ("Per sample:", "Against random:", "Per second:", "Interchangeable: cannot be decided")
    for line, start in zip(box.splitlines(), starts, strict=True):
        assert line.startswith(f"> - **{start}")
    assert "control that costs less" in seconds
    assert "- dm: " in against
    # dc failed everywhere, so dm is alone
    assert "No two methods can be compared." in surrogates
    assert "Left out, for a size without a result: dc." in surrogates
    assert labels.startswith("**With the same teacher, ")
    assert "Under hard labels, " in labels
    assert published == "Nothing is published for digits at these methods and sizes."
    assert not any("nan" in text for text in (against, surrogates))


def test_what_failed_is_shown_as_failed(executed):
    _, notebook = executed
    assert notebook.cells[-1]["outputs"][0]["data"]["text/plain"].count("diverged") == 24
    chart = outputs(notebook, "application/vnd.vegalite.v5+json")[0]
    assert "No accuracy: dc at k = 10, dc at k = 20" in " ".join(chart["title"]["subtitle"])


def test_one_method_and_one_seed_of_a_table_are_no_error(tmp_path, address):
    """Run from the notebook's own folder, as JupyterLab does."""
    lonely = {**TINY, "methods": {"dm": TINY["methods"]["dm"]}, "k": [3], "seeds": 1}
    lonely |= {"data": {"name": "wine"}, "configurations": {"own": {}}}
    lonely |= {"results": str(tmp_path / "results"), "scheduler_address": address}
    notebook = execute(NOTEBOOK, tmp_path, cwd=NOTEBOOKS, **lonely)
    box, _, _, orders, against, _, _, labels, *_ = sentences(notebook)
    assert orders.startswith("No two configurations can be compared")
    assert "no random beside another method" in against
    assert "There is no other method." in box
    assert "**Interchangeable: cannot be decided.**" in box
    assert labels.startswith("Only hard labels are in this study")
    charts = outputs(notebook, "application/vnd.vegalite.v5+json")
    assert "distilled samples among the real ones" in charts[1]["title"]["text"]
    (rows,) = [text for text in outputs(notebook, "text/plain") if "alcohol" in text]
    assert rows.count("class_") == 3
