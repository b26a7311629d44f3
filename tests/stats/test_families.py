"""Coverage law: worst gaps, k* and transfer against closed forms, loops and simulation."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from known import SIZES, lost, names, study
from scipy import stats

from benchmarks import statistics
from ddlib.stats import worst
from ddlib.stats.families import k_star, transfer, worst_member
from ddlib.stats.regressions import regress

pytestmark = pytest.mark.filterwarnings("error")


def test_the_worst_member_by_hand():
    gaps = pd.DataFrame(
        [("a", 1, 0.1), ("a", 2, 0.5), ("a", 3, 0.3), ("b", 1, 0.38), ("b", 2, 0.2), ("b", 3, 0.0)],
        columns=["configuration", "seed", "gap_error"],
    ).assign(k=10)
    # Without seed 1: a 0.4, b 0.1. Without 2: a 0.2, b 0.19. Without 3: a 0.3, b 0.29.
    assert worst_member(gaps, ["a", "b"]) == ("a", pytest.approx((0.1 + 0.5 + 0.3) / 3))
    gaps.loc[gaps["configuration"] == "b", "gap_error"] += 0.15
    # Without 1: a 0.4, b 0.25. Without 2: a 0.2, b 0.34. Without 3: a 0.3, b 0.44.
    assert worst_member(gaps, ["a", "b"]) == ("b", pytest.approx((0.1 + 0.35 + 0.15) / 3))
    with pytest.raises(ValueError, match="fewer than 2 seeds have every member"):
        worst_member(gaps.iloc[:4], ["a", "b"])


def test_evaluations_are_averaged_and_failures_left_out():
    gaps = study([1.0, 0.5], noise=0.02)
    twice = pd.concat([gaps.assign(gap_error=gaps["gap_error"] + d) for d in (-0.1, 0.1)])
    failed = gaps.iloc[:1].assign(status="diverged", gap_error=9.0)
    both = pd.concat([twice.assign(status="ok"), failed])
    found, expected = (k_star(g, {"f": names(0, 1)}, 0.1).table for g in (both, gaps))
    pd.testing.assert_frame_equal(found, expected)


# Expected largest of M standard normals (Harter 1961).
LARGEST = {2: 0.5642, 4: 1.0294, 8: 1.4236, 16: 1.7660}


@pytest.mark.parametrize("members", LARGEST)
def test_the_corrected_worst_gap_of_identical_members_does_not_grow_with_their_number(members):
    rng = np.random.default_rng(members)
    values = rng.normal(size=(members, 5, 3000)) + rng.normal(size=(1, 5, 3000))  # a study is a k
    corrected = worst.worst_over(values, worst.seed_weights(range(5), 0))[0].mean()
    raw = values.mean(axis=1).max(axis=0).mean()
    assert raw == pytest.approx(LARGEST[members] / np.sqrt(5), abs=0.04)
    assert corrected == pytest.approx(0.0, abs=0.05)


ONE = {"f": names(0)}


@pytest.mark.parametrize(
    ("gaps", "sets", "message"),
    [
        (study([1.0, 2.0]), {"f": []}, "family 'f' is empty"),
        (study([1.0, 2.0]), {"f": ["c0", "vgg"]}, "no gaps of 'vgg' in .*; there are: c0, c1"),
        (study([1.0], seeds=1), ONE, "gaps of 1 seed cannot show noise"),
        (pd.concat([study([1.0]).assign(method=m) for m in "ab"]), ONE, "gaps of 2 methods"),
        (study([1.0]).assign(k=0), ONE, "k=0; every k must be > 0"),
    ],
)
def test_bad_input_is_refused_in_the_users_words(gaps, sets, message):
    with pytest.raises(ValueError, match=message):
        k_star(gaps, sets, 0.1)


def test_k_star_of_known_laws_and_its_censoring():
    sets = {"small": names(0), "both": names(0, 1)}
    answers = k_star(study([0.5, 1.0]), sets, [0.1, 0.06, 0.2, 0.02], draws=5).table
    answers = answers.set_index(["family", "epsilon"])
    # (a / (epsilon - 0.02))^2, on a grid from 10 to 500
    known = {("small", 0.1): 39.0625, ("both", 0.1): 156.25}
    for place, k in (known | {("small", 0.06): 156.25, ("both", 0.2): 30.8642}).items():
        answer = answers.loc[place]
        assert answer[["k_star", "low", "high", "raw"]].tolist() == pytest.approx([k] * 4)
        assert answer["censored"] == ""
    assert answers.loc[("both", 0.1), ["fails_at", "holds_at"]].tolist() == [100, 200]
    above = answers.loc[("both", 0.06)]  # 625
    assert above[["k_star", "low", "high", "fails_at"]].tolist() == [500, 500, np.inf, 500]
    assert above["censored"] == "above the largest k"
    below = answers.loc[("small", 0.2)]  # 7.7
    assert below[["k_star", "low", "high", "holds_at"]].tolist() == [10, 0, 10, 10]
    assert below["censored"] == "below the smallest k"


@pytest.mark.parametrize(("scales", "seeds"), [([1.0] * 8, 5), ([1.0, 0.8, 0.6], 3)])
def test_intervals_of_k_star_hold_the_truth(scales, seeds):
    rng = np.random.default_rng(0)
    assert 53 <= sum(statistics.hold(scales, seeds, rng)["held"] for _ in range(60)) <= 60


def test_draws_are_shared_by_all_families_in_every_call():
    gaps, sets = study([0.5, 1.0, 0.7], noise=0.01), {"f": names(0, 1), "g": names(2)}
    turned = gaps.sample(frac=1, random_state=0)
    both, alone, shuffled = (
        k_star(rows, chosen, 0.1, draws=20).draws
        for rows, chosen in ((gaps, sets), (gaps, {"g": names(2)}), (turned, sets))
    )
    assert (both[1] == alone[0]).all()
    assert (both == shuffled).all()


def test_a_family_uses_whole_seeds_and_nothing_is_filled_in():
    gaps = study([0.5, 1.0, 0.7], noise=0.02, shared=0.02)
    missing = lost(gaps, ("c1", 1, 50), ("c1", 3), ("c2", 0), ("c2", 1))
    missing = lost(missing, ("c2", 2, 10), ("c2", 3, 20), ("c2", 4, 50))
    sets = {"ab": names(0, 1), "a": names(0), "c": names(2)}
    found = k_star(missing, sets, 0.12).table.set_index("family")
    assert found[["seeds", "missing_seeds"]].to_numpy().tolist() == [[3, 2], [5, 0], [0, 5]]
    whole = gaps[~gaps["seed"].isin([1, 3])]
    alone = k_star(whole, {"ab": names(0, 1)}, 0.12).table.set_index("family")
    same = ["k_star", "low", "high", "raw"]
    assert found.loc["ab", same].tolist() == pytest.approx(alone.loc["ab", same].tolist())
    assert np.isnan(found.loc["c", "k_star"])
    assert found.loc["c", "reason"] == "0 of 5 seeds have every member at every k; 2 needed"


def test_beyond_a_lost_size_a_family_has_no_k_star():
    """k* of c1 is 625: where k = 500 was measured the bound is 500, and where it was lost none."""
    gaps, sets = study([0.5, 1.0, 0.6]), {"a": names(0), "b": names(0, 1), "c": names(2)}
    short = lost(gaps, *[("c1", seed, 500) for seed in range(4)])
    inside = k_star(short, sets, 0.1, draws=2).table
    assert inside["missing_sizes"].tolist() == [0, 1, 0]
    assert inside["missing_seeds"].tolist() == [0, 0, 0]
    assert inside["k_star"].tolist() == pytest.approx([39.0625, 156.25, 56.25])
    found = k_star(short, sets, 0.06, draws=2)
    assert found.table["k_star"].tolist() == pytest.approx([156.25, np.nan, 225], nan_ok=True)
    assert np.isnan(found.draws[1]).all()
    assert found.table["reason"].tolist() == ["", "k* is above 200, where trials are missing", ""]
    low = lost(gaps, *[("c2", seed, 10) for seed in range(5)], ("c2", 0, 20))
    found = k_star(low, {"c": names(2)}, 0.3, draws=2).table  # 4.6
    assert found["reason"].tolist() == ["k* is below 20, where trials are missing"]
    assert found["k_star"].isna().all()
    none = k_star(gaps.assign(gap_error=np.nan), {"b": names(0, 1)}, 1).table
    assert none["reason"].tolist() == ["no k has every member in 2 seeds"]
    found = k_star(short, sets | {"d": names(1)}, [0.06, 0.12], draws=2)
    counted = regress(found, pd.DataFrame({"h_cov": [0.0, 1, 1, 2]}, index=list("abcd")))
    counted = counted[counted["predictor"] == "h_cov"]
    assert counted[["n", "unknown", "shortened"]].to_numpy().tolist() == [[2, 2, 0], [4, 0, 2]]


def test_families_stay_paired_where_one_loses_a_seed():
    """Both families see the same noise of seeds; where one lacks seed 2, draws stay correlated."""
    sets, alike = {"f": names(0), "g": names(1)}, []
    for i in range(8):
        gaps = lost(study([1.0, 1.0], shared=0.02, generator=i), ("c1", 2))
        found = k_star(gaps, sets, 0.12, draws=500, relabellings=0)
        alike.append(stats.spearmanr(*found.draws[:, 1:]).statistic)
    assert np.mean(alike) > 0.6


def test_relabelled_k_star_are_those_of_relabelled_tables():
    """Also where trials are missing: the curves move with what they lack."""
    gaps = study([0.4, 0.7, 1.0, 0.6], noise=0.02)
    gaps = lost(gaps, ("c1", 0), ("c2", 1, 50), ("c3", 0), ("c3", 1), ("c3", 2), ("c3", 3))
    gaps = lost(gaps, *[("c1", seed, 500) for seed in (1, 2, 3)])
    sets = {"f": names(0, 1), "g": names(2), "h": names(0, 1, 2, 3)}
    found = k_star(gaps, sets, [0.1, 0.06], draws=0)
    assert found.relabelled.shape == (2, 6, 24)
    for b, order in enumerate(permutations(range(4))):
        owners = {f"c{curve}": f"c{owner}" for owner, curve in enumerate(order)}
        moved = gaps.assign(configuration=gaps["configuration"].map(owners))
        again = k_star(moved, sets, [0.1, 0.06], draws=0, relabellings=0).table
        for kind, column in enumerate(["k_star", "raw"]):
            expected = again[column].to_numpy()
            assert found.relabelled[kind, :, b] == pytest.approx(expected, nan_ok=True)


def two_methods(first, other):
    return pd.concat([first.assign(method="one"), other.assign(method="all")])


def test_transfer_compares_methods_by_their_worst_and_mean_gaps():
    """The interval of a mean of seeds is that of the paired t test; worst gaps are those at k."""
    first, other = (study(a, noise=0.01, generator=i) for i, a in enumerate([(1, 2), (1.5, 2)]))
    sets = {"a": ["c0"], "b": ["c0", "c1"]}
    found = transfer(two_methods(first, other), sets, draws=20_000)
    assert len(found) == 2 * 2 * len(SIZES)
    for case in found.itertuples():
        members, pair = sets[case.family], [gaps[gaps["k"] == case.k] for gaps in (first, other)]
        cells = [g.pivot(index="seed", columns="configuration", values="gap_error") for g in pair]
        if case.gap == "worst":
            ends = [worst_member(gaps, members)[1] for gaps in pair]
            raw = [gaps[members].mean().max() for gaps in cells]
            assert case.raw == pytest.approx(raw[1] - raw[0])
        else:
            seeds = [gaps[members].mean(axis=1) for gaps in cells]
            interval = stats.ttest_rel(*seeds[::-1]).confidence_interval()
            assert (case.low, case.high) == pytest.approx(tuple(interval), abs=3e-3)
            ends = [seed.mean() for seed in seeds]
        assert (case.first, case.other) == pytest.approx(ends)
        assert case.difference == pytest.approx(ends[1] - ends[0])
    small = found[(found["k"] == 10) & (found["gap"] == "worst")].set_index("family")
    assert small["significant"].to_dict() == {"a": True, "b": False}
    with pytest.raises(ValueError, match=r"^only 'one' was run; give a second method"):
        transfer(first.assign(method="one"), sets)


def test_transfer_uses_no_seed_in_which_a_trial_failed():
    first, other = study([1, 2], noise=0.01), study([1, 2], noise=0.01, generator=1)
    sets = {"a": ["c0", "c1"]}
    gone = (other["seed"] == 0) & (other["configuration"] == "c1") & (other["k"] == 20)
    status = np.where(gone, "diverged", "ok")
    found = transfer(two_methods(first.assign(status="ok"), other.assign(status=status)), sets)
    left = two_methods(*(gaps[gaps["seed"] > 0] for gaps in (first, other)))
    pd.testing.assert_frame_equal(found, transfer(left, sets).assign(missing=1))
    assert set(found["n"]) == {4}
    most = other.assign(gap_error=other["gap_error"].mask(other["seed"] > 0))
    found = transfer(two_methods(first, most), sets)
    assert found["difference"].isna().all()
    assert not found["significant"].any()
    assert set(found["n"]) == {1}


def test_a_difference_that_only_the_corrected_worst_gaps_show_is_not_significant():
    """One clear worst member against many that tie: corrected gaps lean down, raw ones up."""
    first = study([2.0, *[0.1] * 12], noise=0.02, floor=0)
    other = study([2.0] * 13, noise=0.02, floor=0, generator=1)
    found = transfer(two_methods(first, other), {"all": names(*range(13))})
    rows = found[found["gap"] == "worst"]
    apart = np.sign(rows["difference"]) != np.sign(rows["raw"])
    assert apart.any()
    assert not rows[apart]["significant"].any()
