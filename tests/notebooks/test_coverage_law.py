"""Notebook 03 as papermill runs it, on a few small configurations."""

from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from running import NOTEBOOKS, TINY, execute, outputs

from ddlib.stats.pilot import read_pilot

NOTEBOOK = NOTEBOOKS / "03_coverage_law.ipynb"
MLP = {"name": "mlp", "width": 4, "depth": 2}
SMALL = {
    **TINY,
    "methods": {"random": {}, "dm": TINY["methods"]["dm"]},
    "configurations": {
        **{"own": {}, "adam": {"optimizer": "adam", "learning_rate": 0.01}},
        **{"narrow": {"network": MLP}, "deep": {"network": MLP | {"width": 8, "depth": 3}}},
        **{"mixup": {"augmentation": "mixup"}},
    },
    "families": {
        **{"alone": ["own"], "pair": ["own", "mixup"]},
        **{"grow": {"nested": ["own", "adam", "narrow", "deep"]}},
    },
    "pilot": {"k": [10, 20, 40], "configurations": ["own", "narrow", "mixup"]},
    **{"spread": {"size": 2, "count": 3}, "epsilons": [0.05, 0.3]},
    **{"seeds": 4, "probe": 60, "draws": 60, "reference": "converged"},
    "converged": {"passes": 10},
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory, address):
    folder = tmp_path_factory.mktemp("study")
    study = {**SMALL, "results": str(folder / "results"), "scheduler_address": address}
    return folder, execute(NOTEBOOK, folder, **study)


def test_it_leaves_figures_tables_and_sentences(executed):
    folder, notebook = executed
    assert len(outputs(notebook, "application/vnd.vegalite.v5+json")) == 6
    trials = pd.read_parquet(folder / "results" / "trials.parquet")
    assert len(trials) == 5 * 2 * 4 * 4
    assert set(trials["status"]) == {"ok"}
    box, *texts = outputs(notebook, "text/markdown")
    goals = [line.split(": ")[0] for line in box.splitlines()]
    assert goals == ["> - **Worst gap 0.05", "> - **Worst gap 0.3"]
    texts = [text for text in texts if not text.startswith("<details>")]
    _, distance, reading, poor, radii, served, *plans = texts
    assert "Seeds alone reach a distance of" in distance
    assert "**Worst gap 0.05.** " in reading
    assert "poor on all data" in poor
    assert "Worst gap 0.05: " in radii
    assert served.startswith("**dm** instead of random: the worst gap is significantly")
    assert ["on itself" in text for text in plans].index(True) == 0  # before the plans, once
    assert "".join(plans).count("on itself") == 1
    assert any("worst gap is at most 0.3" in t or "a worst gap of 0.3" in t for t in plans)
    cells = [cell.get("outputs", []) for cell in notebook.cells]
    printed = "".join(part.get("text", "") for parts in cells for part in parts)
    assert "\nown, adam, mixup\n" in printed  # those that share the first one's network


def test_a_pilot_that_lost_a_size_is_said_to_answer_nothing(capsys):
    cells = nbformat.read(NOTEBOOK, 4).cells
    [planner] = [cell.source for cell in cells if "read_pilot(small" in cell.source]
    own = [("own", "mlp", seed, k, 0.1) for seed in range(3) for k in (10, 20)]
    own = pd.DataFrame(own, columns=["configuration", "network", "seed", "k", "gap_error"])
    settings = SimpleNamespace(
        pilot=SimpleNamespace(k=[10, 20, 40], configurations=["own"]), draws=20
    )
    result = SimpleNamespace(plan=SimpleNamespace(dataset=SimpleNamespace(class_count=10)))
    names = {"names": ["own"], "own": own, "settings": settings, "result": result}
    exec(planner, {**names, "read_pilot": read_pilot})
    said = "The planner cannot answer: no pilot: own has gaps of two seeds at 2 sizes; it needs 3."
    assert capsys.readouterr().out.strip() == said
