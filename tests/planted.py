"""Finished studies whose truth is known, as results folders."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

IPCS, CLASSES, SEEDS = (1, 2, 5, 10, 20, 50), 10, 5
TRUTHS = {  # gap in error at k
    "dm": lambda k: 0.9 / np.sqrt(k) + 0.05,  # the law
    "dc": lambda k: 3.0 / k + 0.15,  # falls faster
    "mtt": lambda k: 0.3 / np.sqrt(k) - 0.02,  # networks on S end better than those on D
    "random": lambda k: 0.5 - 0.065 * np.log(k),  # falls more slowly
    "herding": lambda k: 0.45 - 0.055 * np.log(k),
}
SCALES = [0.2, 0.2, 0.2, 0.2, 0.8, 0.8]  # of configurations c0, c1, ... : the last two need more
FAMILIES = {"low-2": ["c0", "c1"], "low-3": ["c0", "c1", "c2"], "low-4": ["c0", "c1", "c2", "c3"]}
FAMILIES |= {"high-2": ["c0", "c4"], "high-3": ["c0", "c4", "c5"]}


def trials(cells, data: str, noise: float = 0.003) -> pd.DataFrame:
    """Draw the trials of cells (configuration, labels, method, truth)."""
    rng, rows = np.random.default_rng(0), []
    for (name, labels, method, truth), ipc, seed in product(cells, IPCS, range(SEEDS)):
        gap = truth(ipc * CLASSES) + noise * rng.normal()
        rows.append((name, labels, method, ipc, ipc * CLASSES, seed, gap))
    names = ["configuration", "labels", "method", "ipc", "k", "seed", "gap_error"]
    table = pd.DataFrame(rows, columns=names)
    accuracy = dict.fromkeys(("accuracy", "balanced_accuracy"), 0.9 - table["gap_error"])
    table = table.assign(data=data, network="convnet", base=table["method"], status="ok")
    return table.assign(measure="accuracy", **accuracy)


def write(folder: Path, table: pd.DataFrame, **settings: object) -> str:
    """Write a results folder; return its path."""
    folder.mkdir(parents=True)
    settings = {"reference": "converged", "families": {}, **settings}
    (folder / "settings.json").write_text(json.dumps(settings))
    table.to_parquet(folder / "trials.parquet")
    full = table[["configuration", "seed"]].drop_duplicates()
    full = full.assign(reference="converged", status="ok", capped=False)
    full.to_parquet(folder / "references.parquet")
    return str(folder)


def studies(folder: Path) -> list[str]:
    """Write a scaling law, the same under three label regimes, and a coverage law."""
    law = [("own", "hard", method, truth) for method, truth in TRUTHS.items()]
    soft = [(n, n, m, lambda k, m=m, n=n: TRUTHS[m](k) - 0.1 * (n == "soft" and m == "random"))
            for n in ("hard", "soft") for m in ("random", "dm")]  # fmt: skip
    family = [
        (f"c{i}", "hard", "dm", lambda k, a=a: a / np.sqrt(k) + 0.02) for i, a in enumerate(SCALES)
    ]
    pilot = {"k": [10, 20, 50, 100], "configurations": ["c0", "c1", "c2", "c4"]}
    more = {"families": FAMILIES, "pilot": pilot, "epsilons": [0.08]}
    places = [
        write(folder / "scaling_law" / "mnist", trials(law, "mnist")),
        write(folder / "methods" / "labels", trials(soft, "mnist")),
        write(folder / "coverage_law" / "adult", trials(family, "adult"), **more),
    ]
    teacher = pd.DataFrame({"configuration": ["soft"], "accuracy": 0.95, "balanced_accuracy": 0.95})
    teacher.to_parquet(Path(places[1]) / "teachers.parquet")
    points = np.array([0, 0.1, 0.2, 0.3, 5, 10])
    distances = np.abs(np.subtract.outer(points, points))
    names = [f"c{i}" for i in range(len(points))]
    rows = [(a, b, distances[i, j], 0.01) for i, a in enumerate(names) for j, b in enumerate(names)]
    table = pd.DataFrame(rows, columns=["first", "second", "distance", "noise"])
    table.to_parquet(Path(places[2]) / "distances.parquet")
    return places
