"""The linear model under gradient descent: every term of the chain of bounds in closed form.

What S misses of D in one step bounds how far the trained weights end up apart, and that bounds the
gap in risk (arXiv 2512.05817). Here each link can be computed, so each inequality can be checked.

A squared loss enters by two moments alone, H = X'X/N + ridge I and b = X'y/N, so `Moments` stands
for a data set: gradient H theta - b, one step theta - rate (H theta - b). Risks are half mean
squared errors, up to a constant.

Letters: N samples, d weights, T steps. All arrays are float64.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd


class Moments(NamedTuple):
    """All that a squared loss sees of a data set: L(theta) = theta'H theta / 2 - b'theta."""

    hessian: np.ndarray  # H, (d, d), symmetric
    target: np.ndarray  # b, (d,)


class Problem(NamedTuple):
    """A training on D and on S from one start, and the test risk that judges both."""

    real: Moments
    synthetic: Moments
    risk: Moments
    start: np.ndarray  # (d,)
    rate: float
    steps: int


class Chain(NamedTuple):
    """Every term of alignment -> parameter gap -> risk gap of a `Problem`."""

    rho: float
    discrepancy: float
    distance: float
    distance_bound: float
    gap: float
    gap_bound: float


def moments(inputs: np.ndarray, outputs: np.ndarray, ridge: float = 0.0) -> Moments:
    """Return the moments of inputs (N, d) and outputs (N,); ridge: the penalty's weight."""
    count, width = inputs.shape
    return Moments(inputs.T @ inputs / count + ridge * np.eye(width), inputs.T @ outputs / count)


def descend(data: Moments, start: np.ndarray, rate: float, steps: int) -> np.ndarray:
    """Return the path (T + 1, d) of gradient descent from `start` (d,), step by step."""
    path = [start]
    for _ in range(steps):
        path.append(path[-1] - rate * (data.hessian @ path[-1] - data.target))
    return np.array(path)


def end_point(data: Moments, start: np.ndarray, rate: float, steps: int) -> np.ndarray:
    """Return the weights (d,) after T steps in closed form, by the eigenvectors of H.

    Along an eigenvector of eigenvalue h: (1 - rate h)^T start + rate sum_t (1 - rate h)^t b.
    """
    values, vectors = np.linalg.eigh(data.hessian)
    factors = 1 - rate * values
    kept = factors**steps * (vectors.T @ start)
    return vectors @ (kept + rate * geometric(factors, steps) * (vectors.T @ data.target))


def geometric(ratio: float | np.ndarray, steps: int) -> np.ndarray:
    """Return 1 + ratio + ... + ratio^(T-1), which is (1 - ratio^T) / (1 - ratio) unless it is T."""
    return (np.asarray(ratio, dtype=float)[..., None] ** np.arange(steps)).sum(axis=-1)


def contraction(hessian: np.ndarray, rate: float) -> float:
    """Return rho = max |1 - rate h| over the eigenvalues h of H: the factor of one step."""
    return float(np.abs(1 - rate * np.linalg.eigvalsh(hessian)).max())


def discrepancies(synthetic: Moments, real: Moments, path: np.ndarray, rate: float) -> np.ndarray:
    """Return how far one step on S lands from one on D, at all T places (T, d) that steps start."""
    missed = path @ (synthetic.hessian - real.hessian) - (synthetic.target - real.target)
    return rate * np.linalg.norm(missed, axis=1)


def distance_bound(rho: float, discrepancy: float, steps: int, start_gap: float = 0.0) -> float:
    """Return rho^T |start gap| + (1 - rho^T) / (1 - rho) discrepancy (statement 1)."""
    return float(rho**steps * start_gap + geometric(rho, steps) * discrepancy)


def risk_gap(theta: np.ndarray, reference: np.ndarray, risk: Moments) -> float:
    """Return R(theta) - R(reference) exactly: slope'move + move'H move / 2."""
    move = theta - reference
    slope = risk.hessian @ reference - risk.target
    return float(slope @ move + move @ risk.hessian @ move / 2)


