"""Coverage law: worst gaps, k*, regressions and nulls against closed forms and naive loops."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special, stats
from sklearn.isotonic import IsotonicRegression

from ddlib import coverage_laws

pytestmark = pytest.mark.filterwarnings("error")

KS = np.array([10, 20, 50, 100, 200, 500])


def table(scales, *, floor=0.02, seeds=5, noise=0.0, shared=0.0, ks=KS, generator=0):
    """Gaps a/√k + floor of configurations c0, c1, ...; noise of a trial, and shared by a seed."""
    rng = np.random.default_rng(generator)
    curves = np.asarray(scales)[:, None, None] / np.sqrt(ks) + floor
    shape = (len(scales), seeds, len(ks))
    gaps = curves + noise * rng.normal(size=shape) + shared * rng.normal(size=(1, seeds, 1))
    c, s, j = np.indices(shape).reshape(3, -1)
    found = {"configuration": [f"c{i}" for i in c], "seed": s, "k": np.asarray(ks)[j]}
    return pd.DataFrame({**found, "gap_error": gaps.ravel(), "gap_cross_entropy": gaps.ravel() * 2})


def names(*numbers):
    return [f"c{i}" for i in numbers]


def given(ks, censored="", draws=None, *, smallest=10.0, largest=500.0):
    """Make k* by hand, one epsilon; draws (1 + D, F), default the estimate alone."""
    codes = {"": None, "above": np.inf, "below": 0.0}
    censored = censored or [""] * len(ks)
    first = [k if codes[c] is None else codes[c] for k, c in zip(ks, censored, strict=True)]
    draws = np.array([first]) if draws is None else np.vstack([first, draws])
    families = [f"f{i}" for i in range(len(ks))]
    rows = {"family": families, "epsilon": 0.1, "k_star": ks, "smallest": smallest}
    found = pd.DataFrame({**rows, "largest": largest})
    return coverage_laws.KStars(found, draws.T, draws[:1].T)


def measured(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"f{i}" for i in range(count)])


def row(found, predictor):
    return found[found["predictor"] == predictor].iloc[0]


# Worst gaps


def test_worst_gaps_by_hand():
    gaps = pd.DataFrame(
        [("a", 1, 0.1), ("a", 2, 0.5), ("a", 3, 0.3), ("b", 1, 0.38), ("b", 2, 0.2), ("b", 3, 0.0)],
        columns=["configuration", "seed", "gap_error"],
    ).assign(k=10)
    found = coverage_laws.worst_gaps(gaps, {"f": ["a", "b"]}).set_index("seed")
    # Without seed 1: a 0.4, b 0.1. Without 2: a 0.2, b 0.19. Without 3: a 0.3, b 0.29.
    assert found["worst_member"].tolist() == ["a", "a", "a"]
    assert found["worst"].tolist() == [0.1, 0.5, 0.3]
    assert found["mean"].tolist() == pytest.approx([0.24, 0.35, 0.15])
    assert found["raw"].tolist() == pytest.approx([0.3] * 3)
    gaps.loc[gaps["configuration"] == "b", "gap_error"] += 0.15
    found = coverage_laws.worst_gaps(gaps, {"f": ["a", "b"]}).set_index("seed")
    # Without 1: a 0.4, b 0.25. Without 2: a 0.2, b 0.34. Without 3: a 0.3, b 0.44.
    assert found["worst_member"].tolist() == ["a", "b", "b"]
    assert found["worst"].tolist() == pytest.approx([0.1, 0.35, 0.15])


def test_evaluations_are_averaged_and_failures_left_out():
    gaps = table([1.0, 0.5])
    twice = pd.concat([gaps.assign(gap_error=gaps["gap_error"] + d) for d in (-0.1, 0.1)])
    failed = gaps.iloc[:1].assign(status="diverged", gap_error=np.nan)
    both = pd.concat([twice.assign(status="ok"), failed])
    families = {"f": names(0, 1)}
    expected = coverage_laws.worst_gaps(gaps, families)
    pd.testing.assert_frame_equal(coverage_laws.worst_gaps(both, families), expected)


def biases(spread, members, studies=3000, seeds=5):
    """Mean errors (corrected, raw) of the worst gap of one k, in units of a trial's noise."""
    rng = np.random.default_rng([members, int(10 * spread)])
    truths = spread * rng.normal(size=(members, 1, studies))
    values = truths + rng.normal(size=(members, seeds, studies))  # a study takes the place of a k
    values += rng.normal(size=(1, seeds, studies))
    corrected = coverage_laws.worst_over(values, coverage_laws.seed_weights(seeds, 0, 0))[0]
    raw = values.mean(axis=1).max(axis=0)
    return np.mean([corrected - truths.max(axis=0)[0], raw - truths.max(axis=0)[0]], axis=1)


