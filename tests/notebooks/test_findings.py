"""Notebook 06 as papermill runs it, on studies whose truth is known."""

import nbformat
import planted
from papermill import execute_notebook
from running import NOTEBOOKS, outputs


def test_it_says_and_shows_what_the_tables_hold(tmp_path):
    studies, out = planted.studies(tmp_path / "results"), tmp_path / "out.ipynb"
    parameters = {"studies": studies, "draws": 100, "results": str(tmp_path)}
    execute_notebook(NOTEBOOKS / "06_findings.ipynb", out, parameters, progress_bar=False)
    notebook = nbformat.read(out, 4)
    assert len(outputs(notebook, "image/png")) == 3
    texts = outputs(notebook, "text/markdown")
    box, summary, cells, quantised, r2, best, labels, orders, coverage, change, made = texts
    assert box.startswith("> - **Scaling law:** a/√k + c survives in 2 of 4 cells")
    assert "- **Scaling law.** The curve a/√k + c survives in 2 of 4 cells" in summary
    assert quantised.startswith(
        "Of 3 cells of dm and herding, the interval of b holds 1/2 alone in 2"
    )
    assert r2.startswith("R² is above 0.85 in ")
    assert best.count("<tr>") == 6 + 6  # the law's sizes, and those with soft labels
    assert "**soft** keeps the order of 0 of the 6 pairs" in orders
    assert "**With the same teacher, no method significantly beats random samples.**" in labels
    assert coverage.startswith("### adult: ")
    assert "it answered for 14 of 20 hidden gaps" in " ".join(summary.split())
    assert "in 1 a mean gap is not above zero" in change
    assert cells.count("<tr>") == 1 + 6  # the names of the index, then cells
    assert made.count("<tr>") == 3
