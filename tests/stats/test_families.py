"""Coverage law: worst gaps, k*, regressions and relabelling against closed forms and loops."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from ddlib.stats import families as coverage_laws
from ddlib.stats import regressions
from ddlib.stats.families import KStars, k_star, seed_weights, transfer, worst_gaps, worst_over

pytestmark = pytest.mark.filterwarnings("error")

KS = np.array([10, 20, 50, 100, 200, 500])


def table(scales, *, floor=0.02, seeds=5, noise=0.0, shared=0.0, ks=KS, generator=0):
    """Gaps a/√k + floor of configurations c0, c1, ...; noise of a trial, and shared by a seed."""
    rng = np.random.default_rng(generator)
    curves = np.asarray(scales)[:, None, None] / np.sqrt(ks) + floor
    shape = (len(scales), seeds, len(ks))
    gaps = curves + noise * rng.normal(size=shape) + shared * rng.normal(size=(1, seeds, 1))
    c, s, j = np.indices(shape).reshape(3, -1)
    found = {"configuration": [f"c{i}" for i in c], "seed": s, "k": np.asarray(ks)[j]}
    return pd.DataFrame({**found, "gap_error": gaps.ravel(), "gap_cross_entropy": gaps.ravel() * 2})


def names(*numbers):
    return [f"c{i}" for i in numbers]


def given(ks, censored="", draws=None, relabelled=None):
    """Make k* by hand, one epsilon; draws (D, F) and relabelled (B, F), default none."""
    rows = {"family": [f"f{i}" for i in range(len(ks))], "epsilon": 0.1, "k_star": ks}
    rows |= {"censored": censored or [""] * len(ks), "seeds": 4, "missing_seeds": 0}
    rows |= {"missing_sizes": 0}
    draws, relabelled = (
        np.array([ks] if more is None else np.vstack([ks, more]), dtype=float)
        for more in (draws, relabelled)
    )
    return KStars(pd.DataFrame(rows), draws.T, np.stack([relabelled.T] * 2))


def measured(**columns):
    count = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"f{i}" for i in range(count)])


def row(found, predictor):
    return found[found["predictor"] == predictor].iloc[0]


# Worst gaps


def test_worst_gaps_by_hand():
    gaps = pd.DataFrame(
        [("a", 1, 0.1), ("a", 2, 0.5), ("a", 3, 0.3), ("b", 1, 0.38), ("b", 2, 0.2), ("b", 3, 0.0)],
        columns=["configuration", "seed", "gap_error"],
    ).assign(k=10)
    found = worst_gaps(gaps, {"f": ["a", "b"]}).set_index("seed")
    # Without seed 1: a 0.4, b 0.1. Without 2: a 0.2, b 0.19. Without 3: a 0.3, b 0.29.
    assert found["worst_member"].tolist() == ["a", "a", "a"]
    assert found["worst"].tolist() == [0.1, 0.5, 0.3]
    assert found["mean"].tolist() == pytest.approx([0.24, 0.35, 0.15])
    assert found["raw"].tolist() == pytest.approx([0.3] * 3)
    gaps.loc[gaps["configuration"] == "b", "gap_error"] += 0.15
    found = worst_gaps(gaps, {"f": ["a", "b"]}).set_index("seed")
    # Without 1: a 0.4, b 0.25. Without 2: a 0.2, b 0.34. Without 3: a 0.3, b 0.44.
    assert found["worst_member"].tolist() == ["a", "b", "b"]
    assert found["worst"].tolist() == pytest.approx([0.1, 0.35, 0.15])


def test_evaluations_are_averaged_and_failures_left_out():
    gaps = table([1.0, 0.5])
    twice = pd.concat([gaps.assign(gap_error=gaps["gap_error"] + d) for d in (-0.1, 0.1)])
    failed = gaps.iloc[:1].assign(status="diverged", gap_error=np.nan)
    both = pd.concat([twice.assign(status="ok"), failed])
    families = {"f": names(0, 1)}
    expected = worst_gaps(gaps, families)
    pd.testing.assert_frame_equal(worst_gaps(both, families), expected)


def biases(spread, members, studies=3000, seeds=5):
    """Mean errors (corrected, raw) of the worst gap of one k, in units of a trial's noise."""
    rng = np.random.default_rng([members, int(10 * spread)])
    truths = spread * rng.normal(size=(members, 1, studies))
    values = truths + rng.normal(size=(members, seeds, studies))  # a study takes the place of a k
    values += rng.normal(size=(1, seeds, studies))
    corrected = worst_over(values, seed_weights(range(seeds), 0, 0))[0]
    raw = values.mean(axis=1).max(axis=0)
    return np.mean([corrected - truths.max(axis=0)[0], raw - truths.max(axis=0)[0]], axis=1)


