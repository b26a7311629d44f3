"""Distances between configurations and the plane, against closed forms and loops."""

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from known import circle, euclidean, frame, simplex

from ddlib.stats import distances

pytestmark = pytest.mark.filterwarnings("error")


def test_squared_prediction_distance_is_the_u_statistic_over_different_seeds():
    values = np.random.default_rng(1).dirichlet(np.ones(4), size=(3, 4, 6))  # M, S, N
    found = distances.prediction_distance(values, "abc").to_numpy()
    for a, b in combinations(range(3), 2):
        apart = values[a] - values[b]
        terms = [(apart[s] * apart[t]).sum() / 6 for s, t in permutations(range(4), 2)]
        assert found[a, b] == pytest.approx(np.sqrt(max(np.mean(terms), 0)), abs=1e-9)
    assert np.diag(found).tolist() == [0, 0, 0]


@pytest.mark.parametrize("seeds", [4, 6])
def test_noise_floor_is_passed_by_one_in_twenty_equal_pairs(seeds):
    first = 0.5 + 0.02 * np.random.default_rng(5).normal(size=(200, seeds, 12))
    values = np.stack([first, 1 - first], axis=-1)  # M, S, N, 2
    found = distances.prediction_distance(values, range(200)).to_numpy()
    passed = found[np.triu_indices(200, 1)] > distances.noise_floor(values)
    assert passed.mean() == pytest.approx(0.05, abs=0.02)


def test_updates_are_compared_by_direction_over_states():
    field = np.array([[[1.0, 0.0], [0.0, 2.0]]] * 4)
    field[1] *= 7  # a longer step
    field[2] *= -1  # the opposite step
    field[3] = field[3][:, ::-1]  # an orthogonal step
    found = distances.update_distance(field, list("abcd"))
    assert found.loc["a"].to_numpy() == pytest.approx([0, 0, 2, np.sqrt(2)])
    field = np.random.default_rng(7).normal(size=(6, 3, 5))
    found = distances.update_distance(field, range(6))
    first, second = (field[i] / np.linalg.norm(field[i], axis=1)[:, None] for i in (0, 4))
    assert found.iloc[0, 4] == pytest.approx(np.sqrt(((first - second) ** 2).sum(axis=1).mean()))


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
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    arrays = [np.stack([z, z]) for z in (x, y, 3 * x @ rotation + 4)]
    found = distances.representation_distance(arrays, "xyz")
    k, other = x @ x.T, y @ y.T
    cka = hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))
    assert found.iloc[0, 1] == pytest.approx(1 - cka)
    assert found.iloc[0, 2] == pytest.approx(0, abs=1e-9)  # rotated, scaled and shifted


def test_unrelated_representations_are_one_apart_however_few_the_images():
    fixed = np.repeat(np.random.default_rng(10).normal(size=(40, 1, 24, 30)), 2, axis=1)
    found = distances.representation_distance(list(fixed), range(40)).to_numpy()
    apart = found[np.triu_indices(40, 1)]
    assert apart.min() > 0  # 1 - CKA is cut off at 0, never here
    assert apart.mean() == pytest.approx(1, abs=0.02)


def test_seed_noise_does_not_part_representations():
    rng = np.random.default_rng(11)
    truth, noise = 2 * rng.normal(size=(60, 4)), rng.normal(size=(2, 4, 60, 4))
    found = distances.representation_distance(list(truth + noise), "xy").iloc[0, 1]
    alone = [np.stack([truth + noise[i, 0]] * 2) for i in (0, 1)]
    plain = distances.representation_distance(alone, "xy").iloc[0, 1]
    assert plain > 0.2
    assert found < plain / 5


