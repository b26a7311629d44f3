"""Distances, covers, H_cov and its rivals against closed forms, loops and brute force."""

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest

from ddlib.stats import covers, distances

pytestmark = pytest.mark.filterwarnings("error")


def frame(matrix):
    names = [f"c{i}" for i in range(len(matrix))]
    return pd.DataFrame(np.asarray(matrix, dtype=float), names, names)


def euclidean(points):
    points = np.asarray(points, dtype=float)
    return frame(np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1)))


def line(m):
    return euclidean(np.arange(m)[:, None])


def circle(m):
    """M points on a circle of circumference M, by arc length."""
    steps = np.abs(np.subtract.outer(np.arange(m), np.arange(m)))
    return frame(np.minimum(steps, m - steps))


def simplex(m, side=1.0):
    return frame(side * (1 - np.eye(m)))


def cloud(m, dimensions=2, seed=0):
    return euclidean(np.random.default_rng(seed).normal(size=(m, dimensions)))


def two_classes(first):
    """Probabilities (..., N, 2) from those of the first class (..., N)."""
    return np.stack([first, 1 - first], axis=-1)


def noisy(rng, means, seeds, size=0.02, shared=0.0):
    """Predictions (M, S, N, 2) about means (M, N); `shared` noise is common to a seed number."""
    m, n = np.shape(means)
    own = size * rng.normal(size=(m, seeds, n))
    return two_classes(np.asarray(means)[:, None] + own + shared * rng.normal(size=(seeds, n)))


def brute_cover(distance, radius):
    near = distance.to_numpy() <= radius + 1e-9
    m = len(near)
    return next(
        size
        for size in range(1, m + 1)
        if any(near[list(centres)].any(axis=0).all() for centres in combinations(range(m), size))
    )


def brute_packing(distance, radius):
    apart = distance.to_numpy() > radius + 1e-9
    m = len(apart)
    return max(
        size
        for size in range(1, m + 1)
        if any(
            all(apart[a, b] for a, b in combinations(chosen, 2))
            for chosen in combinations(range(m), size)
        )
    )


# Distances


def test_predictions_without_seed_noise_are_as_far_as_their_means():
    means = np.array([[0.5, 0.5], [0.6, 0.5], [0.6, 0.8]])
    found = distances.prediction_distance(noisy(np.random.default_rng(0), means, 3, 0), list("abc"))
    # The second class mirrors the first, so a squared difference counts twice; N = 2.
    expected = [[0, 0.1, np.sqrt(0.1)], [0.1, 0, 0.3], [np.sqrt(0.1), 0.3, 0]]
    assert found.to_numpy() == pytest.approx(np.array(expected), abs=1e-9)
    assert list(found.index) == list(found.columns) == list("abc")


def test_squared_prediction_distance_is_the_u_statistic_over_different_seeds():
    rng = np.random.default_rng(1)
    values = rng.dirichlet(np.ones(4), size=(3, 4, 6))  # M, S, N
    found = distances.prediction_distance(values, list("abc")).to_numpy()
    for a, b in combinations(range(3), 2):
        terms = [
            ((values[a, s] - values[b, s]) * (values[a, t] - values[b, t])).sum() / 6
            for s, t in permutations(range(4), 2)
        ]
        assert found[a, b] == pytest.approx(np.sqrt(max(np.mean(terms), 0)), abs=1e-9)


@pytest.mark.parametrize("shared", [0.0, 0.05])
def test_seed_noise_does_not_bias_the_squared_distance(shared):
    rng, difference, size = np.random.default_rng(2), 0.05, 0.03
    means = 0.5 + difference * np.array([[0.0], [1.0]]) * np.ones(20)
    squares, plain = [], []
    for _ in range(200):
        values = noisy(rng, means, 3, size, shared)
        squares.append(distances.prediction_distance(values, ["a", "b"]).iloc[0, 1] ** 2)
        plain.append(((values[0].mean(axis=0) - values[1].mean(axis=0)) ** 2).sum() / 20)
    truth, noise = 2 * difference**2, 2 * 2 * size**2 / 3
    assert np.mean(squares) == pytest.approx(truth, abs=4 * np.std(squares) / np.sqrt(200))
    assert np.mean(plain) == pytest.approx(truth + noise, rel=0.05)
    assert noise > 0.1 * truth  # so the two could be told apart


