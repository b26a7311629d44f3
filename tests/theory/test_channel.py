"""Statements 12 to 16: coverage when S is sampled, sent through a channel, or optimised."""

import numpy as np
import pandas as pd
import pytest

from ddlib.stats import covers
from ddlib.theory import channel as regimes

COUNTS = 2 ** np.arange(1, 13)


@pytest.fixture(scope="module")
def simulated():
    return regimes.simulate_worst(COUNTS, 200, 10, np.random.default_rng(0))


def test_expected_maximum_is_known_for_one_and_two():
    assert regimes.expected_maximum(1) == pytest.approx(np.sqrt(2 / np.pi))
    assert regimes.expected_maximum(2) == pytest.approx(2 / np.sqrt(np.pi))


def test_simulated_worst_gaps_agree_with_the_integral_and_stay_below_the_bound(simulated):
    groups = simulated.groupby("count")["worst"]
    exact = np.array([regimes.expected_maximum(int(count)) for count in COUNTS])
    assert (np.abs(groups.mean() - exact) < 4.5 * groups.sem()).all()
    assert (groups.mean() < regimes.union_bound(COUNTS, 1)).all()
    assert (exact < regimes.union_bound(COUNTS, 1)).all()
    assert (exact > 0.6 * regimes.union_bound(COUNTS, 1)).all()


def test_the_union_bound_holds_for_dependent_and_for_coin_valued_samples():
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(64, 5))  # far from independent: 64 in 5 dimensions
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for k in (1, 4, 30):
        means = rng.choice([-1.0, 1.0], size=(2000, k, 5)).mean(axis=1)
        assert np.abs(means @ directions.T).max(axis=1).mean() < regimes.union_bound(64, k)


def test_k_star_is_linear_in_h_cov_with_a_slope_that_rises_to_two(simulated):
    line, (small, large), highest = regimes.slopes(simulated)
    exact = [regimes.expected_maximum(int(count)) ** 2 for count in COUNTS]
    predicted = np.polyfit(np.log(COUNTS), exact, 1)[0]
    assert line.r2 > 0.99
    assert line.slope.low <= predicted <= line.slope.high
    assert line.slope.high < 2
    assert small.slope.high < large.slope.low < large.slope.high < 2
    assert highest < 1


def test_duplicates_do_not_raise_k_star_and_near_ones_stay_below_their_bound():
    run = ([4, 64], 400, 5)
    alone, twice = (
        regimes.simulate_worst(*run, np.random.default_rng(2), copies) for copies in (1, 7)
    )
    assert (alone["worst"] == twice["worst"]).all()
    assert (twice["members"] == 7 * twice["count"]).all()
    for angle in (0.05, 0.3, 0.8):
        near = regimes.simulate_worst(*run, np.random.default_rng(3), 7, angle)
        means = near.groupby("count")["worst"].mean()
        for count, worst in means.items():
            radius = 2 * np.sin(angle / 2)
            assert worst < regimes.cover_bound(count, 7 * count, radius, 1)
    wide = regimes.simulate_worst([4], 400, 5, np.random.default_rng(3), 7, np.pi / 2)
    assert wide["worst"].mean() > alone.query("count == 4")["worst"].mean() * 1.3


def test_the_family_has_the_covering_number_that_is_claimed():
    angle, rng = 0.2, np.random.default_rng(4)
    centres = np.eye(24)[:4]
    own = np.eye(24)[4:24].reshape(4, 5, 24)
    members = (np.cos(angle) * centres[:, None] + np.sin(angle) * own).reshape(20, 24)
    members = np.concatenate([centres, members])[rng.permutation(24)]
    apart = np.linalg.norm(members[:, None] - members, axis=-1)
    names = [str(i) for i in range(24)]
    cover = covers.cover(pd.DataFrame(apart, names, names), 2 * np.sin(angle / 2))
    assert len(cover) == 4


def test_sample_size_inverts_the_gap():
    k = regimes.sample_size(3.0, 0.1, sigma=2.0)
    assert 2.0 * 3.0 / np.sqrt(k) == pytest.approx(0.1)


