"""The scaling law where it is exact: sampled S, optimised S, and where a floor can come from.

The population: inputs N(0, diag(variances)), outputs x'w + noise. Risks are half mean squared
errors. "Excess" is the risk above the population's best, "gap" the risk above that of training on
D.

Letters: k samples of S, d weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ddlib.stats.intervals import Interval
from ddlib.theory.linear import Moments, descend, moments, risk_gap
from ddlib.theory.surrogates import (
    Samples,
    Task,
    Valued,
    distil,
    distribution_matching,
    draw_task,
    trajectory_matching,
)

ITERATIONS = 300  # of L-BFGS, enough to leave no gap where none need be left
STRONG, WEAK = 1.2, 0.2  # fixed labels, in units of the outputs that D's best weights explain
LIMIT = 0.05  # of clamped pixels; the standard deviations of those of D are 1/2 to 1
FACTORS = (
    *("nothing", "label noise", "another start", "another model's features", "labels fixed"),
    *("weak labels fixed", "pixels clamped", "pixels clamped, labels fixed", "too few steps"),
)
"""What may leave a floor when S is optimised, each factor alone but for one pair."""


class Population(NamedTuple):
    """Gaussian inputs of the given variances (d,), outputs x'weights + noise."""

    variances: np.ndarray
    weights: np.ndarray
    noise: float

    def draw(self, generator: np.random.Generator, *shape: int) -> Samples:
        """Draw inputs (*shape, d) and outputs (*shape,)."""
        inputs = generator.normal(size=(*shape, len(self.weights))) * np.sqrt(self.variances)
        return inputs, inputs @ self.weights + self.noise * generator.normal(size=shape)


def sample_discrepancies(
    population: Population,
    theta: np.ndarray,
    ks: Sequence[int],
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Simulate |gradient of S - gradient of the population|^2 at theta for sampled S.

    Columns k, value; a row a draw.
    """
    tables = []
    expected = population.variances * (theta - population.weights)
    for k in ks:
        inputs, outputs = population.draw(generator, draws, k)
        gradients = np.einsum("nkd,nk->nd", inputs, inputs @ theta - outputs) / k
        tables.append(pd.DataFrame({"k": k, "value": ((gradients - expected) ** 2).sum(axis=1)}))
    return pd.concat(tables, ignore_index=True)


def sample_excesses(
    population: Population,
    shift: np.ndarray,
    ks: Sequence[int],
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Simulate least squares on S sampled from the population; a row a draw.

    Columns k, excess, and linear: what the slope adds in a risk whose best weights are `shift` (d,)
    away. The gap in that risk is their sum, which has a sign.
    """
    tables = []
    for k in ks:
        inputs, outputs = population.draw(generator, draws, k)
        grams = np.einsum("nki,nkj->nij", inputs, inputs)
        fits = np.linalg.solve(grams, np.einsum("nki,nk->ni", inputs, outputs)[..., None])
        move = fits[..., 0] - population.weights
        excess = (move**2 * population.variances).sum(axis=1) / 2
        linear = -move @ (population.variances * shift)
        tables.append(pd.DataFrame({"k": k, "excess": excess, "linear": linear}))
    return pd.concat(tables, ignore_index=True)


def power(sizes: np.ndarray, values: np.ndarray, errors: np.ndarray) -> Interval:
    """Return the exponent of values ~ sizes^exponent and its 95 % interval.

    Weighted least squares of logs; errors: the standard errors of the values, taken as known.
    """
    sizes, values, errors = (np.asarray(part, dtype=float) for part in (sizes, values, errors))
    logs = np.log(sizes), np.log(values)
    (slope, _), covariance = np.polyfit(*logs, 1, w=values / errors, cov="unscaled")
    half = stats.norm.ppf(0.975) * np.sqrt(covariance[0, 0])
    return Interval(float(slope), float(slope - half), float(slope + half))


def floors(
    factors: Sequence[str], ks: Sequence[int], seeds: int, width: int = 5, noise: float = 0.5
) -> pd.DataFrame:
    """Optimise S from noise with each of FACTORS alone.

    Columns factor, k, seed, gap (to D's own training, absolute), excess.
    """
    rows = []
    for factor in factors:
        for seed in range(seeds):
            generator = np.random.default_rng([seed, 1])  # the same D for all factors and sizes
            level = noise if factor == "label noise" else 0.0
            task, _, population = draw_task(generator, width, 40, level, 10)
            best = np.linalg.solve(population.hessian, population.target)
            start = task.start
            if factor == "another start":
                start = np.random.default_rng([seed, 2]).normal(size=width)
            for k in ks:
                synthetic = moments(*_optimised(factor, task, k, seed), task.ridge)
                end = descend(synthetic, start, task.rate, task.steps)[-1]
                gap = abs(risk_gap(end, task.path[-1], task.risk))
                excess = risk_gap(end, best, task.risk)
                rows.append({"factor": factor, "k": k, "seed": seed, "gap": gap, "excess": excess})
    return pd.DataFrame(rows)


def _optimised(factor: str, task: Task, k: int, seed: int) -> Samples:
    """Return S, optimised as far as `factor` allows."""
    width, generator = len(task.start), np.random.default_rng([seed, 3, k])
    first = generator.normal(size=(k, width)) / 2, generator.normal(size=k)
    if factor == "another model's features":  # which sees two directions
        seen = np.random.default_rng([seed, 4]).normal(size=(2, width)) / np.sqrt(width)
        return distil(_through(seen), task, first, ITERATIONS)[-1]
    if factor == "too few steps":
        return distil(distribution_matching, task, first, 3)[-1]
    fixed, clamped = "labels fixed" in factor, "pixels clamped" in factor
    if not (fixed or clamped):
        return distil(distribution_matching, task, first, ITERATIONS)[-1]
    if fixed:
        strength = WEAK if "weak" in factor else STRONG
        explained = np.sqrt(task.real.target @ np.linalg.solve(*task.real))
        first = first[0], explained * strength * np.sign(first[1])
    whole = replace(task, segment=task.steps)  # match the end of training alone
    limit = LIMIT if clamped else np.inf
    restricted = {"labels_fixed": fixed, "limit": limit}
    return distil(trajectory_matching, whole, first, ITERATIONS, **restricted)[-1]


def _through(seen: np.ndarray):
    """Return distribution matching in the features seen x, (p, d), of another model."""

    def objective(synthetic: Moments, task: Task) -> Valued:
        hessian = seen @ (synthetic.hessian - task.real.hessian) @ seen.T
        target = seen @ (synthetic.target - task.real.target)
        value = (hessian**2).sum() + (target**2).sum()
        return value, 2 * seen.T @ hessian @ seen, 2 * seen.T @ target

    return objective
