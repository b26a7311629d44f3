"""Sentences about curves whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ddlib import laws, reading

KS = np.array([10, 20, 50, 100, 200, 500, 1000, 2000])


def seeds(curve, noise=0.002, count=5):
    draws = np.random.default_rng(0).normal(0, noise, (count, len(KS)))
    return pd.DataFrame(curve(KS) + draws, index=range(count), columns=KS)


def read(table, floor_share=0.1, largest=2000):
    fits = laws.fit_all(table, draws=200)
    return fits, reading.scaling({"dm": fits}, "nats", floor_share, {"dm": largest})


def test_a_true_inverse_square_root_survives():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.05))
    assert text.startswith("**dm.** Left free, the exponent is b = ")
    assert "So the curve a/√k + c survives: the exponent, AICc and R² all allow it." in text
    assert "AICc prefers a/√k + c." in text
    assert "the law explains more than falling alone would" in text
    assert "so no floor can be told from none" not in text
    # a / sqrt(k) is a tenth of c at k = (1 / (0.1 * 0.05))^2 = 40000
    spent = fits["inverse_sqrt"].k_floor(0.1)
    assert spent.low < 40000 < spent.high
    beyond = "which lies beyond the largest k measured, 2000, and so is extrapolated."
    assert f"down to 10% of it at k = {reading.between(spent)}, {beyond}" in text
    # -dG/dk = k^-3/2 / 2 is 1e-4 at k = 5000^(2/3) = 292
    saturation = fits["inverse_sqrt"].k_sat(1e-4)
    assert saturation.low < 292.4 < saturation.high
    assert f"less than 0.0001 nats from k = {reading.between(saturation)} on." in text


def test_a_floor_reached_within_the_measured_sizes_is_not_called_extrapolated():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.5), largest=2000)
    assert fits["inverse_sqrt"].k_floor(0.1).estimate < 2000
    assert "extrapolated" not in text


@pytest.mark.parametrize(("exponent", "way"), [(1.0, "faster"), (0.2, "slower")])
def test_another_exponent_is_rejected_and_named(exponent, way):
    _, text = read(seeds(lambda k: k**-exponent + 0.02, noise=0.0005))
    assert f", {'above' if way == 'faster' else 'below'} 1/2." in text
    assert "So the curve a/√k + c does not survive: against it speaks the exponent" in text
    allowed = "The gap falls faster, which an upper bound allows."
    assert text.endswith(allowed) == (way == "faster")


def test_a_curve_that_rises_meets_nothing():
    _, text = read(seeds(lambda k: -0.5 / np.sqrt(k) - 0.05))
    assert "below zero, so no floor." in text
    assert "would meet all data" not in text


def test_a_floor_below_zero_is_none():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) - 1 / np.sqrt(4000), noise=0.0005))
    law = fits["inverse_sqrt"].parameters
    meets = (law["a"].estimate / law["c"].estimate) ** 2
    assert meets == pytest.approx(4000, rel=0.05)
    assert f"below zero, so no floor; the curve would meet all data at k = {meets:.0f}." in text
    assert "down to 10% of it" not in text
    assert text.endswith(
        "So the curve a/√k + c survives, but without a floor above 0: the exponent, AICc and R² "
        "all allow it."
    )


def test_the_prediction_is_that_of_the_fit():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.05), largest=2500)
    gap, low, high = fits["inverse_sqrt"].predict(5000)[["gap", "low", "high"]].iloc[0]
    assert f"At k = 5000, which was not measured, it predicts a gap of {gap:.3g}" in text
    assert f"({low:.3g} to {high:.3g}) nats." in text


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
    assert reading.between(laws.Interval(*interval)) == words


def test_intervals_take_a_pattern():
    assert (
        reading.between(laws.Interval(0.31416, 0.2, math.inf), ".2f") == "0.31 (0.20 to no bound)"
    )
    assert reading.ends(0.2, 0.4, ".1f") == "0.2 to 0.4"


def test_no_floor_is_said_to_be_none():
    _, text = read(seeds(lambda k: 1 / np.sqrt(k)))
    assert "so no floor can be told from none" in text


def test_too_few_sizes_are_not_identifiable():
    _, text = read(seeds(lambda k: 1 / np.sqrt(k)).iloc[:, :2])
    assert text.startswith("**dm.** No curve can be fitted: ")


def test_one_seed_has_no_interval():
    _, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.05, count=1))
    assert "(no interval)" in text
    assert "it is not identifiable" in text
    assert "nan" not in text


def test_flat_and_rising_gaps_do_not_saturate():
    for curve in (lambda k: 0.1 + 0 * k, lambda k: np.log(k)):
        _, text = read(seeds(curve))
        assert "survives" not in text
        assert "nan" not in text


@pytest.mark.parametrize("gap", [0.0, 0.1, -0.1])
def test_exactly_equal_gaps_are_read_without_r2(gap):
    table = pd.DataFrame([[gap] * len(KS)] * 5, columns=KS)
    assert "so R² says nothing" in read(table)[1]


def test_one_failed_condition_is_enough_to_reject():
    """The gap is a pure power near 1/2: the exponent holds 1/2, AICc prefers the shorter law."""
    fits = laws.fit_all(seeds(lambda k: 1 / np.sqrt(k) + 0.05), draws=200)
    rival = replace(fits["pure_power"], aicc=fits["inverse_sqrt"].aicc - 2.5)
    text = reading.scaling({"dm": fits | {"pure_power": rival}}, "nats", 0.1, {"dm": 2000})
    assert "which holds 1/2." in text
    assert "a/√k + c is 2.5 units behind" in text
    assert text.endswith("So the curve a/√k + c does not survive: against it speaks AICc.")


def test_text_is_markdown_in_a_notebook_and_plain_in_a_terminal():
    text = reading.Text("**dm.** b")
    assert repr(text) == text._repr_markdown_() == "**dm.** b"