def test_fano_size_and_success_are_each_other_s_inverse():
    k = regimes.fano_size(0.8, 1000, 0.5)
    assert regimes.fano_success(k, 1000, 0.5) == pytest.approx(0.8)
    assert regimes.fano_success(0, 16, 1.0) == pytest.approx(0.25)


def test_worlds_are_a_packing_no_mean_serves_two():
    worlds = regimes.separated_worlds(6, 0.1)
    apart = np.abs(worlds[:, None] - worlds).max(axis=-1)
    assert (apart[~np.eye(6, dtype=bool)] > 0.2).all()
    rng = np.random.default_rng(5)
    for mean in 0.2 * rng.normal(size=(2000, 6)):
        assert regimes.served(np.tile(mean, (6, 1)), worlds, 0.1).sum() <= 1


@pytest.mark.parametrize("alphabet", [2, 4])
@pytest.mark.parametrize("count", [9, 16])
def test_no_distiller_beats_fano_or_counting_with_quantised_samples(alphabet, count):
    worlds = regimes.separated_worlds(count, 0.1)
    for name in regimes.DISTILLERS:
        for k in (1, 2, 3):
            rng = np.random.default_rng(k)
            found = regimes.quantised_success(name, worlds, 0.1, k, alphabet, rng)
            assert found <= regimes.fano_success(k, count, np.log(alphabet))
            assert found <= regimes.counting_success(k, count, alphabet)
            assert found > 0
    with pytest.raises(ValueError, match="'magic' is no distiller"):
        regimes.quantised_success("magic", worlds, 0.1, 1, 2, np.random.default_rng(0))


def test_more_choice_never_serves_fewer_and_optimising_helps():
    worlds, rng = regimes.separated_worlds(16, 0.1), np.random.default_rng(0)
    run = (worlds, 0.1, 4, 4, rng)
    found = {name: regimes.quantised_success(name, *run) for name in regimes.DISTILLERS}
    assert found["samples"] <= found["every choice"]
    assert found["herding"] <= found["every choice"]
    assert found["best alphabet"] > found["every choice"]
    assert found["free decoder"] == 1


def test_real_numbers_leave_the_channel_and_beat_the_bound():
    worlds = regimes.separated_worlds(64, 0.1)
    assert regimes.served(worlds, worlds, 0.1).mean() == 1  # one real-valued sample is the mean
    assert regimes.fano_success(1, 64, np.log(2)) < 0.4


def test_no_distiller_beats_fano_with_noisy_samples():
    ks = np.unique(np.geomspace(1, 300, 30).round())
    for count in (4, 16, 256):
        for noise in (0.1, 0.3, 1.0):
            bound = regimes.fano_success(ks, count, regimes.noisy_nats(0.201**2, noise))
            for name in regimes.NOISY:
                assert (regimes.noisy_success(name, count, 0.1, ks, noise) <= bound + 1e-9).all()
    with pytest.raises(ValueError, match="'magic' is no distiller"):
        regimes.noisy_success("magic", 4, 0.1, 1, 1.0)


def test_noisy_chances_agree_with_simulation():
    rng, k, count = np.random.default_rng(6), 20, 8
    means = 0.3 / np.sqrt(k) * rng.normal(size=(20000, count))
    means[:, 0] += 0.201
    served = (np.abs(means - 0.201 * np.eye(count)[0]) <= 0.1).all(axis=1).mean()
    chance = regimes.noisy_success("mean", count, 0.1, k, 0.3)
    assert chance == pytest.approx(served, abs=0.015)
    decided = (means.argmax(axis=1) == 0).mean()
    assert regimes.noisy_success("free decoder", count, 0.1, np.array([k]), 0.3)[
        0
    ] == pytest.approx(decided, abs=0.015)
    capacity = count / 2 * np.log1p(0.201**2 / (count * 0.3**2))
    assert capacity <= regimes.noisy_nats(0.201**2, 0.3)