# Expected largest of M standard normals (Harter 1961).
LARGEST = {2: 0.5642, 4: 1.0294, 8: 1.4236, 16: 1.7660}


@pytest.mark.parametrize("members", LARGEST)
def test_the_corrected_worst_gap_of_identical_members_does_not_grow_with_their_number(members):
    corrected, raw = biases(0.0, members)
    assert raw == pytest.approx(LARGEST[members] / np.sqrt(5), abs=0.04)
    assert corrected == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.5, -0.25, 0.31), (2.0, -0.12, 0.08)])
def test_the_true_worst_gap_lies_between_corrected_and_raw(spread, low, high):
    corrected, raw = biases(spread, 16)
    assert corrected < 0 < raw
    assert (corrected, raw) == pytest.approx((low, high), abs=0.05)


def test_only_the_raw_k_star_of_identical_members_grows_with_their_number():
    sizes = [1, 2, 4, 8, 16]
    families = {f"f{i}": names(*range(m)) for i, m in enumerate(sizes)}
    measures = measured(log_members=np.log(sizes))
    slopes = []
    for i in range(40):
        gaps = table(np.ones(16), noise=0.02, generator=i)
        found = coverage_laws.k_star(gaps, families, 0.12, draws=0)  # true k* = 100
        both = [coverage_laws.regressions(k, measures) for k in (found, found.uncorrected)]
        slopes.append([row(each, "log_members")["slope"] for each in both])
    mean, error = np.mean(slopes, axis=0), np.std(slopes, axis=0) / np.sqrt(40)
    assert abs(mean[0]) < 3 * error[0]
    assert mean[1] > 10 * error[1]


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ({}, "no family was given"),
        ({"f": []}, "family 'f' is empty"),
        ({"f": ["c0", "c1", "c0"]}, "lists 'c0' twice"),
        ({"f": ["c0", "vgg"]}, "no gaps of 'vgg' in family 'f'; there are: c0, c1"),
    ],
)
def test_bad_families_are_refused(families, message):
    with pytest.raises(ValueError, match=message):
        coverage_laws.worst_gaps(table([1.0, 2.0]), families)


def test_bad_gaps_are_refused():
    gaps, families = table([1.0]), {"f": names(0)}
    with pytest.raises(ValueError, match="one seed cannot tell"):
        coverage_laws.worst_gaps(table([1.0], seeds=1), families)
    with pytest.raises(ValueError, match="unknown measure 'loss'"):
        coverage_laws.worst_gaps(gaps, families, "loss")
    both = pd.concat([gaps.assign(method="dm"), gaps.assign(method="dc")])
    with pytest.raises(ValueError, match="gaps of 2 methods"):
        coverage_laws.worst_gaps(both, families)
    with pytest.raises(ValueError, match="choose a finite gap"):
        coverage_laws.k_star(gaps, families, [0.1, np.nan])
    with pytest.raises(ValueError, match="k=0; every k must be > 0"):
        coverage_laws.k_star(gaps.assign(k=0), families, 0.1)


# k*


def test_the_isotonic_fit_is_that_of_scikit_learn():
    values = np.random.default_rng(0).normal(size=(200, 6)) - 0.3 * np.arange(6)
    fit = IsotonicRegression(increasing=False)
    expected = [fit.fit_transform(np.arange(6), each) for each in values]
    assert coverage_laws._isotonic(values) == pytest.approx(np.array(expected))


