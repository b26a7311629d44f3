from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from ddlib.stats import planner
from ddlib.stats.intervals import Interval
from ddlib.stats.pilot import read_pilot
from ddlib.stats.regressions import confirms
from ddlib.words import coverage as reading
from ddlib.words.text import Text


def regression(predictor, **changes):
    row = {"epsilon": 0.1, "predictor": predictor, "n": 8, "unknown": 0, "censored": 0}
    row |= {"distinct": 5, "reduced": 0, "fewest": 4, "shortened": 0, "slope": 20.0}
    row |= {"low": 10.0, "high": 30.0}
    row |= {"r2": 0.8, "p": 0.01, "lead": np.nan, "p_lead": np.nan}
    return row | {"reason": "", **changes}


def within(**changes):
    row = {"epsilon": 0.1, "predictor": "h_cov", "group": "4", "n": 5, "distinct": 4, "r2": 0.7}
    return pd.DataFrame([row | {"p": 0.03, "reason": "", **changes}])


def regressed(h_cov=(), rival=()):
    """Return the regressions on H_cov and ln M, by default of a law that holds."""
    h_cov = {"lead": 0.4, "p_lead": 0.04} | dict(h_cov)
    rows = regression("log_members", **{"r2": 0.4} | dict(rival)), regression("h_cov", **h_cov)
    return pd.DataFrame(rows)


CLAIMS = (
    "that k* rises with H_cov",
    "that H_cov fits better than ln M",
    "that k* rises among families of equal M",
)


@pytest.mark.parametrize(
    ("h_cov", "equal", "verdict"),
    [
        ({}, {}, f"confirmed.** Shown: {'; '.join(CLAIMS)}."),
        ({}, None, f"cannot be decided.** Cannot be tested: {CLAIMS[2]}."),
        ({"p": 0.051}, {}, f"not confirmed.** Not shown: {CLAIMS[0]}."),
        ({"p_lead": 0.3}, {}, f"not confirmed.** Not shown: {CLAIMS[1]}."),
        ({"p_lead": np.nan}, {}, f"cannot be decided.** Cannot be tested: {CLAIMS[1]}."),
        ({}, {"p": 0.3}, f"not confirmed.** Not shown: {CLAIMS[2]}."),
        ({}, {"p": np.nan}, f"cannot be decided.** Cannot be tested: {CLAIMS[2]}."),
        ({"p": 0.2}, {"p": np.nan}, f"not confirmed.** Not shown: {CLAIMS[0]}."),
        (
            {"p": 0.9, "r2": -0.1},
            {},
            f"not confirmed.** Not shown: {CLAIMS[0]} (k* falls as H_cov grows).",
        ),
        ({"p": 0.2, "p_lead": 0.3}, None, f"not confirmed.** Not shown: {'; '.join(CLAIMS[:2])}."),
        (
            {"reason": "k* is the same in every family", "p": np.nan},
            {},
            "cannot be decided.** Nothing can be said about H_cov, as k* is the same in every "
            "family.",
        ),
    ],
)
def test_each_goal_has_one_line_that_agrees_with_the_verdict_on_all(h_cov, equal, verdict):
    fitted, equal = regressed(h_cov), None if equal is None else within(**equal)
    assert reading.verdicts(fitted, equal) == f"> - **Worst gap 0.1: {verdict}"
    of_all = confirms(fitted, equal).replace("not decided", "cannot be decided")
    assert verdict.startswith(f"{of_all}.**")


def test_the_numbers_of_a_law_that_holds():
    rows = pd.concat([pd.DataFrame([regression("constant", slope=np.nan, r2=np.nan)]), regressed()])
    assert reading.explained(rows, within()) == (
        "**Worst gap 0.1.** R² of ln k*: 0.80 with H_cov (p = 0.010), 0.40 with ln M (p = 0.010); "
        "the lead of H_cov has p = 0.040. One more nat of H_cov takes 20 (10 to 30) more samples. "
        "8 families have 5 distinct k*. Among 5 families of equal M, where ln M says nothing, R² "
        "is 0.70 (p = 0.030), with 4 distinct k*."
    )


