"""Statements 12 to 16: coverage when S is sampled, sent through a channel, or optimised."""

import numpy as np
import pytest
from scipy import integrate, special

from ddlib.theory import channel
from ddlib.words import theory as words

COUNTS = 2 ** np.arange(1, 13)


def expected_maximum(count: int) -> float:
    """E max |Z_i| of N independent standard normal Z_i: the integral of 1 - P(all < x)."""
    tail = integrate.quad(lambda x: 1 - special.erf(x / np.sqrt(2)) ** count, 0, 40, limit=200)
    return float(tail[0])


@pytest.fixture(scope="module")
def simulated():
    return channel.simulate_worst(COUNTS, 200, 10, np.random.default_rng(0))


def test_simulated_worst_gaps_agree_with_the_integral_and_stay_below_the_bound(simulated):
    assert expected_maximum(1) == pytest.approx(np.sqrt(2 / np.pi))
    groups = simulated.groupby("count")["worst"]
    exact = np.array([expected_maximum(int(count)) for count in COUNTS])
    assert (np.abs(groups.mean() - exact) < 4.5 * groups.sem()).all()
    assert (exact < channel.union_bound(COUNTS, 1)).all()
    assert (exact > 0.6 * channel.union_bound(COUNTS, 1)).all()


def test_the_union_bound_holds_for_dependent_and_for_coin_valued_samples():
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(64, 5))  # far from independent: 64 in 5 dimensions
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for k in (1, 4, 30):
        means = rng.choice([-1.0, 1.0], size=(2000, k, 5)).mean(axis=1)
        assert np.abs(means @ directions.T).max(axis=1).mean() < channel.union_bound(64, k)


def test_k_star_is_linear_in_h_cov_with_a_slope_that_rises_to_two(simulated):
    line, (small, large), highest = channel.slopes(simulated)
    exact = [expected_maximum(int(count)) ** 2 for count in COUNTS]
    predicted = np.polyfit(np.log(COUNTS), exact, 1)[0]
    assert line.r2 > 0.99
    assert line.slope.low <= predicted <= line.slope.high
    assert small.slope.high < large.slope.low < large.slope.high < 2
    assert highest < 1


def test_every_line_of_the_sampled_regime_keeps_its_place():
    table = channel.sampled_sizes([16, 128, 1024], 300, 4)
    wide = table.pivot(index="x", columns="line", values="k_star")
    exact = [expected_maximum(count) ** 2 for count in (2, 16, 128, 1024)]
    assert wide["independent"].to_numpy() == pytest.approx(exact, rel=0.05)
    fewer = [expected_maximum(count) ** 2 for count in (2, 16, 128)]
    wide = wide.dropna()  # at N = 2 alone, nothing has duplicates
    assert wide["duplicates"].to_numpy() == pytest.approx(fewer, rel=0.05)
    for angle in channel.ANGLES:
        assert (wide["duplicates"] < wide[f"{angle}° apart"]).all()
        assert (wide[f"{angle}° apart"] < wide[f"statement 13 at {angle}°"]).all()
        assert (wide[f"{angle}° apart"] < wide["union bound of M"]).all()


def test_duplicates_change_nothing_at_sizes_that_are_no_multiples():
    """At 496 members near 62 directions, statement 13 gives 3.429² at 5°, all members 3.715²."""
    text = words.duplicates(channel.sampled_sizes([2, 50, 500], 100, 2))
    first, near, far = text.splitlines()
    assert first == "- 8 duplicates of each configuration change k* by at most 0.0%."
    end = "in the largest family it is {} than the union bound over all members."
    assert near.endswith(end.format("tighter"))
    assert far.endswith(end.format("weaker"))


@pytest.mark.parametrize("alphabet", [2, 4])
@pytest.mark.parametrize("worlds", [9, 16])
def test_no_distiller_beats_fano_or_counting_with_quantised_samples(alphabet, worlds):
    for k in (1, 2, 3):
        share = {
            name: channel.quantised_success(name, worlds, k, alphabet, np.random.default_rng(k))
            for name in channel.DISTILLERS
        }
        assert all(0 < served <= alphabet**k / worlds for served in share.values())
        assert max(share.values()) <= channel.fano_success(k, worlds, np.log(alphabet))
        assert max(share["samples"], share["herding"]) <= share["every choice"]


def test_choices_of_symbols_serve_the_worlds_that_a_loop_counts():
    """Of 3 worlds, two symbols: one of each lies 1.005 from both, and serves neither."""
    for k in (1, 2, 300):
        share = channel.quantised_success("every choice", 3, k, 2, np.random.default_rng(0))
        assert share == pytest.approx(2 / 3)
    assert channel.quantised_success("free decoder", 16, 4, 2, np.random.default_rng(0)) == 1
    assert channel.fano_success(0, 16, 1.0) == pytest.approx(0.25)
    assert channel.fano_success(100, 16, 1.0) == 1


def test_noisy_chances_agree_with_simulation_and_with_fano():
    rng, k, worlds = np.random.default_rng(6), 20, 8
    means = 3 / np.sqrt(k) * rng.normal(size=(20000, worlds))
    means[:, 0] += 2.01
    served = (np.abs(means - 2.01 * np.eye(worlds)[0]) <= 1).all(axis=1).mean()
    assert channel.noisy_success("mean", worlds, k, 3.0) == pytest.approx(served, abs=0.015)
    decided = (means.argmax(axis=1) == 0).mean()
    chance = channel.noisy_success("free decoder", worlds, np.array([k]), 3.0)
    assert chance[0] == pytest.approx(decided, abs=0.015)
    ks = np.unique(np.geomspace(1, 300, 30).round())
    for count in (4, 16, 256):
        for noise in (1.0, 3.0, 10.0):
            bound = channel.fano_success(ks, count, 2.01**2 / (2 * noise**2))
            for name in channel.NOISY:
                assert (channel.noisy_success(name, count, ks, noise) <= bound + 1e-9).all()


def test_optimised_sets_follow_degrees_of_freedom_and_ignore_duplicates():
    rng, width, counts, stars = np.random.default_rng(0), 3, (1, 6, 12), {}
    real, kinds = rng.normal(size=(200, width)), ("linear", "quadratic", "network")
    families = {kind: channel.draw_family(kind, 12, width, rng) for kind in kinds}
    for kind, whole in families.items():
        for count in counts:
            family = channel.first(whole, count)
            stars[kind, count] = channel.least_size(family, real, rng)
            if kind == "network":
                assert np.ceil(count / width) <= stars[kind, count] <= count / width + 2
            elif kind == "quadratic":
                assert channel.rank(family, real) == min(count, width * (width + 1) / 2)
    assert max(stars["linear", count] for count in counts) == 1
    assert max(stars["quadratic", count] for count in counts) == width
    family = channel.first(families["network"], 6)

    def four_times(points):
        return np.tile(family(points), 4)

    assert channel.rank(four_times, real) == 6
    assert channel.least_size(four_times, real, rng) <= stars["network", 6] + 1