def test_draws_spread_as_the_jackknife_of_the_squared_distance():
    values = noisy(np.random.default_rng(3), [[0.4] * 8, [0.6] * 8], 6)
    draws = distances.prediction_draws(values, draws=20_000)[:, 0, 1] ** 2
    names = ["a", "b"]
    left_out = [
        distances.prediction_distance(np.delete(values, s, axis=1), names).iloc[0, 1] ** 2
        for s in range(6)
    ]
    jackknife = 5 / 6 * ((left_out - np.mean(left_out)) ** 2).sum()
    # Student t at 5 degrees of freedom has variance 5 / 3.
    assert np.var(draws) == pytest.approx(jackknife * 5 / 3, rel=0.1)
    estimate = distances.prediction_distance(values, names).iloc[0, 1] ** 2
    assert np.mean(draws) == pytest.approx(estimate, rel=0.01)


@pytest.mark.parametrize("difference", [0.0, 0.02, 0.1])
def test_intervals_of_the_distance_cover_it(difference):
    rng, covered = np.random.default_rng(4), 0
    means = 0.5 + difference * np.array([[0.0], [1.0]]) * np.ones(10)
    for trial in range(200):
        draws = distances.prediction_draws(noisy(rng, means, 5, 0.03), 200, trial)[:, 0, 1]
        low, high = np.quantile(draws, [0.025, 0.975])
        covered += low <= np.sqrt(2) * difference <= high
    assert covered / 200 >= 0.9  # 95 %, less three standard errors of 200 trials


@pytest.mark.parametrize("seeds", [4, 6])
def test_noise_floor_is_passed_by_one_in_twenty_equal_pairs(seeds):
    rng = np.random.default_rng(5)
    values = noisy(rng, np.full((200, 12), 0.5), seeds)
    found = distances.prediction_distance(values, range(200)).to_numpy()
    passed = found[np.triu_indices(200, 1)] > distances.noise_floor(values)
    assert passed.mean() == pytest.approx(0.05, abs=0.02)


def test_noise_floor_falls_with_the_noise():
    means = np.full((5, 30), 0.5)
    wide, narrow = (noisy(np.random.default_rng(6), means, 4, size) for size in (0.02, 0.01))
    floors = [distances.noise_floor(values) for values in (wide, narrow)]
    assert floors[0] == pytest.approx(2 * floors[1])


def test_updates_are_compared_by_direction():
    field = np.array([[[1.0, 0.0], [0.0, 2.0]]] * 4)
    field[1] *= 7  # a longer step
    field[2] *= -1  # the opposite step
    field[3] = field[3][:, ::-1]  # an orthogonal step
    found = distances.update_distance(field, list("abcd"))
    assert found.loc["a"].to_numpy() == pytest.approx([0, 0, 2, np.sqrt(2)])


def test_update_distance_is_the_root_mean_square_over_states_and_a_metric():
    field = np.random.default_rng(7).normal(size=(6, 3, 5))
    found = distances.update_distance(field, [f"c{i}" for i in range(6)])
    first, second = (field[i] / np.linalg.norm(field[i], axis=1)[:, None] for i in (0, 4))
    assert found.iloc[0, 4] == pytest.approx(np.sqrt(((first - second) ** 2).sum(axis=1).mean()))
    assert distances.triangle_violations(found).count == 0


def hsic(k, other):
    """Song et al. (2012), equation 5, written out."""
    n, one = len(k), np.ones(len(k))
    k, other = (gram - np.diag(np.diag(gram)) for gram in (k, other))
    middle = (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ other) + middle - 2 / (n - 2) * one @ k @ other @ one) / (n * (n - 3))


