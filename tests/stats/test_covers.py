"""Covers, H_cov and its rivals, radii and families against closed forms and brute force."""

from itertools import combinations

import numpy as np
import pytest
from known import cloud, euclidean, frame, line, simplex
from scipy import stats

from ddlib.stats import covers

pytestmark = pytest.mark.filterwarnings("error")


def brute_cover(distance, radius):
    near, places = distance.to_numpy() <= radius + 1e-9, range(len(distance))
    sets = (c for m in range(1, len(near) + 1) for c in combinations(places, m))
    return next(len(c) for c in sets if near[list(c)].any(axis=0).all())


def test_balls_are_closed_in_spite_of_rounding():
    distance = euclidean(0.1 * np.arange(9)[:, None])
    assert distance.iloc[2, 3] > 0.1  # 0.30000000000000004 - 0.2
    assert len(covers.cover(distance, 0.1)) == 3
    for side in (1.0, np.sqrt(2)):
        assert len(covers.cover(simplex(8, side), 0.99 * side)) == 8
        assert len(covers.cover(simplex(8, side), side)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_exact_numbers_match_brute_force(seed):
    distance = cloud(9, seed=seed)
    for radius in np.quantile(distance, [0.2, 0.4, 0.6, 0.8]):
        cover = covers.cover(distance, radius)
        assert len(cover) == brute_cover(distance, radius)
        assert (distance.loc[list(cover)].min() <= radius + 1e-9).all()


def test_curve_of_a_subset_matches_brute_force_at_every_distance():
    distance, members = cloud(12, seed=3), ["c7", "c1", "c9", "c4", "c2", "c11", "c0"]
    curve, own = covers.h_cov_curve(distance, members), distance.loc[members, members]
    for radius in np.unique(own):
        row = curve[curve["radius"] <= radius].iloc[-1]
        assert row["covering_number"] == brute_cover(own, radius)
    assert (np.diff(curve["covering_number"]) < 0).all()


@pytest.mark.parametrize(("m", "side"), [(7, 0.8), (1, 0.8), (4, 0.0)])
def test_measures_of_a_simplex_have_closed_forms(m, side):
    """One behaviour, alone or several times, has no diversity."""
    distance, bandwidth = simplex(m, side), 0.5
    found = covers.measures(distance, {"all": distance.index}, 0.4, bandwidth).loc["all"]
    a = np.exp(-side / bandwidth)
    eigenvalues = np.array([1 + (m - 1) * a] + [1 - a] * (m - 1)) / m
    expected = {"members": m, "log_members": np.log(m), "h_cov": np.log(m) * (side > 0.4)}
    expected |= {"vendi": stats.entropy(eigenvalues), "mean_distance": side * (m > 1)}
    assert found.to_dict() == pytest.approx(expected, abs=1e-9)


def test_a_duplicate_does_not_raise_h_cov():
    points = np.random.default_rng(13).normal(size=(6, 2))
    distance = euclidean(np.vstack([points, points[2], points[2]]))
    families = {"with duplicates": distance.index, "own": distance.index[:6]}
    for radius in np.quantile(distance, [0.0, 0.2, 0.5]):
        found = covers.measures(distance, families, radius, 1.0)
        assert list(found.index) == list(families)
        assert found["h_cov"].nunique() == 1
        assert found["log_members"].nunique() == 2


def test_a_kernel_that_noise_made_indefinite_still_has_a_score():
    matrix = np.ones((4, 4)) - np.eye(4)
    matrix[0, 1:] = matrix[1:, 0] = 0.01  # near all, which are far from each other
    assert np.linalg.eigvalsh(np.exp(-matrix))[0] < 0
    found = covers.measures(frame(matrix), {"a": ["c0", "c1", "c2", "c3"]}, 0.5, 1.0)
    assert np.isfinite(found.to_numpy()).all()
    assert 0 < found.loc["a", "vendi"] < np.log(4)


def test_radii_are_quantiles_of_the_pairs_above_the_floor():
    found = covers.radii(line(5))  # pairs: 1 four times, 2 three times, 3 twice, 4 once
    assert found.to_dict() == pytest.approx({0.1: 1, 0.25: 1, 0.5: 2, 0.75: 2.75})
    assert covers.radii(line(5), floor=1.5).to_dict() == {0.1: 1.5, 0.25: 1.5, 0.5: 2, 0.75: 2.75}


def test_families_of_equal_size_range_from_one_cluster_to_all_in_even_steps():
    # Four clusters of four points, 0.1 wide and 10 apart.
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    distance = euclidean((10 * corners[:, None] + 0.1 * corners).reshape(-1, 2))
    found = covers.spread_families(distance, 4, 3)
    clusters = [len({int(name[1:]) // 4 for name in members}) for members in found.values()]
    assert list(found) == ["spread of 4, 1", "spread of 4, 2", "spread of 4, 3"]
    assert (clusters[0], clusters[2]) == (1, 4)
    assert [len(set(members)) for members in found.values()] == [4, 4, 4]
    distance = cloud(20, dimensions=3, seed=5)
    found = covers.spread_families(distance, 5, 4)
    steps = np.diff(covers.measures(distance, found, 1.0, 1.0)["mean_distance"])
    assert (steps > 0).all()
    assert steps.max() < 1.5 * steps.min()
    assert found == covers.spread_families(distance, 5, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: covers.measures(line(3), {"none": []}, 1, 1), "'none' is empty"),
        (lambda: covers.measures(line(3), {"f": ["c1", "x"]}, 1, 1), "'f' names x, which"),
        (lambda: covers.measures(line(3), {"f": ["c1"]}, -1, 1), "radius is -1"),
        (lambda: covers.measures(line(3), {"f": ["c1"]}, 1, 0), "bandwidth is 0"),
        (lambda: covers.cover(line(3), np.nan), "radius is nan"),
        (lambda: covers.h_cov_curve(line(3), []), "the family is empty"),
        (lambda: covers.radii(line(1)), "at least two"),
        (lambda: covers.spread_families(line(4), 4, 2), "2 <= size < 4"),
        (lambda: covers.spread_families(line(3), 2, 9), "only 3 distinct families of 2"),
    ],
)
def test_bad_input_is_refused_in_the_users_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