def test_k_star_of_known_laws_and_its_censoring():
    families = {"small": names(0), "both": names(0, 1)}
    found = coverage_laws.k_star(table([0.5, 1.0]), families, [0.1, 0.06, 0.2, 0.02], draws=5)
    answers = found.table.set_index(["family", "epsilon"])
    # (a / (epsilon - 0.02))^2, on a grid from 10 to 500
    for family, epsilon, k in [
        ("small", 0.1, 39.0625),
        ("both", 0.1, 156.25),
        ("small", 0.06, 156.25),
        ("both", 0.2, 30.8642),
    ]:
        answer = answers.loc[(family, epsilon)]
        assert answer[["k_star", "low", "high", "raw"]].tolist() == pytest.approx([k] * 4)
        assert answer["censored"] == ""
    above = answers.loc[("both", 0.06)]  # 625
    assert above[["k_star", "low", "high"]].tolist() == [500, np.inf, np.inf]
    assert above["censored"] == "above the largest k"
    below = answers.loc[("small", 0.2)]  # 7.7
    assert below[["k_star", "low", "high"]].tolist() == [10, 0, 0]
    assert below["censored"] == "below the smallest k"


def test_a_k_without_trials_of_a_member_is_not_used():
    gaps = table([0.5, 1.0])
    lost = (gaps["configuration"] == "c1") & (gaps["k"] == 500)
    families = {"small": names(0), "both": names(0, 1)}
    found = coverage_laws.k_star(gaps[~lost], families, [0.06], draws=2).table
    assert found["largest"].tolist() == [500, 200]
    assert found["k_star"].tolist() == pytest.approx([156.25, 200])
    with pytest.raises(ValueError, match="'both' has no k at which every member"):
        coverage_laws.k_star(gaps.assign(gap_error=np.nan), {"both": names(0, 1)}, 1)


CASES = {
    "one member": [1.0],
    "eight equal members": [1.0] * 8,
    "four distinct members": [1.0, 0.8, 0.6, 0.4],
}


@pytest.mark.parametrize("scales", CASES.values(), ids=CASES)
def test_intervals_of_k_star_cover_the_truth(scales):
    family, hits = {"f": names(*range(len(scales)))}, 0
    for i in range(100):
        gaps = table(scales, noise=0.01, shared=0.005, generator=i)
        found = coverage_laws.k_star(gaps, family, 0.15, draws=200, seed=i).table.iloc[0]
        hits += found["low"] <= (1 / 0.13) ** 2 <= found["high"]
    assert 88 <= hits <= 100


def test_draws_are_shared_by_all_families_in_every_call():
    gaps, families = table([0.5, 1.0, 0.7], noise=0.01), {"f": names(0, 1), "g": names(2)}
    both = coverage_laws.k_star(gaps, families, 0.1, draws=20, seed=3)
    alone = coverage_laws.k_star(gaps, {"g": names(2)}, 0.1, draws=20, seed=3)
    shuffled = coverage_laws.k_star(
        gaps.sample(frac=1, random_state=0), families, 0.1, draws=20, seed=3
    )
    assert (both.draws[1] == alone.draws[0]).all()
    assert (both.draws == shuffled.draws).all()


# Regressions


def test_without_censoring_it_is_least_squares():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 3, 9)
    y = 100 + 50 * x + 10 * rng.normal(size=9)
    found = coverage_laws.regressions(given(y), measured(h_cov=x, log_members=x**2))
    line = stats.linregress(x, y)
    h = row(found, "h_cov")
    assert h[["slope", "r2"]].tolist() == pytest.approx([line.slope, line.rvalue**2])
    rss = ((y - line.intercept - line.slope * x) ** 2).sum()
    # -2 log likelihood + 2p + 2p(p+1)/(n-p-1), p = 3 with sigma
    aicc = 9 * (np.log(2 * np.pi * rss / 9) + 1) + 6 + 24 / 5
    assert h["aicc"] == pytest.approx(aicc)
    flat = 9 * (np.log(2 * np.pi * y.var()) + 1) + 4 + 12 / 6
    assert row(found, "constant")["aicc"] == pytest.approx(flat)
    assert h["delta_aicc"] == pytest.approx(aicc - found["aicc"].min())
    misses = []
    for i in range(9):
        rest = np.arange(9) != i
        line = stats.linregress(x[rest], y[rest])
        misses.append(y[i] - line.intercept - line.slope * x[i])
    assert h["loo"] == pytest.approx(np.sqrt(np.mean(np.square(misses))))
    assert row(found, "constant")["loo"] == pytest.approx(y.std() * 9 / 8)


