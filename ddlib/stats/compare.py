"""Methods compared under one protocol: differences within seeds, costs, scores, and agreement.

All functions read the study's tidy tables. A seed shares initial weights, real batches and first
samples over methods, so methods are compared seed by seed. Accuracies are fractions; evaluations of
one distilled set are averaged first. What cannot be tested says why in a column `reason` and keeps
its p-values empty (NaN).

Letters: S seeds.
"""

from itertools import combinations

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.intervals import LEVEL, student

# They choose real samples, or average them, and learn nothing.
CONTROLS = ("random", "herding", "k_center", "kernel_herding", "k_means", "nearest_to_centroid")
BASELINE = "random"  # what every method has to beat
VALUES = ["accuracy", "balanced_accuracy", "gap_error"]
PAIR = ["n", "difference", "low", "high", "p", "reason"]


def by_seed(trials: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the means of VALUES over the evaluations of each seed; NaN where a trial failed.

    Index: keys and seed, in the order of the trials.
    """
    ended = trials.reindex(columns=VALUES).apply(
        lambda values: values.where(trials["status"] == "ok")
    )
    return ended.groupby([trials[key] for key in [*keys, "seed"]], sort=False).mean()


def seed_accuracies(trials: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies, rows (k, seed), columns methods in order of appearance; NaN if failed."""
    table = by_seed(trials, ["k", "method"])["accuracy"].unstack("method").sort_index()
    return table.reindex(columns=trials["method"].unique())


def learned(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the methods that learn samples: neither CONTROLS nor variants."""
    base = trials["method"] == trials.get("base", trials["method"])
    return trials[base & ~trials["method"].isin(CONTROLS)]


def full_data(references: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return one row, n, accuracy, low, high, balanced_accuracy: networks trained on all data.

    reference: which of them, as in the column of that name.
    """
    chosen = references[references["reference"] == reference]
    seeds = chosen.groupby("seed")[["accuracy", "balanced_accuracy"]].mean()
    row = seeds["accuracy"].count(), *student(seeds["accuracy"]), seeds["balanced_accuracy"].mean()
    return pd.DataFrame([row], columns=["n", "accuracy", "low", "high", "balanced_accuracy"])


def accuracies(trials: pd.DataFrame) -> pd.DataFrame:
    """Tabulate accuracy and gap to full data with Student t intervals (95 %) over seeds.

    Columns: method, ipc, k, seeds (asked for), n (that ended well), accuracy, low, high,
    balanced_accuracy, gap, gap_low, gap_high, gap_n (seeds that have a network on all data, too).
    Intervals are NaN for one seed and where all seeds agree.
    """
    keys, rows = ["method", "ipc", "k"], []
    for place, seeds in by_seed(trials, keys).groupby(keys, sort=False):
        counts, balanced = seeds.count(), seeds["balanced_accuracy"].mean()
        accuracy, gap = student(seeds["accuracy"]), student(seeds["gap_error"])
        n, gap_n = counts["accuracy"], counts["gap_error"]
        rows.append((*place, len(seeds), n, *accuracy, balanced, *gap, gap_n))
    names = [*keys, "seeds", "n", "accuracy", "low", "high", "balanced_accuracy"]
    return pd.DataFrame(rows, columns=[*names, "gap", "gap_low", "gap_high", "gap_n"])


def not_positive(trials: pd.DataFrame) -> dict[str, list[int]]:
    """Return, by method, the k at which the mean gap in error is at or below 0, if there are any.

    There the gap is no price of distillation. trials: of one configuration.
    """
    keys, places = ["k", "method"], {}
    means = by_seed(trials, keys)["gap_error"].groupby(keys, sort=False).mean()
    means = means.sort_index(level="k", sort_remaining=False, kind="stable")
    for k, method in means.index[means <= 0]:
        places.setdefault(method, []).append(int(k))
    return places


def paired(trials: pd.DataFrame) -> pd.DataFrame:
    """Compare each pair of methods at each k, seed by seed: first minus second.

    Columns: k, first, second, n (seeds of both), difference with its Student t interval (95 %),
    p (two-sided paired t test), reason, p_holm, survives.
    Holm's correction of p covers all pairs at one k, because the best method and its runner-up are
    known only after the fact. So a false claim at one k is made in at most 5 % of studies.
    """
    rows = [
        (k, first, second, *_compare((table[first] - table[second]).dropna().to_numpy()))
        for k, table in seed_accuracies(trials).groupby("k")
        for first, second in combinations(table.columns, 2)
    ]
    pairs = pd.DataFrame(rows, columns=["k", "first", "second", *PAIR])
    p_holm = pairs.groupby("k")["p"].transform(holm)
    return pairs.assign(p_holm=p_holm, survives=p_holm <= LEVEL)


def _compare(differences: np.ndarray) -> tuple:
    """Return the values of PAIR for the differences (S,) of two methods."""
    n, ends = len(differences), student(differences)
    if not np.isnan(ends.low):
        return n, *ends, float(scipy.stats.ttest_1samp(differences, 0).pvalue), ""
    why = {0: "no seed in common", 1: "one seed"}.get(n, "the same difference in every seed")
    return n, *ends, np.nan, f"not testable: {why}"


def holm(p: pd.Series) -> pd.Series:
    """Return p-values adjusted for the family of all that are not NaN (Holm 1979)."""
    tested = p.dropna().sort_values()
    factors = np.arange(len(tested), 0, -1)
    return (tested * factors).cummax().clip(upper=1.0).reindex(p.index)


def against(pairs: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Return the rows of `paired` that involve `baseline`, as method minus baseline.

    Columns: k, method, then as in `paired`; no rows where the study has no such method.
    """
    ahead = pairs[pairs["first"] == baseline]
    mirrored = {"difference": -ahead["difference"], "low": -ahead["high"], "high": -ahead["low"]}
    ahead = ahead.assign(**mirrored, first=ahead["second"])
    both = pd.concat([pairs[pairs["second"] == baseline], ahead]).sort_index()
    return both.drop(columns="second").rename(columns={"first": "method"}).reset_index(drop=True)


def ranking(table: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the best method at each k, and the methods that are not separable from it.

    table: see `accuracies`; pairs: see `paired`. Columns: k, best, accuracy, low, high, runner_up,
    difference, p_holm, reason (of best against runner-up), not_separable (the methods whose
    difference from the best does not survive the correction).
    """
    rows = []
    for k, size in table.dropna(subset="accuracy").groupby("k"):
        size = size.sort_values("accuracy", ascending=False, kind="stable").set_index("method")
        best, *others = size.index
        row = {"k": k, "best": best, **size.loc[best, ["accuracy", "low", "high"]]}
        versus = against(pairs[pairs["k"] == k], best).set_index("method").loc[others]
        if others:
            second = versus.iloc[0]
            row |= {"runner_up": others[0], "difference": -second["difference"]}
            row |= second[["p_holm", "reason"]]
        rows.append(row | {"not_separable": tuple(versus.index[~versus["survives"].astype(bool)])})
    names = ["k", "best", "accuracy", "low", "high", "runner_up", "difference"]
    return pd.DataFrame(rows, columns=[*names, "p_holm", "reason", "not_separable"])
