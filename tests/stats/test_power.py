"""The power of a design, beside the share of whole simulated studies that reject 1/2."""

import numpy as np
import pytest
from known import table

from ddlib.stats import laws, power


def fitted(**design):
    return laws.fit(table("inverse_sqrt", (1.2, 0.05), fall=0.5, **design), "free_exponent")


def test_about_nine_of_ten_studies_tell_the_exponents_that_a_study_names():
    below, above = power.detectable(fitted(noise=0.02))
    assert 0.25 <= below <= 0.45
    assert 0.55 <= above <= 0.75
    for exponent, a, c in ((below, 0.9, 0.0), (above, 1.7, 0.07)):
        excluded = 0
        for i in range(20):
            truth = a, exponent, c
            gaps = table("free_exponent", truth, noise=0.02, fall=0.5, generator=i)
            low, high = laws.fit(gaps, "free_exponent", draws=200).parameters["b"][1:]
            excluded += not low <= 0.5 <= high
        assert excluded >= 14


def test_one_half_itself_is_told_apart_in_one_study_of_twenty_at_most():
    free = fitted(noise=0.02)
    assert power.power(free, 0.5, draws=2000) <= 0.05
    assert power.power(free, 3.0) == 1


def test_more_seeds_tell_nearer_exponents_and_noise_hides_them():
    noisy, exponent = fitted(noise=0.1), 0.65
    # sixteen times the seeds is a quarter of the noise
    few, many = power.power(noisy, exponent), power.power(noisy, exponent, seeds=80)
    assert few < 0.6 < 0.99 < many
    assert power.power(fitted(noise=0.1 / 4), exponent) == pytest.approx(many, abs=0.01)
    assert np.isnan(power.detectable(fitted(noise=0.4))).all()


def test_a_curve_that_rises_has_no_power():
    rising = -table("inverse_sqrt", (1.0, 0.0))
    assert np.isnan(power.detectable(laws.fit(rising, "free_exponent"))).all()
