"""Laws of the gap: means, fits, intervals, null and saturation against independent numbers."""

import numpy as np
import pandas as pd
import pytest
from known import CURVES, FALLING, KS, TRUTHS, table
from scipy import optimize, stats

from ddlib.stats import intervals, laws, means

pytestmark = pytest.mark.filterwarnings("error")


def test_an_interval_is_printed_in_one_way():
    assert f"{intervals.Interval(0.31416, 0.2, np.inf)}" == "0.314 (0.2 to no bound)"
    assert f"{intervals.Interval(8, 0, 2.1e170):.0f}" == "8 (0 to 2e+170)"  # not 171 digits
    assert f"{intervals.Interval(1234.5, 0.2, 0.4):.1f}" == "1234.5 (0.2 to 0.4)"
    assert f"{intervals.Interval(1234.5, None, None)}" == "1,234 (no interval)"


def test_draws_of_a_mean_are_student_t_and_paired_by_the_ids_of_seeds():
    draws = intervals.seed_multipliers(range(4), 40_000, 0)
    ends = np.quantile(draws.sum(axis=1) / 2, [0.025, 0.975])
    assert ends == pytest.approx(stats.t.ppf([0.025, 0.975], 3), rel=0.05)
    other = intervals.seed_multipliers([3, 7], 40_000, 0, freedom=3)
    assert other[:, 0] == pytest.approx(draws[:, 3])


@pytest.mark.parametrize(("law", "truth"), TRUTHS)
@pytest.mark.parametrize("seeds", [1, 3])
def test_noise_free_parameters_are_recovered(law, truth, seeds):
    fit = laws.fit(table(law, truth, noise=0.0, seeds=seeds), law, draws=20)
    estimates = [fit.parameters[p].estimate for p in fit.law.parameters]
    assert estimates == pytest.approx(truth, rel=1e-6, abs=1e-7)
    assert fit.r2 is None if seeds == 1 else fit.r2 == pytest.approx(1.0, abs=1e-9)
    assert fit.loo_error < 1e-6
    assert "no intervals" in fit.reason
    assert fit.gap(300)[1:] == (None, None)
    assert fit.aic is None


@pytest.mark.parametrize("law", ["inverse_sqrt", "free_exponent", "exponential", "logarithmic"])
def test_estimates_aic_lack_of_fit_and_r2_match_scipy(law):
    gaps = table("free_exponent", (1.5, 0.8, 0.1), fall=0.3, generator=4)
    seeds = means.seed_means(gaps)
    start = {"free_exponent": (1, 0.7, 0), "exponential": (0.5, 50, 0.1)}.get(law, (1, 0))

    def fitted(**options):
        given = {"p0": start, "ftol": 1e-14, "xtol": 1e-14} | options
        found, _ = optimize.curve_fit(CURVES[law], seeds.ks, seeds.means, **given)
        return found, seeds.means - CURVES[law](seeds.ks, *found)

    fit, p = laws.fit(gaps, law, draws=20), len(start)
    expected, misses = fitted(sigma=seeds.errors)
    estimates = [fit.parameters[name].estimate for name in fit.law.parameters]
    assert estimates == pytest.approx(expected, rel=1e-5)
    chi2 = ((misses / seeds.errors) ** 2).sum()
    assert fit.aic == pytest.approx(chi2 + 2 * p)
    # 6 sizes less p parameters; half of 5 x 4
    assert fit.misfit == pytest.approx(stats.f.sf(chi2 / (6 - p), 6 - p, 10))
    r2 = 1 - (fitted()[1] ** 2).sum() / ((seeds.means - seeds.means.mean()) ** 2).sum()
    assert fit.r2 == pytest.approx(r2, abs=1e-6)


def test_a_law_without_floor_may_miss_by_what_seeds_share():
    """Generalised least squares with the shift in the covariance, by scipy and by the inverse."""
    gaps = table("pure_power", (0.9, 0.3), noise=0.005, shared=0.01, generator=4) + 0.03
    seeds, curve = means.seed_means(gaps), CURVES["pure_power"]
    covariance = np.diag(seeds.errors**2) + seeds.shared
    expected, _ = optimize.curve_fit(
        curve, seeds.ks, seeds.means, p0=(0.9, 0.3), sigma=covariance, xtol=1e-13
    )
    fit = laws.fit(gaps, "pure_power", draws=20)
    assert [fit.parameters[name].estimate for name in "ab"] == pytest.approx(expected, rel=1e-5)
    misses = seeds.means - curve(seeds.ks, *expected)
    assert fit.aic == pytest.approx(misses @ np.linalg.solve(covariance, misses) + 4, rel=1e-6)