def test_representations_are_compared_by_unbiased_cka():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(25, 6)), rng.normal(size=(25, 9))
    y[:, :3] += 2 * x[:, :3]
    found = distances.representation_distance([np.stack([z, z]) for z in (x, y)], ["x", "y"])
    k, other = x @ x.T, y @ y.T
    cka = hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))
    assert found.iloc[0, 1] == pytest.approx(1 - cka)


def test_rotation_scale_and_shift_of_a_representation_make_no_difference():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(2, 30, 5))
    x[1] = x[0]
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    found = distances.representation_distance([x, 3 * x @ rotation + 4], ["x", "y"])
    assert found.iloc[0, 1] == pytest.approx(0, abs=1e-9)


def test_unrelated_representations_are_one_apart_however_few_the_images():
    rng = np.random.default_rng(10)
    fixed = np.repeat(rng.normal(size=(40, 1, 24, 30)), 2, axis=1)
    found = distances.representation_distance(list(fixed), range(40)).to_numpy()
    pairs = found[np.triu_indices(40, 1)]
    # 1 - CKA is cut off at 0, never here: one side of the noise is not lost.
    assert pairs.min() > 0
    assert pairs.mean() == pytest.approx(1, abs=0.02)


def test_seed_noise_does_not_part_representations():
    rng = np.random.default_rng(11)
    truth = 2 * rng.normal(size=(60, 4))
    noise = rng.normal(size=(2, 4, 60, 4))
    found = distances.representation_distance(list(truth + noise), ["x", "y"]).iloc[0, 1]
    plain = distances.representation_distance(
        [np.stack([truth + noise[i, 0]] * 2) for i in (0, 1)], ["x", "y"]
    ).iloc[0, 1]
    assert plain > 0.2
    assert found < plain / 5


def test_every_registered_distance_gives_a_distance_matrix():
    rng = np.random.default_rng(12)
    inputs = {
        "predictions": rng.dirichlet(np.ones(3), size=(4, 3, 5)),
        "updates": rng.normal(size=(4, 2, 7)),
        "representations": [
            rng.normal(size=(1, 25, f)) + np.zeros((2, 1, 1)) for f in (3, 4, 5, 6)
        ],
    }
    assert set(inputs) == set(distances.DISTANCES)
    for name, (measure, _) in distances.DISTANCES.items():
        found = measure(inputs[name], list("abcd"))
        assert found.equals(found.T)
        assert (np.diag(found) == 0).all()
        assert (found.to_numpy() >= 0).all()
        assert found.equals(measure(inputs[name], list("abcd")))


# Triangles


def test_distances_on_a_line_keep_the_triangle_inequality():
    assert distances.triangle_violations(0.1 * line(12)) == (0, 0.0, 0.0, ())


def test_triangle_violations_are_counted_over_triples():
    # 1 - cosine at 0, 45, 90 degrees: 1 > 2 (1 - cos 45), and likewise beyond.
    angles = np.radians([0, 45, 90, 200])
    distance = frame(1 - np.cos(np.subtract.outer(angles, angles)))
    matrix = distance.to_numpy()
    excess = {
        triple: matrix[triple[0], triple[2]] - matrix[triple[0], triple[1]] - matrix[triple[1:]]
        for triple in permutations(range(4), 3)
        if triple[0] < triple[2]
    }
    found = distances.triangle_violations(distance)
    worst = max(excess, key=excess.get)
    assert found.count == sum(value > 1e-9 for value in excess.values()) > 1
    assert found.share == found.count / 4
    assert found.worst == pytest.approx(excess[worst])
    assert set(found.triple) == {f"c{i}" for i in worst}
    assert found.triple[1] == f"c{worst[1]}"


# Covers and packings