def test_whole_series_are_left_out():
    x, y = np.arange(6.0), np.array([20.0, 35, 45, 50, 70, 60])
    groups = dict(zip([f"f{i}" for i in range(6)], "aabbcc", strict=True))
    found = coverage_laws.regressions(given(y), measured(h_cov=x), groups)
    misses = []
    for start in (0, 2, 4):
        rest = ~np.isin(np.arange(6), [start, start + 1])
        line = stats.linregress(x[rest], y[rest])
        misses += [*(y - line.intercept - line.slope * x)[start : start + 2]]
    assert row(found, "h_cov")["loo_group"] == pytest.approx(np.sqrt(np.mean(np.square(misses))))


def naive_tobit(x, y, codes):
    """Maximise the censored likelihood of y = a + b x + sigma e by scipy; return it after a, b."""

    def loss(p):
        z, sigma = (y - p[0] - p[1] * x) / np.exp(p[2]), p[2]
        terms = [stats.norm.logpdf(z) - sigma, stats.norm.logsf(z), stats.norm.logcdf(z)]
        return -np.select([codes == 0, codes > 0, codes < 0], terms).sum()

    start = [*np.polyfit(x, y, 1)[::-1], np.log(np.std(y))]
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000}
    best = optimize.minimize(loss, start, method="Nelder-Mead", options=options)
    return best.x[0], best.x[1], -best.fun


def test_censored_k_star_enter_by_their_probability():
    rng = np.random.default_rng(3)
    x = np.linspace(0, 3, 12)
    y = -60 + 250 * x + 60 * rng.normal(size=12)
    codes = np.where(y > 500, 1, np.where(y < 10, -1, 0))
    assert {*codes} == {-1, 0, 1}
    censored = [{1: "above", -1: "below", 0: ""}[code] for code in codes]
    found = coverage_laws.regressions(given(y.clip(10, 500), censored), measured(h_cov=x))
    _, slope, likelihood = naive_tobit(x, y.clip(10, 500), codes)
    h = row(found, "h_cov")
    assert h["slope"] == pytest.approx(slope, rel=1e-4)
    assert h["aicc"] == pytest.approx(-2 * likelihood + 6 + 24 / 8, rel=1e-6)
    assert (h["n"], h["censored"]) == (12, (codes != 0).sum())
    misses = []
    for i in range(12):
        rest = np.arange(12) != i
        intercept, slope, _ = naive_tobit(x[rest], y[rest].clip(10, 500), codes[rest])
        miss = intercept + slope * x[i] - y[i].clip(10, 500)
        misses.append(0.0 if miss * codes[i] > 0 else miss)
    assert h["loo"] == pytest.approx(np.sqrt(np.mean(np.square(misses))), rel=1e-3)


def test_censoring_does_not_flatten_the_slope(monkeypatch):
    monkeypatch.setattr(coverage_laws, "DRAWN", 2)  # the null is not asked for here
    rng, slopes = np.random.default_rng(0), []
    x = np.linspace(0, 3, 20)
    for _ in range(60):
        y = 50 + 250 * x + 40 * rng.normal(size=20)
        censored = ["above" if value > 500 else "" for value in y]
        k_stars = given(y.clip(10, 500), censored)
        found = coverage_laws.regressions(k_stars, measured(h_cov=x))
        slopes.append((row(found, "h_cov")["slope"], np.polyfit(x, y.clip(10, 500), 1)[0]))
    tobit, clipped = np.mean(slopes, axis=0)
    assert tobit == pytest.approx(250, rel=0.05)
    assert clipped < 200


def test_the_permutation_null_counts_every_order():
    x, y = np.array([0.0, 1, 2, 4, 3]), np.array([20.0, 50, 30, 90, 80])
    scores = [np.corrcoef(x[list(order)], y)[0, 1] ** 2 for order in permutations(range(5))]
    expected = np.mean(np.array(scores) >= scores[0] - 1e-9)
    found = coverage_laws.regressions(given(y), measured(h_cov=x))
    assert row(found, "h_cov")["p"] == pytest.approx(expected)


