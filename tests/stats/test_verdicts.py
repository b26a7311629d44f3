"""Verdicts on a/√k + c, their power, the preferred law, and tables, on laws that are known."""

import re

import numpy as np
import pandas as pd
import pytest
from known import FALLING, ODD_TABLES, ROUGH, TRUTHS, table

from ddlib.stats import laws, verdicts

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("law", ["inverse_sqrt", "free_exponent", "inverse", "logarithmic"])
def test_the_verdict_finds_the_truth(law):
    truth = {"inverse_sqrt": (1.2, 0.05), "free_exponent": (0.8, 0.3, 0.0)}
    truth |= {"inverse": (4.0, 0.05), "logarithmic": (0.06, 0.5)}
    outcome, right = "survives" if law == "inverse_sqrt" else "fails", 0
    for i in range(12):
        gaps = table(law, truth[law], noise=0.02, fall=0.5, generator=i)
        fits = {n: laws.fit(gaps, n, draws=200) for n in ("inverse_sqrt", "free_exponent")}
        right += verdicts.verdict(fits).outcome == outcome
    assert right >= 9


def test_what_cannot_be_told_is_undecided_and_what_misses_the_means_fails():
    for gaps in (FALLING.iloc[:1], ROUGH, FALLING[[10, 50]]):
        assert verdicts.verdict(laws.fit_all(gaps, draws=50)).outcome == "undecided"
    assert verdicts.best(laws.fit_all(FALLING.iloc[:1], draws=20)) == []  # no seed variances
    below = table("inverse_sqrt", (1.2, -0.04), noise=0.005)  # below zero at k = 1000
    judged = verdicts.verdict(laws.fit_all(below, draws=200))
    assert judged[:2] == ("undecided", "a mean gap is not above zero")
    wiggle = 0.005 / np.sqrt(5) * 5 * np.array([1, -1, 1, -1, 1, -1])  # five times the noise
    gaps = table("inverse_sqrt", (1.2, 0.05), noise=0.005) + wiggle
    judged = verdicts.verdict(laws.fit_all(gaps, draws=200))
    assert judged.outcome == "fails"
    assert "misses the means" in judged.why
    slow = table("logarithmic", (0.06, 0.5), noise=0.005)
    fits = laws.fit_all(slow, draws=200)
    assert verdicts.verdict(fits) == ("fails", "the gap falls more slowly than 1/√k", "slower")
    fits = laws.fit_all(slow + wiggle, draws=200)
    assert verdicts.verdict(fits) == ("fails", "no one power of k fits the means", "neither")


@pytest.mark.parametrize(("law", "truth"), TRUTHS)
def test_the_true_law_has_the_least_aic(law, truth):
    ks, wins = (10, 20, 50, 100, 200, 500, 700, 1000), 0
    for i in range(6):
        fits = laws.fit_all(table(law, truth, ks=ks, noise=0.002, generator=i), draws=20)
        scores = pd.Series({n: fit.aic for n, fit in fits.items()}).sort_values()
        best = verdicts.best(fits)
        assert best == scores.index[scores - scores.min() <= 2].tolist()
        wins += best[0] == law
    assert wins >= 3


@pytest.mark.parametrize("name", ODD_TABLES)
def test_odd_tables_say_what_is_wrong_and_give_no_nan(name):
    gaps, reason = ODD_TABLES[name]
    fits = laws.fit_all(gaps, draws=50)
    assert fits["inverse_sqrt"].identifiable == (reason == "")
    assert re.search(reason, fits["inverse_sqrt"].reason)
    for fit in fits.values():
        if not fit.fitted:
            with pytest.raises(ValueError, match="was not fitted: gaps at"):
                fit.predict(10)
        elif fit.parameters["a"].estimate <= 0:
            with pytest.raises(ValueError, match="does not fall"):
                fit.k_sat(1e-3)
    rows, lines = verdicts.summary({"dm": fits}), verdicts.curves({"dm": fits}, [10, 2000])
    assert list(rows["law"]) == list(laws.LAWS)
    assert (rows["identifiable"] == (rows["reason"] == "")).all()
    assert not any(isinstance(x, float) and np.isnan(x) for x in rows.to_numpy().ravel())
    assert set(lines["law"]) == {law for law, fit in fits.items() if fit.fitted}
    assert lines["gap"].notna().all()


def test_a_study_is_fitted_and_tabulated_method_by_method():
    tables = {"dm": FALLING, "dc": FALLING + 0.1, "random": ROUGH, "mtt": FALLING[[10, 50]]}
    rows = pd.concat({m: gaps.stack() for m, gaps in tables.items()}, names=["method", "seed", "k"])
    rows = rows.rename("gap_error").reset_index().assign(status="ok")
    fits = laws.fit_table(rows, "gap_error", draws=50, seed=3)
    assert list(fits) == list(tables)
    assert fits["dc"] == laws.fit_all(tables["dc"], draws=50, seed=3)
    summary, curves = verdicts.summary(fits), verdicts.curves(fits, [10, 2000])
    assert list(summary["method"]) == [method for method in tables for _ in laws.LAWS]
    assert summary.groupby("method")["delta_aic"].min().dropna().eq(0).all()
    assert len(curves) == 3 * 6 * 2  # mtt has no curve
