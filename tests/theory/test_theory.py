"""Statements 1 to 11 of the theory course, against closed forms and naive loops."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from ddlib.theory import floors, linear, logistic, surrogates
from ddlib.theory.linear import Moments, Task

SLACK = 1 + 1e-9


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_bounds_hold_on_a_thousand_random_problems(rng):
    """They could fail: with half the discrepancy, or without the linear term, many do."""
    halved = curved = 0
    for _ in range(1000):
        synthetic, task = linear.random_problem(rng)
        terms = linear.chain(synthetic, task)
        assert terms["distance"] <= terms["distance_bound"] * SLACK + 1e-12
        assert terms["gap"] <= terms["gap_bound"] * SLACK + 1e-12
        bound = linear.distance_bound(terms["rho"], terms["discrepancy"] / 2, task.steps)
        halved += terms["distance"] > bound
        largest = np.linalg.eigvalsh(task.risk.hessian)[-1]
        curved += terms["gap"] > largest * terms["distance"] ** 2 / 2
    assert halved > 10
    assert curved > 100


def test_closed_forms_match_loops(rng):
    for _ in range(50):
        synthetic, task = linear.random_problem(rng)
        rate, start, risk = task.rate, task.start, task.risk
        path = linear.descend(synthetic, start, rate, task.steps)
        values, vectors = np.linalg.eigh(synthetic.hessian)
        kept = (1 - rate * values) ** task.steps * (vectors.T @ start)
        summed = linear.geometric(1 - rate * values, task.steps) * (vectors.T @ synthetic.target)
        end = vectors @ (kept + rate * summed)
        assert end == pytest.approx(path[-1], rel=1e-6, abs=1e-9 * np.abs(path).max())
        step = [p - rate * (task.real.hessian @ p - task.real.target) for p in path[:-1]]
        apart = np.linalg.norm(path[1:] - step, axis=1)
        result = linear.discrepancies(synthetic, task.real, path[:-1], rate)
        assert result == pytest.approx(apart, rel=1e-6, abs=1e-9 * np.abs(path).max())
        value = start @ risk.hessian @ start / 2 - risk.target @ start
        gap = linear.risk_gap(start, np.zeros(len(start)), risk)
        assert gap == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_moments_are_those_of_the_squared_loss(rng):
    inputs, outputs, theta = rng.normal(size=(7, 3)), rng.normal(size=7), rng.normal(size=3)

    def loss(at):
        return ((inputs @ at - outputs) ** 2).mean() / 2 + 0.3 * at @ at / 2

    data = linear.moments(inputs, outputs, 0.3)
    numeric = optimize.approx_fprime(theta, loss, 1e-7)
    assert data.hessian @ theta - data.target == pytest.approx(numeric, abs=1e-5)


def test_one_weight_reaches_the_bound_exactly():
    real, synthetic = (Moments(np.array([[1.0]]), np.array([b])) for b in (1.0, 2.0))
    terms = linear.chain(synthetic, Task(real, real, np.array([0.0]), 0.1, 20, 20, 0.0))
    assert terms["distance"] == pytest.approx((1 - 0.9**20) / 0.1 * 0.1)
    assert terms["distance"] == pytest.approx(terms["distance_bound"])
    assert linear.distance_bound(1.0, 0.2, 5) == pytest.approx(1.0)  # without contraction
    assert linear.contraction(np.diag([1.0, 3.0]), 0.5) == pytest.approx(0.5)


def test_logistic_gradient_and_curvature(rng):
    inputs, theta = rng.normal(size=(30, 3)), rng.normal(size=3)
    data = inputs, np.sign(rng.normal(size=30))
    numeric = optimize.approx_fprime(theta, lambda at: logistic.loss(at, data, 0.2), 1e-7)
    result = logistic.gradient(theta, data, 0.2)
    assert result == pytest.approx(numeric, abs=1e-5)
    largest = logistic.smoothness(inputs, 0.2)
    for at in rng.normal(size=(20, 3)):
        p = 1 / (1 + np.exp(-inputs @ at))
        values = np.linalg.eigvalsh((inputs.T * (p * (1 - p))) @ inputs / 30 + 0.2 * np.eye(3))
        assert values[0] >= 0.2
        assert values[-1] <= largest


def test_logistic_bounds_hold_with_and_without_strong_convexity():
    for seed in range(10):
        for name, case in logistic.cases(np.random.default_rng(seed)).items():
            (inputs, _), _, ridge, _ = case
            rate = 1 / logistic.smoothness(inputs, ridge)
            table, numbers = logistic.follow(case, rate, 100)
            assert (table["distance"] <= table["distance_bound"] * SLACK + 1e-12).all(), name
            assert (table["excess"] <= table["excess_bound"] * SLACK + 1e-12).all(), name
            assert numbers["rho"] <= numbers["rho_anywhere"] + 1e-12
            assert (numbers["rho_anywhere"] < 1) == (name == "a ridge")


def test_pl_only_bounds_the_loss_but_not_the_weights():
    # D is flat in the second weight, on which S pulls: the loss on D stays, the distance grows
    real = Moments(np.diag([1.0, 0.0]), np.zeros(2))
    synthetic = Moments(np.diag([1.0, 0.0]), np.array([0.0, 1.0]))
    for steps in (10, 100):
        terms = linear.chain(synthetic, Task(real, real, np.ones(2), 0.5, steps, steps, 0.0))
        assert terms["rho"] == 1
        assert terms["distance"] == pytest.approx(0.5 * steps)
        assert terms["gap"] <= logistic.pl_bound(0.5, 1.0, 0.5, 1.0, steps)


@pytest.mark.parametrize("name", surrogates.OBJECTIVES)
def test_derivatives_of_objectives_are_right(name, rng):
    task, _ = surrogates.draw_task(rng, width=3, steps=12, segment=4)
    samples = rng.normal(size=(4, 3)), rng.normal(size=4)
    objective = surrogates.OBJECTIVES[name]

    def value(flat):
        data = linear.moments(flat[:12].reshape(4, 3), flat[12:], task.ridge)
        return objective(data, task)[0]

    flat = np.concatenate([samples[0].ravel(), samples[1]])
    valued = objective(linear.moments(*samples, task.ridge), task)
    result = np.concatenate([g.ravel() for g in surrogates.by_samples(valued, samples)])
    numeric = optimize.approx_fprime(flat, value, 1e-7)
    assert result == pytest.approx(numeric, rel=1e-3, abs=1e-4 * np.abs(numeric).max())


def test_three_bounds_lie_above_one_gap_on_a_thousand_problems():
    generator, broken = np.random.default_rng(1), 0
    for _ in range(1000):
        synthetic, task = linear.random_problem(generator)
        task = replace(task, steps=12, segment=4)
        distance = linear.chain(synthetic, task)["distance"]
        bounds = surrogates.bounds(synthetic, task)
        assert all(distance <= bound * (1 + 1e-6) + 1e-9 for bound in bounds.values())
        assert bounds["gradient"] <= bounds["distribution"] * SLACK
        broken += distance > bounds["trajectory"] / np.sqrt(3)  # without its constant
    assert broken > 100


def test_gradient_matching_is_trajectory_matching_of_one_step(rng):
    task, _ = surrogates.draw_task(rng, steps=12, segment=1)
    distilled = linear.moments(rng.normal(size=(6, 5)), rng.normal(size=6), task.ridge)
    single = surrogates.trajectory_matching(distilled, task)[0]
    assert single == pytest.approx(task.rate**2 * surrogates.gradient_matching(distilled, task)[0])
    whole = replace(task, segment=12)
    end = linear.descend(distilled, task.start, task.rate, 12)[-1]
    missed = ((end - task.path[-1]) ** 2).sum()
    assert surrogates.trajectory_matching(distilled, whole)[0] == pytest.approx(missed)


def test_fixed_labels_suffice_if_and_only_if_they_are_strong(rng):
    task, _ = surrogates.draw_task(rng, width=3)
    task = replace(task, ridge=0.0)
    needed = np.sqrt(task.real.target @ np.linalg.solve(*task.real))
    for factor in (1.1, 0.5):
        labels = factor * needed * np.sign(rng.normal(size=8))
        first = rng.normal(size=(8, 3)), labels
        match = surrogates.distribution_matching
        distilled = surrogates.distil(match, task, first, 400, labels_fixed=True, limit=9.0)[-1]
        assert np.abs(distilled[0]).max() <= 9
        assert (distilled[1] == labels).all()
        left = match(linear.moments(*distilled), task)[0]
        assert left < 1e-16 if factor > 1 else left > 1e-3


def test_a_gap_that_falls_like_the_law_is_no_floor():
    truths = {
        "law": lambda k: 2 / np.sqrt(k),
        "floor": lambda k: 0.1 + 0.1 / k,
        "faster": lambda k: 2 / k,
        "exact": lambda k: 1e-12 * k,
    }
    rows = [(name, k, gap(k)) for name, gap in truths.items() for k in (8, 16, 32)]
    judged = floors.verdicts(pd.DataFrame(rows, columns=["factor", "k", "gap"]))
    expected = ["still falling", "a floor", "still falling", "no floor"]
    assert judged["verdict"].to_dict() == dict(zip(truths, expected, strict=True))
    assert (judged.loc["law", "last"] / judged.loc["law", "half"]).round(2) == 0.71


def test_each_factor_leaves_the_floor_it_should():
    table = floors.floors(floors.FACTORS, (32,), 2)
    gaps = table.groupby("factor")["gap"].max()
    none = ["nothing", "label noise", "labels fixed", "pixels clamped"]
    assert (gaps[none] < 1e-9).all()
    assert (gaps.drop(none) > 1e-5).all()
    excess = table.groupby("factor")["excess"].median()
    assert excess["label noise"] > excess["nothing"] + 1e-3
