"""The power of a design, beside the share of whole simulated studies that reject 1/2."""

import numpy as np
import pytest
from known import table

from ddlib.stats import laws, power


def fitted(**design):
    return laws.fit(table("inverse_sqrt", (1.2, 0.05), fall=0.5, **design), "free_exponent")


def test_about_nine_of_ten_studies_tell_the_exponents_that_a_study_names():
    below, above = power.detectable(fitted(noise=0.02))
    assert 0.25 <= below <= 0.4 and 0.6 <= above <= 0.75
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
    wrong, far = power.power(free, [0.5, 3.0], draws=2000)
    assert wrong <= 0.05 and far == 1


def test_more_seeds_tell_nearer_exponents_and_noise_hides_them():
    free = fitted(noise=0.05)
    _, five = power.detectable(free)
    _, many = power.detectable(free, seeds=80)
    assert 0.5 < many < five
    # sixteen times the seeds is a quarter of the noise
    assert many == pytest.approx(power.detectable(fitted(noise=0.05 / 4))[1], abs=0.051)
    assert np.isnan(power.detectable(fitted(noise=0.4))).all()


def test_a_curve_that_rises_has_no_power():
    rising = -table("inverse_sqrt", (1.0, 0.0))
    assert np.isnan(power.detectable(laws.fit(rising, "free_exponent"))).all()