# Expected largest of M standard normals (Harter 1961).
LARGEST = {2: 0.5642, 4: 1.0294, 8: 1.4236, 16: 1.7660}


@pytest.mark.parametrize("members", LARGEST)
def test_the_corrected_worst_gap_of_identical_members_does_not_grow_with_their_number(members):
    corrected, raw = biases(0.0, members)
    assert raw == pytest.approx(LARGEST[members] / np.sqrt(5), abs=0.04)
    assert corrected == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(("spread", "low", "high"), [(0.5, -0.25, 0.31), (2.0, -0.12, 0.08)])
def test_the_true_worst_gap_lies_between_corrected_and_raw(spread, low, high):
    corrected, raw = biases(spread, 16)
    assert corrected < 0 < raw
    assert (corrected, raw) == pytest.approx((low, high), abs=0.05)


def test_only_the_raw_k_star_of_identical_members_grows_with_their_number():
    sizes = [1, 2, 4, 8, 16]
    families = {f"f{i}": names(*range(m)) for i, m in enumerate(sizes)}
    slopes = []
    for i in range(40):
        gaps = table(np.ones(16), noise=0.02, generator=i)
        found = k_star(gaps, families, 0.12, draws=0, relabellings=0)  # k* = 100
        slopes.append(np.polyfit(np.log(sizes), found.table[["k_star", "raw"]], 1)[0])
    mean, error = np.mean(slopes, axis=0), np.std(slopes, axis=0) / np.sqrt(40)
    assert abs(mean[0]) < 3 * error[0]
    assert mean[1] > 10 * error[1]


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ({}, "no family was given"),
        ({"f": []}, "family 'f' is empty"),
        ({"f": ["c0", "c1", "c0"]}, "lists 'c0' twice"),
        ({"f": ["c0", "vgg"]}, "no gaps of 'vgg' in family 'f'; there are: c0, c1"),
    ],
)
def test_bad_families_are_refused(families, message):
    with pytest.raises(ValueError, match=message):
        worst_gaps(table([1.0, 2.0]), families)


def test_bad_gaps_are_refused():
    gaps, families = table([1.0]), {"f": names(0)}
    with pytest.raises(ValueError, match="one seed cannot tell"):
        worst_gaps(table([1.0], seeds=1), families)
    with pytest.raises(ValueError, match="unknown measure 'loss'"):
        worst_gaps(gaps, families, "loss")
    both = pd.concat([gaps.assign(method="dm"), gaps.assign(method="dc")])
    with pytest.raises(ValueError, match="gaps of 2 methods"):
        worst_gaps(both, families)
    with pytest.raises(ValueError, match="choose a finite gap"):
        k_star(gaps, families, [0.1, np.nan])
    with pytest.raises(ValueError, match="k=0; every k must be > 0"):
        k_star(gaps.assign(k=0), families, 0.1)


# k*


def test_the_isotonic_fit_is_that_of_scikit_learn():
    values = np.random.default_rng(0).normal(size=(200, 6)) - 0.3 * np.arange(6)
    fit = IsotonicRegression(increasing=False)
    expected = [fit.fit_transform(np.arange(6), each) for each in values]
    assert coverage_laws._isotonic(values) == pytest.approx(np.array(expected))