def test_the_errors_maximise_the_restricted_likelihood():
    """By the density of scipy at the estimate and beside it, a seed being a normal vector."""
    gaps = table("inverse_sqrt", (1, 0.05), noise=0.02, fall=0.5, shared=0.01)
    seeds, logs = means.seed_means(gaps), np.log(np.array(KS) / 100)
    apart = (gaps - gaps.mean()).to_numpy() * np.sqrt(5 / 4)

    def likelihood(grow, steeper, shift):
        own = seeds.errors**2 * 5 * np.exp(grow + steeper * logs)
        covariance = np.diag(own) + 5 * seeds.shared * np.exp(shift)
        return stats.multivariate_normal(np.zeros(6), covariance).logpdf(apart).sum()

    best = likelihood(0, 0, 0)
    for move in np.vstack([np.eye(3), -np.eye(3)]) * 0.05:
        assert likelihood(*move) < best


def test_intervals_of_a_linear_law_are_t_intervals_over_seeds():
    """5 seeds with one and the same variance, 0.01^2 x 2.5, at every k."""
    noise = np.stack([np.roll(0.01 * np.arange(-2, 3), i * i) for i in range(6)], axis=1)
    gaps = pd.DataFrame(CURVES["inverse_sqrt"](np.array(KS), 1.0, 0.05) + noise, columns=list(KS))
    design = np.stack([np.array(KS) ** -0.5, np.ones(6)], axis=1)
    per_seed = np.linalg.lstsq(design, gaps.to_numpy().T)[0]  # (2, 5)
    half = stats.t.ppf(0.975, 4) * per_seed.std(axis=1, ddof=1) / np.sqrt(5)
    fit = laws.fit(gaps, "inverse_sqrt", draws=40_000)
    for parameter, centre, width in zip("ac", per_seed.mean(axis=1), half, strict=True):
        estimate, low, high = fit.parameters[parameter]
        assert estimate == pytest.approx(centre)
        assert (estimate - low, high - estimate) == pytest.approx((width, width), rel=0.04)


@pytest.mark.parametrize("noise", [{}, {"shared": 0.01, "fall": 0.5}])
def test_intervals_cover_the_inverse_square_root(noise):
    hits = []
    for i in range(60):  # docs/statistics.md has more
        gaps = table("inverse_sqrt", (1.0, 0.05), generator=i, **noise)
        fit = laws.fit(gaps, "inverse_sqrt", draws=200, seed=i)
        free = laws.fit(gaps, "free_exponent", draws=100, seed=i)
        truths = (1.0, fit.parameters["a"]), (0.05, fit.parameters["c"])
        truths += (1 / np.sqrt(2000) + 0.05, fit.gap(2000)), (0.5, free.parameters["b"])
        hits.append([low <= truth <= high for truth, (_, low, high) in truths])
    coverage = np.mean(hits, axis=0)
    assert (coverage >= 0.85).all(), coverage
    assert (coverage <= 0.99).all(), coverage


def test_missing_seeds_are_counted_and_a_single_seed_is_left_out():
    gaps = FALLING.copy()
    gaps.loc[[1, 3], 500] = np.nan
    gaps.loc[1:, 1000] = np.nan
    gaps.loc[4] = np.nan
    data = laws.fit(gaps, "inverse_sqrt", draws=20).data
    assert (data.asked, data.seeds, list(data.ks)) == (5, [0, 1, 2, 3], [10, 50, 100, 200, 500])
    assert data.missing == {10: 1, 50: 1, 100: 1, 200: 1, 500: 3, 1000: 4}
    assert data.freedom == pytest.approx((3 + 3 + 3 + 3 + 1) / 5)
    assert laws.fit(FALLING, "inverse_sqrt", draws=20).data.missing == {}


@pytest.mark.parametrize("law", ["inverse_sqrt", "free_exponent", "pure_power"])
def test_leave_one_out_matches_a_naive_loop(law):
    gaps = table("free_exponent", (1.5, 0.6, 0.1), noise=0.005, generator=2)
    seeds, misses = means.seed_means(gaps), []
    start = {"inverse_sqrt": (1, 0), "free_exponent": (1.5, 0.6, 0.1), "pure_power": (0.9, 0.3)}
    for i in range(len(KS)):
        ks, kept, errors = (np.delete(v, i) for v in (seeds.ks, seeds.means, seeds.errors))
        found, _ = optimize.curve_fit(
            CURVES[law], ks, kept, p0=start[law], sigma=errors, xtol=1e-13
        )
        misses.append(seeds.means[i] - CURVES[law](seeds.ks[i], *found))
    expected = np.sqrt(np.mean(np.square(misses)))
    assert laws.fit(gaps, law, draws=20).loo_error == pytest.approx(expected, rel=1e-4)


def test_the_null_of_r2_matches_a_naive_loop():
    x, expected = np.array(KS) ** -0.5, []
    for curve in np.random.default_rng(0).uniform(size=(1000, 6)):
        falling = np.array(sorted(curve, reverse=True))
        misses = falling - np.polyval(np.polyfit(x, falling, 1), x)
        expected.append(1 - np.sum(misses**2) / np.sum((falling - falling.mean()) ** 2))
    assert laws.null_r2(KS, "inverse_sqrt") == pytest.approx(expected)
    wide = laws.null_r2(KS, "free_exponent")
    assert (wide >= np.array(expected) - 1e-9).all()
    fit = laws.fit(FALLING, "free_exponent", draws=50)
    ends = np.median(wide), np.percentile(wide, 95)
    assert (fit.r2_null, fit.r2_null_95) == pytest.approx(ends)


