"""Distances to the nearest of k points, against closed forms."""

import numpy as np
import pytest

from ddlib.theory import quantisation


def test_the_error_is_the_distance_to_the_nearest_point():
    real = np.array([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0]])
    points = np.array([[0.0, 0.0], [10.0, 1.0]])
    assert quantisation.quantisation_error(real, points) == pytest.approx(np.sqrt((0 + 25 + 1) / 3))


def test_k_means_falls_like_the_best_quantiser_of_a_line_and_slower_in_more_dimensions():
    ks = [4, 8, 16, 32]
    table = quantisation.quantisation_rates((1, 3), ks, count=3000, seeds=1)
    wide = table.pivot(index=["d", "k"], columns="line", values="error")
    # k equal intervals of a uniform line leave an error of 1 / (k sqrt(12)), the least possible
    assert wide.loc[1, "k-means"].to_numpy() == pytest.approx(
        1 / (np.array(ks) * np.sqrt(12)), rel=0.1
    )
    assert (wide["k-means"] < wide["random points"]).all()
    slopes = {d: np.polyfit(np.log(ks), np.log(wide.loc[d, "k-means"]), 1)[0] for d in (1, 3)}
    assert slopes[3] == pytest.approx(-1 / 3, abs=0.06)
    for line, powers in {"predicted: k^(-1/d)": (-1, -1 / 3), "1/√k": (-0.5, -0.5)}.items():
        for d, power in zip((1, 3), powers, strict=True):
            assert np.diff(np.log(wide.loc[d, line])) == pytest.approx(np.log(2) * power)
            assert wide.loc[(d, 32), line] == wide.loc[(d, 32), "k-means"]