def test_k_star_of_known_laws_and_its_censoring():
    families = {"small": names(0), "both": names(0, 1)}
    found = k_star(table([0.5, 1.0]), families, [0.1, 0.06, 0.2, 0.02], draws=5)
    answers = found.table.set_index(["family", "epsilon"])
    # (a / (epsilon - 0.02))^2, on a grid from 10 to 500
    for family, epsilon, k in [
        ("small", 0.1, 39.0625),
        ("both", 0.1, 156.25),
        ("small", 0.06, 156.25),
        ("both", 0.2, 30.8642),
    ]:
        answer = answers.loc[(family, epsilon)]
        assert answer[["k_star", "low", "high", "raw"]].tolist() == pytest.approx([k] * 4)
        assert answer["censored"] == ""
    assert answers.loc[("both", 0.1), ["fails_at", "holds_at"]].tolist() == [100, 200]
    above = answers.loc[("both", 0.06)]  # 625
    assert above[["k_star", "low", "high", "fails_at"]].tolist() == [500, 500, np.inf, 500]
    assert above["censored"] == "above the largest k"
    below = answers.loc[("small", 0.2)]  # 7.7
    assert below[["k_star", "low", "high", "holds_at"]].tolist() == [10, 0, 10, 10]
    assert below["censored"] == "below the smallest k"


# Missing trials


def lost(gaps, *trials):
    """Drop trials (configuration, seed) or (configuration, seed, k)."""
    keys = list(zip(gaps["configuration"], gaps["seed"], gaps["k"], strict=True))
    gone = [any(key[: len(trial)] == trial for trial in trials) for key in keys]
    return gaps[~np.array(gone)]


def test_a_family_uses_whole_seeds_and_nothing_is_filled_in():
    gaps = table([0.5, 1.0, 0.7], noise=0.02, shared=0.02)
    missing = lost(gaps, ("c1", 1, 50), ("c1", 3), ("c2", 0), ("c2", 1))
    missing = lost(missing, ("c2", 2, 10), ("c2", 3, 20), ("c2", 4, 50))
    families = {"ab": names(0, 1), "a": names(0), "c": names(2)}
    found = k_star(missing, families, 0.12).table.set_index("family")
    assert found[["seeds", "missing_seeds"]].to_numpy().tolist() == [[3, 2], [5, 0], [0, 5]]
    whole = gaps[~gaps["seed"].isin([1, 3])]
    alone = k_star(whole, {"ab": names(0, 1)}, 0.12).table.set_index("family")
    same = ["k_star", "low", "high", "raw"]
    assert found.loc["ab", same].tolist() == pytest.approx(alone.loc["ab", same].tolist())
    assert np.isnan(found.loc["c", "k_star"])
    assert found.loc["c", "reason"] == "0 of 5 seeds have every member at every k; 2 needed"


def test_a_size_with_fewer_than_two_seeds_is_left_out_and_counted():
    gaps = table([0.5, 1.0])
    gaps = lost(gaps, *[("c1", seed, 500) for seed in range(4)])
    families = {"small": names(0), "both": names(0, 1)}
    found = k_star(gaps, families, [0.1], draws=2).table
    assert found["largest"].tolist() == [500, 200]
    assert found["missing_sizes"].tolist() == [0, 1]
    assert found["missing_seeds"].tolist() == [0, 0]
    assert found["k_star"].tolist() == pytest.approx([39.0625, 156.25])
    none = k_star(gaps.assign(gap_error=np.nan), {"both": names(0, 1)}, 1).table
    assert none["reason"].tolist() == ["no k has every member in 2 seeds"]
    assert none["k_star"].isna().all()