@pytest.mark.parametrize("law", ["inverse_sqrt", "free_exponent", "inverse"])
def test_saturation_matches_a_search_on_a_grid(law):
    fit = laws.fit(table(law, dict(TRUTHS[::-1])[law], noise=0.001, ks=(*KS, 2000)), law)
    values = [fit.parameters[p].estimate for p in fit.law.parameters]
    grid = np.arange(1, 200_000)
    curve = CURVES[law](grid.astype(float), *values)
    marginal = grid[1:][np.diff(curve) > -1e-4][0]
    assert fit.k_sat(1e-4).estimate == pytest.approx(marginal, abs=1.5)
    at = grid[curve - values[-1] <= 0.5 * values[-1]][0]
    assert at - 1 <= fit.k_floor(0.5).estimate <= at
    fit = laws.fit(table("inverse_sqrt", (1.0, 0.0), generator=3, shared=0.02), "inverse_sqrt")
    assert fit.parameters["c"].low < 0 < fit.parameters["c"].estimate
    assert 0 < fit.k_floor(0.1).low < fit.k_floor(0.1).high == np.inf  # the floor may be zero


def test_predictions_and_gains_match_the_formula_and_have_intervals():
    fit = laws.fit(table("free_exponent", (1.5, 0.8, 0.1)), "free_exponent")
    a, b, c = (fit.parameters[p].estimate for p in "abc")
    ahead = fit.predict([5, 3000])
    assert ahead["gap"].tolist() == pytest.approx([a * 5**-b + c, a * 3000**-b + c])
    assert ((ahead["low"] < ahead["gap"]) & (ahead["gap"] < ahead["high"])).all()
    assert fit.gap(5) == tuple(ahead.iloc[0][["gap", "low", "high"]])
    gain = fit.gain(99)
    assert gain.estimate == pytest.approx(a * (99**-b - 100**-b))
    assert gain.low < gain.estimate < gain.high


def test_the_seed_of_draws_decides_and_lost_columns_and_their_order_do_not():
    first, again, other = (laws.fit(FALLING, "exponential", seed=s) for s in (1, 1, 2))
    assert first.coefficients.tobytes() == again.coefficients.tobytes()
    assert first.parameters != other.parameters
    gone = FALLING.assign(**{"k": np.nan}).rename(columns={"k": 2000})
    for gaps in (gone, FALLING[[500, 10, 1000, 50, 200, 100]]):
        assert laws.fit(gaps, "exponential", seed=1).parameters == first.parameters
    assert laws.fit(FALLING[[10, 100, 1000]], "inverse_sqrt", draws=20).r2 is None  # three points


FIT = laws.fit(FALLING, "inverse_sqrt", draws=20)
BELOW = laws.fit(table("inverse_sqrt", (1.0, -0.1)), "inverse_sqrt", draws=20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laws.fit(FALLING, "sqrt"), "unknown law 'sqrt'; choose one of inverse_sqrt"),
        (lambda: laws.fit(FALLING.rename(columns={10: 0}), "inverse"), "distinct k > 0"),
        (lambda: laws.fit(FALLING.rename(columns={10: 50}), "inverse"), "distinct k > 0"),
        (lambda: laws.fit(FALLING / 0, "inverse"), "distinct k > 0 and finite"),
        (lambda: FIT.predict([0, 10]), "cannot predict at k=0; choose k > 0"),
        (lambda: FIT.gain(0), "cannot predict at k=0; choose k > 0"),
        (lambda: laws.fit(FALLING, "exponential", draws=20).k_floor(0.1), "is not a power law"),
        (lambda: laws.fit(FALLING, "pure_power", draws=20).k_floor(0.1), "no floor .*but c = 0"),
        (lambda: BELOW.k_floor(0.1), r"there is no floor above 0, but c = −0\.1"),
        (lambda: BELOW.k_sat(0), "choose a number > 0"),
        (lambda: means.gap_matrix(trials(), "dm", "accuracy"), "'accuracy'; choose gap_error or"),
        (lambda: means.gap_matrix(trials(), "mtt"), "no trials of method 'mtt'; .* has: dc, dm"),
    ],
)
def test_bad_input_is_refused_in_the_users_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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
    matrix = means.gap_matrix(trials(), "dm", "gap_error")
    expected = pd.DataFrame([[0.105, 0.05], [np.nan, 0.155]], [0, 1], [10, 20])
    pd.testing.assert_frame_equal(matrix, expected, check_names=False)
    assert means.gap_matrix(trials(), "dm", "gap_cross_entropy").loc[1, 20] == 5.0
