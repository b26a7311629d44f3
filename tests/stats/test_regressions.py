"""Regressions of k* and their p-values against least squares, loops and simulated studies."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from known import names, study
from scipy import stats

from benchmarks import statistics
from ddlib.stats.families import KStars, k_star
from ddlib.stats.regressions import regress, within_equal

pytestmark = pytest.mark.filterwarnings("error")


def by_hand(ks, censored="", draws=None, relabelled=None):
    """Make k* by hand, one epsilon; draws (D, F) and relabelled (B, F), default none."""
    rows = {"family": [f"f{i}" for i in range(len(ks))], "epsilon": 0.1, "k_star": ks}
    rows |= {"censored": censored or [""] * len(ks), "seeds": 4, "missing_seeds": 0}
    draws, relabelled = (
        np.array([ks] if more is None else np.vstack([ks, more]), dtype=float).T
        for more in (draws, relabelled)
    )
    return KStars(pd.DataFrame(rows | {"missing_sizes": 0}), draws, np.stack([relabelled] * 2))


def measured(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"f{i}" for i in range(count)])


def row(found, predictor):
    return found[found["predictor"] == predictor].iloc[0]


def test_slopes_are_least_squares_and_r2_that_of_ln_k():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 3, 9)
    y = 100 + 50 * x + 10 * rng.normal(size=9)
    found = regress(by_hand(y), measured(h_cov=x, log_members=x**2))
    line, h = stats.linregress(x, y), row(found, "h_cov")
    r2, other = (np.corrcoef(v, np.log(y))[0, 1] ** 2 for v in (x, x**2))
    expected = [line.slope, r2, r2, r2 - other]
    assert h[["slope", "r2", "r2_raw", "lead"]].tolist() == pytest.approx(expected)
    assert h[["n", "distinct"]].tolist() == [9, 9]


def test_slope_intervals_come_from_joint_draws():
    x = np.array([0.0, 1, 2, 3])
    draws = 50 + (40 + np.linspace(-10, 10, 101)[:, None]) * x  # one seed effect tilts all families
    found = regress(by_hand(50 + 40 * x, draws=draws), measured(h_cov=x))
    ends = row(found, "h_cov")[["slope", "low", "high"]]
    assert ends.tolist() == pytest.approx([40, 30.4, 49.6], abs=0.21)


def test_what_cannot_be_regressed_says_why():
    measures = measured(h_cov=[1.0, 2, 3, 4], log_members=[1.0] * 4, vendi=[1.0, np.nan, 2, 3])
    found = regress(by_hand([20.0, 30, 50, 60]), measures)
    assert "the same in every family" in row(found, "log_members")["reason"]
    assert "not known for every family" in row(found, "vendi")["reason"]
    assert row(found, "h_cov")["reason"] == ""
    assert np.isnan(row(found, "h_cov")["lead"])
    few = by_hand([20.0, 30, 500, 500], ["", "", "above", "above"])
    found = regress(few, measures)
    assert (
        found["reason"] == "2 of 4 families have k* inside the measured sizes; it takes 3"
    ).all()
    assert found["slope"].isna().all()
    alike = regress(by_hand([20.0] * 4), measures)
    assert row(alike, "h_cov")["reason"] == "k* is the same in every family"
    with pytest.raises(ValueError, match="no k\\* of family 'f4'"):
        regress(few, measured(h_cov=np.arange(5.0)))
    with pytest.raises(ValueError, match="measures have 'f0' twice"):
        regress(few, measures.iloc[[0, 0, 1]])


def test_all_six_relabellings_of_three_configurations_by_hand():
    """k* of c0, c1, c2 is 25, 56.25 and 156.25; a family needs what its worst member needs."""
    gaps = study([0.4, 0.6, 1.0])  # epsilon 0.1: (a / 0.08)^2
    families = {"f0": names(0), "f1": names(1), "f2": names(0, 1), "f3": names(1, 2)}
    found = k_star(gaps, families, 0.1, draws=0)
    owned = np.array([25.0, 56.25, 156.25])[np.array(list(permutations(range(3))))]
    expected = [owned[:, 0], owned[:, 1], owned[:, :2].max(axis=1), owned[:, 1:].max(axis=1)]
    for kind in found.relabelled:
        assert kind == pytest.approx(np.array(expected))
    h, m = np.array([0.0, 0.3, 0.5, 1.0]), np.log([1, 1, 2, 2])
    r, rival = (np.array([np.corrcoef(x, y)[0, 1] for y in np.log(expected).T]) for x in (h, m))
    leads = r * np.abs(r) - rival * np.abs(rival)
    answer = row(regress(found, measured(h_cov=h, log_members=m)), "h_cov")
    p, p_lead = ((scores >= scores[0] - 1e-9).mean() for scores in (r, leads))
    numbers = answer[["r2", "p", "lead", "p_lead"]].tolist()
    assert numbers == pytest.approx([r[0] ** 2, p, leads[0], p_lead])
    falling = regress(found, measured(h_cov=-h, log_members=m))
    assert row(falling, "h_cov")["r2"] == pytest.approx(-(r[0] ** 2))


def test_p_values_hold_their_size_and_find_a_law():
    """Families that nest are alike by chance, too; docs/statistics.md has more studies."""
    rng = np.random.default_rng(0)
    places = [statistics.place([4, 6], 12, rng) for _ in range(3)]
    null, true = (
        pd.DataFrame([statistics.claim(places, needs, 4, rng) for _ in range(studies)]).mean()
        for needs, studies in (((0.0, 0.4), 30), ((0.4, 0.0), 8))
    )
    claims = ["k* rises with H_cov", "more than with ln M", "among families of equal size"]
    assert null[claims].max() < 0.13
    assert true["all three"] > 0.8


def test_within_equal_is_correlation_about_the_mean_of_each_size():
    ks, sizes = np.array([20.0, 40, 30, 90, 100, 60, 80]), [3, 3, 3, 3, 5, 5, 5]
    h = np.array([1.0, 3, 2, 4, 7, 5, 6])
    relabelled = np.random.default_rng(0).uniform(20, 400, (40, 7))
    measures = measured(members=sizes, h_cov=h, log_members=np.log(sizes))
    found = within_equal(by_hand(ks, relabelled=relabelled), measures)
    scores = []
    for logs in np.log(np.vstack([ks, relabelled])):
        x, y = (v - pd.Series(v).groupby(sizes).transform("mean").to_numpy() for v in (h, logs))
        r = (x @ y) / np.sqrt(x @ x * (y @ y))
        scores.append(r * abs(r))
    answer, p = row(found, "h_cov"), np.mean(scores >= scores[0] - 1e-9)
    assert answer[["n", "r2", "p"]].tolist() == pytest.approx([7, scores[0], p])
    assert "explains nothing" in row(found, "log_members")["reason"]


def test_within_equal_needs_families_of_equal_size_with_k_star_inside_the_grid():
    with pytest.raises(ValueError, match="no two families share their members"):
        within_equal(by_hand([20.0, 30]), measured(members=[1, 2], h_cov=[0.0, 1]))
    found = within_equal(by_hand([np.nan, 30.0]), measured(members=[2, 2], h_cov=[0.0, 1]))
    assert found["reason"].tolist() == ["no two families of equal M have a k*"]
    censored = ["above the largest k", "above the largest k", "", ""]
    k_stars = by_hand([500.0, 500, 30, 20], censored=censored)
    found = within_equal(k_stars, measured(members=[2] * 4, h_cov=[3.0, 2, 1, 0]))
    assert found["reason"].tolist() == [
        "2 of 4 families have k* inside the measured sizes; it takes 3"
    ]
