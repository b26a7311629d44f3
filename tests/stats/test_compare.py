"""Comparisons against sums done by hand, by naive loops, by scipy, and by published examples."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from known import SEEDS, noisy, p_of, trials
from scipy import stats

from ddlib.stats import cells, compare, laws, surrogates

STUDIES = 500  # 5 % has an error of 1 point, so 7 % is two errors above


def measured(table: pd.DataFrame, *full: float) -> pd.DataFrame:
    """Return trials whose gaps are measured from accuracies on all data, one a seed."""
    return table.assign(gap_error=table["seed"].map(dict(enumerate(full))) - table["accuracy"])


def test_intervals_are_student_t_over_seeds():
    table = trials({("dm", 10): [0.7, 0.8, 0.9]})
    row = compare.accuracies(measured(table, 0.95, 0.95, 0.98)).iloc[0]
    half = 4.302653 * 0.1 / math.sqrt(3)  # t(0.975, 2) from a printed table; deviation 0.1
    expected = [0.8, 0.8 - half, 0.8 + half]
    assert row[["accuracy", "low", "high"]].tolist() == pytest.approx(expected, abs=1e-6)
    # gaps seed by seed are 0.25, 0.15, 0.08: mean 0.16, sum of squares 0.0081 + 0.0001 + 0.0064
    half = 4.302653 * math.sqrt(0.0146 / 2 / 3)
    expected = [0.16, 0.16 - half, 0.16 + half]
    assert row[["gap", "gap_low", "gap_high"]].tolist() == pytest.approx(expected, abs=1e-6)
    assert row["balanced_accuracy"] == pytest.approx(0.4)  # half of each accuracy here


def test_evaluations_are_averaged_and_failures_stay_in_the_table_but_do_not_count():
    table = trials({("dm", 10): [0.6, 0.8]})
    table = pd.concat([table, table.assign(evaluation=1, accuracy=[0.8, 0.8])])
    row = compare.accuracies(table).iloc[0]
    assert (row["n"], row["accuracy"]) == (2, pytest.approx(0.75))
    table = measured(trials({("dm", 10): [0.7, 0.8, 0.9]}), 0.95, math.nan, 0.99)
    row = compare.accuracies(table).iloc[0]  # a seed has no network on all data
    assert (row["n"], row["accuracy"]) == (3, pytest.approx(0.8))
    assert (row["gap_n"], row["gap"]) == (2, pytest.approx((0.25 + 0.09) / 2))
    table = trials({("dm", 10): [0.6, None, 0.8], ("dc", 10): [None, None, None]})
    found = compare.accuracies(table).set_index("method")
    assert found.loc["dm", ["seeds", "n"]].tolist() == [3, 2]
    assert found.loc["dm", "accuracy"] == pytest.approx(0.7)
    assert found.loc["dc", ["seeds", "n"]].tolist() == [3, 0]
    assert found.loc["dc", ["accuracy", "gap"]].isna().all()
    diverged = trials({("dm", 10): [0.6, 0.8]}, status="diverged")  # even with a number
    assert compare.accuracies(diverged)["n"].tolist() == [0]


def test_pairs_are_compared_within_common_seeds():
    first, second = [0.91, 0.85, 0.88, 0.90, 0.93], [0.89, 0.84, 0.85, 0.87, 0.92]
    values = {("a", 10): first, ("b", 10): second, ("a", 20): first}
    values["b", 20] = [None, None, None, *second[3:]]
    pair, other = compare.paired(trials(values)).to_dict("records")
    expected = stats.ttest_rel(first, second)
    assert pair["difference"] == pytest.approx(0.02)
    assert pair["p"] == pair["p_holm"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert [pair["low"], pair["high"]] == pytest.approx([interval.low, interval.high])
    assert (other["n"], other["difference"]) == (2, pytest.approx(0.02))


def test_holm_by_hand():
    p = pd.Series([0.01, 0.04, math.nan, 0.03, 0.005])
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; never falling
    expected = [0.03, 0.06, math.nan, 0.06, 0.02]
    assert compare.holm(p).tolist() == pytest.approx(expected, nan_ok=True)
    assert compare.holm(pd.Series([0.6, 0.7])).tolist() == [1.0, 1.0]
    # It covers the pairs at one size.
    values = noisy({(m, k): level for m, level in (("a", 0.5), ("b", 0.8)) for k in (10, 20)})
    pairs = compare.paired(trials(values | noisy({("c", 10): 0.6}, seed=1)))
    pairs = pairs.query("reason == ''")
    assert list(pairs["k"]) == [10, 10, 10, 20]
    assert pairs["p_holm"].iloc[:3].min() == pytest.approx(3 * pairs["p"].iloc[:3].min())
    assert pairs["p_holm"].iloc[3] == pairs["p"].iloc[3]


def test_the_best_is_separable_from_some_and_not_from_others():
    values = noisy({("a", 10): 0.9, ("b", 10): 0.897, ("c", 10): 0.5}, noise=0.003)
    table = trials(values)
    [row] = compare.ranking(compare.accuracies(table), compare.paired(table)).to_dict("records")
    first, second = sorted("ab", key=lambda m: -np.mean(values[m, 10]))
    assert [row["best"], row["runner_up"]] == [first, second]
    ahead = np.mean(values[first, 10]) - np.mean(values[second, 10])
    assert row["difference"] == pytest.approx(ahead)
    expected = stats.ttest_rel(values["a", 10], values["b", 10]).pvalue
    assert row["p_holm"] == pytest.approx(expected)  # the largest of three: factor 1
    assert row["not_separable"] == (second,)


@pytest.mark.parametrize(
    ("values", "best", "not_separable"),
    [
        # dc lost the hardest seed, so its mean is the best; over the seeds of both, dm leads
        ({"dm": [0.4, 0.53, 0.54, 0.531, 0.54], "dc": [None, 0.52, 0.53, 0.52, 0.531]}, "dc", "dm"),
        ({"dm": [0.8, 0.9, 0.7], "random": [0.5, 0.61, 0.4], "mtt": [None] * 3}, "dm", "mtt"),
    ],
)
def test_lost_seeds_do_not_make_a_method_the_only_best(values, best, not_separable):
    table = trials({(method, 10): accuracies for method, accuracies in values.items()})
    pairs = compare.paired(table)
    [row] = compare.ranking(compare.accuracies(table), pairs).to_dict("records")
    assert pairs.query("reason == ''")["survives"].all()
    assert (row["best"], row["not_separable"]) == (best, (not_separable,))


def test_against_the_baseline_the_family_is_its_own_comparisons():
    means = {("random", 10): 0.5, ("herding", 10): 0.53, ("dm", 10): 0.55, ("dc", 10): 0.5}
    values = noisy(means, noise=0.02)
    pairs = compare.paired(trials(values))
    found = compare.against(pairs).set_index("method")
    methods = ["herding", "dm", "dc"]
    assert list(found.index) == methods
    differences = [np.mean(values[method, 10] - values["random", 10]) for method in methods]
    assert found["difference"].tolist() == pytest.approx(differences)
    assert ((found["low"] < found["difference"]) & (found["difference"] < found["high"])).all()
    p = [p_of(values, method, "random") for method in methods]
    assert found["p"].tolist() == pytest.approx(p)
    assert found["p_holm"].min() == pytest.approx(3 * min(p))  # of 3, not of 6
    assert found["survives"].tolist() == (found["p_holm"] <= 0.05).tolist()
    assert pairs["p_holm"].min() == pytest.approx(6 * pairs["p"].min())
    assert len(compare.against(pairs, "dm")) == 3
    assert compare.against(pairs, "mtt").empty


def test_ahead_of_all_is_the_largest_p_then_holm_over_methods():
    """Of three methods: dm leads all, dc trails a variant of a control, mtt has no test there."""
    means = {"random": 0.4, "herding": 0.5, "near": 0.6, "dm": 0.65, "dc": 0.55, "mtt": 0.9}
    values = noisy({(method, 10): mean for method, mean in means.items()})
    values["mtt", 10] = [None, None, None, None, 0.9]
    table = trials(values)
    table["base"] = table["method"].replace({"near": "herding"})
    names = compare.control_names(table)
    assert names == ["random", "herding", "near"]
    versus = compare.over_controls(compare.paired(table), names)
    assert set(versus["method"]) == {"dm", "dc", "mtt"}
    found = compare.ahead_of_all(versus).set_index("method")
    assert list(found.index) == ["dm", "dc"]
    largest = max(p_of(values, "dm", control) for control in names)
    assert found["p"].tolist() == pytest.approx([largest, 1.0])
    assert found["p_holm"].tolist() == pytest.approx([2 * largest, 1.0])
    assert found["survives"].tolist() == [True, False]
    assert found["nearest"].tolist() == ["near", "near"]
    assert set(found["rivals"]) == {"random, herding, near"}
    differences = [np.mean(values[method, 10] - values["near", 10]) for method in ("dm", "dc")]
    assert found["difference"].tolist() == pytest.approx(differences)
    assert (found["low"] < found["difference"]).all()
    assert compare.ahead_of_all(versus[:0]).empty


def test_ahead_of_all_counts_rivals_without_a_test():
    """A twin of herding leads no herding; a lead that is the same in every seed is no obstacle."""
    values = noisy({(method, 10): mean for method, mean in (("random", 0.4), ("herding", 0.7))})
    values |= {("twin", 10): values["herding", 10], ("above", 10): values["herding", 10] + 0.1}
    versus = compare.over_controls(compare.paired(trials(values)), ["random", "herding"])
    found = compare.ahead_of_all(versus).set_index("method")
    assert found["survives"].to_dict() == {"twin": False, "above": True}
    assert found.loc["twin", ["nearest", "difference", "p"]].tolist() == ["herding", 0.0, 1.0]
    assert found.loc["twin", ["low", "high"]].isna().all()
    assert found.loc["above", "p"] == pytest.approx(p_of(values, "above", "random"))
    assert (found["rivals"] == "random, herding").all()
    assert compare.ahead_of_all(versus.query("method == 'above' and rival == 'herding'")).empty


@pytest.mark.parametrize("lost", [SEEDS, SEEDS - 1])
def test_ahead_of_all_says_nothing_where_a_rival_lost_its_seeds(lost):
    means = {("random", k): 0.4 for k in (10, 20)} | {("herding", k): 0.5 for k in (10, 20)}
    values = noisy(means | {("dm", k): 0.9 for k in (10, 20)})
    values["herding", 10] = [None] * lost + [0.5] * (SEEDS - lost)
    versus = compare.over_controls(compare.paired(trials(values)), ["random", "herding"])
    found = compare.ahead_of_all(versus)
    assert found[["k", "method", "survives"]].to_numpy().tolist() == [[20, "dm", True]]


def test_the_nearest_rival_is_the_one_whose_p_is_given():
    """dm leads herding by less, and random by more but with much more noise."""
    steps = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    values = {("dm", 10): [0.8] * 5, ("herding", 10): 0.7 + 0.001 * steps}
    values["random", 10] = 0.6 + 0.1 * steps
    versus = compare.over_controls(compare.paired(trials(values)), ["random", "herding"])
    [row] = compare.ahead_of_all(versus).to_dict("records")
    assert (row["nearest"], row["difference"]) == ("random", pytest.approx(0.2))
    assert row["p"] == pytest.approx(p_of(values, "dm", "random"))
    interval = stats.ttest_rel(*(values[name, 10] for name in ("dm", "random")))
    assert row["low"] == pytest.approx(interval.confidence_interval().low)


def simulated(means: dict[str, float]) -> pd.DataFrame:
    """Return `paired` of studies, one a k. Seeds share noise; a difference has a deviation of 1."""
    rng = np.random.default_rng(0)
    drawn = np.array(list(means.values())) + rng.normal(size=(STUDIES, SEEDS, len(means))) / 2**0.5
    drawn += rng.normal(size=(STUDIES, SEEDS, 1))
    k, seed, method = (places.ravel() for places in np.indices(drawn.shape))
    rows = {"k": k, "seed": seed, "method": np.array(list(means))[method], "status": "ok"}
    return compare.paired(pd.DataFrame({**rows, "accuracy": drawn.ravel()}))


def better(tests: pd.DataFrame, *methods: str) -> float:
    """Return the share of studies in which one of the methods is significantly better."""
    claims = tests[tests["survives"] & (tests["difference"] > 0)]
    return claims.loc[claims["method"].isin(methods), "k"].nunique() / STUDIES


def test_false_claims_are_made_in_at_most_one_study_of_20():
    names = ("random", "herding")
    pairs = simulated(dict.fromkeys(["random", "herding", "a", "b", "c", "d"], 0.0))
    versus = compare.against(pairs)
    assert 0.02 < versus["survives"].groupby(versus["k"]).any().mean() < 0.07  # near 5 %
    ahead = compare.ahead_of_all(compare.over_controls(pairs, names))
    assert better(ahead, *"abcd") < 0.025  # half of 5 % if random were alone: one side of the test
    # a and b lead; c and d are level with herding, and far better than random
    pairs = simulated({"random": -20.0, "herding": 0.0, "a": 20.0, "b": 20.0, "c": 0.0, "d": 0.0})
    ahead = compare.ahead_of_all(compare.over_controls(pairs, names))
    assert better(ahead, "a") == better(ahead, "b") == 1
    assert better(ahead, "c", "d") < 0.045  # one side of 5 %, and an error of 0.7 points


def test_the_power_is_that_of_the_smaller_family():
    """A lead of 3 deviations: by noncentral t, at 5 % over 5 tests and over 15."""
    pairs = simulated(dict.fromkeys(["random", "herding", "b", "c", "d"], 0.0) | {"a": 3.0})
    power = [
        stats.nct.sf(stats.t.isf(0.05 / family / 2, SEEDS - 1), SEEDS - 1, 3 * math.sqrt(SEEDS))
        for family in (5, 15)
    ]
    assert power == pytest.approx([0.895, 0.653], abs=0.001)
    assert better(compare.against(pairs), "a") == pytest.approx(power[0], abs=0.05)
    rows = compare.both_ways(pairs).query("rival == 'random'")
    assert better(rows, "a") == pytest.approx(power[1], abs=0.1)  # later steps of Holm add some


def test_variants_are_not_learned_methods_of_their_own():
    table = trials({("dm", 10): [0.4], ("dm_fast", 10): [0.5], ("random", 10): [0.3]})
    table["base"] = table["method"].replace({"dm_fast": "dm"})
    assert list(compare.learned(table)["method"].unique()) == ["dm"]


def test_a_variant_of_a_control_is_a_control_among_gains():
    table = trials(noisy({("random", 10): 0.5, ("near", 10): 0.7, ("dm", 10): 0.6}))
    table["labels"], table["base"] = "hard", table["method"].replace({"near": "herding"})
    found = cells.gains({"digits": table}).set_index("method")
    assert found["kind"].to_dict() == {"near": "control", "dm": "paper"}
    assert found.loc["dm", "outcome"] == "beats random"
    found = cells.gains({"digits": table[table["method"] != "near"]}).set_index("method")
    assert found.loc["dm", "outcome"] == "beats all controls"
    kinds = {"near": "control", "random": "control", "datm": "other", "dm": "paper"}
    assert cells.ordered(kinds) == ["dm", "datm", "random", "near"]


def test_kendall_w_by_hand():
    assert surrogates.kendall_w(np.array([[1, 2, 3], [4, 5, 9]])) == 1
    assert surrogates.kendall_w(np.array([[1, 2, 3], [3, 2, 1]])) == 0
    # ranks 123, 132, 213: sums 4, 6, 8; S = 8; 12 * 8 / (9 * 24)
    assert surrogates.kendall_w(np.array([[1, 2, 3], [1, 3, 2], [2, 1, 3]])) == pytest.approx(4 / 9)
    # one tie in the second ranking: 12 S / (K^2 (M^3 - M) - K (2^3 - 2)), sums 2.5, 3.5, 6, S = 6.5
    assert surrogates.kendall_w(np.array([[1, 2, 3], [1, 1, 3]])) == pytest.approx(78 / (96 - 12))
    assert math.isnan(surrogates.kendall_w(np.ones((2, 3))))


def test_agreement_shuffles_the_order_at_each_size_of_methods_with_all_results():
    cube = np.random.default_rng(3).normal(0.8, 0.05, (2, 3, 3))  # seeds, k, methods
    places = list(itertools.product(enumerate("abc"), enumerate((10, 20, 30))))
    found = surrogates.agreement(trials({(m, k): cube[:, j, i] for (i, m), (j, k) in places}))
    means = cube.mean(axis=0)
    orders = itertools.product(itertools.permutations(range(3)), repeat=3)
    exact = [surrogates.kendall_w(np.take_along_axis(means, np.array(o), 1)) for o in orders]
    w = surrogates.kendall_w(means)
    assert found.w == pytest.approx(w)
    assert found.p == pytest.approx(np.mean(np.array(exact) >= w - 1e-12), abs=0.02)
    assert (found.methods, found.ks) == (("a", "b", "c"), (10, 20, 30))
    values = noisy({(m, k): 0.7 + 0.05 * i for i, m in enumerate("abcd") for k in (10, 20, 30)})
    found = surrogates.agreement(trials(values | {("b", 20): [None] * SEEDS}))
    assert (found.methods, found.left_out, found.w) == (("a", "c", "d"), ("b",), 1)
    assert found.p < 0.05


def test_exponents_are_compared_pair_by_pair():
    exponents, ks = {"dm": 0.5, "dc": 0.5, "mtt": 1.0, "random": 2.0}, (10, 20, 50, 100, 200, 500)
    means = {(m, k): 0.99 - (k / 10) ** -b * 0.4 for m, b in exponents.items() for k in ks}
    fits = laws.fit_table(trials(noisy(means, noise=0.0005)), "gap_error", draws=400)
    found = surrogates.exponents(fits).set_index(["first", "second"])
    assert list(found.index) == [("dm", "dc"), ("dm", "mtt"), ("dc", "mtt")]
    assert found["differs"].tolist() == [False, True, True]
    assert found["difference"].tolist() == pytest.approx([0, -0.5, -0.5], abs=0.05)
    assert ((found["low"] < found["difference"]) & (found["difference"] < found["high"])).all()


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ([0.8], [0.5], "not testable: one seed"),
        ([0.9, 0.8], [0.8, 0.7], "not testable: the same difference in every seed"),  # to rounding
        ([None, 0.7], [0.5, None], "not testable: no seed in common"),
        ([None, None], [0.5, 0.6], "not testable: no seed in common"),
    ],
)
def test_what_cannot_be_tested_says_why(first, second, reason):
    table = trials({("dm", 10): first, ("random", 10): second})
    pairs, found = compare.paired(table), compare.accuracies(table)
    assert pairs["reason"].tolist() == [reason]
    assert pairs["p_holm"].isna().all()
    assert not pairs["survives"].any()
    assert compare.paired(table[table["method"] == "dm"]).empty  # no rival
    [best] = compare.ranking(found, pairs).to_dict("records")
    assert (best["best"], best["not_separable"]) in [("dm", ("random",)), ("random", ("dm",))]
    assert surrogates.agreement(table).reason.endswith("with a result everywhere")


def test_the_order_of_methods_under_another_configuration_is_compared_with_the_first():
    """Leads of 10 points are clear at a noise of about 1; a and b swap, c is level with b."""
    steps = np.array([0.0, 0.01, 0.02, 0.01])
    means = {"own": (0.5, 0.6, 0.8), "long": (0.6, 0.5, 0.8), "soft": (0.5, 0.6, 0.58)}
    tables = []
    for name, (a, b, c) in means.items():
        values = {("a", 10): a + steps, ("b", 10): b - steps, ("c", 10): c + steps[::-1]}
        values["mtt", 10] = 0.9 + steps  # it learns labels
        tables.append(trials(values).assign(configuration=name, labels="hard"))
    tables.append(tables[0].assign(configuration="taught", labels="learned"))
    found = compare.reordered(pd.concat(tables), ["mtt"]).set_index("configuration")
    assert list(found.index) == ["long", "soft"]
    assert (found["first"] == "own").all()
    assert (found["pairs"] == 3).all()
    assert found.loc["long", ["kept", "reversed", "unclear"]].tolist() == [2, 1, 0]
    assert found.loc["soft", ["kept", "reversed", "unclear"]].tolist() == [2, 0, 1]
    assert compare.reordered(pd.concat(tables[::3]), ["mtt"]).empty
    assert compare.reordered(tables[-1], []).empty
