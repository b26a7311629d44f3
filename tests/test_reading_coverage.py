import numpy as np
import pandas as pd
import pytest

from ddlib import reading_coverage as reading
from ddlib.coverage import Triangles


def test_distances_say_where_the_triangle_fails_and_whether_r_is_noise():
    held = reading.distances(Triangles(0, 0.0, 0.0, ()), 0.1, 0.2)
    assert held.startswith("The triangle inequality holds for all triples.")
    assert "noise here" not in held
    broken = reading.distances(Triangles(3, 0.25, 0.4, ("a", "b", "c")), 0.2, 0.2)
    assert "fails in 3 triples (25.0%), worst by 0.4 for a, b, c" in broken
    assert "H_cov counts noise here" in broken


def regression(predictor, **changes):
    row = {"epsilon": 0.1, "predictor": predictor, "n": 8, "censored": 0, "slope": 20.0}
    row |= {"low": 10.0, "high": 30.0, "r2": 0.8, "p": 0.01, "loo": 5.0, "aicc": 10.0}
    row |= {"loo_group": np.nan}
    return row | {"beats": np.nan, "reason": "", **changes}


def within(**changes):
    row = {"epsilon": 0.1, "predictor": "h_cov", "group": "4", "n": 5, "tau": 0.8, "p": 0.03}
    return pd.DataFrame([row | {"reason": "", **changes}])


def test_a_law_that_holds_is_said_to_hold():
    table = pd.DataFrame(
        [
            regression("constant", slope=np.nan, loo=20.0, aicc=30.0),
            regression("log_members", loo=15.0, aicc=20.0),
            regression("h_cov", beats=0.97),
        ]
    )
    text = reading.explained(table, within())
    assert "A nat of H_cov goes with 20 more images (10 to 30 over draws of seeds)" in text
    assert "not by chance (permutation p = 0.010)" in text
    assert "Least wrong at left-out families is H_cov (5 images)." in text
    assert "H_cov explains k* better (AICc +10.0" in text
    assert "larger R² in 97% of the draws" in text
    assert "k* rises with H_cov (τ = 0.80, one-sided p = 0.030)" in text


@pytest.mark.parametrize(
    ("h_cov", "rival", "phrases"),
    [
        ({"low": -5.0, "p": 0.4}, {}, ["which may be none", "no more than chance gives"]),
        ({"aicc": 15.0, "loo": 9.0}, {}, ["ln M explains k* better (AICc -5.0", "H_cov errs by 9"]),
        ({"aicc": 11.0}, {}, ["H_cov and ln M explain k* alike (AICc -1.0"]),
        ({}, {"reason": "the same everywhere"}, ["ln M explains nothing: the same everywhere."]),
        ({"reason": "1 of 8 inside"}, {}, ["Nothing can be said: 1 of 8 inside."]),
        ({"low": np.nan, "high": np.nan}, {}, ["without an interval"]),
        ({"loo": np.nan}, {}, ["Least wrong at left-out families is ln M (5 images). H_cov"]),
        ({"loo": np.nan}, {"loo": np.nan}, ["a left-out family needs cannot be predicted"]),
        ({"censored": 3}, {}, ["k* of 8 families, 3 of them only bounded."]),
    ],
)
def test_a_law_that_fails_is_said_to_fail(h_cov, rival, phrases):
    table = pd.DataFrame([regression("log_members", **rival), regression("h_cov", **h_cov)])
    text = reading.explained(table, None)
    for phrase in phrases:
        assert phrase in text


def test_other_measures_and_whole_series_have_their_say():
    table = pd.DataFrame(
        [
            regression("constant", loo_group=40.0, aicc=2.0),
            regression("log_members", loo_group=30.0, aicc=1.0),
            regression("h_cov", loo_group=20.0, loo=1.0),
            regression("packing", loo_group=25.0, aicc=8.5),
            regression("vendi", loo_group=10.0, aicc=3.0),
            regression("effective_rank", loo_group=11.0, aicc=5.0),
        ]
    )
    text = reading.explained(table, None)
    assert (
        "Least wrong at left-out series is the Vendi score (10 images), H_cov errs by 20." in text
    )
    better = "Better than H_cov by up to 7.0 AICc units: the Vendi score and the effective rank."
    assert better in text
    assert "Better than H_cov by" not in reading.explained(table.iloc[:4], None)
    falling = table.assign(slope=[np.nan, 20.0, 20.0, 20.0, -20.0, 20.0])
    assert "Better than H_cov by 5.0 units: the effective rank." in reading.explained(falling, None)
    alike = table.assign(reason=["", "the same everywhere", "", "", "", ""])
    assert f"ln M explains nothing: the same everywhere. {better}" in reading.explained(alike, None)


def test_families_of_equal_size_may_say_nothing():
    table = pd.DataFrame([regression("log_members"), regression("h_cov")])
    assert "k* is not shown to rise" in reading.explained(table, within(p=0.4))
    assert "nothing can be said of H_cov: all alike." in reading.explained(
        table, within(reason="all alike")
    )


def test_the_root_law_names_the_best_measure_and_how_far_the_others_are():
    rows = [("vendi", 0.0), ("h_cov", 3.0), ("log_members", 8.0), ("constant", 12.0)]
    table = pd.DataFrame(
        {"predictor": name, "aicc": delta, "delta_aicc": delta, "slope": 0.5, "low": 0.4}
        | {"high": 0.6, "r2": 0.9, "reason": ""}
        for name, delta in rows
    )
    text = reading.root_law(table)
    assert "with H = the Vendi score (R² 0.90, a = 0.50, 0.40 to 0.60)" in text
    assert "H_cov: 3.0 AICc units behind. ln M: 8.0" in text
    nothing = table.assign(aicc=np.nan, reason="too few")
    assert reading.root_law(nothing) == "Nothing can be fitted: too few."


def test_the_back_test_counts_errors_and_intervals():
    tested = pd.DataFrame(
        {
            "kind": "family",
            "held_out": "k",
            "error": [0.03, -0.04, 0.2],
            "inside": [True, False, False],
            "refused": ["", "", "k = 400 is not between 10 and 2 times 100"],
        }
    )
    text = reading.back_test(tested)
    assert text.startswith(
        "**The planner's 95 % intervals held in 50% of 2 cases that it answers.** "
        "Families overlap, so cases are not independent."
    )
    assert (
        "- families, held out: k: 1 of 2 measured gaps were in their 95 % intervals; mean error "
        "-0.005, root mean square 0.035\n"
        "- families, held out: k (the planner refuses these): 0 of 1 measured"
    ) in text
    assert "nothing is left" in reading.back_test(tested.assign(error=np.nan))


def test_transfer_says_which_gaps_change_beyond_noise():
    compared = pd.DataFrame(
        {
            "family": ["a", "a", "a", "a", "b"],
            "gap": ["worst", "worst", "mean", "mean", "mean"],
            "method": "all",
            "n": [4, 4, 4, 4, 1],
            "difference": [0.1, -0.2, 0.01, 0.03, np.nan],
            "told": [True, True, False, False, False],
        }
    )
    text = reading.transfer(compared, "one")
    assert text.startswith(
        "**all** instead of one: the worst gap changes by -0.050 on average (-0.200 to +0.100); "
        "beyond the noise of 4 seeds it is smaller in 1 and larger in 1 of 2 cases; the mean gap "
        "changes by +0.020 on average (+0.010 to +0.030); beyond the noise of 4 seeds it is "
        "smaller in 0 and larger in 0 of 2 cases; nothing is said of b, where trials of most "
        "seeds failed."
    )