@pytest.mark.parametrize(
    ("h_cov", "rival", "phrases"),
    [
        ({"p": 0.051}, {}, ["0.80 with H_cov (p = 0.051)"]),
        ({}, {"reason": "all alike"}, ["; ln M cannot be compared: all alike."]),
        ({"reason": "1 of 8 inside"}, {}, ["**Worst gap 0.1.** 8 families have 5 distinct k*."]),
        ({"low": np.nan, "high": np.nan}, {}, ["20 (no interval) more samples. 8 families"]),
        (
            {"censored": 3, "low": np.nan, "high": np.nan},
            {},
            [
                "takes 20 more samples, if a k* beyond the",
                "5 distinct k*; in 3 of them k* lies beyond the meas",
            ],
        ),
        ({"reduced": 2}, {}, ["5 distinct k*; families that lost seeds to missing trials: 2."]),
        ({"shortened": 2}, {}, ["5 distinct k*; families that lost sizes to missing trials: 2."]),
        ({"unknown": 1}, {}, ["5 distinct k*; families without k* for missing trials: 1."]),
    ],
)
def test_the_numbers_of_a_law_that_fails_and_what_is_missing(h_cov, rival, phrases):
    text = reading.explained(regressed(h_cov, rival), None)
    for phrase in phrases:
        assert phrase in text
    rises = h_cov.get("p", 0.01) <= 0.05 and "reason" not in h_cov
    assert ("One more nat of H_cov takes 20 " in text) == rises


def test_a_fall_of_k_star_is_said_and_no_rival_is_named():
    rows = regression("log_members", r2=-0.02), regression("h_cov", r2=-0.11, p=0.9, p_lead=0.8)
    text = reading.explained(pd.DataFrame(rows), within(r2=-0.2, p=0.7))
    assert "0.11 with H_cov (p = 0.900), 0.02 with ln M" in text
    assert "the lead of H_cov has p = 0.800; k* falls as H_cov and ln M grow. 8 families" in text
    assert "k* falls as H_cov grows, and R² is 0.20 (p = 0.700)" in text


def test_a_radius_within_the_noise_is_said():
    assert reading.distances(0.1, 0.2) == "Seeds alone reach a distance of 0.1; the radius is 0.2."
    assert "H_cov counts noise here" in reading.distances(0.2, 0.2)


def test_gaps_below_zero_come_before_the_verdict():
    table = pd.DataFrame([regression("log_members"), regression("h_cov", lead=0.0, p_lead=1.0)])
    gaps = pd.DataFrame({"configuration": ["own", "mlp"], "method": "dm", "k": 400, "seed": 0})
    gaps = gaps.assign(status="ok", gap_error=[-0.01, 0.02])
    both = gaps.assign(k=[400, 500], gap_error=-0.01)
    assert reading.explained(table, None, both).startswith(
        "On average, networks trained on S are no worse than those trained on D for dm under own "
        "and mlp at one or more of k = 400 or 500.\n"
    )
    assert reading.explained(table, None, gaps).startswith(
        "On average, networks trained on S are no worse than those trained on D for dm under own "
        "at k = 400.\n\n**Worst gap 0.1.** "
    )


def test_families_of_equal_size_may_say_nothing():
    text = reading.explained(regressed(), within(reason="all alike"))
    assert "Families of equal M say nothing: all alike." in text


