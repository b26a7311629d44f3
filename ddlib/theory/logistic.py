"""Logistic regression under gradient descent, with strong convexity and without it.

With a ridge the step contracts, and statement 1 bounds the distance of weights. Without one there
may be flat directions, in which weights drift apart. There the Polyak-Lojasiewicz (PL) inequality
still bounds the loss, and nothing bounds the weights. Labels are -1 and 1; losses are in nats.

Letters: N samples, d weights, T steps.
"""

import numpy as np
import pandas as pd
from scipy import optimize, special

from ddlib.theory.linear import distance_bound

Labelled = tuple[np.ndarray, np.ndarray]  # inputs (N, d), labels (N,)
Case = tuple[Labelled, Labelled, float, float]  # D, S, ridge, least loss on D (nats)


def loss(theta: np.ndarray, data: Labelled, ridge: float) -> float:
    """Return the mean of ln(1 + exp(-y x'theta)) in nats, and ridge |theta|^2 / 2."""
    inputs, labels = data
    return float(np.logaddexp(0, -labels * (inputs @ theta)).mean() + ridge * theta @ theta / 2)


def gradient(theta: np.ndarray, data: Labelled, ridge: float) -> np.ndarray:
    """Return the gradient (d,) of `loss`."""
    inputs, labels = data
    pulls = -labels * special.expit(-labels * (inputs @ theta))
    return inputs.T @ pulls / len(labels) + ridge * theta


def smoothness(inputs: np.ndarray, ridge: float) -> float:
    """Return a bound on the eigenvalues of the Hessian: a sample's p (1 - p) is at most 1/4."""
    return ridge + float(np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1]) / 4


def pl_bound(excess: float, mu: float, rate: float, error: float, steps: int) -> float:
    """Return (1 - rate mu)^T excess + error^2 / (2 mu) (1 - (1 - rate mu)^T) (statement 3).

    excess: loss on D at the start, above its least value; error: the largest distance between the
    gradients of S and D on the path of S; rate: at most 1 / smoothness.
    """
    left = (1 - rate * mu) ** steps
    return float(left * excess + error**2 / (2 * mu) * (1 - left))


def cases(generator: np.random.Generator) -> dict[str, Case]:
    """Draw three cases in 4 dimensions: a ridge, a flat direction, and separable classes.

    S is sampled from D. In the second case D does not vary in the last direction, and S does a
    little.
    """
    weights, drawn = generator.normal(size=4), {}
    for name, ridge in {"a ridge": 0.1, "a flat direction": 0.0, "separable": 0.0}.items():
        flat, separable = name == "a flat direction", name == "separable"
        inputs = generator.normal(size=(200, 4)) * [1, 1, 1, 0 if flat else 1]
        noise = 0 if separable else 2
        labels = np.sign(inputs @ weights + noise * generator.logistic(size=200))
        rows = generator.choice(200, 40, replace=False)
        points = inputs[rows] + 0.3 * flat * np.outer(generator.normal(size=40), [0, 0, 0, 1])
        real = inputs, labels
        least = 0.0  # of separable classes, in the limit of ever longer weights
        if not separable:
            settings = {"args": (real, ridge), "jac": gradient, "tol": 1e-10}
            least = optimize.minimize(loss, np.zeros(4), **settings).fun
        drawn[name] = real, (points, labels[rows]), ridge, least
    return drawn


def follow(case: Case, rate: float, steps: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train on S and on D from zero weights; tabulate both bounds at every step.

    Columns step, distance, distance_bound (statement 1 with the numerical rho), excess (loss on D
    of the weights trained on S, above its least) and excess_bound (statement 3). Beside the table:
    rho, the largest factor by which a step on D changed the distance of the two paths;
    rho_anywhere, which holds at any weights; mu of the PL inequality, measured on the path of S.
    """
    real, synthetic, ridge, least = case
    on_synthetic = on_real = np.zeros(real[0].shape[1])
    rows, rho, error, mu = [], 0.0, 0.0, np.inf
    for step in range(steps + 1):
        distance = np.linalg.norm(on_synthetic - on_real)
        excess = loss(on_synthetic, real, ridge) - least
        rows.append((step, distance, excess))
        slope, other_slope = (gradient(on_synthetic, data, ridge) for data in (real, synthetic))
        after = on_real - rate * gradient(on_real, real, ridge)
        if step < steps:
            if distance > 0:
                rho = max(rho, np.linalg.norm(on_synthetic - rate * slope - after) / distance)
            if excess > 1e-14:
                mu = min(mu, slope @ slope / (2 * excess))
            error = max(error, np.linalg.norm(other_slope - slope))
        on_synthetic, on_real = on_synthetic - rate * other_slope, after
    table = pd.DataFrame(rows, columns=["step", "distance", "excess"])
    bounds = [distance_bound(rho, rate * error, step) for step in table["step"]]
    table.insert(2, "distance_bound", bounds)
    start = table["excess"][0]
    table["excess_bound"] = [pl_bound(start, mu, rate, error, step) for step in table["step"]]
    anywhere = max(abs(1 - rate * end) for end in (ridge, smoothness(real[0], ridge)))
    return table, {"rho": float(rho), "rho_anywhere": anywhere, "mu": float(mu)}
