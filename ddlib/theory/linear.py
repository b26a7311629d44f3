"""The linear model under gradient descent: every term of the chain of bounds, computed exactly.

A squared loss sees only two moments of a data set, H = X'X/N + ridge I and b = X'y/N. Its gradient
is H theta - b. Risks are half mean squared errors, up to a constant.

Letters: N samples, d weights, T steps.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """All that a squared loss sees of a data set: L(theta) = theta'H theta / 2 - b'theta."""

    hessian: np.ndarray  # H, (d, d), symmetric
    target: np.ndarray  # b, (d,)


@dataclass(frozen=True)
class Task:
    """What S is made for: training on D, and the risk that judges it. segment divides steps."""

    real: Moments
    risk: Moments
    start: np.ndarray  # (d,)
    rate: float
    steps: int
    segment: int  # steps that trajectory matching compares at once
    ridge: float

    @cached_property
    def path(self) -> np.ndarray:
        """The path (T + 1, d) of training on D: the expert."""
        return descend(self.real, self.start, self.rate, self.steps)


def moments(inputs: np.ndarray, outputs: np.ndarray, ridge: float = 0.0) -> Moments:
    """Return the moments of inputs (N, d) and outputs (N,); ridge: the penalty's weight."""
    count, width = inputs.shape
    return Moments(inputs.T @ inputs / count + ridge * np.eye(width), inputs.T @ outputs / count)


def descend(data: Moments, start: np.ndarray, rate: float, steps: int) -> np.ndarray:
    """Return the path (T + 1, d) of gradient descent from `start` (d,)."""
    path = [start]
    for _ in range(steps):
        path.append(path[-1] - rate * (data.hessian @ path[-1] - data.target))
    return np.array(path)


def geometric(ratio: float | np.ndarray, steps: int) -> np.ndarray:
    """Return 1 + ratio + ... + ratio^(T-1)."""
    return (np.asarray(ratio, dtype=float)[..., None] ** np.arange(steps)).sum(axis=-1)


def contraction(hessian: np.ndarray, rate: float) -> float:
    """Return rho = max |1 - rate h| over the eigenvalues h of H: the factor of one step."""
    return float(np.abs(1 - rate * np.linalg.eigvalsh(hessian)).max())


def discrepancies(synthetic: Moments, real: Moments, path: np.ndarray, rate: float) -> np.ndarray:
    """Return how far one step on S lands from one on D, from each place of `path` (T, d)."""
    missed = path @ (synthetic.hessian - real.hessian) - (synthetic.target - real.target)
    return rate * np.linalg.norm(missed, axis=1)


def distance_bound(rho: float, discrepancy: float, steps: int) -> float:
    """Return (1 - rho^T) / (1 - rho) discrepancy (statement 1, from one start)."""
    return float(geometric(rho, steps) * discrepancy)


def risk_gap(theta: np.ndarray, reference: np.ndarray, risk: Moments) -> float:
    """Return R(theta) - R(reference) exactly: slope'move + move'H move / 2."""
    move = theta - reference
    slope = risk.hessian @ reference - risk.target
    return float(slope @ move + move @ risk.hessian @ move / 2)


def gap_bound(distance: float, reference: np.ndarray, risk: Moments) -> float:
    """Return |slope| distance + beta distance^2 / 2, beta the largest eigenvalue (statement 2)."""
    slope = np.linalg.norm(risk.hessian @ reference - risk.target)
    return float(slope * distance + np.linalg.eigvalsh(risk.hessian)[-1] * distance**2 / 2)


def chain(synthetic: Moments, task: Task) -> dict[str, float]:
    """Return rho (of a step on D), discrepancy, distance and gap, and the last two's bounds."""
    path, end = descend(synthetic, task.start, task.rate, task.steps), task.path[-1]
    rho = contraction(task.real.hessian, task.rate)
    discrepancy = float(discrepancies(synthetic, task.real, path[:-1], task.rate).max())
    bound = distance_bound(rho, discrepancy, task.steps)
    return {
        "rho": rho,
        "discrepancy": discrepancy,
        "distance": float(np.linalg.norm(path[-1] - end)),
        "distance_bound": bound,
        "gap": risk_gap(path[-1], end, task.risk),
        "gap_bound": gap_bound(bound, end, task.risk),
    }


def random_problem(generator: np.random.Generator) -> tuple[Moments, Task]:
    """Draw S and its task, of 2 to 6 weights, with or without a ridge.

    S is sampled from D and then moved by up to its own size, so it may fit D or miss it. In one
    problem in ten no step contracts: the bounds hold there but say little.
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
    rows, moved = generator.integers(0, count, k), generator.uniform(0, 1)
    points = inputs[rows] + moved * generator.normal(size=(k, width)) * scales
    labels = outputs[rows] + moved * generator.normal(size=k)
    real, risk = moments(inputs, outputs, ridge), moments(tests, answers)
    share = 1.05 if generator.random() < 0.1 else generator.uniform(0.05, 1)  # of 2 / largest
    rate = 2 * share / float(np.linalg.eigvalsh(real.hessian)[-1])
    task = Task(real, risk, generator.normal(size=width), rate, steps, steps, ridge)
    return moments(points, labels, ridge), task
