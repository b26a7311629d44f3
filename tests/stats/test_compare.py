"""Comparisons against sums done by hand, by naive loops, by scipy, and by published examples."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ddlib.stats import compare as comparison
from ddlib.stats import laws, scores
from ddlib.words import scaling as reading

SEEDS = 5


def trials(accuracies: dict, status: str = "ok") -> pd.DataFrame:
    """Return a table of trials from {(method, k): accuracies, one a seed}; None is a failure."""
    rows = [
        {
            "method": method,
            "ipc": k // 10,
            "k": k,
            "seed": seed,
            "evaluation": 0,
            "accuracy": math.nan if accuracy is None else accuracy,
            "status": "diverged" if accuracy is None else status,
        }
        for (method, k), values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    table = pd.DataFrame(rows).assign(data="digits", network="mlp", message="")
    table = table.assign(error=1 - table["accuracy"], gap_error=0.99 - table["accuracy"])
    return table.assign(balanced_accuracy=table["accuracy"] / 2)


def measured(table: pd.DataFrame, *full: float) -> pd.DataFrame:
    """Return trials whose gaps are measured from accuracies on all data, one a seed."""
    return table.assign(gap_error=table["seed"].map(dict(enumerate(full))) - table["accuracy"])


def references(*accuracies: float) -> pd.DataFrame:
    table = pd.DataFrame({"seed": range(len(accuracies)), "accuracy": accuracies})
    table = table.assign(balanced_accuracy=table["accuracy"] / 2, reference="converged")
    return table.assign(evaluation=0, status="ok", error=1 - table["accuracy"])


def costs(table: pd.DataFrame, seconds: dict[str, float | None]) -> pd.DataFrame:
    rows = table[["method", "ipc", "seed"]].drop_duplicates()
    distil = rows["method"].map(seconds)
    return rows.assign(prepare_seconds=0.0, distil_seconds=distil, evaluate_seconds=4.0)


def noisy(means: dict, seed: int = 0, noise: float = 0.01) -> dict:
    generator = np.random.default_rng(seed)
    return {key: mean + generator.normal(0, noise, SEEDS) for key, mean in means.items()}


def everything(table: pd.DataFrame, full: pd.DataFrame, seconds: dict) -> str:
    """Run every function of a comparison, and return all sentences."""
    found = comparison.accuracies(table)
    pairs = comparison.paired(table)
    learned = comparison.learned(table)
    fits = laws.fit_table(learned, "gap_error", draws=50)
    spent = scores.cost_table(costs(table, seconds), table, found)
    scores.dd_ranking(found, comparison.full_data(full, "converged"))
    ranks = comparison.ranking(found, pairs)
    assert reading.comparison(pairs, ranks, spent).startswith(reading.per_image(pairs, ranks))
    return "\n".join(
        [
            reading.comparison(pairs, ranks, spent),
            reading.surrogates(
                comparison.agreement(learned),
                comparison.paired(learned),
                comparison.exponents(fits),
            ),
        ]
    )


def test_intervals_are_student_t_over_seeds():
    table = trials({("dm", 10): [0.7, 0.8, 0.9]})
    row = comparison.accuracies(measured(table, 0.95, 0.95, 0.98)).iloc[0]
    half = 4.302653 * 0.1 / math.sqrt(3)  # t(0.975, 2) from a printed table; deviation 0.1
    assert row["accuracy"] == pytest.approx(0.8)
    assert [row["low"], row["high"]] == pytest.approx([0.8 - half, 0.8 + half], abs=1e-6)
    # gaps seed by seed are 0.25, 0.15, 0.08: mean 0.16, sum of squares 0.0081 + 0.0001 + 0.0064
    half = 4.302653 * math.sqrt(0.0146 / 2 / 3)
    assert row["gap"] == pytest.approx(0.16)
    assert [row["gap_low"], row["gap_high"]] == pytest.approx([0.16 - half, 0.16 + half], abs=1e-6)
    assert row["balanced_accuracy"] == pytest.approx(0.4)  # half of each accuracy here


def test_a_seed_without_a_network_on_all_data_has_an_accuracy_and_no_gap():
    table = measured(trials({("dm", 10): [0.7, 0.8, 0.9]}), 0.95, math.nan, 0.99)
    row = comparison.accuracies(table).iloc[0]
    assert (row["n"], row["accuracy"]) == (3, pytest.approx(0.8))
    assert row["gap"] == pytest.approx((0.25 + 0.09) / 2)


def test_evaluations_of_one_set_are_averaged_before_seeds():
    table = trials({("dm", 10): [0.6, 0.8]})
    table = pd.concat([table, table.assign(evaluation=1, accuracy=[0.8, 0.8])])
    row = comparison.accuracies(measured(table, 0.9, 0.9)).iloc[0]
    assert (row["n"], row["accuracy"]) == (2, pytest.approx(0.75))


def test_failures_stay_in_the_table():
    table = trials({("dm", 10): [0.6, None, 0.8], ("dc", 10): [None, None, None]})
    found = comparison.accuracies(measured(table, 0.9, 0.9, 0.9)).set_index("method")
    assert found.loc["dm", ["seeds", "n"]].tolist() == [3, 2]
    assert found.loc["dm", "accuracy"] == pytest.approx(0.7)
    assert found.loc["dc", ["seeds", "n"]].tolist() == [3, 0]
    assert found.loc["dc", ["accuracy", "gap"]].isna().all()


def test_a_diverged_trial_does_not_count_even_with_a_number():
    table = trials({("dm", 10): [0.6, 0.8]}, status="diverged")
    assert comparison.accuracies(measured(table, 0.9, 0.9))["n"].tolist() == [0]


def test_pairs_are_compared_within_seeds():
    first, second = [0.91, 0.85, 0.88, 0.90, 0.93], [0.89, 0.84, 0.85, 0.87, 0.92]
    pair = comparison.paired(trials({("a", 10): first, ("b", 10): second})).iloc[0]
    assert pair["difference"] == pytest.approx(0.02)
    expected = stats.ttest_rel(first, second)
    assert pair["p"] == pair["p_holm"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert [pair["low"], pair["high"]] == pytest.approx([interval.low, interval.high])
    assert pair["p_flip"] == 2 / 2**5  # of all sign patterns, only ++++ and ---- reach the sum


def test_every_pair_at_every_size_is_compared_over_common_seeds():
    values = {(m, k): [0.5, 0.6, 0.8] for m in "abc" for k in (10, 20)}
    values["b", 20] = [None, 0.65, 0.9]
    pairs = comparison.paired(trials(values)).set_index(["k", "first", "second"])
    assert list(pairs.index) == [
        (k, *pair) for k in (10, 20) for pair in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    assert pairs.loc[(20, "a", "b"), "n"] == 2
    assert pairs.loc[(20, "a", "b"), "difference"] == pytest.approx(-0.075)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_sign_flips_are_all_counted(n):
    values = np.random.default_rng(n).normal(0.3, 1, n)
    flipped = [abs(np.dot(s, values)) for s in itertools.product([1, -1], repeat=n)]
    expected = np.mean(np.array(flipped) >= abs(values.sum()) - 1e-12)
    assert comparison.sign_flip(values) == expected


def test_many_seeds_draw_sign_flips():
    values = np.random.default_rng(0).normal(0.35, 1, 20)
    # The sum of randomly signed values is nearly normal with variance sum of squares.
    normal = 2 * stats.norm.sf(values.sum() / np.sqrt((values**2).sum()))
    assert comparison.sign_flip(values) == pytest.approx(normal, abs=0.03)


def test_holm_by_hand():
    p = pd.Series([0.01, 0.04, math.nan, 0.03, 0.005])
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; never falling
    expected = [0.03, 0.06, math.nan, 0.06, 0.02]
    assert comparison.holm(p).tolist() == pytest.approx(expected, nan_ok=True)
    assert comparison.holm(pd.Series([0.6, 0.7])).tolist() == [1.0, 1.0]


def test_the_correction_covers_the_pairs_at_one_size():
    values = noisy({(m, k): level for m, level in (("a", 0.5), ("b", 0.8)) for k in (10, 20)})
    values |= noisy({("c", 10): 0.6}, seed=1)
    pairs = comparison.paired(trials(values)).query("reason == ''")
    assert list(pairs["k"]) == [10, 10, 10, 20]
    assert pairs["p_holm"].iloc[:3].min() == pytest.approx(3 * pairs["p"].iloc[:3].min())
    assert pairs["p_holm"].iloc[3] == pairs["p"].iloc[3]


def test_differences_to_the_baseline_are_method_minus_baseline():
    values = {("dm", 10): [0.8, 0.9, 0.7], ("random", 10): [0.5, 0.7, 0.6]}
    values["dc", 10] = [0.4, 0.7, 0.5]
    pairs = comparison.paired(trials(values))
    found = comparison.against(pairs).set_index("method")
    assert list(found.index) == ["dm", "dc"]
    assert found["difference"].tolist() == pytest.approx([0.2, -0.2 / 3])
    assert (found["low"] < found["difference"]).all()
    assert (found["high"] > found["difference"]).all()
    assert comparison.against(pairs, "herding").empty


def test_the_best_is_told_from_some_and_not_from_others():
    values = noisy({("a", 10): 0.9, ("b", 10): 0.897, ("c", 10): 0.5}, noise=0.003)
    table = trials(values)
    pairs = comparison.paired(table)
    found = comparison.accuracies(measured(table, 0.95, 0.95))
    [row] = comparison.ranking(found, pairs).to_dict("records")
    order = sorted("ab", key=lambda m: -np.mean(values[m, 10]))
    assert [row["best"], row["runner_up"]] == order
    ahead = np.mean(values[order[0], 10]) - np.mean(values[order[1], 10])
    assert row["difference"] == pytest.approx(ahead)
    expected = stats.ttest_rel(values["a", 10], values["b", 10]).pvalue
    assert row["p_holm"] == pytest.approx(expected)  # the largest of three: factor 1
    assert row["not_separable"] == (order[1],)


def test_costs_by_hand():
    values = {("random", 10): [0.4, 0.6], ("random", 100): [0.9, 0.9], ("dm", 10): [0.8, 0.8]}
    table = trials(values)
    table = pd.concat([table, table.assign(evaluation=1)])  # 4 seconds are two trainings
    found = comparison.accuracies(measured(table, 1.0, 1.0))
    spent = scores.cost_table(costs(table, {"random": 0.0, "dm": 6.0}), table, found)
    assert spent["train_seconds"].tolist() == [2, 2, 2]
    assert spent["seconds"].tolist() == [2, 2, 8]
    assert spent["gain"].tolist() == pytest.approx([0, 0, 0.3])
    assert spent["gain_per_second"].tolist() == pytest.approx([math.nan] * 2 + [0.05], nan_ok=True)
    assert spent["front"].tolist() == [False, True, False]


def test_what_a_method_makes_once_is_part_of_its_cost():
    table = trials({("random", 10): [0.4, 0.6], ("mtt", 10): [0.8, 0.8]})
    found = comparison.accuracies(measured(table, 1.0, 1.0))
    for made, expected in ((5.0, 11.0), (math.nan, math.nan)):
        given = costs(table, {"random": 0.0, "mtt": 6.0})
        given.loc[given["method"] == "mtt", "prepare_seconds"] = made
        spent = scores.cost_table(given, table, found).set_index("method")
        assert spent.loc["mtt", "distil_seconds"] == pytest.approx(expected, nan_ok=True)


def test_variants_are_not_learned_methods_of_their_own():
    table = trials({("dm", 10): [0.4], ("dm_fast", 10): [0.5], ("random", 10): [0.3]})
    table["base"] = table["method"].replace({"dm_fast": "dm"})
    assert list(comparison.learned(table)["method"].unique()) == ["dm"]


def test_costs_of_reused_and_failed_sets_are_missing():
    table = trials({("dm", 10): [0.8, 0.9], ("dc", 10): [None, None]})
    found = comparison.accuracies(measured(table, 1.0, 1.0))
    spent = scores.cost_table(costs(table, {"dm": None, "dc": None}), table, found)
    assert spent[["distil_seconds", "seconds", "gain", "gain_per_second"]].isna().all(axis=None)
    assert not spent["front"].any()
    nothing = pd.DataFrame({"method": ["dm", "dc"], "ipc": 1, "seed": 0})
    assert scores.cost_table(nothing, table, found)["seconds"].isna().all()


def test_the_front_is_what_no_other_point_beats():
    generator = np.random.default_rng(0)
    points = pd.DataFrame(generator.integers(0, 6, (30, 2)).astype(float), columns=["s", "a"])
    points.loc[0] = [math.nan, 9.0]
    known = points.drop(index=0)
    expected = [
        not math.isnan(s)
        and not any((t <= s and b >= a) and (t < s or b > a) for t, b in known.to_numpy())
        for s, a in points.to_numpy()
    ]
    assert scores.front(points["s"], points["a"]).tolist() == expected


def test_robust_score_has_its_ends_at_0_and_1():
    assert scores.robust_score(1.0) == pytest.approx(1)
    assert scores.robust_score(-1.0) == pytest.approx(0)
    # (1 - 1/e) / (e - 1/e) = 1 / (e + 1)
    assert scores.robust_score(0.0) == pytest.approx(1 / (math.e + 1))
    table_ = scores.robust_score(np.linspace(-1, 1, 41))
    assert (np.diff(table_) > 0).all()


def test_dd_ranking_by_hand():
    table = trials({("random", 10): [0.4, 0.6], ("dm", 10): [0.8, 0.8], ("dm", 20): [0.9, 0.9]})
    found = comparison.accuracies(measured(table, 0.9, 1.0))
    table_ = scores.dd_ranking(found, comparison.full_data(references(0.9, 1.0), "converged"))
    assert table_["hlr"].tolist() == pytest.approx([0.45, 0.15, 0.05])
    assert table_["ior"].tolist() == pytest.approx([0, 0.3, math.nan], nan_ok=True)
    alpha = 0.5 * 0.3 - 0.5 * 0.15
    expected = (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
    assert table_["lrs"][1] == pytest.approx(expected)
    assert math.isnan(table_["lrs"][2])
    assert table_["ars"].isna().all()


def test_the_augmentation_robust_score_of_a_study_by_hand():
    plain = trials({("random", 10): [0.4, 0.6], ("dm", 10): [0.8, 0.8], ("dm", 20): [0.9, 0.9]})
    other = trials({("dm", 10): [0.7, 0.9], ("random", 10): [0.6, 0.8], ("dm", 20): [0.9, 0.9]})
    full = references(0.9, 1.0)
    found, seen = (comparison.accuracies(each) for each in (plain, other))
    table_ = scores.dd_ranking(found, comparison.full_data(full, "converged"), seen)
    beta = [0.0, 0.5 * 0.1 + 0.5 * 0.3]
    expected = [(math.exp(b) - math.exp(-1)) / (math.e - math.exp(-1)) for b in beta]
    assert table_["ars"].tolist() == pytest.approx([*expected, math.nan], nan_ok=True)


def test_kendall_w_by_hand():
    assert comparison.kendall_w(np.array([[1, 2, 3], [4, 5, 9]])) == 1
    assert comparison.kendall_w(np.array([[1, 2, 3], [3, 2, 1]])) == 0
    # ranks 123, 132, 213: sums 4, 6, 8; S = 8; 12 * 8 / (9 * 24)
    assert comparison.kendall_w(np.array([[1, 2, 3], [1, 3, 2], [2, 1, 3]])) == pytest.approx(4 / 9)
    # one tie in the second ranking: 12 S / (K^2 (M^3 - M) - K (2^3 - 2)), sums 2.5, 3.5, 6, S = 6.5
    assert comparison.kendall_w(np.array([[1, 2, 3], [1, 1, 3]])) == pytest.approx(78 / (96 - 12))
    assert math.isnan(comparison.kendall_w(np.ones((2, 3))))


def test_kendall_w_is_the_mean_rank_correlation():
    values = np.random.default_rng(0).normal(size=(4, 6))
    pairs = itertools.combinations(values, 2)
    mean = np.mean([stats.spearmanr(a, b).statistic for a, b in pairs])
    assert comparison.kendall_w(values) == pytest.approx((1 + 3 * mean) / 4)


def test_agreement_shuffles_the_order_at_each_size():
    cube = np.random.default_rng(3).normal(0.8, 0.05, (2, 3, 3))  # seeds, k, methods
    values = {
        (m, k): cube[:, j, i] for i, m in enumerate("abc") for j, k in enumerate((10, 20, 30))
    }
    found = comparison.agreement(trials(values))
    means = cube.mean(axis=0)
    orders = itertools.product(itertools.permutations(range(3)), repeat=3)
    exact = [comparison.kendall_w(np.take_along_axis(means, np.array(o), 1)) for o in orders]
    w = comparison.kendall_w(means)
    assert found.w == pytest.approx(w)
    assert found.p == pytest.approx(np.mean(np.array(exact) >= w - 1e-12), abs=0.02)
    assert (found.methods, found.ks) == (("a", "b", "c"), (10, 20, 30))


def test_one_order_at_every_size_is_found():
    means = {(m, k): 0.7 + 0.05 * i for i, m in enumerate("abcd") for k in (10, 20, 30)}
    found = comparison.agreement(trials(noisy(means)))
    assert found.w == 1
    assert found.p < 0.01


def test_agreement_leaves_out_a_method_without_a_result_at_some_size():
    means = {(m, k): 0.7 + 0.05 * i for i, m in enumerate("abc") for k in (10, 20)}
    values = noisy(means) | {("b", 20): [None] * SEEDS}
    assert comparison.agreement(trials(values), draws=20).methods == ("a", "c")


def test_methods_that_change_places_are_named():
    means = {("a", 10): 0.5, ("b", 10): 0.7, ("a", 20): 0.9, ("b", 20): 0.8}
    pairs = comparison.paired(trials(noisy(means)))
    [row] = comparison.crossings(pairs).to_dict("records")
    assert row == {"first": "a", "second": "b", "first_leads": (20,), "second_leads": (10,)}
    assert comparison.crossings(pairs[pairs["k"] == 10]).empty


def falling(exponents: dict[str, float], noise: float = 0.0005) -> pd.DataFrame:
    means = {
        (m, k): 0.99 - (k / 10) ** -b * 0.4
        for m, b in exponents.items()
        for k in (10, 20, 50, 100, 200, 500)
    }
    return trials(noisy(means, noise=noise))


def test_exponents_are_compared_pair_by_pair():
    table = falling({"dm": 0.5, "dc": 0.5, "mtt": 1.0, "random": 2.0})
    fits = laws.fit_table(table, "gap_error", draws=400)
    found = comparison.exponents(fits).set_index(["first", "second"])
    assert list(found.index) == [("dm", "dc"), ("dm", "mtt"), ("dc", "mtt")]
    assert found["differs"].tolist() == [False, True, True]
    assert found["difference"].tolist() == pytest.approx([0, -0.5, -0.5], abs=0.05)
    assert ((found["low"] < found["difference"]) & (found["difference"] < found["high"])).all()


def test_sentences_name_the_leader_and_the_swap():
    means = {("dm", 10): 0.7, ("dc", 10): 0.5, ("dm", 20): 0.8, ("dc", 20): 0.95}
    table = trials(noisy(means | {("random", 10): 0.3, ("random", 20): 0.6}, noise=0.005))
    text = everything(table, references(*[0.99] * SEEDS), {"dm": 1, "dc": 100, "random": 0})
    assert "- k = 10: dm with 0.7" in text
    assert text.count("told from every other method.") == 2
    assert "- dm: better at k = 10 and 20." in text
    assert "dm leads dc at k = 10 and trails it at k = 20." in text
    assert "some differ at k = 10 and 20. Nor is one merely better than another" in text
    assert "for a second of distillation: dm at k = 10, " in text
    assert "with 5 seeds its p cannot fall below 0.0625, so it can confirm nothing" in text


def test_one_order_reads_as_unequal_success():
    means = {(m, k): 0.6 + 0.05 * i + k / 200 for i, m in enumerate("abc") for k in (10, 20, 30)}
    text = everything(trials(noisy(means, noise=0.005)), references(0.99, 0.99), {})
    assert "But their order agrees over k more than chance would (W = " in text


def test_methods_that_do_not_differ_may_be_interchangeable():
    means = {(m, k): 0.6 + k / 200 for m in "abc" for k in (10, 20, 30)}
    table = trials(noisy(means))
    text = everything(table, references(0.99, 0.99), {})
    most = comparison.paired(table)[["low", "high"]].abs().to_numpy().max()
    assert f"they may be interchangeable, but differences up to {most:.3g} are not" in text


def test_one_order_without_a_difference_at_any_size_is_a_hint():
    table = trials({(m, k): [0.8, 0.9] for m in "ab" for k in range(10, 80, 10)})
    order = comparison.Agreement(1.0, 0.02, ("a", "b"), (10, 20), "")
    pairs = comparison.paired(table).assign(low=-0.03, high=0.05, reason="", p=0.5)
    nothing = comparison.exponents({})
    text = reading.surrogates(order, pairs, nothing)
    ahead = table.assign(gap_error=-0.1, configuration="own")
    worse = reading.surrogates(order, pairs, nothing, ahead)
    assert worse.startswith("On average, networks trained on S are no worse than those trained on")
    assert worse.endswith(f" {text}")
    assert "up to 0.05 are not excluded, and an order that agrees over k hints at some." in text


def test_six_seeds_let_sign_flips_confirm():
    values = {("a", 10): np.full(6, 0.9), ("b", 10): 0.8 + np.arange(6) / 1000}
    text = everything(trials(values), references(0.99, 0.99), {})
    assert "finds p ≤ 0.05 for 1 of them" in text


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({("dm", 10): [0.8], ("random", 10): [0.5]}, "not testable: one seed"),
        ({("dm", 10): [0.8, 0.81, 0.85]}, "the only method"),
        ({("dm", 10): [0.8, 0.9], ("dc", 10): [0.7, 0.9]}, "no random beside another method"),
        (
            {("dm", 10): [0.8, 0.8], ("dc", 10): [0.7, 0.7], ("random", 10): [0.5, 0.5]},
            "not testable: the same difference in every seed",
        ),
        ({("dm", 10): [None, None], ("random", 10): [0.5, 0.6]}, "No two methods can be compared"),
        ({("dm", 10): [None, 0.7], ("random", 10): [0.5, None]}, "no seed in common"),
        ({("dm", 10): [None, None]}, "No method reached an accuracy"),
        ({("x", 10): [1.0, 1.0], ("y", 10): [1.0, 1.0]}, "cannot be decided"),
    ],
    ids=str,
)
def test_edge_cases_are_told_and_never_nan(values, says):
    text = everything(trials(values), references(0.9, 0.95), {"dm": 3.0, "random": 0.0})
    assert says in text
    assert "nan" not in text.lower()


def test_rounding_does_not_pass_for_variance():
    # 0.9 - 0.8 and 0.8 - 0.7 differ in the last bit
    pairs = comparison.paired(trials({("a", 10): [0.9, 0.8], ("b", 10): [0.8, 0.7]}))
    assert pairs["reason"].tolist() == ["not testable: the same difference in every seed"]
    assert pairs["p_holm"].isna().all()
    assert not pairs["survives"].any()
