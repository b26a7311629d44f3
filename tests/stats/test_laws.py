"""Laws of the gap: fits, intervals, rivals, null and saturation against independent numbers."""

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from ddlib.stats import laws, verdicts

pytestmark = pytest.mark.filterwarnings("error")

KS = (10, 50, 100, 200, 500, 1000)
CURVES = {
    "inverse_sqrt": lambda k, a, c: a / np.sqrt(k) + c,
    "free_exponent": lambda k, a, b, c: a * np.power(k, -b) + c,
    "pure_power": lambda k, a, b: a * np.power(k, -b),
    "exponential": lambda k, a, tau, c: a * np.exp(-k / tau) + c,
    "inverse": lambda k, a, c: a / k + c,
    "logarithmic": lambda k, a, c: c - a * np.log(k),
}
TRUTHS = [
    ("inverse_sqrt", (1.2, 0.05)),
    ("inverse_sqrt", (3.0, -0.1)),
    ("free_exponent", (1.5, 0.8, 0.1)),
    ("free_exponent", (0.9, 0.2, -0.05)),
    ("pure_power", (0.9, 0.3)),
    ("exponential", (0.4, 120.0, 0.1)),
    ("inverse", (4.0, 0.08)),
    ("logarithmic", (0.06, 0.5)),
]


def table(law, truth, *, ks=KS, seeds=5, noise=0.01, shared=0.0, fall=0.0, generator=0):
    """Draw gaps: noise at k=10 falling as k^-fall, plus a shift shared by all k of a seed."""
    rng = np.random.default_rng(generator)
    ks = np.array(ks, dtype=float)
    own = rng.normal(size=(seeds, len(ks))) * noise * (ks / ks[0]) ** -fall
    gaps = CURVES[law](ks, *truth) + own + rng.normal(size=(seeds, 1)) * shared
    return pd.DataFrame(gaps, columns=ks.astype(int))


def balanced(law, truth, ks=KS):
    """Gaps of 5 seeds with one and the same seed variance, 0.01^2 x 2.5, at every k."""
    steps = 0.01 * np.array([[-2, -1, 0, 1, 2]])
    orders = [np.roll(steps[0], i * i) for i in range(len(ks))]
    gaps = CURVES[law](np.array(ks, dtype=float), *truth) + np.stack(orders, axis=1)
    return pd.DataFrame(gaps, columns=list(ks))


BALANCED_ERROR = 0.01 * np.sqrt(2.5 / 5)  # of a mean, own and shared part together


def within(value, interval):
    return interval.low <= value <= interval.high