def test_each_kind_is_taken_from_what_was_observed():
    """Every kind is its own function's, updates as means over seeds; orders agree by Spearman."""
    rng, observed = np.random.default_rng(3), {}
    for number, name in enumerate("abcd"):
        shares = rng.dirichlet(np.ones(3), (4, 24)) + number
        observed[name] = {
            "probabilities": shares / shares.sum(axis=-1, keepdims=True),
            "increments": rng.normal(size=(4, 2, 9)),
            "features": np.linspace(0, 1, 24)[:, None] + rng.normal(size=(4, 24, 5)) / 9,
        }
    kinds = distances.by_kind(observed)
    updates = [arrays["increments"].mean(axis=0) for arrays in observed.values()]
    pd.testing.assert_frame_equal(kinds["updates"], distances.update_distance(updates, "abcd"))
    for matrix in kinds.values():
        assert matrix.equals(matrix.T)
        assert (np.diag(matrix) == 0).all()
    upper = np.triu_indices(4, 1)
    ranks = {kind: pd.Series(matrix.to_numpy()[upper]).rank() for kind, matrix in kinds.items()}
    pd.testing.assert_frame_equal(distances.agreement(kinds), pd.DataFrame(ranks).corr())
    observed["b"] |= {"features": np.zeros((4, 24, 5))}  # dead units
    with pytest.warns(UserWarning, match="no distances of representations: the seeds of 'b' share"):
        fewer = distances.by_kind(observed)
    assert list(fewer) == ["predictions", "updates"]
    assert fewer["predictions"].equals(kinds["predictions"])


def test_points_of_the_plane_are_placed_back():
    distance = euclidean([[0, 0], [3, 0], [3, 1], [0, 1], [1.5, 0.2]])
    points, share = distances.embed(distance)
    assert euclidean(points).to_numpy() == pytest.approx(distance.to_numpy())
    assert share == pytest.approx(1)
    assert points["x"].abs().max() == points["x"].max() > points["y"].max()
    # Geodesics of a circle of four: squares 1, 4, 1; eigenvalues 2, 2, 0, -1 by Fourier.
    assert distances.embed(circle(4))[1] == pytest.approx(4 / 5)


@pytest.mark.parametrize("m", [2, 3, 5, 9])
def test_the_plane_shows_two_of_the_equal_axes_of_a_simplex(m):
    points, share = distances.embed(simplex(m))
    assert share == pytest.approx(min(2 / (m - 1), 1))
    # Any two of the axes will do; the squares along each sum to their eigenvalue, 1/2.
    assert (points["x"] ** 2).sum() == pytest.approx(0.5)
    assert (points["y"] ** 2).sum() == pytest.approx(0.5 * (m > 2))


def predictions(seeds=4):
    first = np.random.default_rng(0).uniform(size=(2, seeds, 5))
    return np.stack([first, 1 - first], axis=-1)  # M, S, N, 2


FEATURES = [np.ones((2, n, 3)) for n in (19, 25)]
CKA = distances.representation_distance


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distances.prediction_distance(predictions(seeds=1), "ab"), "1 seeds .* least 2"),
        (lambda: distances.prediction_distance(predictions() * np.nan, "ab"), "missing"),
        (lambda: distances.prediction_distance(10 * predictions(), "ab"), "softmax"),
        (lambda: distances.noise_floor(predictions(seeds=3)), "3 seeds .* least 4"),
        (lambda: distances.update_distance(np.eye(2)[:, :, None], "ab"), "'a' does not move.* 1"),
        (lambda: CKA(FEATURES[:1] * 2, "ab"), "19 samples is too small for CKA; choose >= 20"),
        (lambda: CKA(FEATURES[1:] * 2, "ab"), "'a' share no structure"),
        (lambda: distances.embed(frame([[0, 1], [2, 0]])), "symmetric"),
        (lambda: distances.embed(frame([[0, -1], [-1, 0]])), ">= 0"),
        (lambda: distances.embed(frame([[1, 2], [2, 0]])), "0 on the diagonal"),
        (lambda: distances.embed(frame([[0, np.nan], [np.nan, 0]])), "finite"),
    ],
)
def test_bad_input_is_refused_in_the_users_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