@pytest.mark.parametrize("radius", [0, 0.5, 1, 2, 3.7, 12])
@pytest.mark.parametrize("m", [1, 2, 7, 13])
def test_cover_and_packing_of_a_line(m, radius):
    whole = int(radius)
    assert len(covers.cover(line(m), radius)) == -(-m // (2 * whole + 1))
    assert len(covers.packing(line(m), radius)) == (m - 1) // (whole + 1) + 1


@pytest.mark.parametrize("radius", [0, 1, 2, 4])
@pytest.mark.parametrize("m", [9, 12, 60])
def test_cover_and_packing_of_a_circle(m, radius):
    assert len(covers.cover(circle(m), radius)) == -(-m // (2 * radius + 1))
    assert len(covers.packing(circle(m), radius)) == m // (radius + 1)


def test_beyond_what_is_solved_exactly_covers_are_greedy():
    distance = line(covers.EXACT + 5)
    members = list(distance.index)
    found = covers.measures(distance, {"all": members, "few": members[:10]}, 2, 1)
    greedy = covers.greedy_cover(distance, 2)
    assert covers.cover(distance, 2) == covers.packing(distance, 2) == greedy
    assert found.loc["all", ["h_cov", "packing"]].tolist() == [np.log(len(greedy))] * 2
    few = distance.loc[members[:10], members[:10]]
    assert len(covers.cover(few, 2)) == 2  # of ten on a line, in steps of 1
    assert len(covers.packing(few, 2)) == 4
    assert found.loc["few", ["h_cov", "packing"]].tolist() == [np.log(2), np.log(4)]
    curve = covers.h_cov_curve(distance)
    numbers = [len(covers.greedy_cover(distance, r)) for r in curve["radius"]]
    assert curve["covering_number"].tolist() == numbers


def test_balls_are_closed_in_spite_of_rounding():
    distance = euclidean(0.1 * np.arange(9)[:, None])
    assert distance.iloc[2, 3] > 0.1  # 0.30000000000000004 - 0.2
    assert len(covers.cover(distance, 0.1)) == 3
    assert len(covers.greedy_cover(simplex(5, 0.3), 0.1 * 3)) == 1


@pytest.mark.parametrize("find", [covers.cover, covers.packing])
@pytest.mark.parametrize("side", [1.0, np.sqrt(2)])
def test_simplex_needs_all_until_one_is_enough(find, side):
    assert len(find(simplex(8, side), 0.99 * side)) == 8
    assert len(find(simplex(8, side), side)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_exact_numbers_match_brute_force(seed):
    distance = cloud(9, seed=seed)
    for radius in np.quantile(distance, [0.2, 0.4, 0.6, 0.8]):
        cover = covers.cover(distance, radius)
        packing = covers.packing(distance, radius)
        assert len(cover) == brute_cover(distance, radius)
        assert len(packing) == brute_packing(distance, radius)
        assert (distance.loc[list(cover)].min() <= radius + 1e-9).all()
        assert all(distance.loc[a, b] > radius for a, b in combinations(packing, 2))


@pytest.mark.parametrize("seed", range(2))
def test_covering_number_lies_between_packing_numbers(seed):
    distance = cloud(20, dimensions=3, seed=seed)
    for radius in np.quantile(distance, [0.15, 0.3, 0.5]):
        greedy = covers.greedy_cover(distance, radius)
        assert (distance.loc[list(greedy)].min() <= radius).all()
        assert all(distance.loc[a, b] > radius for a, b in combinations(greedy, 2))
        exact, packed = (len(find(distance, radius)) for find in (covers.cover, covers.packing))
        half = len(covers.cover(distance, radius / 2))
        assert exact <= len(greedy) <= packed <= half
        assert len(covers.packing(distance, 2 * radius)) <= exact


# The curve


def test_curve_of_a_line_jumps_where_the_closed_form_does():
    curve = covers.h_cov_curve(line(10))
    assert curve["radius"].tolist() == [0, 1, 2, 5]  # ceil(10 / (2r + 1)): 10, 4, 2, (2, 2,) 1
    assert curve["covering_number"].tolist() == [10, 4, 2, 1]
    assert curve["h_cov"].to_numpy() == pytest.approx(np.log([10, 4, 2, 1]))


def test_curve_of_a_subset_matches_brute_force_at_every_distance():
    distance = cloud(12, seed=3)
    members = ["c7", "c1", "c9", "c4", "c2", "c11", "c0"]
    curve = covers.h_cov_curve(distance, members)
    own = distance.loc[members, members]
    for radius in np.unique(own):
        row = curve[curve["radius"] <= radius].iloc[-1]
        assert row["covering_number"] == brute_cover(own, radius)
    assert (np.diff(curve["covering_number"]) < 0).all()


def test_band_is_the_quantiles_of_the_drawn_curves():
    distance = line(6)
    scales = np.linspace(0.5, 1.5, 21)
    curve = covers.h_cov_curve(distance, draws=scales[:, None, None] * distance.to_numpy())
    at_one = curve[curve["radius"] == 1].iloc[0]
    # At r = 1 a line of spacing 0.5 has N = 2, one of spacing 1 has N = 2, one of 1.5 has N = 6.
    assert np.exp([at_one["low"], at_one["high"]]) == pytest.approx([2, 6])
    still = covers.h_cov_curve(distance, ["c0", "c2"], np.stack([distance] * 3))
    assert still["low"].tolist() == still["high"].tolist() == still["h_cov"].tolist()


# Rivals


def test_measures_of_a_simplex_have_closed_forms():
    m, side, bandwidth = 7, 0.8, 0.5
    distance = simplex(m, side)
    found = covers.measures(distance, {"all": distance.index}, 0.4, bandwidth).loc["all"]
    a = np.exp(-side / bandwidth)
    eigenvalues = np.array([1 + (m - 1) * a] + [1 - a] * (m - 1)) / m
    expected = {
        "members": m,
        "log_members": np.log(m),
        "h_cov": np.log(m),
        "packing": np.log(m),
        "vendi": -(eigenvalues * np.log(eigenvalues)).sum(),
        "leinster_cobbold": -np.log((1 + (m - 1) * a) / m),
        "effective_rank": -np.log((eigenvalues**2).sum()),
        "mean_distance": side,
    }
    assert found.to_dict() == pytest.approx(expected)
    assert list(found.index) == list(expected)


@pytest.mark.parametrize("distance", [simplex(1), simplex(4, 0.0)], ids=["single", "duplicates"])
def test_one_behaviour_has_no_diversity(distance):
    found = covers.measures(distance, {"a": distance.index}, 0.1, 1.0)
    assert found.drop(columns=["members", "log_members"]).to_numpy() == pytest.approx(0, abs=1e-9)


def test_far_members_count_in_full():
    found = covers.measures(simplex(5, 100), {"a": [f"c{i}" for i in range(5)]}, 1.0, 1.0)
    columns = ["h_cov", "packing", "vendi", "leinster_cobbold", "effective_rank"]
    assert found.loc["a", columns].to_numpy() == pytest.approx(np.log(5))


def test_a_duplicate_does_not_raise_h_cov():
    points = np.random.default_rng(13).normal(size=(6, 2))
    distance = euclidean(np.vstack([points, points[2], points[2]]))
    families = {"own": distance.index[:6], "with duplicates": distance.index}
    for radius in np.quantile(distance, [0.0, 0.2, 0.5]):
        found = covers.measures(distance, families, radius, 1.0)
        assert found["h_cov"].nunique() == found["packing"].nunique() == 1
        assert found["log_members"].nunique() == 2


def test_a_kernel_that_noise_made_indefinite_still_has_a_score():
    matrix = np.ones((4, 4)) - np.eye(4)
    matrix[0, 1:] = matrix[1:, 0] = 0.01  # near all, which are far from each other
    assert np.linalg.eigvalsh(np.exp(-matrix))[0] < 0
    found = covers.measures(frame(matrix), {"a": ["c0", "c1", "c2", "c3"]}, 0.5, 1.0)
    assert np.isfinite(found.to_numpy()).all()
    assert 0 < found.loc["a", "vendi"] < np.log(4)


def test_families_keep_their_order_and_names():
    families = {"b": ["c1", "c0"], "a": ["c2"]}
    found = covers.measures(line(3), families, 1.0, 1.0)
    assert found.index.name == "family"
    assert list(found.index) == ["b", "a"]


# Radii, the plane, families


def test_radii_are_quantiles_of_the_pairs_above_the_floor():
    found = covers.radii(line(5))  # pairs: 1 four times, 2 three times, 3 twice, 4 once
    assert found.to_dict() == pytest.approx({0.1: 1, 0.25: 1, 0.5: 2, 0.75: 2.75})
    assert covers.radii(line(5), floor=1.5).to_dict() == {0.1: 1.5, 0.25: 1.5, 0.5: 2, 0.75: 2.75}


def test_points_of_the_plane_are_placed_back():
    distance = euclidean([[0, 0], [3, 0], [3, 1], [0, 1], [1.5, 0.2]])
    points, share = distances.embed(distance)
    assert euclidean(points).to_numpy() == pytest.approx(distance.to_numpy())
    assert share == pytest.approx(1)
    assert points["x"].abs().max() == points["x"].max() > points["y"].max()
    assert points.equals(distances.embed(distance).points)


@pytest.mark.parametrize("m", [3, 5, 9])
def test_plane_shows_two_of_the_equal_axes_of_a_simplex(m):
    assert distances.embed(simplex(m)).share == pytest.approx(2 / (m - 1))


def test_what_is_not_euclidean_counts_against_the_share():
    # Geodesics of a circle of four: squares 1, 4, 1; eigenvalues 2, 2, 0, -1 by Fourier.
    assert distances.embed(circle(4)).share == pytest.approx(4 / 5)


@pytest.mark.parametrize("m", [1, 2])
def test_one_or_two_configurations_have_a_place(m):
    points, share = distances.embed(line(m))
    assert np.ptp(points["x"]) == pytest.approx(m - 1)
    assert (points["y"] == 0).all()
    assert share == pytest.approx(1)


def clusters():
    """Four clusters of four points, 0.1 wide and 10 apart."""
    corners = 10 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    around = 0.1 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return euclidean((corners[:, None] + around).reshape(-1, 2))


def test_families_of_equal_size_range_from_one_cluster_to_all():
    distance = clusters()
    found = covers.spread_families(distance, 4, 3)
    cluster = {name: int(name[1:]) // 4 for name in distance.index}
    assert list(found) == ["spread 1", "spread 2", "spread 3"]
    assert [len(set(members)) for members in found.values()] == [4, 4, 4]
    assert len({cluster[name] for name in found["spread 1"]}) == 1
    assert len({cluster[name] for name in found["spread 3"]}) == 4
    h_cov = covers.measures(distance, found, 1.0, 1.0)["h_cov"]
    assert h_cov.iloc[0] == pytest.approx(0)
    assert h_cov.iloc[2] == pytest.approx(np.log(4))
    assert h_cov.is_monotonic_increasing


def test_spread_families_grow_in_mean_distance_and_are_found_again():
    distance = cloud(20, dimensions=3, seed=5)
    found = covers.spread_families(distance, 5, 4)
    spreads = covers.measures(distance, found, 1.0, 1.0)["mean_distance"].to_numpy()
    steps = np.diff(spreads)
    assert (steps > 0).all()
    assert steps.max() < 1.5 * steps.min()
    assert found == covers.spread_families(distance, 5, 4)


# Bad input


def predictions(m=2, seeds=4, images=5):
    return noisy(np.random.default_rng(0), np.full((m, images), 0.5), seeds)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distances.prediction_distance(predictions(), ["a", "a"]), "repeated.*: a;"),
        (lambda: distances.prediction_distance(predictions(), ["a"]), "2 arrays .* for 1 names"),
        (lambda: distances.prediction_distance([], []), "0 arrays"),
        (lambda: distances.prediction_distance(predictions(seeds=1), "ab"), "1 seeds .* least 2"),
        (lambda: distances.prediction_distance(predictions(images=0), "ab"), "empty"),
        (lambda: distances.prediction_distance(predictions() * np.nan, "ab"), "missing"),
        (lambda: distances.prediction_distance(10 * predictions(), "ab"), "softmax"),
        (lambda: distances.prediction_draws(predictions(seeds=2)), "2 seeds .* least 3"),
        (lambda: distances.noise_floor(predictions(seeds=3)), "3 seeds .* least 4"),
        (lambda: distances.update_distance(np.eye(2), "ab"), r"shapes \[\(2,\)\] for 2 names"),
        (lambda: distances.update_distance(np.eye(2)[:, :, None], "ab"), "'a' does not move.* 1"),
        (
            lambda: distances.representation_distance([np.ones((2, 19, 3))] * 2, "ab"),
            "19 images is too small for CKA; choose >= 20",
        ),
        (
            lambda: distances.representation_distance([np.ones((2, 25, 3))] * 2, "ab"),
            "'a' share no structure",
        ),
        (
            lambda: distances.representation_distance(
                [np.ones((2, 25, 3)), np.ones((2, 26, 3))], "ab"
            ),
            "2 arrays",
        ),
        (lambda: covers.measures(line(3), {"none": []}, 1, 1), "'none' is empty"),
        (lambda: covers.measures(line(3), {"f": ["c1", "c1"]}, 1, 1), "'f' has 'c1' twice"),
        (lambda: covers.measures(line(3), {"f": ["c1", "x"]}, 1, 1), "'f' names x, which"),
        (lambda: covers.measures(line(3), {"f": ["c1"]}, -1, 1), "radius is -1"),
        (lambda: covers.measures(line(3), {"f": ["c1"]}, 1, 0), "bandwidth is 0"),
        (lambda: covers.greedy_cover(line(3), np.nan), "radius is nan"),
        (lambda: covers.h_cov_curve(line(3), []), "the family is empty"),
        (lambda: covers.h_cov_curve(line(3), draws=np.zeros((4, 2, 2))), r"\(4, 2, 2\)"),
        (lambda: distances.embed(frame([[0, 1], [2, 0]])), "symmetric"),
        (lambda: distances.embed(frame([[0, -1], [-1, 0]])), ">= 0"),
        (lambda: distances.embed(frame([[1, 2], [2, 0]])), "0 on the diagonal"),
        (lambda: distances.embed(frame([[0, np.nan], [np.nan, 0]])), "finite"),
        (lambda: distances.embed(line(3).rename(index={"c1": "c0"})), "same distinct names"),
        (lambda: covers.radii(line(1)), "at least two"),
        (lambda: covers.spread_families(line(4), 4, 2), "2 <= size < 4"),
        (lambda: covers.spread_families(line(3), 2, 9), "only 3 distinct families of 2"),
    ],
)
def test_bad_input_is_refused_in_the_users_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_greedy_cover_takes_any_number():
    assert len(covers.greedy_cover(line(200), 199)) == 1


def test_distances_take_each_kind_from_what_was_observed():
    """Every kind is its own function's, updates as means over seeds; orders agree by Spearman."""
    generator = np.random.default_rng(3)
    observed = {}
    for number, name in enumerate("abcd"):
        shares = generator.dirichlet(np.ones(3), (4, 24)) + number
        observed[name] = {
            "probabilities": shares / shares.sum(axis=-1, keepdims=True),
            "increments": generator.normal(size=(4, 2, 9)),
            "features": np.linspace(0, 1, 24)[:, None] + generator.normal(size=(4, 24, 5)) / 9,
        }
    kinds = distances.by_kind(observed)
    assert list(kinds) == list(distances.DISTANCES)
    updates = [each["increments"].mean(axis=0) for each in observed.values()]
    pd.testing.assert_frame_equal(
        kinds["updates"], distances.update_distance(updates, list("abcd"))
    )
    upper = np.triu_indices(4, 1)
    ranks = {kind: pd.Series(table.to_numpy()[upper]).rank() for kind, table in kinds.items()}
    expected = pd.DataFrame(ranks).corr()
    pd.testing.assert_frame_equal(distances.agreement(kinds), expected)
