"""The scaling law where it is exact: sampled S, optimised S, and where a floor can come from.

The population: inputs N(0, diag(variances)), outputs x'w + noise. Risks are half mean squared
errors. "Discrepancy" is |gradient of S - gradient of the population| at fixed weights, "excess"
the risk above the population's best, "gap" the risk above that of training on D.

Letters: k samples of S, d weights, T steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ddlib.stats.intervals import Interval
from ddlib.theory.linear import Moments, descend, geometric, moments, risk_gap
from ddlib.theory.surrogates import (
    Samples,
    Task,
    by_samples,
    distil,
    distribution_matching,
    draw_task,
    trajectory_matching,
)

MANY = 300  # L-BFGS iterations that leave no gap where none need be left
FEW = 10  # plain gradient steps that do
STRONG, WEAK = 1.2, 0.2  # fixed labels, in units of the outputs that D's best weights explain
LIMIT = 0.05  # of clamped pixels; the standard deviations of those of D are 1/2 to 1
FACTORS = {  # and what restricts S: `labels` that stay, a `limit` of the inputs
    "nothing": {},
    "label noise": {},
    "another start": {},
    "another model's features": {},
    "labels fixed": {"labels": STRONG},
    "weak labels fixed": {"labels": WEAK},
    "pixels clamped": {"limit": LIMIT},
    "pixels clamped, labels fixed": {"limit": LIMIT, "labels": STRONG},
    "too few steps": {},
}


class Population(NamedTuple):
    """Gaussian inputs of the given variances (d,), outputs x'weights + noise."""

    variances: np.ndarray
    weights: np.ndarray
    noise: float

    def draw(self, generator: np.random.Generator, *shape: int) -> Samples:
        """Draw inputs (*shape, d) and outputs (*shape,)."""
        inputs = generator.normal(size=(*shape, len(self.weights))) * np.sqrt(self.variances)
        return inputs, inputs @ self.weights + self.noise * generator.normal(size=shape)


def discrepancy_constant(population: Population, theta: np.ndarray) -> float:
    """Return C with root mean square discrepancy C / sqrt(k) at theta, exactly (statement 7).

    C^2 is the trace of the covariance of x (x'v - noise), v = theta - w: by Isserlis' theorem
    tr(S) (v'S v + noise^2) + v'S^2 v, S = diag(variances).
    """
    variances, move = population.variances, theta - population.weights
    spread = move @ (variances * move) + population.noise**2
    return float(np.sqrt(variances.sum() * spread + move @ (variances**2 * move)))


def least_squares_excess(width: int, noise: float, k: np.ndarray | float) -> np.ndarray:
    """Return the mean excess of least squares on k > d + 1 Gaussian samples, exactly.

    noise^2 d / (2 (k - d - 1)): the mean of the inverse Wishart matrix (statement 8).
    """
    return noise**2 * width / (2 * (np.asarray(k, dtype=float) - width - 1))


def linear_term(population: Population, shift: np.ndarray, k: np.ndarray | float) -> np.ndarray:
    """Return the root mean square of the gap's linear term under a shift (d,), exactly.

    Least squares has covariance noise^2 S^-1 / (k - d - 1), and the slope is -S shift, so this is
    noise sqrt(shift'S shift / (k - d - 1)) (statement 8).
    """
    spread = float(shift @ (population.variances * shift))
    return population.noise * np.sqrt(spread / (np.asarray(k, dtype=float) - len(shift) - 1))