def test_a_plan_says_how_many_images_where_that_lies_and_how_far_to_trust_it():
    """Gaps of exactly 1/√k under five configurations: 0.251 takes 16 images."""
    gaps = pd.DataFrame(list(product("abcde", range(3), (4, 9, 25))))
    gaps.columns = ["configuration", "seed", "k"]
    gaps = gaps.assign(gap_error=gaps["k"] ** -0.5, network="mlp")
    pilot = read_pilot(gaps, draws=20)
    text = reading.plan(planner.plan(pilot, ["a", "b"], 0.251, 1))
    assert text.startswith(
        "With 16 samples per class, the worst gap is at most 0.251 (k = 16, within the measured "
        "sizes); "
    )
    open_ended = planner.plan(pilot, ["a", "b"], 0.251, 1)
    for low, start in (
        (1, "A guess: at least 1 sample per class is"),
        (3, "A guess: at least 3 samples per class are"),
    ):
        unbounded = replace(open_ended, ipc=Interval(16, low, np.inf))
        end = "needed for a worst gap of 0.251, most likely 16 (k = 16"
        assert reading.answer(unbounded).startswith(f"{start} {end}")
    held, count, width = pilot.left_out
    assert count == 15
    sentence = f"{held} of 15 gaps that were left out lie in their 95 % intervals, {width:.2g} wide"
    assert sentence in reading.held(pilot)
    promise = " With 5 configurations, an interval can promise at most 83 % for a new one."
    assert reading.support(pilot) == promise
    few = read_pilot(gaps[gaps["configuration"] < "d"], draws=20)
    assert reading.support(few) == ""  # no promise: it refuses new ones
    refused = reading.plan(planner.plan(pilot, ["a"], 0.01, 1))
    assert refused.startswith("No plan for a worst gap of 0.01: the worst gap is still about 0.14")


def test_a_law_that_fails_is_a_warning_only_where_the_plan_rests_on_it():
    """Gaps of exactly 1/k: 0.05 takes 20 samples, 0.021 takes more than the measured 25."""
    gaps = pd.DataFrame(list(product("ab", range(3), (1, 4, 9, 25))))
    gaps.columns = ["configuration", "seed", "k"]
    pilot = read_pilot(gaps.assign(gap_error=1 / gaps["k"], network="mlp"), draws=20)
    why = "the exponent lies above 1/2"
    for goal, rests in (
        (0.05, " This plan does not rest on it: it lies between measured sizes."),
        (0.035, " Past k = 25 this plan rests on it: do not trust it there."),
        (-1, ""),  # no plan
    ):
        text = reading.rejected("dm", "a", why, planner.plan(pilot, ["a"], goal, 1))
        assert text == f"a/√k + c fails for dm under a: {why}.{rests}"
    one = reading.answer(planner.plan(pilot, ["a"], 1.0, 1))
    assert one.startswith(
        "With 1 sample per class, the worst gap is at most 1 (k = 1, the smallest size"
    )


def radius_test(radius, p, reason="", epsilon=0.1):
    return {"epsilon": epsilon, "radius": radius, "p": p, "reason": reason}


def test_the_radii_at_which_k_star_rises_are_listed_once_each():
    tests = [radius_test(0.1, 0.01), radius_test(0.1, 0.01), radius_test(0.2, 0.05)]
    tests += [radius_test(0.4, 0.2), radius_test(0.9, np.nan, "it is the same in every family")]
    assert reading.by_radius(pd.DataFrame(tests)) == (
        "Worst gap 0.1: k* rises with H_cov at r = 0.1 (p = 0.010) and 0.2 (p = 0.050); k* is "
        "not shown to rise at r = 0.4 (p = 0.200); nothing can be said at r = 0.9; the "
        "reason: it is the same in every family."
    )


def test_configurations_that_are_poor_on_all_data_are_flagged():
    """The median accuracy is 0.95; the rule takes those more than epsilon below it."""
    errors = pd.Series({"own": 0.05, "wide": 0.04, "vit": 0.37, "slow": 0.11, "mlp": 0.05})
    assert reading.poor(errors, 0.1) == (
        "vit (0.63) is poor on all data: its accuracy there is more than 0.1 below the median "
        "accuracy of these configurations, 0.95. Where it is the worst member, k* shows how poor "
        "this training is, not how diverse the family is."
    )
    assert reading.poor(errors, 0.05).startswith("vit (0.63) and slow (0.89) are poor on all data:")
    assert reading.poor(errors, 0.4) == ""


