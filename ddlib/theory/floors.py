"""Where a floor can come from when S is optimised.

Letters: k samples of S, d weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from ddlib.theory.linear import Task, descend, moments, risk_gap
from ddlib.theory.surrogates import (
    Samples,
    distil,
    distribution_matching,
    draw_task,
    trajectory_matching,
)

ITERATIONS = 300  # of L-BFGS, enough to leave no gap where none need be left
STRONG, WEAK = 1.2, 0.2  # fixed labels, in units of the outputs that D's best weights explain
LIMIT = 0.05  # of clamped pixels; the standard deviations of those of D are 1/2 to 1
NOTHING = 1e-9  # smaller gaps count as zero: rounding, and the end of an optimisation
FLAT = 2**-0.25  # halfway between what doubling k leaves of a/√k, 2^-1/2, and of a floor, all
FACTORS = (
    *("nothing", "label noise", "another start", "another model's features", "labels fixed"),
    *("weak labels fixed", "pixels clamped", "pixels clamped, labels fixed", "too few steps"),
)
"""What may leave a floor when S is optimised, each factor alone but for one pair."""


def floors(
    factors: Sequence[str], ks: Sequence[int], seeds: int, width: int = 5, noise: float = 0.5
) -> pd.DataFrame:
    """Optimise S from noise with each of FACTORS alone.

    Columns factor, k, seed, gap (absolute: to the risk of D's own training), excess (over the least
    risk of the population).
    """
    rows = []
    for factor in factors:
        for seed in range(seeds):
            generator = np.random.default_rng([seed, 1])  # the same D for all factors and sizes
            task, _ = draw_task(generator, width, 40, noise * (factor == "label noise"), 10)
            best, start = np.linalg.solve(*task.risk), task.start
            if factor == "another start":
                start = np.random.default_rng([seed, 2]).normal(size=width)
            for k in ks:
                synthetic = moments(*_optimised(factor, task, k, seed), task.ridge)
                end = descend(synthetic, start, task.rate, task.steps)[-1]
                gap = abs(risk_gap(end, task.path[-1], task.risk))
                excess = risk_gap(end, best, task.risk)
                rows.append({"factor": factor, "k": k, "seed": seed, "gap": gap, "excess": excess})
    return pd.DataFrame(rows)


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Judge by the last doubling of k whether a factor leaves a floor; table: of `floors`.

    Index: factor. Columns: half, last (the median gaps before and after), verdict: "no floor" if
    no more than NOTHING is left, "a floor" if more than FLAT of `half` is, else "still falling".
    """
    gaps = table.pivot_table(
        index="factor", columns="k", values="gap", aggfunc="median", sort=False
    )
    half, last = gaps.iloc[:, -2], gaps.iloc[:, -1]
    verdict = np.select(
        [last <= NOTHING, last > FLAT * half], ["no floor", "a floor"], "still falling"
    )
    return pd.DataFrame({"half": half, "last": last, "verdict": verdict})


def _optimised(factor: str, task: Task, k: int, seed: int) -> Samples:
    """Return S, optimised as far as `factor` allows."""
    width, generator = len(task.start), np.random.default_rng([seed, 3, k])
    inputs, outputs = generator.normal(size=(k, width)) / 2, generator.normal(size=k)
    objective, iterations, options = distribution_matching, ITERATIONS, {}
    if factor == "another model's features":  # which sees two directions
        seen = np.random.default_rng([seed, 4]).normal(size=(2, width)) / np.sqrt(width)
        objective = partial(distribution_matching, seen=seen)
    if factor == "too few steps":
        iterations = 3
    if "labels fixed" in factor:
        explained = np.sqrt(task.real.target @ np.linalg.solve(*task.real))
        outputs = explained * (WEAK if "weak" in factor else STRONG) * np.sign(outputs)
        options["labels_fixed"] = True
    if "pixels clamped" in factor:
        options["limit"] = LIMIT
    if options:  # match the end of training alone
        task, objective = replace(task, segment=task.steps), trajectory_matching
    return distil(objective, task, (inputs, outputs), iterations, **options)[-1]