def test_permutation_p_values_are_uniform_where_nothing_is_there():
    rng, p_values = np.random.default_rng(0), []
    for _ in range(80):
        y = rng.uniform(20, 700, 5)
        k_stars = given(y.clip(10, 500), ["above" if value > 500 else "" for value in y])
        found = coverage_laws.regressions(k_stars, measured(h_cov=rng.normal(size=5) ** 2))
        p_values.append(row(found, "h_cov")["p"])
    assert stats.kstest([p for p in p_values if p == p], "uniform").pvalue > 0.01


def test_slope_intervals_and_lead_over_the_rival_come_from_joint_draws():
    x = np.array([0.0, 1, 2, 3])
    shifts = np.linspace(-10, 10, 101)[:, None]
    draws = 50 + (40 + shifts) * x  # one seed effect tilts all families together
    found = coverage_laws.regressions(
        given(50 + 40 * x, draws=draws), measured(h_cov=x, log_members=[0.0, 1, 1, 2])
    )
    h = row(found, "h_cov")
    assert h[["slope", "low", "high"]].tolist() == pytest.approx([40, 30.4, 49.6], abs=0.21)
    assert h["beats"] == 1
    assert row(found, "constant")["beats"] == 0
    assert np.isnan(row(found, "log_members")["beats"])


def test_what_cannot_be_regressed_says_why():
    measures = measured(h_cov=[1.0, 2, 3, 4], log_members=[1.0] * 4, vendi=[1.0, np.nan, 2, 3])
    found = coverage_laws.regressions(given([20.0, 30, 50, 60]), measures)
    assert "the same in every family" in row(found, "log_members")["reason"]
    assert "vendi is missing" in row(found, "vendi")["reason"]
    assert row(found, "h_cov")["reason"] == ""
    few = given([20.0, 30, 500, 500], ["", "", "above", "above"])
    found = coverage_laws.regressions(few, measures)
    assert (found["reason"] == "2 of 4 families have k* inside the grid; it takes 3").all()
    assert found["slope"].isna().all()
    with pytest.raises(ValueError, match="no k\\* of family 'f4'"):
        coverage_laws.regressions(few, measured(h_cov=np.arange(5.0)))
    with pytest.raises(ValueError, match="measures have 'f0' twice"):
        coverage_laws.regressions(few, measures.iloc[[0, 0, 1]])


# Families of equal size


def test_within_equal_counts_orders_exactly():
    ks = [20.0, 40, 30, 90, 100, 60, 80]
    h = [1.0, 3, 2, 4, 7, 5, 6]
    measures = measured(
        members=[3, 3, 3, 3, 5, 5, 5], h_cov=h, log_members=np.log([3] * 4 + [5] * 3)
    )
    found = coverage_laws.within_equal(given(ks), measures)
    answer = found[found["predictor"] == "h_cov"].set_index("group")
    assert answer["tau"].tolist() == pytest.approx([1, 1, 1])
    assert answer["p"].tolist() == pytest.approx([1 / 24, 1 / 6, 1 / (24 * 6)])
    assert answer["n"].tolist() == [4, 3, 7]
    constant = found[found["predictor"] == "log_members"]
    assert constant["reason"].str.contains("explains nothing").all()


def test_within_equal_matches_scipy_with_ties():
    rng = np.random.default_rng(2)
    ks, h = rng.uniform(20, 400, 6), np.array([1.0, 2, 2, 3, 5, 4])
    ks[3] = 500
    k_stars = given(ks, ["", "", "", "above", "", ""])
    found = coverage_laws.within_equal(k_stars, measured(members=[4] * 6, h_cov=h))
    ranks = np.where(np.arange(6) == 3, np.inf, ks)
    tau = stats.kendalltau(stats.rankdata(ranks), h).statistic
    assert found["tau"].tolist() == pytest.approx([tau])
    scores = [
        stats.kendalltau(stats.rankdata(ranks), h[list(order)]).statistic
        for order in permutations(range(6))
    ]
    assert found["p"].tolist() == pytest.approx([np.mean(np.array(scores) >= tau - 1e-9)])


def test_within_equal_needs_families_of_equal_size():
    with pytest.raises(ValueError, match="no two families share their members"):
        coverage_laws.within_equal(given([20.0, 30]), measured(members=[1, 2], h_cov=[0.0, 1]))


