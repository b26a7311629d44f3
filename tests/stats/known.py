"""Studies and spaces whose truth is known."""

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks import statistics

SEEDS = 5  # of `noisy`
KS = (10, 50, 100, 200, 500, 1000)
CURVES = {
    "inverse_sqrt": lambda k, a, c: a / np.sqrt(k) + c,
    "free_exponent": lambda k, a, b, c: a * np.power(k, -b) + c,
    "pure_power": lambda k, a, b: a * np.power(k, -b),
    "exponential": lambda k, a, tau, c: a * np.exp(-k / tau) + c,
    "inverse": lambda k, a, c: a / k + c,
    "logarithmic": lambda k, a, c: c - a * np.log(k),
}


TRUTHS = [
    ("inverse_sqrt", (1.2, 0.05)),
    ("free_exponent", (1.5, 0.8, 0.1)),
    ("pure_power", (0.9, 0.3)),
    ("exponential", (0.4, 120.0, 0.1)),
    ("inverse", (4.0, 0.08)),
    ("logarithmic", (0.06, 0.5)),
]


def table(law, truth, *, ks=KS, seeds=5, noise=0.01, shared=0.0, fall=0.0, generator=0):
    """Draw gaps: noise at k=10 falling as k^-fall, plus a shift shared by all k of a seed."""
    rng = np.random.default_rng(generator)
    ks = np.array(ks, dtype=float)
    own = rng.normal(size=(seeds, len(ks))) * noise * (ks / ks[0]) ** -fall
    gaps = CURVES[law](ks, *truth) + own + rng.normal(size=(seeds, 1)) * shared
    return pd.DataFrame(gaps, columns=ks.astype(int))


FALLING = table("inverse_sqrt", (1.0, 0.05))
ROUGH = pd.DataFrame(np.random.default_rng(0).normal(0.3, 0.02, size=(5, 6)), columns=list(KS))


ODD_TABLES = {
    "flat": (ROUGH, "interval of a includes 0|does not fall"),
    "rising": (1 - FALLING, "does not fall"),
    "zero": (FALLING * 0, "does not fall"),
    "constant": (FALLING * 0 + 0.3, "does not fall"),
    "two points": (FALLING[[10, 50]], "gaps at 2 distinct k"),
    "one seed": (FALLING.iloc[:1], "one seed, so no seed variance"),
    "alike seeds": (FALLING.iloc[[0, 0, 0]], "no difference between the seeds"),
    "holes": (FALLING.mask(np.random.default_rng(1).uniform(size=FALLING.shape) < 0.3), ""),
    "all failed": (FALLING * np.nan, "gaps at 0 distinct k"),
    "nothing": (pd.DataFrame(), "gaps at 0 distinct k"),
}


SIZES = np.array([10, 20, 50, 100, 200, 500])


def study(
    scales, floor=0.02, *, exponent=0.5, seeds=5, noise=0.0, shared=0.0, ks=SIZES, generator=0
):
    """Gaps a/k^b + floor of configurations c0, c1, ...; noise of a trial, and shared by a seed."""
    rng, floor = np.random.default_rng(generator), np.broadcast_to(floor, len(scales))
    curves = np.asarray(scales)[:, None, None] * ks**-exponent + floor[:, None, None]
    shape = (len(scales), seeds, len(ks))
    gaps = curves + noise * rng.normal(size=shape) + shared * rng.normal(size=(1, seeds, 1))
    return statistics.tabulate(gaps, ks).assign(network="convnet")


def names(*numbers):
    return [f"c{i}" for i in numbers]


def lost(gaps, *trials):
    """Drop trials (configuration, seed) or (configuration, seed, k)."""
    keys = list(zip(gaps["configuration"], gaps["seed"], gaps["k"], strict=True))
    gone = [any(key[: len(trial)] == trial for trial in trials) for key in keys]
    return gaps[~np.array(gone)]


def frame(matrix):
    names = [f"c{i}" for i in range(len(matrix))]
    return pd.DataFrame(np.asarray(matrix, dtype=float), names, names)


def euclidean(points):
    points = np.asarray(points, dtype=float)
    return frame(np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1)))


def line(m):
    return euclidean(np.arange(m)[:, None])


def circle(m):
    """M points on a circle of circumference M, by arc length."""
    steps = np.abs(np.subtract.outer(np.arange(m), np.arange(m)))
    return frame(np.minimum(steps, m - steps))


def simplex(m, side=1.0):
    return frame(side * (1 - np.eye(m)))


def cloud(m, dimensions=2, seed=0):
    return euclidean(np.random.default_rng(seed).normal(size=(m, dimensions)))


def trials(accuracies: dict, status: str = "ok") -> pd.DataFrame:
    """Return a table of trials from {(method, k): accuracies, one a seed}; None is a failure."""
    rows = [
        {"method": method, "ipc": k // 10, "k": k, "seed": seed, "accuracy": accuracy}
        | {"status": "diverged" if accuracy is None else status}
        for (method, k), values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    table = pd.DataFrame(rows).astype({"accuracy": float})
    table["base"] = table["method"]
    half = table["accuracy"] / 2
    return table.assign(evaluation=0, gap_error=0.99 - table["accuracy"], balanced_accuracy=half)


def noisy(means: dict, seed: int = 0, noise: float = 0.01) -> dict:
    generator = np.random.default_rng(seed)
    return {key: mean + generator.normal(0, noise, SEEDS) for key, mean in means.items()}


def p_of(values: dict, first: str, second: str) -> float:
    return stats.ttest_rel(values[first, 10], values[second, 10]).pvalue