def test_k_through_a_channel_is_linear_in_the_log_of_worlds_and_above_the_bound():
    table = regimes.channel_sizes([8, 64, 512, 4096])
    wide = table.pivot(index="x", columns="line", values="k_star")
    assert (wide["Fano's bound"] <= wide["free decoder"]).all()
    assert (wide["free decoder"] <= wide["mean"]).all()
    for line in ("mean", "free decoder"):
        assert np.corrcoef(wide.index, wide[line])[0, 1] ** 2 > 0.98


def test_one_configuration_can_need_many_samples():
    # W means on a line, 2.01 epsilon apart, two symbols: k + 1 means serve k + 1 worlds at most
    epsilon, count = 0.1, 9
    worlds = 2.01 * epsilon * np.arange(count)
    for k in range(1, 12):
        means = worlds[-1] * np.arange(k + 1) / k
        hit = (np.abs(means[:, None] - worlds) <= epsilon).any(axis=0).mean()
        assert hit <= min(k + 1, count) / count
        assert (hit == 1) == (k >= count - 1)


def test_slopes_of_features_are_derivatives():
    rng = np.random.default_rng(7)
    points, step = rng.normal(size=(3, 2)), 1e-6
    for kind in ("linear", "quadratic", "network"):
        family = regimes.draw_family(kind, 4, 2, rng)
        for axis in range(2):
            moved = step * np.eye(2)[axis]
            numeric = family(points + moved) - family(points - moved)
            found = regimes.slopes_of(family, points)[..., axis]
            assert found == pytest.approx(numeric / (2 * step), abs=1e-6)
    with pytest.raises(ValueError, match="'cubic' is no family"):
        regimes.draw_family("cubic", 1, 1, rng)


def test_optimised_sets_follow_degrees_of_freedom_and_ignore_duplicates():
    counts, width = [1, 6, 12, 24], 3
    kinds = ["linear", "quadratic", "network"]
    table = regimes.optimised_sizes(kinds, counts, width, 1)
    stars = table.pivot(index="count", columns="kind", values="k_star")
    ranks = table.pivot(index="count", columns="kind", values="rank")
    assert (stars["linear"] == 1).all()
    assert stars["quadratic"].max() == width
    assert ranks["quadratic"].max() == width * (width + 1) / 2
    assert (stars["network"] >= np.ceil(np.array(counts) / width)).all()
    assert stars["network"].max() <= 24 / width + 2
    rng = np.random.default_rng(0)
    real, alone = rng.normal(size=(200, width)), regimes.draw_family("network", 6, width, rng)

    def four_times(points):
        return np.tile(alone(points), 4)

    assert regimes.rank(four_times, real) == 6
    assert regimes.least_size(four_times, real, rng) <= stars.loc[6, "network"] + 1


def test_every_line_of_the_sampled_regime_keeps_its_place():
    wide = regimes.sampled_sizes([16, 128, 1024], 300, 4).pivot(
        index="x", columns="line", values="k_star"
    )
    exact = [regimes.expected_maximum(count) ** 2 for count in (16, 128, 1024)]
    assert wide["independent"].to_numpy() == pytest.approx(exact, rel=0.05)
    fewer = [regimes.expected_maximum(count) ** 2 for count in (2, 16, 128)]
    assert wide["duplicates"].to_numpy() == pytest.approx(fewer, rel=0.05)
    for angle in regimes.ANGLES:
        assert (wide["duplicates"] < wide[f"{angle}° apart"]).all()
        assert (wide[f"{angle}° apart"] < wide[f"statement 13 at {angle}°"]).all()
        assert (wide[f"{angle}° apart"] < wide["union bound of M"]).all()


def test_the_channel_table_holds_every_distiller_and_never_more_than_fano():
    table = regimes.channel_table(5, 0.1, (2, 4), 0.3, 50)
    assert (table["success"] <= table["bound"] + 1e-9).all()
    assert set(table["channel"]) == {"2 symbols", "4 symbols", "noise"}
    assert set(table["line"]) == {*regimes.DISTILLERS, *regimes.NOISY}
