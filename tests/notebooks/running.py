"""Run a notebook as papermill does, on a study small enough for a test."""

from pathlib import Path

import nbformat
import papermill

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TINY = {
    "data": {"name": "digits"},
    "network": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 20, "batch_size": 64},
    "methods": {
        "random": {},
        "dm": {"iterations": 2, "real_batch": 8, "learning_rate": {1: 1, 10: 10}},
        "dc": {"iterations": 1, "real_batch": 8, "learning_rate": 1e30},
    },
    **{"k": [10, 20, 40, 80], "seeds": 3, "draws": 100, "converged": {"passes": 30}},
}


def execute(notebook: Path, folder: Path, cwd: Path | None = None, **parameters):
    """Return `notebook` executed with `parameters`; a copy and its cache are left in `folder`."""
    out, parameters = folder / "out.ipynb", {"cache": str(folder / "cache"), **parameters}
    papermill.execute_notebook(notebook, out, parameters, cwd=cwd, progress_bar=False)
    return nbformat.read(out, 4)


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list:
    """Return every output of one MIME type."""
    parts = (part for cell in notebook.cells for part in cell.get("outputs", []))
    return [part["data"][kind] for part in parts if kind in part.get("data", {})]