def sample_discrepancies(
    population: Population,
    theta: np.ndarray,
    ks: Sequence[int],
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Simulate the discrepancy at theta of S sampled from the population; a row a draw.

    Columns k, value (its square: what has an exact mean).
    """
    rows = []
    expected = population.variances * (theta - population.weights)
    for k in ks:
        inputs, outputs = population.draw(generator, draws, k)
        pulls = np.einsum("nkd,nk->nd", inputs, inputs @ theta - outputs) / k
        rows.append(pd.DataFrame({"k": k, "value": ((pulls - expected) ** 2).sum(axis=1)}))
    return pd.concat(rows, ignore_index=True)


def sample_excesses(
    population: Population,
    shift: np.ndarray,
    ks: Sequence[int],
    draws: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Simulate least squares on S sampled from the population; a row a draw.

    Columns k, excess (at the risk that the population's weights minimise) and linear: what the
    slope adds in a risk whose best weights are `shift` (d,) further on. The gap there is their
    sum, which has a sign.
    """
    rows = []
    for k in ks:
        inputs, outputs = population.draw(generator, draws, k)
        grams = np.einsum("nki,nkj->nij", inputs, inputs)
        found = np.linalg.solve(grams, np.einsum("nki,nk->ni", inputs, outputs)[..., None])
        move = found[..., 0] - population.weights
        excess = (move**2 * population.variances).sum(axis=1) / 2
        slope = -population.variances * shift
        rows.append(pd.DataFrame({"k": k, "excess": excess, "linear": move @ slope}))
    return pd.concat(rows, ignore_index=True)


def power(sizes: np.ndarray, values: np.ndarray, errors: np.ndarray) -> Interval:
    """Return the exponent of values ~ sizes^exponent and its 95 % interval.

    Weighted least squares of logs; errors are the standard errors of the values, which are taken
    as known. Raises ValueError for fewer than three sizes, or values that are not positive.
    """
    sizes, values, errors = (np.asarray(each, dtype=float) for each in (sizes, values, errors))
    if len(sizes) < 3 or (values <= 0).any():
        raise ValueError(f"{len(sizes)} sizes; give at least 3, with positive values")
    logs = np.log(sizes), np.log(values)
    (slope, _), covariance = np.polyfit(*logs, 1, w=values / errors, cov="unscaled")
    half = stats.norm.ppf(0.975) * np.sqrt(covariance[0, 0])
    return Interval(float(slope), float(slope - half), float(slope + half))


def match_exactly(real: Moments) -> Samples:
    """Return d samples whose moments are those of D, so every gap from them is zero (statement 9).

    With H = V diag(h) V': inputs sqrt(d) diag(h)^1/2 V', outputs sqrt(d) diag(h)^-1/2 V'b. For a
    ridge, give H without it. Raises ValueError where H is singular.
    """
    values, vectors = np.linalg.eigh(real.hessian)
    if values[0] <= 1e-12 * values[-1]:
        raise ValueError("H is singular; give D at least as many independent inputs as weights")
    scale = np.sqrt(len(values))
    inputs = scale * np.sqrt(values)[:, None] * vectors.T
    return inputs, scale * (vectors.T @ real.target) / np.sqrt(values)


def one_point(end: np.ndarray, rate: float, steps: int, ridge: float = 0.0) -> Samples:
    """Return one sample on which T steps from zero weights end at `end` (d,) (statement 10).

    The input is end / |end|: weights stay on its line, where they are y times the rate times a
    geometric sum, which gives y. It serves this start, rate and T, and no others.
    """
    length = float(np.linalg.norm(end))
    reached = rate * geometric(1 - rate * (1 + ridge), steps)
    return (end / length)[None], np.array([length / reached])


def labels_suffice(real: Moments, outputs: np.ndarray) -> bool:
    """Return whether inputs for the fixed outputs (k,) exist that match D's moments, k > d.

    If and only if |y|^2 / k >= b'H^-1 b: labels must be as strong as what they have to explain
    (statement 11).
    """
    needed = real.target @ np.linalg.solve(real.hessian, real.target)
    return bool((outputs**2).mean() >= needed)


def start_floor(real: Moments, spread: float, rate: float, steps: int) -> float:
    """Return the root mean square distance after T steps on one data set from two starts.

    Starts are independent, N(0, spread^2 I): spread sqrt(2) |(I - rate H)^T| in Frobenius norm. S
    does not enter, so no k lowers it; T does.
    """
    factors = (1 - rate * np.linalg.eigvalsh(real.hessian)) ** steps
    return float(spread * np.sqrt(2 * (factors**2).sum()))


def floors(
    factors: Sequence[str], ks: Sequence[int], seeds: int, width: int = 5, noise: float = 0.5
) -> pd.DataFrame:
    """Optimise S with each factor of the irreducible bound switched on alone.

    Columns factor, k, seed, gap (to D's own training, absolute), excess (over the population's
    best). S starts from noise. Raises ValueError for an unknown factor.
    """
    rows = []
    for factor in factors:
        if factor not in FACTORS:
            raise ValueError(f"{factor!r} is no factor; choose from {', '.join(FACTORS)}")
        for seed in range(seeds):
            stream = np.random.default_rng([seed, 1])  # the same D for all factors and sizes
            level = noise if factor == "label noise" else 0.0
            task, _, population = draw_task(stream, width, 40, level, 10)
            best = np.linalg.solve(population.hessian, population.target)
            start = task.start
            if factor == "another start":
                start = np.random.default_rng([seed, 2]).normal(size=width)
            for k in ks:
                made = moments(*_optimised(factor, task, k, seed), task.ridge)
                end = descend(made, start, task.rate, task.steps)[-1]
                gap = abs(risk_gap(end, task.path[-1], task.risk))
                excess = risk_gap(end, best, task.risk)
                rows.append({"factor": factor, "k": k, "seed": seed, "gap": gap, "excess": excess})
    return pd.DataFrame(rows)


def _optimised(factor: str, task: Task, k: int, seed: int) -> Samples:
    """Return S as `factor` lets it be optimised."""
    width, generator = len(task.start), np.random.default_rng([seed, 3, k])
    first = generator.normal(size=(k, width)) / 2, generator.normal(size=k)
    if factor == "another model's features":
        seen = np.random.default_rng([seed, 4]).normal(size=(2, width))  # it sees 2 directions
        return distil(_through(seen / np.sqrt(width)), task, first, MANY)[-1]
    if factor == "too few steps":
        return _walk(task, first)
    restricted = FACTORS[factor]
    if not restricted:
        return distil(distribution_matching, task, first, MANY)[-1]
    if "labels" in restricted:
        explained = np.sqrt(task.real.target @ np.linalg.solve(*task.real))
        first = first[0], explained * restricted["labels"] * np.sign(first[1])
    whole = replace(task, segment=task.steps)  # the end of the training and nothing else
    options = {"labels_fixed": "labels" in restricted, "limit": restricted.get("limit", np.inf)}
    return distil(trajectory_matching, whole, first, MANY, **options)[-1]


def _walk(task: Task, samples: Samples) -> Samples:
    """Take FEW plain gradient steps; times k, as a sample's gradient shrinks like 1/k."""
    for _ in range(FEW):
        valued = distribution_matching(moments(*samples, task.ridge), task)
        moves = by_samples(valued, samples)
        step = len(samples[1]) / 20
        samples = tuple(each - step * move for each, move in zip(samples, moves, strict=True))
    return samples


def _through(seen: np.ndarray):
    """Return distribution matching in the features seen x, (p, d), of another model."""

    def objective(synthetic: Moments, task: Task):
        hessian = seen @ (synthetic.hessian - task.real.hessian) @ seen.T
        target = seen @ (synthetic.target - task.real.target)
        value = (hessian**2).sum() + (target**2).sum()
        return value, 2 * seen.T @ hessian @ seen, 2 * seen.T @ target

    return objective
