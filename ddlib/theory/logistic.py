"""Logistic regression under gradient descent: contraction by strong convexity, and without it.

With a ridge the step contracts, and statement 1 bounds the distance of weights. Without one there
may be flat directions, in which weights drift apart: then a Polyak-Lojasiewicz (PL) inequality
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


def logistic_loss(
    theta: np.ndarray, inputs: np.ndarray, labels: np.ndarray, ridge: float = 0.0
) -> float:
    """Return the mean of ln(1 + exp(-y x'theta)) in nats, and ridge |theta|^2 / 2."""
    return float(np.logaddexp(0, -labels * (inputs @ theta)).mean() + ridge * theta @ theta / 2)


def logistic_gradient(
    theta: np.ndarray, inputs: np.ndarray, labels: np.ndarray, ridge: float = 0.0
) -> np.ndarray:
    """Return the gradient (d,) of `logistic_loss` for inputs (N, d) and labels (N,)."""
    pulls = -labels * special.expit(-labels * (inputs @ theta))
    return inputs.T @ pulls / len(labels) + ridge * theta


def logistic_path(
    data: Labelled, ridge: float, start: np.ndarray, rate: float, steps: int
) -> np.ndarray:
    """Return the path (T + 1, d) of gradient descent on data = (inputs, labels)."""
    path = [start]
    for _ in range(steps):
        path.append(path[-1] - rate * logistic_gradient(path[-1], *data, ridge))
    return np.array(path)


def logistic_curvature(inputs: np.ndarray, ridge: float) -> tuple[float, float]:
    """Return bounds (least, largest) on the eigenvalues of the Hessian at any weights.

    A label's curvature p (1 - p) lies in (0, 1/4], so they lie between ridge and
    ridge + largest eigenvalue of X'X / (4 N).
    """
    largest = np.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1]
    return ridge, ridge + float(largest) / 4


def logistic_minimum(inputs: np.ndarray, labels: np.ndarray, ridge: float = 0.0) -> np.ndarray:
    """Return a minimiser (d,) by Newton's method; of least norm where the features are redundant.

    Raises ValueError where there is none, as for classes that a line separates.
    """
    theta = np.zeros(inputs.shape[1])
    for _ in range(100):
        p = special.expit(inputs @ theta)
        hessian = (inputs.T * (p * (1 - p))) @ inputs / len(labels) + ridge * np.eye(len(theta))
        gradient = logistic_gradient(theta, inputs, labels, ridge)
        theta = theta - np.linalg.lstsq(hessian, gradient, rcond=1e-10)[0]
        if ridge == 0 and (labels * (inputs @ theta) > 0).all():
            break
        if np.linalg.norm(gradient) < 1e-13:
            return theta
    raise ValueError("the logistic loss has no minimiser here; add a ridge or overlapping classes")


def pl_constant(gradients: np.ndarray, excesses: np.ndarray) -> float:
    """Return the largest mu with |gradient|^2 >= 2 mu excess at all T places: (T, d) and (T,)."""
    away = excesses > 1e-14
    return float(((gradients[away] ** 2).sum(axis=1) / (2 * excesses[away])).min(initial=np.inf))


def pl_bound(excess: float, mu: float, rate: float, error: float, steps: int) -> float:
    """Return (1 - rate mu)^T excess + error^2 / (2 mu) (1 - (1 - rate mu)^T) (statement 3).

    excess: L_D at the start less its least value; error: the largest distance between the
    gradients of S and D on S's path; rate at most 1 / smoothness. The parameters may be anywhere.
    """
    left = (1 - rate * mu) ** steps
    return float(left * excess + error**2 / (2 * mu) * (1 - left))


def cases(generator: np.random.Generator) -> dict[str, Case]:
    """Draw three cases in 4 dimensions: a ridge, a flat direction, and classes a plane separates.

    S is sampled from D. In the second, D does not vary in the last direction, and S does a
    little.
    """
    weights = generator.normal(size=4)

    def draw(separable: bool, flat: bool) -> tuple[Labelled, Labelled]:
        inputs = generator.normal(size=(200, 4)) * [1, 1, 1, 0 if flat else 1]
        noise = 0 if separable else 2
        labels = np.sign(inputs @ weights + noise * generator.logistic(size=200))
        chosen = generator.choice(200, 40, replace=False)
        made = inputs[chosen] + 0.3 * flat * np.outer(generator.normal(size=40), [0, 0, 0, 1])
        return (inputs, labels), (made, labels[chosen])

    found = {}
    for name, ridge in {"a ridge": 0.1, "a flat direction": 0.0, "separable": 0.0}.items():
        real, synthetic = draw(name == "separable", name == "a flat direction")
        least = 0.0
        if name != "separable":
            least = logistic_loss(logistic_minimum(*real, ridge), *real, ridge)
        found[name] = Case(real, synthetic, ridge, least)
    return found


def follow(case: Case, rate: float, steps: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Train on S and on D from zero weights; tabulate both bounds at every step.

    Columns step, distance, distance_bound (statement 1, numerical rho), excess (loss on D of the
    weights trained on S, above its least) and excess_bound (statement 3, mu and error measured on
    the path up to T). Beside it: rho, the largest factor by which D's step changed the distance of
    the two paths; rho_anywhere, which holds at any weights; mu.
    """
    real, synthetic, ridge, least = case
    run = (ridge, np.zeros(real[0].shape[1]), rate, steps)
    ours, theirs = logistic_path(synthetic, *run), logistic_path(real, *run)
    on_real, on_synthetic = (
        np.array([logistic_gradient(at, *data, ridge) for at in ours[:-1]])
        for data in (real, synthetic)
    )
    stepped = ours[:-1] - rate * on_real
    apart = np.linalg.norm(ours - theirs, axis=1)
    moved = apart[:-1] > 0
    factors = np.linalg.norm(stepped - theirs[1:], axis=1)[moved] / apart[:-1][moved]
    rho = float(factors.max(initial=0.0))
    discrepancy = np.linalg.norm(ours[1:] - stepped, axis=1).max()
    excess = np.array([logistic_loss(at, *real, ridge) for at in ours]) - least
    mu = pl_constant(on_real, excess[:-1])
    error = float(np.linalg.norm(on_synthetic - on_real, axis=1).max())
    times = range(steps + 1)
    table = pd.DataFrame(
        {
            "step": times,
            "distance": apart,
            "distance_bound": [distance_bound(rho, discrepancy, t) for t in times],
            "excess": excess,
            "excess_bound": [pl_bound(excess[0], mu, rate, error, t) for t in times],
        }
    )
    anywhere = max(abs(1 - rate * end) for end in logistic_curvature(real[0], ridge))
    return table, {"rho": rho, "rho_anywhere": anywhere, "mu": mu}