def gap_bound(distance: float, reference: np.ndarray, risk: Moments) -> float:
    """Return |slope| distance + beta distance^2 / 2, beta the largest eigenvalue (statement 2)."""
    slope = np.linalg.norm(risk.hessian @ reference - risk.target)
    return float(slope * distance + np.linalg.eigvalsh(risk.hessian)[-1] * distance**2 / 2)


def chain(problem: Problem) -> Chain:
    """Return every link of one problem; D's step contracts, S's path is where they differ."""
    real, synthetic, risk, *run = problem
    ours, theirs = descend(synthetic, *run), descend(real, *run)
    rho = contraction(real.hessian, problem.rate)
    discrepancy = float(discrepancies(synthetic, real, ours[:-1], problem.rate).max())
    bound = distance_bound(rho, discrepancy, problem.steps)
    gap = risk_gap(ours[-1], theirs[-1], risk)
    distance = float(np.linalg.norm(ours[-1] - theirs[-1]))
    return Chain(rho, discrepancy, distance, bound, gap, gap_bound(bound, theirs[-1], risk))


def random_problem(generator: np.random.Generator) -> Problem:
    """Draw a problem: 2 to 6 weights, S from 1 sample on, with and without ridge and a fair rate.

    S is sampled from D and then moved by up to its own size, so that it may fit D or miss it. One
    problem in ten has rho above 1, where the bounds hold but say little.
    """
    width, steps = int(generator.integers(2, 7)), int(generator.integers(1, 60))
    count, k = int(generator.integers(width, 80)), int(generator.integers(1, 20))
    ridge = float(generator.choice([0.0, 10 ** generator.uniform(-3, 0)]))
    weights, noise = generator.normal(size=width), generator.uniform(0, 1)
    scales = 10 ** generator.uniform(-1, 0.3, width)
    inputs, tests = (generator.normal(size=(n, width)) * scales for n in (count, 400))
    outputs, answers = (
        x @ weights + noise * generator.normal(size=len(x)) for x in (inputs, tests)
    )
    chosen = generator.integers(0, count, k)
    moved = generator.uniform(0, 1)
    made = inputs[chosen] + moved * generator.normal(size=(k, width)) * scales
    labels = outputs[chosen] + moved * generator.normal(size=k)
    real = moments(inputs, outputs, ridge)
    share = 1.05 if generator.random() < 0.1 else generator.uniform(0.05, 1)  # of 2 / largest
    rate = 2 * share / float(np.linalg.eigvalsh(real.hessian)[-1])
    start = generator.normal(size=width)
    risk = moments(tests, answers)
    return Problem(real, moments(made, labels, ridge), risk, start, rate, steps)


def knob_tables(
    rho: float, noise: float, k: int, count: int, spread: float, steps: int = 60
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what the sliders show: distances over steps, and worst gaps over sizes.

    Steps: 8 directions contract by factors from 0 to rho, each missing noise / sqrt(8 k) a step;
    columns step, value, line ("bound", "distance"). Sizes: N configurations at an angle `spread`
    (degrees) from a common one, gap |cos Z + sin Z_c| noise / sqrt(k); columns k, value, line
    ("bound", "mean worst gap"). Draws are the same at every call, so pictures move smoothly.
    """
    ratios, missed = np.linspace(0, rho, 8), noise / np.sqrt(k)
    times = np.arange(steps + 1)
    grown = np.array([geometric(ratios, t) for t in times])
    apart = missed * np.sqrt((grown**2).mean(axis=1))
    distances = pd.DataFrame({"step": times, "bound": missed * grown[:, -1], "distance": apart})
    sizes = np.unique(np.geomspace(1, 1000, 60).round())
    generator, angle = np.random.default_rng(0), np.deg2rad(spread)
    shared, own = generator.normal(size=(400, 1)), generator.normal(size=(400, count))
    worst = np.abs(np.cos(angle) * shared + np.sin(angle) * own).max(axis=1).mean()
    values = {"bound": np.sqrt(2 * np.log(2 * count)), "mean worst gap": worst}
    gaps = pd.DataFrame({"k": sizes, **{n: v * noise / np.sqrt(sizes) for n, v in values.items()}})
    return distances.melt("step", var_name="line"), gaps.melt("k", var_name="line")
