"""Statements 1 to 11 of the theory course, against closed forms and naive loops."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize

from ddlib.theory import linear as theory
from ddlib.theory import logistic as theory_logistic
from ddlib.theory import sampling as theory_scaling
from ddlib.theory import surrogates as theory_surrogates
from ddlib.theory.linear import Moments

SLACK = 1 + 1e-9


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def chains():
    generator = np.random.default_rng(0)
    problems = [theory.random_problem(generator) for _ in range(1000)]
    return problems, [theory.chain(problem) for problem in problems]


def test_bounds_hold_on_a_thousand_random_problems(chains):
    _, found = chains
    assert all(each.distance <= each.distance_bound * SLACK + 1e-12 for each in found)
    assert all(each.gap <= each.gap_bound * SLACK + 1e-12 for each in found)
    # they could fail: with half the discrepancy, or without the linear term, many do
    halved = [
        theory.distance_bound(e.rho, e.discrepancy / 2, p.steps)
        for p, e in zip(*chains, strict=True)
    ]
    assert sum(e.distance > bound for e, bound in zip(found, halved, strict=True)) > 10
    curved = [
        np.linalg.eigvalsh(p.risk.hessian)[-1] * e.distance**2 / 2
        for p, e in zip(*chains, strict=True)
    ]
    assert sum(e.gap > bound for e, bound in zip(found, curved, strict=True)) > 100


def test_random_problems_cover_what_they_promise(chains):
    problems, found = chains
    assert 50 < sum(each.rho > 1 for each in found) < 150
    assert sum(np.linalg.eigvalsh(p.synthetic.hessian)[0] < 1e-9 for p in problems) > 50


def test_closed_forms_match_loops(rng):
    for _ in range(50):
        real, synthetic, risk, start, rate, steps = theory.random_problem(rng)
        path = theory.descend(synthetic, start, rate, steps)
        end = theory.end_point(synthetic, start, rate, steps)
        assert end == pytest.approx(path[-1], rel=1e-6, abs=1e-9 * np.abs(path).max())
        step = [p - rate * (real.hessian @ p - real.target) for p in path[:-1]]
        apart = np.linalg.norm(path[1:] - step, axis=1)
        found = theory.discrepancies(synthetic, real, path[:-1], rate)
        assert found == pytest.approx(apart, rel=1e-6, abs=1e-9 * np.abs(path).max())

        def value(theta, risk=risk):
            return theta @ risk.hessian @ theta / 2 - risk.target @ theta

        gap = theory.risk_gap(start, np.zeros(len(start)), risk)
        assert gap == pytest.approx(value(start), rel=1e-9, abs=1e-12)


def test_moments_are_those_of_the_squared_loss(rng):
    inputs, outputs, theta = rng.normal(size=(7, 3)), rng.normal(size=7), rng.normal(size=3)

    def loss(at):
        return ((inputs @ at - outputs) ** 2).mean() / 2 + 0.3 * at @ at / 2

    data = theory.moments(inputs, outputs, 0.3)
    numeric = optimize.approx_fprime(theta, loss, 1e-7)
    assert data.hessian @ theta - data.target == pytest.approx(numeric, abs=1e-5)


def test_geometric_series_and_the_case_without_contraction():
    assert theory.geometric(1.0, 7) == 7
    assert theory.geometric(0.5, 3) == 1.75
    assert theory.distance_bound(1.0, 0.2, 5, start_gap=1.0) == pytest.approx(2.0)
    assert theory.contraction(np.diag([1.0, 3.0]), 0.5) == pytest.approx(0.5)


def test_one_weight_reaches_the_bound_exactly():
    real, synthetic = (Moments(np.array([[1.0]]), np.array([b])) for b in (1.0, 2.0))
    problem = theory.Problem(real, synthetic, real, np.array([0.0]), 0.1, 20)
    found = theory.chain(problem)
    assert found.distance == pytest.approx((1 - 0.9**20) / 0.1 * 0.1)
    assert found.distance == pytest.approx(found.distance_bound)


def test_logistic_gradient_and_curvature(rng):
    inputs, labels, theta = (
        rng.normal(size=(30, 3)),
        np.sign(rng.normal(size=30)),
        rng.normal(size=3),
    )
    numeric = optimize.approx_fprime(
        theta, lambda at: theory_logistic.logistic_loss(at, inputs, labels, 0.2), 1e-7
    )
    found = theory_logistic.logistic_gradient(theta, inputs, labels, 0.2)
    assert found == pytest.approx(numeric, abs=1e-5)
    least, largest = theory_logistic.logistic_curvature(inputs, 0.2)
    for at in rng.normal(size=(20, 3)):
        p = 1 / (1 + np.exp(-inputs @ at))
        values = np.linalg.eigvalsh((inputs.T * (p * (1 - p))) @ inputs / 30 + 0.2 * np.eye(3))
        assert least <= values[0]
        assert values[-1] <= largest


def test_logistic_bounds_hold_with_and_without_strong_convexity():
    for seed in range(10):
        for name, case in theory_logistic.cases(np.random.default_rng(seed)).items():
            rate = 1 / theory_logistic.logistic_curvature(case.real[0], case.ridge)[1]
            table, numbers = theory_logistic.follow(case, rate, 100)
            assert (table["distance"] <= table["distance_bound"] * SLACK + 1e-12).all(), name
            assert (table["excess"] <= table["excess_bound"] * SLACK + 1e-12).all(), name
            assert numbers["rho"] <= numbers["rho_anywhere"] + 1e-12
            assert (numbers["rho_anywhere"] < 1) == (name == "a ridge")


def test_without_overlap_there_is_no_minimiser(rng):
    inputs = rng.normal(size=(40, 2))
    with pytest.raises(ValueError, match="no minimiser"):
        theory_logistic.logistic_minimum(inputs, np.sign(inputs[:, 0]))


def test_pl_only_bounds_the_loss_but_not_the_weights():
    # D is flat in the second weight, on which S pulls: the loss on D stays, the distance grows
    real = Moments(np.diag([1.0, 0.0]), np.zeros(2))
    synthetic = Moments(np.diag([1.0, 0.0]), np.array([0.0, 1.0]))
    for steps in (10, 100):
        problem = theory.Problem(real, synthetic, real, np.ones(2), 0.5, steps)
        found = theory.chain(problem)
        assert found.rho == 1
        assert found.distance == pytest.approx(0.5 * steps)
        assert found.gap <= theory_logistic.pl_bound(0.5, 1.0, 0.5, 1.0, steps)


@pytest.mark.parametrize("name", theory_surrogates.OBJECTIVES)
def test_derivatives_of_objectives_are_right(name, rng):
    task, _, _ = theory_surrogates.draw_task(rng, width=3, steps=12, segment=4)
    samples = rng.normal(size=(4, 3)), rng.normal(size=4)
    objective = theory_surrogates.OBJECTIVES[name]

    def value(flat):
        data = theory.moments(flat[:12].reshape(4, 3), flat[12:], task.ridge)
        return objective(data, task)[0]

    flat = np.concatenate([samples[0].ravel(), samples[1]])
    valued = objective(theory.moments(*samples, task.ridge), task)
    found = np.concatenate([g.ravel() for g in theory_surrogates.by_samples(valued, samples)])
    numeric = optimize.approx_fprime(flat, value, 1e-7)
    assert found == pytest.approx(numeric, rel=1e-3, abs=1e-4 * np.abs(numeric).max())


def test_three_bounds_lie_above_one_gap_on_a_thousand_problems():
    generator, broken = np.random.default_rng(1), 0
    for _ in range(1000):
        p = theory.random_problem(generator)
        steps = 12
        task = theory_surrogates.Task(p.real, p.risk, p.start, p.rate, steps, 4, 0.0)
        distance = np.linalg.norm(
            theory.end_point(p.synthetic, p.start, p.rate, steps) - task.path[-1]
        )
        bounds = theory_surrogates.bounds(p.synthetic, task)
        assert all(distance <= bound * (1 + 1e-6) + 1e-9 for bound in bounds.values())
        assert bounds["gradient"] <= bounds["distribution"] * SLACK
        broken += distance > bounds["trajectory"] / np.sqrt(3)  # without its constant
    assert broken > 100


def test_gradient_matching_is_trajectory_matching_of_one_step(rng):
    task, _, _ = theory_surrogates.draw_task(rng, steps=12, segment=1)
    made = theory.moments(rng.normal(size=(6, 5)), rng.normal(size=6), task.ridge)
    one = theory_surrogates.trajectory_matching(made, task)[0]
    assert one == pytest.approx(task.rate**2 * theory_surrogates.gradient_matching(made, task)[0])
    whole = replace(task, segment=12)
    end = theory.descend(made, task.start, task.rate, 12)[-1]
    assert theory_surrogates.trajectory_matching(made, whole)[0] == pytest.approx(
        ((end - task.path[-1]) ** 2).sum()
    )


def test_bounds_stay_above_the_gap_while_an_objective_falls():
    for seed in range(5):
        generator = np.random.default_rng(seed)
        task, data, _ = theory_surrogates.draw_task(generator)
        for objective in theory_surrogates.OBJECTIVES.values():
            history = theory_surrogates.distil(objective, task, (data[0][:8], data[1][:8]), 60)
            table = theory_surrogates.trace(task, history)
            for name in theory_surrogates.OBJECTIVES:
                assert (table["gap"] <= table[f"bound_{name}"] * SLACK + 1e-12).all()


def test_discrepancy_has_the_predicted_constant_and_rate(rng):
    population = theory_scaling.Population(np.array([1.0, 0.5, 0.2]), rng.normal(size=3), 0.7)
    theta, ks = rng.normal(size=3), [20, 60, 200]
    table = theory_scaling.sample_discrepancies(population, theta, ks, 2000, rng)
    groups = table.groupby("k")["value"]
    predicted = theory_scaling.discrepancy_constant(population, theta) ** 2 / np.array(ks)
    assert (np.abs(groups.mean() - predicted) < 4 * groups.sem()).all()
    root = np.sqrt(groups.mean())
    exponent = theory_scaling.power(ks, root, groups.sem() / (2 * root))
    assert exponent.low <= -0.5 <= exponent.high
    assert exponent.high - exponent.low < 0.1


def test_excess_falls_like_one_over_k_and_the_linear_term_like_its_root(rng):
    population = theory_scaling.Population(np.linspace(1, 0.3, 4), rng.normal(size=4), 0.5)
    shift, ks = np.full(4, 0.6), np.array([20, 60, 200])
    table = theory_scaling.sample_excesses(population, shift, ks, 2000, rng)
    groups = table.assign(square=table["linear"] ** 2).groupby("k")
    mean, error = groups.mean(), groups.sem()
    predicted = theory_scaling.least_squares_excess(4, 0.5, ks)
    assert (np.abs(mean["excess"] - predicted) < 4 * error["excess"]).all()
    assert (np.abs(mean["linear"]) < 4 * error["linear"]).all()
    squares = theory_scaling.linear_term(population, shift, ks) ** 2
    assert (np.abs(mean["square"] - squares) < 4 * error["square"]).all()
    exponent = theory_scaling.power(ks - 5, mean["excess"], error["excess"])
    assert exponent.low <= -1 <= exponent.high
    assert not exponent.low <= -0.5 <= exponent.high


def test_d_samples_match_every_run_and_fewer_do_not(rng):
    inputs, outputs = rng.normal(size=(50, 4)), rng.normal(size=50)
    samples = theory_scaling.match_exactly(theory.moments(inputs, outputs))
    for ridge in (0.0, 0.5):
        real, made = (theory.moments(*each, ridge) for each in ((inputs, outputs), samples))
        for steps in (1, 30):
            start = rng.normal(size=4)
            ends = [theory.end_point(each, start, 0.3, steps) for each in (real, made)]
            assert ends[0] == pytest.approx(ends[1], abs=1e-10)
    assert len(samples[1]) == 4
    with pytest.raises(ValueError, match="H is singular"):
        theory_scaling.match_exactly(theory.moments(inputs[:3], outputs[:3]))


def test_one_point_serves_one_start(rng):
    end = rng.normal(size=3)
    made = theory.moments(*theory_scaling.one_point(end, 0.4, 25, 0.1), 0.1)
    assert theory.descend(made, np.zeros(3), 0.4, 25)[-1] == pytest.approx(end, abs=1e-10)
    assert np.linalg.norm(theory.descend(made, np.ones(3), 0.4, 25)[-1] - end) > 0.01


def test_fixed_labels_suffice_if_and_only_if_they_are_strong(rng):
    task, _, _ = theory_surrogates.draw_task(rng, width=3)
    task = replace(task, ridge=0.0)
    needed = np.sqrt(task.real.target @ np.linalg.solve(*task.real))
    for factor in (1.1, 0.5):
        labels = factor * needed * np.sign(rng.normal(size=8))
        assert theory_scaling.labels_suffice(task.real, labels) == (factor > 1)
        first = rng.normal(size=(8, 3)), labels
        match = theory_surrogates.distribution_matching
        made = theory_surrogates.distil(match, task, first, 400, labels_fixed=True)[-1]
        assert (made[1] == labels).all()
        left = match(theory.moments(*made), task)[0]
        assert left < 1e-16 if factor > 1 else left > 1e-3


def test_another_start_leaves_the_predicted_floor(rng):
    task, _, _ = theory_surrogates.draw_task(rng)
    starts = 0.7 * rng.normal(size=(2, 4000, 5))
    path = [theory.end_point(task.real, s[0] - s[1], task.rate, 6) for s in starts.swapaxes(0, 1)]
    zero = theory.end_point(task.real, np.zeros(5), task.rate, 6)
    simulated = np.sqrt(((np.array(path) - zero) ** 2).sum(axis=1).mean())
    assert theory_scaling.start_floor(task.real, 0.7, task.rate, 6) == pytest.approx(
        simulated, rel=0.05
    )


def test_each_factor_leaves_the_floor_it_should():
    table = theory_scaling.floors(theory_scaling.FACTORS, (16, 32), 2)
    gaps = table.groupby("factor")["gap"].max()
    none = ["nothing", "label noise", "labels fixed", "pixels clamped"]
    assert (gaps[none] < 1e-9).all()
    assert (gaps.drop(none) > 1e-5).all()
    limited = table[table["factor"].str.contains("pixels")]
    assert set(limited["k"]) == {16, 32}
    excess = table.groupby("factor")["excess"].median()
    assert excess["label noise"] > excess["nothing"] + 1e-3
    with pytest.raises(ValueError, match="'magic' is no factor"):
        theory_scaling.floors(["magic"], [4], 1)


def test_limits_are_kept(rng):
    task, data, _ = theory_surrogates.draw_task(rng)
    match = theory_surrogates.gradient_matching
    for made in theory_surrogates.distil(match, task, (data[0][:6], data[1][:6]), 30, limit=0.2):
        assert np.abs(made[0]).max() <= 0.2


def test_power_recovers_an_exponent_and_refuses_too_few():
    sizes = np.array([1.0, 10, 100])
    found = theory_scaling.power(sizes, 3 * sizes**-0.7, 0.01 * sizes**-0.7)
    assert found.estimate == pytest.approx(-0.7)
    with pytest.raises(ValueError, match="2 sizes"):
        theory_scaling.power(sizes[:2], sizes[:2], sizes[:2])