# The other form


def root_case(noise=0.0):
    h = np.array([0.0, 0.5, 1.0, 2.0, 2.5])
    families = {f"f{i}": names(i) for i in range(5)}
    gaps = table(1.5 * np.sqrt(h), floor=0.03, noise=noise)
    measures = measured(h_cov=h, log_members=np.log([1, 2, 2, 3, 3]))
    return coverage_laws.root_law(gaps, families, measures, draws=200)


def test_the_root_law_is_recovered_and_beats_its_rivals():
    h = row(root_case(), "h_cov")
    assert h[["slope", "intercept", "r2"]].tolist() == pytest.approx([1.5, 0.03, 1])
    assert h["loo"] == pytest.approx(0, abs=1e-9)
    found = root_case(noise=0.02)
    h = row(found, "h_cov")
    assert h["low"] < 1.5 < h["high"]
    assert h["delta_aicc"] == 0
    assert h["p"] < 0.05
    assert h["n"] == 30
    assert found.loc[found["predictor"] != "h_cov", "loo"].min() > 2 * h["loo"]
    assert row(found, "constant")["p"] == 1


def test_the_root_law_leaves_out_whole_families():
    h = np.array([0.5, 1.0, 2.0])
    gaps = table([1.0, 1.1, 2.5], noise=0.03, generator=5)
    families = {f"f{i}": names(i) for i in range(3)}
    found = coverage_laws.root_law(gaps, families, measured(h_cov=h), draws=2)
    means = gaps.groupby(["configuration", "k"])["gap_error"].mean().to_numpy()
    x, owner, misses = np.sqrt(h[:, None] / KS).ravel(), np.repeat(range(3), 6), []
    for i in range(3):
        line = stats.linregress(x[owner != i], means[owner != i])
        misses += [*(means - line.intercept - line.slope * x)[owner == i]]
    assert row(found, "h_cov")["loo"] == pytest.approx(np.sqrt(np.mean(np.square(misses))))
    assert row(found, "h_cov")["r2"] == pytest.approx(stats.linregress(x, means).rvalue ** 2)


def test_olsens_derivatives_are_those_of_differences():
    rng = np.random.default_rng(0)
    x, y = np.column_stack([np.ones(6), rng.normal(size=6)]), rng.normal(size=(1, 6))
    codes, weights = np.array([[0, 1, -1, 0, 1, 0]]), np.ones((1, 6))
    theta = np.array([[0.3, -0.4, 1.2]])

    def value(t):
        return coverage_laws._likelihood(t[None], x, y, codes, weights)[0][0]

    _, slope, bend = coverage_laws._likelihood(theta, x, y, codes, weights)
    assert optimize.approx_fprime(theta[0], value, 1e-7) == pytest.approx(slope[0], rel=1e-4)
    for i in range(3):
        step = np.eye(3)[i] * 1e-5
        ends = [
            coverage_laws._likelihood(theta + sign * step, x, y, codes, weights)[1][0]
            for sign in (1, -1)
        ]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(bend[0, i], rel=1e-4)
    z = 1.2 * y[0] - x @ theta[0, :2]
    logs = np.select(
        [codes[0] == 0, codes[0] > 0],
        [np.log(1.2) + stats.norm.logpdf(z), special.log_ndtr(-z)],
        special.log_ndtr(z),
    )
    assert value(theta[0]) == pytest.approx(logs.sum())


def two_methods(first, other):
    return pd.concat([first.assign(method="one"), other.assign(method="all")])