def test_beyond_a_lost_size_a_family_has_no_k_star():
    """k* of c1 is 625: where k = 500 was measured the bound is 500, and where it was lost none."""
    gaps, families = table([0.5, 1.0, 0.6]), {"a": names(0), "b": names(0, 1), "c": names(2)}
    short = lost(gaps, *[("c1", seed, 500) for seed in range(4)])
    found = k_star(short, families, 0.06, draws=2)
    assert found.table["k_star"].tolist() == pytest.approx([156.25, np.nan, 225], nan_ok=True)
    assert np.isnan(found.draws[1]).all()
    assert found.table["reason"].tolist() == [
        "",
        "k* is above 200, and trials beyond are missing: k = 500 (c1 in 4 of 5 seeds)",
        "",
    ]
    low = lost(gaps, *[("c2", seed, 10) for seed in range(5)], ("c2", 0, 20))
    found = k_star(low, {"c": names(2)}, 0.3, draws=2).table  # 4.6
    reason = "k* is below 20, and trials beyond are missing: k = 10 (c2 in 5 of 5 seeds)"
    assert found["reason"].tolist() == [reason]
    assert found["k_star"].isna().all()
    found = k_star(short, families | {"d": names(1)}, [0.06, 0.12], draws=2)
    counted = regressions.regress(
        found, pd.DataFrame({"h_cov": [0.0, 1, 1, 2]}, index=list("abcd"))
    )
    counted = counted[counted["predictor"] == "h_cov"]
    assert counted[["n", "unknown", "shortened"]].to_numpy().tolist() == [[2, 2, 0], [4, 0, 2]]


def test_worst_gaps_leave_out_a_seed_that_lacks_a_member_at_that_k():
    gaps = table([0.5, 1.0], noise=0.02)
    found = worst_gaps(lost(gaps, ("c1", 1, 50)), {"f": names(0, 1)})
    here = found[found["k"] == 50].set_index("seed")
    assert here[["seeds", "missing"]].to_numpy().tolist() == [[4, 1]] * 5
    assert here["worst"].isna().tolist() == [False, True, False, False, False]
    rest = worst_gaps(gaps[gaps["seed"] != 1], {"f": names(0, 1)})
    rest = rest[rest["k"] == 50].set_index("seed")
    assert here["worst"].dropna().tolist() == pytest.approx(rest["worst"].tolist())
    assert here["raw"].dropna().tolist() == pytest.approx(rest["raw"].tolist())


def test_families_stay_paired_where_one_loses_a_seed():
    """Both families see the same noise of seeds; where one lacks seed 2, draws stay correlated."""
    families, alike = {"f": names(0), "g": names(1)}, []
    for i in range(8):
        gaps = lost(table([1.0, 1.0], shared=0.02, generator=i), ("c1", 2))
        found = k_star(gaps, families, 0.12, draws=500, relabellings=0)
        alike.append(stats.spearmanr(*found.draws[:, 1:]).statistic)
    assert np.mean(alike) > 0.6


def test_intervals_of_k_star_hold_the_truth_where_seeds_are_missing():
    hits = 0
    for i in range(100):
        gaps = table([1.0, 0.8, 0.6], noise=0.01, shared=0.005, generator=i)
        gaps = lost(gaps, ("c0", 0), ("c1", 3, 50), ("c2", 4))
        found = k_star(gaps, {"f": names(0, 1, 2)}, 0.15, draws=200, relabellings=0)
        found = found.table.iloc[0]
        assert found["seeds"] == 2
        hits += found["low"] <= (1 / 0.13) ** 2 <= found["high"]
    assert hits >= 88


CASES = {
    "one member": [1.0],
    "eight equal members": [1.0] * 8,
    "four distinct members": [1.0, 0.8, 0.6, 0.4],
}


@pytest.mark.parametrize("scales", CASES.values(), ids=CASES)
def test_intervals_of_k_star_cover_the_truth(scales):
    family, hits = {"f": names(*range(len(scales)))}, 0
    for i in range(100):
        gaps = table(scales, noise=0.01, shared=0.005, generator=i)
        found = k_star(gaps, family, 0.15, draws=200, seed=i).table.iloc[0]
        hits += found["low"] <= (1 / 0.13) ** 2 <= found["high"]
    assert 88 <= hits <= 100


