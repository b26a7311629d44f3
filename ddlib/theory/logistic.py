"""Logistic regression under gradient descent, with strong convexity and without it.

With a ridge the step contracts, and statement 1 bounds the distance of weights. Without one there
may be flat directions, in which weights drift apart. There the Polyak-Lojasiewicz (PL) inequality
still bounds the loss, and nothing bounds the weights. Labels are -1 and 1; losses are in nats.

Letters: N samples, d weights, T steps. All arrays are float64.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from ddlib.theory.linear import distance_bound

Labelled = tuple[np.ndarray, np.ndarray]  # inputs (N, d), labels (N,)


class Case(NamedTuple):
    """Two data sets on which one model is trained, and the least loss on the first."""

    real: Labelled
    synthetic: Labelled
    ridge: float
    least: float  # nats; an infimum where no weights reach it


def loss(theta: np.ndarray, data: Labelled, ridge: float) -> float:
    """Return the mean of ln(1 + exp(-y x'theta)) in nats, and ridge |theta|^2 / 2."""
    inputs, labels = data
    return float(np.logaddexp(0, -labels * (inputs @ theta)).mean() + ridge * theta @ theta / 2)


def gradient(theta: np.ndarray, data: Labelled, ridge: float) -> np.ndarray:
    """Return the gradient (d,) of `loss`."""
    inputs, labels = data
    pulls = -labels * special.expit(-labels * (inputs @ theta))
    return inputs.T @ pulls / len(labels) + ridge * theta


def curvature(inputs: np.ndarray, ridge: float) -> tuple[float, float]:
    """Return bounds (least, largest) on the eigenvalues of the Hessian at any weights.

    The curvature p (1 - p) of a sample lies in (0, 1/4].
    """
    largest = np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1]
    return ridge, ridge + float(largest) / 4


def minimum(data: Labelled, ridge: float) -> np.ndarray:
    """Return a minimiser (d,) by Newton's method; the classes must overlap, or ridge be positive.

    Where features are redundant it is the one of least norm.
    """
    inputs, labels = data
    theta = np.zeros(inputs.shape[1])
    for _ in range(50):
        p = special.expit(inputs @ theta)
        hessian = (inputs.T * (p * (1 - p))) @ inputs / len(labels) + ridge * np.eye(len(theta))
        theta = theta - np.linalg.lstsq(hessian, gradient(theta, data, ridge), rcond=1e-10)[0]
    return theta


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
    weights = generator.normal(size=4)

    def draw(separable: bool, flat: bool) -> tuple[Labelled, Labelled]:
        inputs = generator.normal(size=(200, 4)) * [1, 1, 1, 0 if flat else 1]
        noise = 0 if separable else 2
        labels = np.sign(inputs @ weights + noise * generator.logistic(size=200))
        rows = generator.choice(200, 40, replace=False)
        points = inputs[rows] + 0.3 * flat * np.outer(generator.normal(size=40), [0, 0, 0, 1])
        return (inputs, labels), (points, labels[rows])

    drawn = {}
    for name, ridge in {"a ridge": 0.1, "a flat direction": 0.0, "separable": 0.0}.items():
        real, synthetic = draw(name == "separable", name == "a flat direction")
        least = 0.0 if name == "separable" else loss(minimum(real, ridge), real, ridge)
        drawn[name] = Case(real, synthetic, ridge, least)
    return drawn


def follow(case: Case, rate: float, steps: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train on S and on D from zero weights; tabulate both bounds at every step.

    Columns step, distance, distance_bound (statement 1 with the numerical rho), excess (loss on D
    of the weights trained on S, above its least) and excess_bound (statement 3). Beside the table:
    rho, the largest factor by which a step on D changed the distance of the two paths;
    rho_anywhere, which holds at any weights; mu of the PL inequality, measured on the path of S.
    """
    real, synthetic, ridge, least = case

    def path(data: Labelled) -> np.ndarray:
        places = [np.zeros(real[0].shape[1])]
        for _ in range(steps):
            places.append(places[-1] - rate * gradient(places[-1], data, ridge))
        return np.array(places)

    ours, theirs = path(synthetic), path(real)
    slopes = np.array([gradient(theta, real, ridge) for theta in ours[:-1]])
    other_slopes = np.array([gradient(theta, synthetic, ridge) for theta in ours[:-1]])
    distances = np.linalg.norm(ours - theirs, axis=1)
    apart = distances[:-1] > 0
    after = np.linalg.norm(ours[:-1] - rate * slopes - theirs[1:], axis=1)
    rho = float((after[apart] / distances[:-1][apart]).max(initial=0.0))
    error = float(np.linalg.norm(other_slopes - slopes, axis=1).max())
    excess = np.array([loss(theta, real, ridge) for theta in ours]) - least
    away = excess[:-1] > 1e-14
    mu = float(((slopes[away] ** 2).sum(axis=1) / (2 * excess[:-1][away])).min(initial=np.inf))
    times = range(steps + 1)
    table = pd.DataFrame(
        {
            "step": times,
            "distance": distances,
            "distance_bound": [distance_bound(rho, rate * error, t) for t in times],
            "excess": excess,
            "excess_bound": [pl_bound(excess[0], mu, rate, error, t) for t in times],
        }
    )
    anywhere = max(abs(1 - rate * end) for end in curvature(real[0], ridge))
    return table, {"rho": rho, "rho_anywhere": anywhere, "mu": mu}
