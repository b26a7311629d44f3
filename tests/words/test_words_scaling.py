"""Sentences about curves whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from ddlib.stats import laws, power
from ddlib.words import scaling as words
from ddlib.words.text import unless_empty

KS = np.array([10, 20, 50, 100, 200, 500, 1000, 2000])


def seeds(curve, noise=0.002, count=5):
    draws = np.random.default_rng(0).normal(0, noise, (count, len(KS)))
    return pd.DataFrame(curve(KS) + draws, index=range(count), columns=KS)


def read(table, least_gain=1e-4):
    """Return the fits, and the paragraph on them."""
    fits = laws.fit_all(table, draws=200)
    paragraph = words.scaling({"dm": fits}, "nats", least_gain)
    assert "nan" not in paragraph
    return fits, paragraph


def line(table):
    """Return the verdict on a table of gaps, in error and in cross-entropy alike."""
    fits = {"dm": laws.fit_all(table, draws=200)}
    start, text, end = "> - **dm: ", words.verdicts(fits), ". In cross-entropy: "
    both = words.verdicts(fits, fits)
    outcome = text.removeprefix(start).split(".**")[0]
    assert both == f"{text[:-1]}{end}{outcome}."  # also where the test is weak
    assert len(text.splitlines()) == 1
    return text.removeprefix(start)


def test_a_true_inverse_square_root_survives():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.05))
    assert "AIC prefers a/√k + c" in text
    below, above = power.detectable(fits["free_exponent"])
    told = f"reject 1/2 if the true exponent were {above:.2f} or more or {below:.2f} or less."
    assert f"9 of 10 such studies would {told}" in text
    # a / sqrt(k) is a tenth of c at k = (1 / (0.1 * 0.05))^2 = 40000
    near = fits["inverse_sqrt"].k_floor(0.1)
    assert near.low < 40000 < near.high
    beyond = "extrapolated beyond the largest k, 2000."
    assert f"within 10% of the floor at k = {near}, {beyond}" in text
    # -dG/dk = k^-3/2 / 2 is 1e-4 at k = 5000^(2/3) = 292
    saturation = fits["inverse_sqrt"].k_sat(1e-4)
    assert saturation.low < 292.4 < saturation.high
    assert f"less than 0.0001 nats from k = {saturation} on." in text
    gap, low, high = fits["inverse_sqrt"].predict(4000)[["gap", "low", "high"]].iloc[0]
    predicted = f"{gap:.3g} ({low:.3g} to {high:.3g}) nats."
    assert f"At k = 4000, not measured, the curve predicts a gap of {predicted}" in text


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (
            seeds(lambda k: 1 / np.sqrt(k) + 0.05),
            "survives.** The gaps lie on a/√k + c, up to the noise of the seeds.",
        ),
        (
            seeds(lambda k: 1 / np.sqrt(k) + 0.05, noise=0.03).iloc[:, :4],
            "survives a weak test.** A true exponent of 1/4 or 1 could pass this test, too.",
        ),
        (
            seeds(lambda k: 1 / k + 0.02, noise=0.0005),
            "fails.** The gap falls faster than 1/√k, which the paper's upper bound allows.",
        ),
        (
            seeds(lambda k: k**-0.2 + 0.02, noise=0.0005),
            "fails.** The gap falls more slowly than 1/√k.",
        ),
        (
            seeds(lambda k: k**-0.5 + 0.05 + 0.003 * (-1) ** np.arange(len(KS))),
            "fails.** The curve misses the means by more than the noise of the seeds.",
        ),
        (
            seeds(lambda k: 1 / np.sqrt(k) - 0.03, 0.0005),
            "cannot be decided.** A mean gap is not above zero.",
        ),
        (
            seeds(lambda k: 1 / np.sqrt(k), count=1),
            "cannot be decided.** One seed, so no seed variance: equal weights, no intervals, no "
            "AIC.",
        ),
        (
            seeds(lambda k: 0.5 - 0.5 / np.sqrt(k)),
            "cannot be decided.** The curve does not fall (a=-0.501).",
        ),
    ],
)
def test_every_verdict_is_one_line(table, verdict):
    assert line(table) == verdict


def test_a_floor_reached_within_the_measured_sizes_is_not_called_extrapolated():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) + 0.5))
    assert fits["inverse_sqrt"].k_floor(0.1).estimate < 2000
    assert "extrapolated" not in text


@pytest.mark.parametrize("exponent", [1.0, 0.2])
def test_another_exponent_is_rejected_and_nothing_is_predicted(exponent):
    text = read(seeds(lambda k: k**-exponent + 0.02, noise=0.0005))[1]
    assert text.startswith("**dm.** Lack of fit of a/√k + c: p")
    for word in ("floor is", "predicts", "gains less", "survives"):
        assert word not in text


def test_missing_seeds_are_said():
    gaps = seeds(lambda k: 1 / np.sqrt(k) + 0.05)
    gaps.loc[[0, 4], 500] = np.nan
    gaps.loc[1:, 2000] = np.nan
    text = read(gaps)[1]
    lost = "2 of 5 at k = 500 and 4 of 5 at k = 2000; k = 2000 is left out."
    assert f"Seeds without a gap: {lost}" in text
    assert "At k = 4000, not measured" in text


def test_a_floor_below_zero_is_none():
    fits, text = read(seeds(lambda k: 1 / np.sqrt(k) - 1 / np.sqrt(4000), noise=0.0005))
    law = fits["inverse_sqrt"].parameters
    meets = (law["a"].estimate / law["c"].estimate) ** 2
    assert meets == pytest.approx(4000, rel=0.05)
    assert f"is below zero: the curve reaches zero at k = {meets:.0f}." in text
    assert "within 10%" not in text


ROOT = 1 / np.sqrt(KS)
ROUNDED = pd.DataFrame([[0.1] * len(KS)] * 5, columns=KS)


@pytest.mark.parametrize(
    ("table", "phrases"),
    [
        (seeds(lambda k: np.where(k < 75, 0.4, 0.1)), ["**fails"]),  # falls no faster: fits nothing
        (seeds(lambda k: ROOT - 0.03, 0.0005), ["no worse", "at k = 2000. Lack of fit"]),
        (seeds(lambda k: ROOT), ["it may be zero. One more sample"]),
        (seeds(lambda k: ROOT).iloc[:, :2], ["**dm.** No curve can be fitted: "]),
        (seeds(lambda k: ROOT, count=1), ["cannot be decided", "without a variance"]),
        (ROUNDED, ["cannot be decided"]),
        (-ROUNDED, ["cannot be decided"]),
        (0 * ROUNDED, ["cannot be decided"]),
    ],
)
def test_what_cannot_be_said_is_not(table, phrases):
    text = read(table)[1]
    both = f"**{line(table)} {text}"
    assert all(phrase in both for phrase in phrases)
    assert "faster" not in both


def test_a_long_table_is_folded_and_an_empty_one_is_a_sentence():
    table = pd.DataFrame({"k": range(11)})
    assert unless_empty(table, "None.", "Sizes").startswith("<details><summary>Sizes</summary>")
    assert unless_empty(table[:10], "None.", "Sizes").equals(table[:10])
    assert unless_empty(table[:0], "None.", "Sizes") == "None."