def test_draws_are_shared_by_all_families_in_every_call():
    gaps, families = table([0.5, 1.0, 0.7], noise=0.01), {"f": names(0, 1), "g": names(2)}
    both = k_star(gaps, families, 0.1, draws=20, seed=3)
    alone = k_star(gaps, {"g": names(2)}, 0.1, draws=20, seed=3)
    shuffled = k_star(gaps.sample(frac=1, random_state=0), families, 0.1, draws=20, seed=3)
    assert (both.draws[1] == alone.draws[0]).all()
    assert (both.draws == shuffled.draws).all()


# Regressions


def test_slopes_are_least_squares_and_r2_that_of_ln_k():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 3, 9)
    y = 100 + 50 * x + 10 * rng.normal(size=9)
    found = regressions.regress(given(y), measured(h_cov=x, log_members=x**2))
    line, h = stats.linregress(x, y), row(found, "h_cov")
    r2, other = (np.corrcoef(v, np.log(y))[0, 1] ** 2 for v in (x, x**2))
    assert h[["slope", "r2", "r2_raw", "lead"]].tolist() == pytest.approx(
        [line.slope, r2, r2, r2 - other]
    )
    misses = []
    for i in range(9):
        rest = np.arange(9) != i
        line = stats.linregress(x[rest], y[rest])
        misses.append(y[i] - line.intercept - line.slope * x[i])
    assert h["loo"] == pytest.approx(np.sqrt(np.mean(np.square(misses))))
    assert row(found, "constant")["loo"] == pytest.approx(y.std() * 9 / 8)
    assert h[["n", "distinct", "left_out"]].tolist() == [9, 9, "families"]


def test_whole_series_are_left_out():
    x, y = np.arange(6.0), np.array([20.0, 35, 45, 50, 70, 60])
    groups = dict(zip([f"f{i}" for i in range(6)], "aabbcc", strict=True))
    found = regressions.regress(given(y), measured(h_cov=x), groups)
    misses = []
    for start in (0, 2, 4):
        rest = ~np.isin(np.arange(6), [start, start + 1])
        line = stats.linregress(x[rest], y[rest])
        misses += [*(y - line.intercept - line.slope * x)[start : start + 2]]
    assert row(found, "h_cov")["loo"] == pytest.approx(np.sqrt(np.mean(np.square(misses))))
    assert row(found, "h_cov")["left_out"] == "series"


def test_slope_intervals_come_from_joint_draws():
    x = np.array([0.0, 1, 2, 3])
    shifts = np.linspace(-10, 10, 101)[:, None]
    draws = 50 + (40 + shifts) * x  # one seed effect tilts all families together
    found = regressions.regress(given(50 + 40 * x, draws=draws), measured(h_cov=x))
    ends = row(found, "h_cov")[["slope", "low", "high"]]
    assert ends.tolist() == pytest.approx([40, 30.4, 49.6], abs=0.21)


def test_what_cannot_be_regressed_says_why():
    measures = measured(h_cov=[1.0, 2, 3, 4], log_members=[1.0] * 4, vendi=[1.0, np.nan, 2, 3])
    found = regressions.regress(given([20.0, 30, 50, 60]), measures)
    assert "the same in every family" in row(found, "log_members")["reason"]
    assert "vendi is missing" in row(found, "vendi")["reason"]
    assert row(found, "h_cov")["reason"] == ""
    assert np.isnan(row(found, "h_cov")["lead"])
    few = given([20.0, 30, 500, 500], ["", "", "above", "above"])
    found = regressions.regress(few, measures)
    assert (found["reason"] == "2 of 4 families have k* inside the grid; it takes 3").all()
    assert found["slope"].isna().all()
    alike = regressions.regress(given([20.0] * 4), measures)
    assert row(alike, "h_cov")["reason"] == "k* is the same in every family"
    with pytest.raises(ValueError, match="no k\\* of family 'f4'"):
        regressions.regress(few, measured(h_cov=np.arange(5.0)))
    with pytest.raises(ValueError, match="measures have 'f0' twice"):
        regressions.regress(few, measures.iloc[[0, 0, 1]])


