"""Sentences about curves whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest

from ddlib.stats import intervals, laws, verdicts
from ddlib.words import scaling as reading
from ddlib.words.text import Text, between, ends

KS = np.array([10, 20, 50, 100, 200, 500, 1000, 2000])


def seeds(curve, noise=0.002, count=5):
    draws = np.random.default_rng(0).normal(0, noise, (count, len(KS)))
    return pd.DataFrame(curve(KS) + draws, index=range(count), columns=KS)


def read(table, floor_share=0.1, least_gain=1e-4):
    fits = laws.fit_all(table, draws=200)
    return fits, reading.scaling({"dm": fits}, "nats", floor_share, least_gain)


def test_a_true_inverse_square_root_survives():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.05))
    assert text.startswith("**dm.** The curve a/√k + c survives: the exponent's interval holds 1/2")
    assert "AIC prefers a/√k + c" in text
    below, above = verdicts.detectable(fits["free_exponent"])
    power = f"reject 1/2 if the true exponent were {above:.2f} or more, or {below:.2f} or less."
    assert f"Power: about 9 of 10 such studies would {power}" in text
    # a / sqrt(k) is a tenth of c at k = (1 / (0.1 * 0.05))^2 = 40000
    spent = fits["inverse_sqrt"].k_floor(0.1)
    assert spent.low < 40000 < spent.high
    beyond = "extrapolated beyond the largest k, 2000."
    assert f"down to 10% of the floor at k = {between(spent)}, {beyond}" in text
    # -dG/dk = k^-3/2 / 2 is 1e-4 at k = 5000^(2/3) = 292
    saturation = fits["inverse_sqrt"].k_sat(1e-4)
    assert saturation.low < 292.4 < saturation.high
    assert f"less than 0.0001 nats from k = {between(saturation)} on." in text
    gap, low, high = fits["inverse_sqrt"].predict(4000)[["gap", "low", "high"]].iloc[0]
    assert f"At k = 4000, not measured, the curve predicts a gap of {gap:.3g}" in text
    assert f"({low:.3g} to {high:.3g}) nats." in text


def test_a_floor_reached_within_the_measured_sizes_is_not_called_extrapolated():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.5))
    assert fits["inverse_sqrt"].k_floor(0.1).estimate < 2000
    assert "extrapolated" not in text


@pytest.mark.parametrize(("exponent", "way"), [(1.0, "above"), (0.2, "below")])
def test_another_exponent_is_rejected_and_nothing_is_predicted(exponent, way):
    _, text = read(seeds(lambda k: k**-exponent + 0.02, noise=0.0005))
    assert text.startswith(f"**dm.** The curve a/√k + c fails: the exponent lies {way} 1/2")
    allowed = "The gap falls faster, which the paper's upper bound allows."
    assert (allowed in text) == (way == "above")
    for word in ("floor is", "predicts", "gains less", "survives"):
        assert word not in text


def test_a_step_function_falls_no_faster_it_fits_nothing():
    _, text = read(seeds(lambda k: np.where(k < 75, 0.4, 0.1)))
    assert "fails" in text
    assert "falls faster" not in text


def test_missing_seeds_are_said():
    gaps = seeds(lambda k: 1 / np.sqrt(k) + 0.05)
    gaps.loc[[0, 4], 500] = np.nan
    gaps.loc[1:, 2000] = np.nan
    text = read(gaps)[1]
    assert (
        "Seeds without a gap: 2 of 5 at k = 500 and 4 of 5 at k = 2000; k = 2000 is left out."
        in text
    )
    assert "At k = 4000, not measured" in text


def test_a_set_no_worse_than_all_data_comes_first():
    _, text = read(seeds(lambda k: 1 / np.sqrt(k) - 0.03, noise=0.0005))
    assert text.startswith(
        "**dm.** Networks trained on S are on average no worse than those trained on D at k"
    )
    assert "at k = 2000. Whether the curve a/√k + c holds cannot be decided" in text


def test_a_curve_that_rises_is_undecided():
    _, text = read(seeds(lambda k: 0.5 - 0.5 / np.sqrt(k)))
    assert "cannot be decided: the curve does not fall" in text


def test_a_floor_below_zero_is_none():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) - 1 / np.sqrt(4000), noise=0.0005))
    law = fits["inverse_sqrt"].parameters
    meets = (law["a"].estimate / law["c"].estimate) ** 2
    assert meets == pytest.approx(4000, rel=0.05)
    assert (
        f"below zero, so the curve has no floor; the curve reaches zero at k = {meets:.0f}." in text
    )
    assert "down to 10% of" not in text


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.314159, 0.2, 0.4), "0.314 (0.2 to 0.4)"),
        ((40012.3, 900, math.inf), "40,012 (900 to no bound)"),
        ((2.0, None, None), "2 (no interval)"),
        ((2.0, math.nan, math.nan), "2 (no interval)"),
    ],
)
def test_intervals_in_words(interval, words):
    assert between(intervals.Interval(*interval)) == words


def test_intervals_take_a_pattern():
    assert between(intervals.Interval(0.31416, 0.2, math.inf), ".2f") == "0.31 (0.20 to no bound)"
    assert ends(0.2, 0.4, ".1f") == "0.2 to 0.4"


def test_a_floor_that_may_be_zero_is_said():
    assert "it may be zero" in read(seeds(lambda k: 1 / np.sqrt(k)))[1]


def test_too_few_sizes_are_not_identifiable():
    _, text = read(seeds(lambda k: 1 / np.sqrt(k)).iloc[:, :2])
    assert text.startswith("**dm.** No curve can be fitted: ")


def test_one_seed_has_no_interval_and_no_r2():
    _, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.05, count=1))
    assert "cannot be decided: one seed" in text
    assert "R²" not in text
    assert "nan" not in text


def test_flat_and_rising_gaps_do_not_saturate():
    for curve in (lambda k: 0.1 + 0 * k, lambda k: np.log(k)):
        _, text = read(seeds(curve))
        assert "survives" not in text
        assert "nan" not in text


@pytest.mark.parametrize("gap", [0.0, 0.1, -0.1])
def test_exactly_equal_gaps_are_read_without_r2(gap):
    text = read(pd.DataFrame([[gap] * len(KS)] * 5, columns=KS))[1]
    assert "cannot be decided" in text
    assert "R²" not in text


def test_text_is_markdown_in_a_notebook_and_plain_in_a_terminal():
    text = Text("**dm.** b")
    assert repr(text) == text._repr_markdown_() == "**dm.** b"
