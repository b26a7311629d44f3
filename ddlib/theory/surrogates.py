"""Gradient, distribution and trajectory matching for the linear model: three surrogates, one gap.

Each objective is a mean of squares along the path that training on D takes, and bounds the same
distance between trained weights, with its constant. S enters by its `Moments` alone, so objectives
and their gradients are closed forms in (H, b), and the chain rule gives those by S.

Letters: k samples of S, d weights, T steps, N steps of a segment, J = T / N segments.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import optimize
from threadpoolctl import threadpool_limits

from ddlib.theory.linear import (
    Moments,
    Task,
    contraction,
    descend,
    gap_bound,
    geometric,
    moments,
    risk_gap,
)

LEAST_STEP = 1e-24  # of the first value, a mean of squares: twelve digits of a distance

Samples = tuple[np.ndarray, np.ndarray]  # inputs (k, d), outputs (k,)
Valued = tuple[float, np.ndarray, np.ndarray]  # an objective, its slopes by H (d, d) and b (d,)


def gradient_matching(synthetic: Moments, task: Task) -> Valued:
    """Return the mean over D's path of |gradient of S - gradient of D|^2 (DC's idea)."""
    path = task.path[:-1]
    missed = path @ (synthetic.hessian - task.real.hessian)
    missed -= synthetic.target - task.real.target
    scale = 2 / task.steps
    value = (missed**2).sum() / task.steps
    return value, scale * missed.T @ path, -scale * missed.sum(axis=0)


def distribution_matching(synthetic: Moments, task: Task, seen: np.ndarray | None = None) -> Valued:
    """Return the squared distance between the mean features (xx', xy) of S and D (DM's idea).

    seen: (p, d), for another model that sees the inputs as `seen` x.
    """
    seen = np.eye(len(task.start)) if seen is None else seen
    hessian = seen @ (synthetic.hessian - task.real.hessian) @ seen.T
    target = seen @ (synthetic.target - task.real.target)
    value = (hessian**2).sum() + (target**2).sum()
    return value, 2 * seen.T @ hessian @ seen, 2 * seen.T @ target


def trajectory_matching(synthetic: Moments, task: Task) -> Valued:
    """Return the mean over segments of |N steps on S - N steps on D|^2 (MTT's idea).

    Every segment starts on D's path. Derivatives by the adjoint, swept back from the ends.
    """
    path, rate = task.path, task.rate
    states = [path[: -1 : task.segment]]
    for _ in range(task.segment):
        at = states[-1]
        states.append(at - rate * (at @ synthetic.hessian - synthetic.target))
    missed = states.pop() - path[task.segment :: task.segment]
    adjoint = 2 * missed / len(missed)
    by_hessian, by_target = np.zeros_like(synthetic.hessian), np.zeros_like(synthetic.target)
    for at in reversed(states):
        by_hessian -= rate * adjoint.T @ at
        by_target += rate * adjoint.sum(axis=0)
        adjoint = adjoint - rate * adjoint @ synthetic.hessian
    return (missed**2).sum() / len(missed), by_hessian, by_target


OBJECTIVES = {
    "gradient": gradient_matching,
    "distribution": distribution_matching,
    "trajectory": trajectory_matching,
}


def by_samples(valued: Valued, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Return an objective's derivatives by inputs (k, d) and outputs (k,)."""
    (inputs, outputs), (_, by_hessian, by_target) = samples, valued
    by_inputs = inputs @ (by_hessian + by_hessian.T) + np.outer(outputs, by_target)
    return by_inputs / len(outputs), inputs @ by_target / len(outputs)


def distil(
    objective: Callable[[Moments, Task], Valued],
    task: Task,
    first: Samples,
    iterations: int,
    *,
    labels_fixed: bool = False,
    limit: float = np.inf,
) -> list[Samples]:
    """Minimise an objective over S by L-BFGS from `first`; return S after every iteration.

    labels_fixed: only inputs move; limit: inputs stay in [-limit, limit].
    """
    shape, size = first[0].shape, first[0].size

    def unpack(flat: np.ndarray) -> Samples:
        return flat[:size].reshape(shape), first[1] if labels_fixed else flat[size:]

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        samples = unpack(flat)
        valued = objective(moments(*samples, task.ridge), task)
        slopes = by_samples(valued, samples)
        return valued[0] / scale, np.concatenate([slopes[0].ravel(), slopes[1]])[:free] / scale

    scale = max(objective(moments(*first, task.ridge), task)[0], 1e-300)
    free = size if labels_fixed else size + len(first[1])
    limits = np.where(np.arange(free) < size, limit, np.inf)
    start = np.concatenate([first[0].ravel(), first[1]])[:free].clip(-limits, limits)
    history = [unpack(start)]
    with threadpool_limits(1):  # several threads make small matrices slow
        optimize.minimize(
            value,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=optimize.Bounds(-limits, limits),
            callback=lambda flat: history.append(unpack(flat.copy())),
            options={"maxiter": iterations, "ftol": LEAST_STEP, "gtol": 1e-14},
        )
    return history


def bounds(synthetic: Moments, task: Task) -> dict[str, float]:
    """Return, by objective, its bound on the distance of trained weights (statements 4 to 6).

    rho is that of S, as the objectives look along D's path.
    """
    rho = contraction(synthetic.hessian, task.rate)
    roots = {name: np.sqrt(match(synthetic, task)[0]) for name, match in OBJECTIVES.items()}
    single = task.rate * np.sqrt(task.steps * geometric(rho**2, task.steps))
    reach = np.sqrt(1 + (task.path[:-1] ** 2).sum(axis=1).max())
    pieces = task.steps // task.segment
    whole = np.sqrt(pieces * geometric(rho ** (2 * task.segment), pieces))
    factors = {"gradient": single, "distribution": single * reach, "trajectory": whole}
    return {name: float(factors[name] * roots[name]) for name in OBJECTIVES}


def trace(task: Task, history: list[Samples]) -> pd.DataFrame:
    """Tabulate S on its way, a row an iteration, with the bounds on the gap.

    Columns: iteration, gap, and for each objective NAME (its square root) and bound_NAME.
    """
    rows, reference = [], task.path[-1]
    for iteration, samples in enumerate(history):
        synthetic = moments(*samples, task.ridge)
        end = descend(synthetic, task.start, task.rate, task.steps)[-1]
        row = {"iteration": iteration, "gap": risk_gap(end, reference, task.risk)}
        for name, distance in bounds(synthetic, task).items():
            row[name] = float(np.sqrt(OBJECTIVES[name](synthetic, task)[0]))
            row[f"bound_{name}"] = gap_bound(distance, reference, task.risk)
        rows.append(row)
    return pd.DataFrame(rows)


def draw_task(
    generator: np.random.Generator,
    width: int = 5,
    count: int = 200,
    noise: float = 0.5,
    steps: int = 40,
    segment: int = 10,
    ridge: float = 0.02,
) -> tuple[Task, Samples]:
    """Draw a data set D of `count` samples; return its task and its samples.

    Inputs are Gaussian with variances from 1 down to 1/4, outputs x'w + noise; the risk is the
    population's. rate is 1 over the largest eigenvalue of D.
    """
    scales = np.sqrt(np.linspace(1, 0.25, width))
    weights = generator.normal(size=width)
    inputs = generator.normal(size=(count, width)) * scales
    outputs = inputs @ weights + noise * generator.normal(size=count)
    real, risk = moments(inputs, outputs, ridge), Moments(np.diag(scales**2), scales**2 * weights)
    rate, start = 1 / float(np.linalg.eigvalsh(real.hessian)[-1]), generator.normal(size=width)
    return Task(real, risk, start, rate, steps, segment, ridge), (inputs, outputs)