def test_a_family_without_k_star_is_left_out_and_counted():
    gaps = table([0.3, 0.5, 0.9, 1.2], noise=0.002)
    families = {f"f{i}": names(i) for i in range(4)} | {"f4": names(0, 3)}
    measures = measured(h_cov=[0.0, 1, 2, 3, 3], log_members=[0.0, 0, 1, 1, 2])
    gone = [("c0", seed) for seed in range(4)] + [("c1", 2, 50)]
    found = k_star(lost(gaps, *gone), families, 0.08)
    h = row(regressions.regress(found, measures), "h_cov")
    assert h[["n", "unknown", "reduced", "fewest", "distinct"]].tolist() == [3, 2, 1, 4, 3]
    whole = k_star(gaps, families, 0.08)
    rest = regressions.regress(whole, measures.loc[["f1", "f2", "f3"]])
    assert h["slope"] == pytest.approx(row(rest, "h_cov")["slope"], rel=0.1)


# Relabelling


def test_all_six_relabellings_of_three_configurations_by_hand():
    """k* of c0, c1, c2 is 25, 56.25 and 156.25; a family needs what its worst member needs."""
    gaps = table([0.4, 0.6, 1.0])  # epsilon 0.1: (a / 0.08)^2
    families = {"f0": names(0), "f1": names(1), "f2": names(0, 1), "f3": names(1, 2)}
    found = k_star(gaps, families, 0.1, draws=0)
    need = np.array([25.0, 56.25, 156.25])
    orders = np.array(list(permutations(range(3))))
    owned = need[orders]
    expected = [owned[:, 0], owned[:, 1], owned[:, :2].max(axis=1), owned[:, 1:].max(axis=1)]
    for kind in found.relabelled:
        assert kind == pytest.approx(np.array(expected))
    h, m = np.array([0.0, 0.3, 0.5, 1.0]), np.log([1, 1, 2, 2])
    logs = np.log(expected).T
    r, rival = ([np.corrcoef(x, y)[0, 1] for y in logs] for x in (h, m))
    leads = np.sign(r) * np.square(r) - np.sign(rival) * np.square(rival)
    fit = regressions.regress(found, measured(h_cov=h, log_members=m))
    answer = row(fit, "h_cov")
    assert answer["r2"] == pytest.approx(r[0] ** 2)
    assert answer["p"] == pytest.approx(np.mean(np.array(r) >= r[0] - 1e-9))
    assert answer["lead"] == pytest.approx(leads[0])
    assert answer["p_lead"] == pytest.approx(np.mean(leads >= leads[0] - 1e-9))
    falling = regressions.regress(found, measured(h_cov=-h, log_members=m))
    assert row(falling, "h_cov")["r2"] == pytest.approx(-(r[0] ** 2))


def test_relabelled_k_star_are_those_of_relabelled_tables():
    """Also where trials are missing: the curves move with what they lack."""
    gaps = table([0.4, 0.7, 1.0, 0.6], noise=0.02)
    gaps = lost(gaps, ("c1", 0), ("c2", 1, 50), ("c3", 0), ("c3", 1), ("c3", 2), ("c3", 3))
    gaps = lost(gaps, *[("c1", seed, 500) for seed in (1, 2, 3)])
    families = {"f": names(0, 1), "g": names(2), "h": names(0, 1, 2, 3)}
    found = k_star(gaps, families, [0.1, 0.06], draws=0)
    assert found.relabelled.shape == (2, 6, 24)
    for b, order in enumerate(permutations(range(4))):
        owners = {f"c{curve}": f"c{owner}" for owner, curve in enumerate(order)}
        moved = gaps.assign(configuration=gaps["configuration"].map(owners))
        again = k_star(moved, families, [0.1, 0.06], draws=0, relabellings=0).table
        for kind, column in enumerate(["k_star", "raw"]):
            expected = again[column].to_numpy()
            assert found.relabelled[kind, :, b] == pytest.approx(expected, nan_ok=True)