def test_transfer_says_which_gaps_change_beyond_noise():
    compared = {"family": list("aaaab"), "gap": ["worst"] * 2 + ["mean"] * 3, "method": "all"}
    compared |= {"n": [4, 4, 4, 4, 1], "missing": [1, 1, 1, 1, 4]}
    compared |= {"difference": [0.1, -0.2, 0.01, 0.03, np.nan]}
    compared["significant"] = [True, True, False, False, False]
    text = reading.transfer(pd.DataFrame(compared), "one")
    assert text.startswith(
        "**all** instead of one: the worst gap is significantly smaller in 1 and larger in 1 of 2 "
        "cases (mean change -0.050, -0.200 to +0.100); the mean gap is significantly smaller in 0 "
        "and larger in 0 of 2 cases (mean change +0.020, +0.010 to +0.030); families that lost "
        "seeds to missing trials: 2; b cannot be judged by fewer than 2 whole seeds."
    )


def test_the_star_of_k_star_begins_no_italics():
    text = Text("**Gap 0.1: k* is 3.** The **network** has 2 k*.")
    assert text._repr_markdown_() == r"**Gap 0.1: k\* is 3.** The **network** has 2 k\*."
    assert repr(text) == text


COLUMNS = ["epsilon", "predictor", "p", "p_lead", "reason"]


@pytest.mark.parametrize(
    ("p", "among_equal", "verb", "verdict"),
    [
        (0.03, 0.04, "need", "confirmed"),
        (0.002, 0.04, "need", "confirmed"),
        (0.03, 0.06, "need", "not confirmed"),
        (0.03, np.nan, "need", "not decided"),
        (0.085, 0.04, "are not shown to need", "not confirmed"),
    ],
)
def test_a_trend_that_chance_shows_often_is_no_trend(p, among_equal, verb, verdict):
    """The first epsilon gives the trend; the verdict is on all tests at both."""
    rows = [(0.1, "log_members", 0.5, np.nan, ""), (0.1, "h_cov", p, 0.01, "")]
    tests = pd.DataFrame([*rows, (0.2, "h_cov", 0.01, 0.01, "")], columns=COLUMNS)
    equal = [(0.1, "h_cov", 0.01), (0.2, "h_cov", among_equal)]
    text = reading.lesson(tests, pd.DataFrame(equal, columns=COLUMNS[:3]))
    assert text.startswith(f"**Families with a larger H_cov {verb} more samples** to hold a worst ")
    assert "gap of 0.1. If " in text
    swaps = "fewer than 1" if p < 0.01 else f"{100 * p:.0f}"
    assert f"{swaps} of 100 such swaps would show as clear a trend." in text
    assert text.endswith(f"at a worst gap of 0.1 and 0.2: **{verdict}**. See notebook 06.")


def test_what_cannot_be_said_is_said():
    """Of two goals, the one that can be tested gives the trend."""
    row = (0.1, "h_cov", np.nan, np.nan, "1 of 8 inside")
    table = pd.DataFrame([row], columns=COLUMNS)
    assert reading.lesson(table, None) == "Nothing can be said about H_cov, as 1 of 8 inside."
    table = pd.DataFrame([row, (0.2, "h_cov", 0.01, 0.01, "")], columns=COLUMNS)
    text = reading.lesson(table, pd.DataFrame([(0.2, "h_cov", 0.03)], columns=COLUMNS[:3]))
    assert "need more samples** to hold a worst gap of 0.2." in text
    assert text.endswith("All three, at a worst gap of 0.2: **confirmed**. See notebook 06.")