def test_transfer_compares_methods_by_their_worst_and_mean_gaps():
    """Differences by hand; the interval of a mean of seeds is that of the paired t test."""
    first, other = (table(a, noise=0.01, generator=i) for i, a in enumerate([(1, 2), (1.5, 2)]))
    families = {"a": ["c0"], "b": ["c0", "c1"]}
    found = coverage_laws.transfer(two_methods(first, other), families, draws=20_000)
    assert len(found) == 2 * 2 * len(KS)
    for case in found.itertuples():
        tables = [coverage_laws.worst_gaps(own, families) for own in (first, other)]
        cells = [t[(t["family"] == case.family) & (t["k"] == case.k)] for t in tables]
        one, two = (cell.set_index("seed")[case.gap] for cell in cells)
        assert (case.first, case.other) == (pytest.approx(one.mean()), pytest.approx(two.mean()))
        assert case.difference == pytest.approx(two.mean() - one.mean())
        if case.gap == "mean":
            interval = stats.ttest_rel(two, one).confidence_interval()
            assert (case.low, case.high) == pytest.approx(tuple(interval), abs=3e-3)
        else:
            raw = cells[1]["raw"].iloc[0] - cells[0]["raw"].iloc[0]
            assert case.raw == pytest.approx(raw)
    small = found[(found["k"] == 10) & (found["gap"] == "worst")].set_index("family")
    assert small["told"].to_dict() == {"a": True, "b": False}
    with pytest.raises(ValueError, match=r"^only 'one' was run; give a second method"):
        coverage_laws.transfer(first.assign(method="one"), families)


def test_transfer_uses_no_seed_in_which_a_trial_failed():
    first, other = table([1, 2], noise=0.01), table([1, 2], noise=0.01, generator=1)
    families = {"a": ["c0", "c1"]}
    gone = (other["seed"] == 0) & (other["configuration"] == "c1") & (other["k"] == 20)
    status = np.where(gone, "diverged", "ok")
    given = two_methods(first.assign(status="ok"), other.assign(status=status))
    found = coverage_laws.transfer(given, families)
    left = two_methods(*(each[each["seed"] > 0] for each in (first, other)))
    pd.testing.assert_frame_equal(found, coverage_laws.transfer(left, families))
    assert set(found["n"]) == {4}


def test_a_family_whose_trials_failed_in_most_seeds_is_not_judged_and_the_others_are():
    first, other = table([1, 2], noise=0.01), table([1, 2], noise=0.01, generator=1)
    lost = (other["seed"] > 0) & (other["configuration"] == "c1")
    other["gap_error"] = other["gap_error"].mask(lost)
    families = {"a": ["c0"], "b": ["c0", "c1"]}
    found = coverage_laws.transfer(two_methods(first, other), families).set_index("family")
    assert found.loc["b", "difference"].isna().all()
    assert not found.loc["b", "told"].any()
    assert set(found.loc["b", "n"]) == {1}
    alone = coverage_laws.transfer(two_methods(first, other), {"a": ["c0"]}).set_index("family")
    pd.testing.assert_frame_equal(found.loc[["a"]], alone)


def test_a_difference_that_only_the_corrected_worst_gaps_show_is_not_told():
    """One clear worst member against many that tie: corrected gaps lean down, raw ones up."""
    first = table([2.0, *[0.1] * 12], noise=0.02, floor=0)
    other = table([2.0] * 13, noise=0.02, floor=0, generator=1)
    families = {"all": names(*range(13))}
    found = coverage_laws.transfer(two_methods(first, other), families)
    worst = found[found["gap"] == "worst"]
    apart = np.sign(worst["difference"]) != np.sign(worst["raw"])
    assert apart.any()
    assert not worst[apart]["told"].any()


def test_k_star_is_read_off_the_line_of_the_regression():
    h = pd.Series([0.0, 0.7, 1.1, 1.6], index=[f"f{i}" for i in range(4)])
    k_stars = given([20.0, 90.0, 130.0, 180.0], draws=[[22.0, 92.0, 132.0, 182.0]] * 40)
    slope, intercept = np.polyfit(h, [20.0, 90.0, 130.0, 180.0], 1)
    found, reason = coverage_laws.k_star_on_line(k_stars, h, 1.3)
    assert reason == ""
    centre = intercept + slope * 1.3
    assert found == pytest.approx((centre, centre + 2, centre + 2))
    fitted = row(coverage_laws.regressions(k_stars, h.to_frame("h_cov")), "h_cov")
    assert (slope, slope) == pytest.approx((fitted["slope"], fitted["low"]))


def test_a_line_through_too_few_families_is_refused():
    h = pd.Series([0.0, 0.7, 1.1], index=["f0", "f1", "f2"])
    k_stars = given([20.0, 90.0, 500.0], ["", "", "above"])
    found, reason = coverage_laws.k_star_on_line(k_stars, h, 1.0)
    assert found is None
    assert reason == "2 of 3 families have k* inside the grid; it takes 3"
