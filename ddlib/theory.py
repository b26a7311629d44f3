"""The linear and the logistic model under gradient descent: every term of the chain of bounds.

What S misses of D in one step bounds how far the trained weights end up apart, and that bounds the
gap in risk (arXiv 2512.05817). Here each link can be computed, so each inequality can be checked.

A squared loss enters by two moments alone, H = X'X/N + ridge I and b = X'y/N, so `Moments` stands
for a data set: gradient H theta - b, one step theta - rate (H theta - b). Risks are half mean
squared errors, up to a constant. Labels of the logistic model are -1 and 1.

Letters: N samples, d weights, T steps. All arrays are float64.
"""

from typing import NamedTuple

import numpy as np
from scipy import special


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


def discrepancies(
    synthetic: Moments, real: Moments, path: np.ndarray, rate: float
) -> np.ndarray:
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
    outputs, answers = (x @ weights + noise * generator.normal(size=len(x)) for x in (inputs, tests))
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
    data: tuple[np.ndarray, np.ndarray], ridge: float, start: np.ndarray, rate: float, steps: int
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


def logistic_chain(real, synthetic, ridge: float, start: np.ndarray, rate: float, steps: int):
    """Return, step by step, how far two trainings are apart, and statement 1's bound.

    real, synthetic: (inputs (N, d), labels (N,)). Returned are the distances (T + 1,), the bound
    (T + 1,) with the numerical rho, that rho, and the rho that holds at any weights. The numerical
    one is the largest factor by which D's step changed the distance of the two paths.
    """
    ours = logistic_path(synthetic, ridge, start, rate, steps)
    theirs = logistic_path(real, ridge, start, rate, steps)
    stepped = np.array([at - rate * logistic_gradient(at, *real, ridge) for at in ours[:-1]])
    apart = np.linalg.norm(ours - theirs, axis=1)
    moved = apart[:-1] > 0
    factors = np.linalg.norm(stepped - theirs[1:], axis=1)[moved] / apart[:-1][moved]
    rho = float(factors.max(initial=0.0))
    worst = np.linalg.norm(ours[1:] - stepped, axis=1).max()
    bound = np.array([distance_bound(rho, worst, t) for t in range(steps + 1)])
    least, largest = logistic_curvature(real[0], ridge)
    return apart, bound, rho, max(abs(1 - rate * least), abs(1 - rate * largest))


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