@pytest.mark.parametrize(("law", "truth"), TRUTHS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_noise_free_parameters_are_recovered(law, truth, seeds):
    found = laws.fit(table(law, truth, noise=0.0, seeds=seeds), law, draws=20)
    estimates = [found.parameters[p].estimate for p in found.law.parameters]
    assert estimates == pytest.approx(truth, rel=1e-6, abs=1e-7)
    assert found.r2 is None if seeds == 1 else found.r2 == pytest.approx(1.0, abs=1e-9)
    assert found.loo_error < 1e-6
    assert not found.identifiable
    assert "no intervals" in found.reason


@pytest.mark.parametrize("law", ["inverse_sqrt", "free_exponent", "exponential", "logarithmic"])
def test_weighted_estimates_match_scipy(law):
    gaps = table("free_exponent", (1.5, 0.8, 0.1), fall=0.3, generator=4)
    means = laws.seed_means(gaps)
    start = {"free_exponent": (1, 0.7, 0), "exponential": (0.5, 50, 0.1)}.get(law, (1, 0))
    expected, _ = optimize.curve_fit(
        CURVES[law], means.ks, means.means, p0=start, sigma=means.errors, ftol=1e-14, xtol=1e-14
    )
    found = laws.fit(gaps, law, draws=20)
    estimates = [found.parameters[p].estimate for p in found.law.parameters]
    assert estimates == pytest.approx(expected, rel=1e-5)
    assert found.r2 == pytest.approx(_plain_r2(law, means.ks, means.means, start), abs=1e-6)


def _plain_r2(law, ks, means, start):
    """R² of an equally weighted fit, by scipy."""
    values, _ = optimize.curve_fit(CURVES[law], ks, means, p0=start, ftol=1e-14, xtol=1e-14)
    return 1 - ((means - CURVES[law](ks, *values)) ** 2).sum() / ((means - means.mean()) ** 2).sum()


def test_the_two_parts_of_the_errors_are_those_that_were_drawn():
    """40 seeds: own noise .02 k^-1/2 and a shift of .01 that a seed shares over k."""
    gaps = table("inverse_sqrt", (1, 0.05), seeds=40, noise=0.02, fall=0.5, shared=0.01)
    means = laws.seed_means(gaps)
    truth = 0.02 * (means.ks / 10) ** -0.5 / np.sqrt(40)
    assert means.errors == pytest.approx(truth, rel=0.2)
    assert np.sqrt(means.shared) == pytest.approx(0.01 / np.sqrt(40), rel=0.2)


def test_the_errors_maximise_the_restricted_likelihood():
    """By the density of scipy at the estimate and beside it, a seed being a normal vector."""
    gaps = table("inverse_sqrt", (1, 0.05), noise=0.02, fall=0.5, shared=0.01)
    means, logs = laws.seed_means(gaps), np.log(np.array(KS) / 100)
    apart = (gaps - gaps.mean()).to_numpy() * np.sqrt(5 / 4)

    def likelihood(grow, steeper, shift):
        own = means.errors**2 * 5 * np.exp(grow + steeper * logs)
        covariance = np.diag(own) + 5 * means.shared * np.exp(shift)
        return stats.multivariate_normal(np.zeros(6), covariance).logpdf(apart).sum()

    best = likelihood(0, 0, 0)
    for move in np.vstack([np.eye(3), -np.eye(3)]) * 0.05:
        assert likelihood(*move) < best


def test_a_k_without_seed_variance_keeps_a_positive_error():
    gaps = table("inverse_sqrt", (1, 0.05))
    gaps[200] = gaps[200].mean()
    means = laws.seed_means(gaps)
    pooled = ((gaps - gaps.mean()) ** 2).sum().sum() / (6 * 4)
    assert (means.errors**2 * 5 >= 0.01 * pooled).all()


def test_intervals_of_a_linear_law_are_t_intervals_over_seeds():
    gaps = balanced("inverse_sqrt", (1.0, 0.05))
    design = np.stack([np.array(KS) ** -0.5, np.ones(6)], axis=1)
    per_seed = np.linalg.lstsq(design, gaps.to_numpy().T)[0]  # (2, 5)
    half = stats.t.ppf(0.975, 4) * per_seed.std(axis=1, ddof=1) / np.sqrt(5)
    assert laws.seed_means(gaps).errors == pytest.approx(np.full(6, BALANCED_ERROR), rel=0.2)
    found = laws.fit(gaps, "inverse_sqrt", draws=40_000)
    for parameter, centre, width in zip(("a", "c"), per_seed.mean(axis=1), half, strict=True):
        estimate, low, high = found.parameters[parameter]
        assert estimate == pytest.approx(centre)
        assert high - estimate == pytest.approx(width, rel=0.04)
        assert estimate - low == pytest.approx(width, rel=0.04)


NOISES = {
    "independent": {},
    "seeds shared over k": {"shared": 0.01},
    "falling with k": {"fall": 0.5},
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_intervals_cover_the_inverse_square_root(noise):
    truth, hits = {"a": 1.0, "c": 0.05}, []
    for i in range(120):  # docs/statistics.md has more
        gaps = table("inverse_sqrt", (1.0, 0.05), generator=i, **noise)
        found = laws.fit(gaps, "inverse_sqrt", draws=200, seed=i)
        ahead = found.predict(2000).iloc[0]
        hits.append([within(truth[p], found.parameters[p]) for p in truth])
        hits[-1].append(ahead.low <= 1 / np.sqrt(2000) + 0.05 <= ahead.high)
    coverage = np.mean(hits, axis=0)
    assert (coverage >= 0.85).all(), coverage
    assert (coverage <= 0.99).all(), coverage


def test_a_lost_seed_leaves_the_pairing_of_two_methods():
    """Two methods share the noise of 20 seeds, of which one lost the third: draws go together."""
    gaps = table("inverse_sqrt", (1.0, 0.05), seeds=20)
    lost = (gaps + 0.1).drop(index=2)
    draws = [laws.fit(g, "inverse_sqrt", draws=2000).coefficients[1:, 0] for g in (gaps, lost)]
    # 19 of 20 equal seeds: sqrt(19 / 20), but for the sizes of the seeds' noise
    assert np.corrcoef(*draws)[0, 1] > 0.85


def test_missing_seeds_are_counted_and_a_single_seed_is_left_out():
    gaps = FALLING.copy()
    gaps.loc[[1, 3], 500] = np.nan
    gaps.loc[1:, 1000] = np.nan
    gaps.loc[4] = np.nan
    found = laws.fit(gaps, "inverse_sqrt", draws=20).data
    assert (found.asked, found.seeds, list(found.ks)) == (5, [0, 1, 2, 3], [10, 50, 100, 200, 500])
    assert found.missing == {10: 1, 50: 1, 100: 1, 200: 1, 500: 3, 1000: 4}
    assert found.freedom == pytest.approx((3 + 3 + 3 + 3 + 1) / 5)
    assert laws.fit(FALLING, "inverse_sqrt", draws=20).data.missing == {}


def test_few_seeds_at_the_largest_sizes_do_not_speak_against_the_law():
    """Of 60 true studies, about 5 in 100 may be rejected for lack of fit."""
    rejected = 0
    for i in range(60):
        gaps = table("inverse_sqrt", (1.0, 0.05), fall=0.5, shared=0.003, generator=2000 + i)
        gaps.iloc[:3, 3:] = np.nan
        rejected += laws.fit(gaps, "inverse_sqrt", draws=2).misfit <= 0.05
    assert rejected <= 8


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_intervals_cover_the_free_exponent(noise):
    hits = []
    for i in range(80):
        gaps = table("free_exponent", (1.0, 0.5, 0.05), generator=1000 + i, **noise)
        hits.append(within(0.5, laws.fit(gaps, "free_exponent", draws=200, seed=i).parameters["b"]))
    assert 0.85 <= np.mean(hits) <= 1


RIVALS = [
    ("inverse_sqrt", (1.0, 0.05)),
    ("free_exponent", (2.0, 0.75, 0.1)),
    ("pure_power", (0.9, 0.3)),
    ("exponential", (0.4, 120.0, 0.1)),
    ("inverse", (4.0, 0.08)),
    ("logarithmic", (0.06, 0.5)),
]


@pytest.mark.parametrize(("law", "truth"), RIVALS)
def test_the_true_law_wins(law, truth):
    ks = (10, 20, 50, 100, 200, 500, 700, 1000)
    wins = 0
    for i in range(10):
        fits = laws.fit_all(table(law, truth, ks=ks, noise=0.002, generator=i), draws=20)
        choice = verdicts.best(fits)
        scores = {name: found.aic for name, found in fits.items()}
        assert scores[choice.law] == min(scores.values())
        near = {name for name in scores if scores[name] - scores[choice.law] <= 2}
        assert set(choice.rivals) == near - {choice.law}
        wins += choice.law == law
    assert wins >= 6


def test_aic_and_the_lack_of_fit_by_hand():
    gaps = table("inverse", (4.0, 0.1))
    means = laws.seed_means(gaps)
    curve = CURVES["inverse_sqrt"]
    values, _ = optimize.curve_fit(curve, means.ks, means.means, sigma=means.errors, xtol=1e-14)
    chi2 = (((means.means - curve(means.ks, *values)) / means.errors) ** 2).sum()
    found = laws.fit(gaps, "inverse_sqrt", draws=20)
    assert found.aic == pytest.approx(chi2 + 4)
    # 6 sizes less 2 parameters; half of 5 x 4
    assert found.misfit == pytest.approx(stats.f.sf(chi2 / 4, 4, 10))


def test_a_law_without_floor_may_miss_by_what_seeds_share():
    """Generalised least squares with the shift in the covariance, by scipy and by the inverse."""
    gaps = table("pure_power", (0.9, 0.3), noise=0.005, shared=0.01, generator=4) + 0.03
    seeds = laws.seed_means(gaps)
    covariance = np.diag(seeds.errors**2) + seeds.shared
    expected, _ = optimize.curve_fit(
        CURVES["pure_power"], seeds.ks, seeds.means, p0=(0.9, 0.3), sigma=covariance, xtol=1e-13
    )
    found = laws.fit(gaps, "pure_power", draws=20)
    estimates = [found.parameters[name].estimate for name in ("a", "b")]
    assert estimates == pytest.approx(expected, rel=1e-5)
    misses = seeds.means - CURVES["pure_power"](seeds.ks, *expected)
    chi2 = misses @ np.linalg.solve(covariance, misses)
    assert found.aic == pytest.approx(chi2 + 4, rel=1e-6)


VERDICTS = [
    ("inverse_sqrt", (1.2, 0.05), "survives"),
    ("free_exponent", (0.8, 0.3, 0.0), "fails"),
    ("inverse", (4.0, 0.05), "fails"),
    ("logarithmic", (0.06, 0.5), "fails"),
    ("exponential", (0.4, 60.0, 0.1), "fails"),
]


@pytest.mark.parametrize(("law", "truth", "outcome"), VERDICTS)
def test_the_verdict_finds_the_truth(law, truth, outcome):
    found = [
        verdicts.verdict(
            laws.fit_all(table(law, truth, noise=0.02, fall=0.5, generator=i), draws=200)
        )
        for i in range(20)
    ]
    assert sum(one.outcome == outcome for one in found) >= 16


def test_a_wiggle_of_five_times_the_noise_fails():
    gaps = table("inverse_sqrt", (1.2, 0.05), noise=0.005)
    gaps += 0.005 / np.sqrt(5) * 5 * np.array([1, -1, 1, -1, 1, -1])
    found = verdicts.verdict(laws.fit_all(gaps, draws=200))
    assert found.outcome == "fails"
    assert "misses the means" in found.why


def test_nothing_survives_on_negative_gaps():
    gaps = table("inverse_sqrt", (1.2, -0.04), noise=0.005)  # below zero at k = 1000
    found = verdicts.verdict(laws.fit_all(gaps, draws=200))
    assert found == ("undecided", "a mean gap is not above zero")


def test_what_cannot_be_told_is_undecided():
    for gaps in (FALLING.iloc[:1], ROUGH, FALLING[[10, 50]]):
        assert verdicts.verdict(laws.fit_all(gaps, draws=50)).outcome == "undecided"


def test_about_nine_of_ten_studies_tell_the_exponent_that_a_study_names():
    found = laws.fit(table("inverse_sqrt", (1.2, 0.05), noise=0.02, fall=0.5), "free_exponent")
    below, above = verdicts.detectable(found)
    b = found.parameters["b"]
    assert (below, above) == (0.5 - 2 * (b.estimate - b.low), 0.5 + 2 * (b.high - b.estimate))
    told = 0
    for i in range(40):
        gaps = table("free_exponent", (0.9, below, 0.0), noise=0.02, fall=0.5, generator=i)
        drawn = laws.fit(gaps, "free_exponent", draws=200).parameters["b"]
        told += not drawn.low <= 0.5 <= drawn.high
    assert told >= 28


@pytest.mark.parametrize("law", ["inverse_sqrt", "free_exponent", "pure_power"])
def test_leave_one_out_matches_a_naive_loop(law):
    gaps = table("free_exponent", (1.5, 0.6, 0.1), noise=0.005, generator=2)
    table_ = laws.seed_means(gaps)
    ks, means, errors = table_.ks, table_.means, table_.errors
    start = {"inverse_sqrt": (1, 0), "free_exponent": (1.5, 0.6, 0.1), "pure_power": (0.9, 0.3)}
    misses = []
    for i in range(len(ks)):
        keep = np.arange(len(ks)) != i
        estimate, _ = optimize.curve_fit(
            CURVES[law], ks[keep], means[keep], p0=start[law], sigma=errors[keep], xtol=1e-13
        )
        misses.append(means[i] - CURVES[law](ks[i], *estimate))
    expected = np.sqrt(np.mean(np.square(misses)))
    assert laws.fit(gaps, law, draws=20).loo_error == pytest.approx(expected, rel=1e-4)


def test_null_matches_a_naive_loop():
    curves = np.random.default_rng(7).uniform(size=(50, 6))
    expected = []
    for curve in curves:
        falling = np.array(sorted(curve, reverse=True))
        slope, floor = np.polyfit(np.array(KS) ** -0.5, falling, 1)
        misses = falling - slope * np.array(KS) ** -0.5 - floor
        expected.append(1 - np.sum(misses**2) / np.sum((falling - falling.mean()) ** 2))
    assert laws.null_r2(KS, "inverse_sqrt", 50, 7) == pytest.approx(expected)


def test_the_fit_reports_its_null():
    found = laws.fit(
        table("inverse_sqrt", (1.0, 0.05), fall=0.5), "free_exponent", draws=200, seed=3
    )
    null = laws.null_r2(KS, "free_exponent", 200, 3)
    assert found.r2_null == pytest.approx(np.median(null))
    assert found.r2_null_95 == pytest.approx(np.percentile(null, 95))


def test_three_points_and_one_seed_have_no_r2():
    for gaps in (FALLING[[10, 100, 1000]], FALLING.iloc[:1]):
        assert laws.fit(gaps, "inverse_sqrt", draws=20).r2 is None


def test_a_wider_law_reaches_a_higher_null_on_every_curve():
    wide, narrow = (laws.null_r2(KS, law, 100) for law in ("free_exponent", "inverse_sqrt"))
    assert (wide >= narrow - 1e-9).all()


@pytest.mark.parametrize("law", ["inverse_sqrt", "free_exponent", "inverse"])
def test_saturation_matches_a_search_on_a_grid(law):
    found = laws.fit(table(law, dict(TRUTHS[::-1])[law], noise=0.001, ks=(*KS, 2000)), law)
    values = [found.parameters[p].estimate for p in found.law.parameters]
    grid = np.arange(1, 200_000)
    curve = CURVES[law](grid.astype(float), *values)
    marginal = grid[1:][np.diff(curve) > -1e-4][0]
    assert found.k_sat(1e-4).estimate == pytest.approx(marginal, abs=1.5)
    at = grid[curve - values[-1] <= 0.5 * values[-1]][0]
    assert at - 1 <= found.k_floor(0.5).estimate <= at


def test_saturation_of_the_inverse_square_root_in_closed_form():
    found = laws.fit(table("inverse_sqrt", (1.0, 0.05)), "inverse_sqrt")
    a, c = found.parameters["a"].estimate, found.parameters["c"].estimate
    assert found.k_floor(0.5).estimate == pytest.approx((a / (0.5 * c)) ** 2)
    assert found.k_sat(1e-5).estimate == pytest.approx((a / 2e-5) ** (2 / 3))
    # monotone in a alone, so the interval of a carries over end by end
    low, high = found.parameters["a"][1:]
    assert found.k_sat(1e-5)[1:] == pytest.approx([(x / 2e-5) ** (2 / 3) for x in (low, high)])
    assert within((1 / (0.5 * 0.05)) ** 2, found.k_floor(0.5))


def test_what_cannot_saturate_says_why():
    for law in ("logarithmic", "exponential"):
        with pytest.raises(ValueError, match="is not a power law; use one"):
            laws.fit(FALLING, law, draws=20).k_floor(0.1)
    with pytest.raises(ValueError, match="there is no floor above 0, but c=0"):
        laws.fit(FALLING, "pure_power", draws=20).k_floor(0.1)
    below = laws.fit(table("inverse_sqrt", (1.0, -0.1)), "inverse_sqrt")
    with pytest.raises(ValueError, match=r"there is no floor above 0, but c=-0\.1"):
        below.k_floor(0.1)
    with pytest.raises(ValueError, match="choose a number > 0"):
        below.k_sat(0)


def test_saturation_is_unbounded_where_the_floor_may_be_zero():
    found = laws.fit(table("inverse_sqrt", (1.0, 0.0), generator=3, shared=0.02), "inverse_sqrt")
    assert found.parameters["c"].low < 0 < found.parameters["c"].estimate
    assert found.k_floor(0.1).high == np.inf
    assert found.k_floor(0.1).low > 0


def test_prediction_matches_the_formula_and_has_an_interval():
    found = laws.fit(table("free_exponent", (1.5, 0.8, 0.1)), "free_exponent")
    a, b, c = (found.parameters[p].estimate for p in "abc")
    ahead = found.predict([5, 3000])
    assert list(ahead.columns) == ["k", "gap", "low", "high"]
    assert ahead.gap.to_numpy() == pytest.approx([a * 5**-b + c, a * 3000**-b + c])
    assert (ahead.low < ahead.gap).all()
    assert (ahead.gap < ahead.high).all()
    with pytest.raises(ValueError, match="choose k > 0"):
        found.predict([0, 10])


ROUGH = pd.DataFrame(np.random.default_rng(0).normal(0.3, 0.02, size=(5, 6)), columns=list(KS))
FALLING = table("inverse_sqrt", (1.0, 0.05))
HOLES = FALLING.mask(np.random.default_rng(1).uniform(size=FALLING.shape) < 0.3)
ODD_TABLES = {
    "flat": (ROUGH, "interval of a includes 0|does not fall"),
    "rising": (pd.DataFrame(1 - FALLING.to_numpy(), columns=list(KS)), "does not fall"),
    "zero": (FALLING * 0, "does not fall"),
    "constant": (FALLING * 0 + 0.3, "does not fall"),
    "two points": (FALLING[[10, 50]], "gaps at 2 distinct k"),
    "one seed": (FALLING.iloc[:1], "one seed, so no seed variance"),
    "alike seeds": (FALLING.iloc[[0, 0, 0]], "no difference between the seeds"),
    "empty column": (FALLING.assign(**{"k": np.nan}).rename(columns={"k": 2000}), ""),
    "holes": (HOLES, ""),
    "all failed": (FALLING * np.nan, "gaps at 0 distinct k"),
    "nothing": (pd.DataFrame(), "gaps at 0 distinct k"),
}


@pytest.mark.parametrize("name", ODD_TABLES)
def test_odd_tables_say_what_is_wrong(name):
    gaps, reason = ODD_TABLES[name]
    fits = laws.fit_all(gaps, draws=50)
    first = fits["inverse_sqrt"]
    assert first.identifiable == (reason == "")
    assert pd.Series([first.reason]).str.contains(reason).all() if reason else first.reason == ""
    rows = verdicts.summary({"one": fits})
    assert list(rows.law) == list(laws.LAWS)
    numbers = rows.drop(columns=["method", "law", "reason"])
    assert not any(isinstance(x, float) and np.isnan(x) for x in numbers.to_numpy().ravel())
    assert (rows.identifiable == (rows.reason == "")).all()
    lines = verdicts.curves({"one": fits}, [10, 2000])
    assert set(lines.law) == {n for n, found in fits.items() if found.fitted}
    assert lines.gap.notna().all()
    for found in fits.values():
        if not found.fitted:
            with pytest.raises(ValueError, match="was not fitted: gaps at"):
                found.predict(10)
            assert rows.set_index("law").loc[found.law.name, "a"] is pd.NA
        elif found.parameters["a"].estimate <= 0:
            with pytest.raises(ValueError, match="does not fall"):
                found.k_sat(1e-3)


def test_a_column_of_failures_is_as_if_it_were_not_there():
    gone = FALLING.copy()
    gone[100] = np.nan
    whole, less = (laws.fit(g, "inverse_sqrt") for g in (gone, FALLING.drop(columns=100)))
    assert whole.parameters == less.parameters


def test_columns_in_any_order_give_the_same_fit():
    fits = [
        laws.fit(g, "free_exponent", draws=50)
        for g in (FALLING, FALLING[[500, 10, 1000, 50, 200, 100]])
    ]
    assert fits[0].parameters == fits[1].parameters


def test_an_exponent_without_a_hold_is_not_identifiable():
    found = laws.fit(table("logarithmic", (0.06, 0.5), noise=0.02, generator=1), "free_exponent")
    assert not found.identifiable
    assert "the interval of b reaches the bound of its search [0.01, 5]" in found.reason


def test_one_seed_gives_estimates_without_intervals():
    found = laws.fit(FALLING.iloc[:1], "inverse_sqrt")
    design = np.stack([np.array(KS) ** -0.5, np.ones(6)], axis=1)
    a, c = np.linalg.lstsq(design, FALLING.iloc[0].to_numpy())[0]
    assert found.parameters["a"] == (pytest.approx(a), None, None)
    assert found.k_floor(0.5) == (pytest.approx((a / (0.5 * c)) ** 2), None, None)
    assert found.predict(300).low.isna().all()
    assert found.aic is None


def test_without_seed_variances_no_law_is_preferred():
    assert verdicts.best(laws.fit_all(FALLING.iloc[:1], draws=20)) is None


def test_same_seed_same_bytes():
    np.random.seed(0)  # to see that the global state is left alone
    before = np.random.get_state()[1].copy()
    first, again, other = (laws.fit(FALLING, "exponential", seed=s) for s in (1, 1, 2))
    assert first.coefficients.tobytes() == again.coefficients.tobytes()
    assert first == again
    assert first.parameters != other.parameters
    assert (np.random.get_state()[1] == before).all()


def test_two_seeds_give_intervals_without_warnings():
    two, five = (laws.fit(FALLING.iloc[:n], "inverse_sqrt").parameters["a"] for n in (2, 5))
    assert np.isfinite([two.low, two.high]).all()
    assert two.low < two.estimate < two.high
    assert five.low < five.estimate < five.high


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="unknown law 'sqrt'; choose one of inverse_sqrt"):
        laws.fit(FALLING, "sqrt")
    for gaps in (FALLING.rename(columns={10: 0}), FALLING.rename(columns={10: 50}), FALLING / 0):
        with pytest.raises(ValueError, match="distinct k > 0 and finite"):
            laws.fit(gaps, "inverse")


def trials():
    rows = []
    for k, seed, evaluation in [(k, s, e) for k in (20, 10) for s in (1, 0) for e in (0, 1)]:
        failed = (k, seed) == (10, 1) or (k, seed, evaluation) == (20, 0, 1)
        rows.append(
            {"method": "dm", "k": k, "seed": seed, "evaluation": evaluation}
            | {"gap_error": np.nan if failed else 1 / k + 0.1 * seed + 0.01 * evaluation}
            | {"gap_cross_entropy": 5.0, "status": "failed" if failed else "ok"}
        )
    return pd.DataFrame([*rows, rows[0] | {"method": "dc", "k": 30}])


def test_gap_matrix_averages_evaluations_and_keeps_failures_visible():
    matrix = laws.gap_matrix(trials(), "dm", "gap_error")
    assert list(matrix.index) == [0, 1]
    assert list(matrix.columns) == [10, 20]
    assert matrix.loc[0].to_numpy() == pytest.approx([0.1 + 0.005, 0.05])
    assert np.isnan(matrix.loc[1, 10])
    assert matrix.loc[1, 20] == pytest.approx(0.05 + 0.1 + 0.005)
    assert laws.gap_matrix(trials(), "dm", "gap_cross_entropy").loc[1, 20] == 5.0


def test_gap_matrix_names_what_is_allowed():
    with pytest.raises(ValueError, match="'accuracy'; choose gap_error or gap_cross"):
        laws.gap_matrix(trials(), "dm", "accuracy")
    with pytest.raises(ValueError, match="no trials of method 'mtt'; the table has: dc, dm"):
        laws.gap_matrix(trials(), "mtt")


def test_a_study_is_fitted_and_tabulated_method_by_method():
    tables = {"dm": FALLING, "dc": FALLING + 0.1, "random": ROUGH, "mtt": FALLING[[10, 50]]}
    rows = [
        {"method": method, "k": k, "seed": seed, "gap_error": gap, "status": "ok"}
        for method, gaps in tables.items()
        for seed, row in gaps.iterrows()
        for k, gap in row.items()
    ]
    found = laws.fit_table(pd.DataFrame(rows), "gap_error", draws=50, seed=3)
    assert list(found) == list(tables)
    assert found["dc"] == laws.fit_all(tables["dc"], draws=50, seed=3)
    summary, curves = verdicts.summary(found), verdicts.curves(found, [10, 2000])
    assert summary.columns[0] == curves.columns[0] == "method"
    assert list(summary.method) == [method for method in tables for _ in laws.LAWS]
    assert len(curves) == 3 * 6 * 2  # mtt has no curve
    assert curves[["k", "gap", "low", "high"]].notna().all(axis=None)
    floors = verdicts.floors(found).set_index("method")
    assert floors["outcome"].to_dict() == {
        **{"dm": "survives", "dc": "survives", "random": "undecided", "mtt": "undecided"}
    }
    ends = tuple(floors.loc["dm", ["floor", "low", "high"]])
    assert ends == found["dm"]["inverse_sqrt"].parameters["c"]
    assert floors.loc["random", ["floor", "low", "high"]].isna().all()
    assert floors.floor["dc"] == pytest.approx(floors.floor["dm"] + 0.1)


def test_the_gain_of_more_images_is_the_fall_of_the_curve():
    found = laws.fit(table("inverse_sqrt", (1.2, 0.05), noise=1e-9), "inverse_sqrt", draws=50)
    assert found.gain(99).estimate == pytest.approx(1.2 / np.sqrt(99) - 1.2 / 10, rel=1e-5)
    assert found.gain(99)[1:] == pytest.approx((1.2 / np.sqrt(99) - 1.2 / 10,) * 2, rel=1e-4)


def test_a_gain_needs_a_positive_size():
    found = laws.fit(table("inverse_sqrt", (1.2, 0.05)), "inverse_sqrt", draws=10)
    with pytest.raises(ValueError, match="cannot predict at k=0; choose k > 0"):
        found.gain(0)