def test_drawn_relabellings_keep_the_truth_first_and_repeat():
    gaps, families = (
        table(np.linspace(0.4, 1, 8), noise=0.01),
        {"f": names(*range(8)), "g": names(5)},
    )
    found, again = (k_star(gaps, families, 0.1, relabellings=50) for _ in range(2))
    assert found.relabelled.shape == (2, 2, 51)
    assert (found.relabelled == again.relabelled).all()
    assert found.relabelled[0, :, 0] == pytest.approx(found.table["k_star"])


def nested_study(rng, effect):
    """A study of 8 configurations on a line, nested and overlapping families, and its p-values.

    effect: how much ln a of a configuration grows with its distance from the first.
    """
    at = np.concatenate([[0.0], rng.normal(size=7)])
    away = np.abs(at)
    scales = 0.5 * np.exp(
        effect * (away - away.mean()) + (0 if effect else 0.4) * rng.normal(size=8)
    )
    gaps = table(scales, noise=0.01, seeds=4, ks=KS[:5], generator=rng.integers(1 << 30))
    arms = ([0, 1, 2, 3], [0, 4, 5, 6], [0, 7, 2, 5])
    families = {f"{a}-{m}": names(*arm[:m]) for a, arm in enumerate(arms) for m in (2, 3, 4)}
    spread = [np.ptp(at[[int(n[1:]) for n in each]]) for each in families.values()]
    sizes = [len(each) for each in families.values()]
    measures = pd.DataFrame({"log_members": np.log(sizes), "h_cov": spread}, index=list(families))
    found = k_star(gaps, families, 0.1, draws=0, relabellings=99)
    return row(regressions.regress(found, measures), "h_cov")[["p", "p_lead"]]


def test_p_values_hold_their_size_and_find_a_law():
    """Families that nest are alike by chance, too: as independent ones they hold no size."""
    rng = np.random.default_rng(0)
    null, true = (
        np.array([nested_study(rng, effect) for _ in range(100)], dtype=float) <= 0.05
        for effect in (0.0, 0.8)
    )
    assert null.mean(axis=0).max() < 0.1
    assert true.mean(axis=0)[0] > 0.5


# Families of equal size


def test_within_equal_is_correlation_about_the_mean_of_each_size():
    ks = np.array([20.0, 40, 30, 90, 100, 60, 80])
    h = np.array([1.0, 3, 2, 4, 7, 5, 6])
    sizes = [3, 3, 3, 3, 5, 5, 5]
    rng = np.random.default_rng(0)
    relabelled = rng.uniform(20, 400, (40, 7))
    measures = measured(members=sizes, h_cov=h, log_members=np.log(sizes))
    found = regressions.within_equal(given(ks, relabelled=relabelled), measures)
    answer = found[found["predictor"] == "h_cov"].set_index("group")
    blocks = {"3": [slice(0, 4)], "5": [slice(4, 7)], "all": [slice(0, 4), slice(4, 7)]}
    for group, parts in blocks.items():
        x = np.concatenate([h[part] - h[part].mean() for part in parts])
        scores = []
        for y in np.log(np.vstack([ks, relabelled])):
            y = np.concatenate([y[part] - y[part].mean() for part in parts])
            r = (x @ y) / np.sqrt(x @ x * (y @ y))
            scores.append(r * abs(r))
        assert answer.loc[group, "r2"] == pytest.approx(scores[0])
        assert answer.loc[group, "p"] == pytest.approx(np.mean(scores >= scores[0] - 1e-9))
    assert answer["n"].tolist() == [4, 3, 7]
    constant = found[found["predictor"] == "log_members"]
    assert constant["reason"].str.contains("explains nothing").all()


def test_within_equal_needs_families_of_equal_size():
    with pytest.raises(ValueError, match="no two families share their members"):
        regressions.within_equal(given([20.0, 30]), measured(members=[1, 2], h_cov=[0.0, 1]))
    lost = given([np.nan, 30.0])
    [found] = regressions.within_equal(lost, measured(members=[2, 2], h_cov=[0.0, 1])).itertuples()
    assert (found.n, found.reason) == (0, "no two families of equal M have a k*")


def two_methods(first, other):
    return pd.concat([first.assign(method="one"), other.assign(method="all")])


def test_transfer_compares_methods_by_their_worst_and_mean_gaps():
    """Differences by hand; the interval of a mean of seeds is that of the paired t test."""
    first, other = (table(a, noise=0.01, generator=i) for i, a in enumerate([(1, 2), (1.5, 2)]))
    families = {"a": ["c0"], "b": ["c0", "c1"]}
    found = transfer(two_methods(first, other), families, draws=20_000)
    assert len(found) == 2 * 2 * len(KS)
    for case in found.itertuples():
        tables = [worst_gaps(own, families) for own in (first, other)]
        cells = [t[(t["family"] == case.family) & (t["k"] == case.k)] for t in tables]
        one, two = (cell.set_index("seed")[case.gap] for cell in cells)
        assert (case.first, case.other) == (pytest.approx(one.mean()), pytest.approx(two.mean()))
        assert case.difference == pytest.approx(two.mean() - one.mean())
        if case.gap == "mean":
            interval = stats.ttest_rel(two, one).confidence_interval()
            assert (case.low, case.high) == pytest.approx(tuple(interval), abs=3e-3)
        else:
            raw = cells[1]["raw"].iloc[0] - cells[0]["raw"].iloc[0]
            assert case.raw == pytest.approx(raw)
    small = found[(found["k"] == 10) & (found["gap"] == "worst")].set_index("family")
    assert small["told"].to_dict() == {"a": True, "b": False}
    with pytest.raises(ValueError, match=r"^only 'one' was run; give a second method"):
        transfer(first.assign(method="one"), families)


def test_transfer_uses_no_seed_in_which_a_trial_failed():
    first, other = table([1, 2], noise=0.01), table([1, 2], noise=0.01, generator=1)
    families = {"a": ["c0", "c1"]}
    gone = (other["seed"] == 0) & (other["configuration"] == "c1") & (other["k"] == 20)
    status = np.where(gone, "diverged", "ok")
    given = two_methods(first.assign(status="ok"), other.assign(status=status))
    found = transfer(given, families)
    left = two_methods(*(each[each["seed"] > 0] for each in (first, other)))
    expected = transfer(left, families).assign(missing=1)
    pd.testing.assert_frame_equal(found, expected)
    assert set(found["n"]) == {4}


def test_a_family_whose_trials_failed_in_most_seeds_is_not_judged_and_the_others_are():
    first, other = table([1, 2], noise=0.01), table([1, 2], noise=0.01, generator=1)
    lost = (other["seed"] > 0) & (other["configuration"] == "c1")
    other["gap_error"] = other["gap_error"].mask(lost)
    families = {"a": ["c0"], "b": ["c0", "c1"]}
    found = transfer(two_methods(first, other), families).set_index("family")
    assert found.loc["b", "difference"].isna().all()
    assert not found.loc["b", "told"].any()
    assert set(found.loc["b", "n"]) == {1}
    alone = transfer(two_methods(first, other), {"a": ["c0"]}).set_index("family")
    pd.testing.assert_frame_equal(found.loc[["a"]], alone)


def test_a_difference_that_only_the_corrected_worst_gaps_show_is_not_told():
    """One clear worst member against many that tie: corrected gaps lean down, raw ones up."""
    first = table([2.0, *[0.1] * 12], noise=0.02, floor=0)
    other = table([2.0] * 13, noise=0.02, floor=0, generator=1)
    families = {"all": names(*range(13))}
    found = transfer(two_methods(first, other), families)
    worst = found[found["gap"] == "worst"]
    apart = np.sign(worst["difference"]) != np.sign(worst["raw"])
    assert apart.any()
    assert not worst[apart]["told"].any()
