"""Methods compared under one protocol: differences within seeds, costs, scores, and agreement.

All functions read the study's tidy tables. A seed shares initial weights, real batches and first
samples over methods, so methods are compared seed by seed. Accuracies are fractions; evaluations of
one distilled set are averaged first. What cannot be tested says why in a column `reason` and keeps
its p-values empty (NaN). A question that is asked before the results are known has its own family
of tests: the methods against BASELINE (`against`), or against all controls (`ahead_of_all`). Who is
best is known only after the fact, so there the family is all pairs (`paired`). Every family is of
one k.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.intervals import LEVEL, SAME, student

# They choose real samples, or average them, and learn nothing.
CONTROLS = ("random", "herding", "k_center", "kernel_herding", "k_means", "nearest_to_centroid")
BASELINE = "random"  # what every method has to beat
VALUES = ["accuracy", "balanced_accuracy", "gap_error"]


def by_seed(trials: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return the means of VALUES over the evaluations of each seed; NaN where a trial failed.

    Index: keys and seed, in the order of the trials.
    """
    ended = trials.reindex(columns=VALUES).where(trials["status"] == "ok")
    return ended.groupby([trials[key] for key in [*keys, "seed"]], sort=False).mean()


def seed_accuracies(trials: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies, rows (k, seed), columns methods in order of appearance; NaN if failed."""
    table = by_seed(trials, ["k", "method"])["accuracy"].unstack("method").sort_index()
    return table.reindex(columns=trials["method"].unique())


def control_names(trials: pd.DataFrame) -> list[str]:
    """Return the methods of a study that are CONTROLS, or variants of them by the column base."""
    return trials.loc[trials["base"].isin(CONTROLS), "method"].unique().tolist()


def learned(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the methods that learn samples: neither CONTROLS nor variants."""
    base = trials["method"] == trials["base"]
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
    Holm's correction of p covers all pairs at one k.
    """
    accuracies = seed_accuracies(trials)
    first, second = np.triu_indices(len(accuracies.columns), 1)
    values = accuracies.to_numpy()
    differences = pd.DataFrame(values[:, first] - values[:, second], accuracies.index)
    ks = accuracies.index.unique("k")
    names = {"first": accuracies.columns[first], "second": accuracies.columns[second]}
    names = {name: np.tile(methods, len(ks)) for name, methods in names.items()}
    places = {"k": np.repeat(ks, len(first)), **names}
    return _corrected(pd.DataFrame(places | _tests(differences)))


def _tests(differences: pd.DataFrame) -> dict[str, np.ndarray]:
    """Test the means of differences, rows (k, seed), a column a pair; NaN where a trial failed.

    Returns n, difference, low, high, p and reason, each of k after k, pair after pair.
    """
    by_k = differences.groupby("k")
    tables = by_k.count(), by_k.mean(), by_k.sem(), by_k.max() - by_k.min()
    n, mean, error, spread = (table.to_numpy(float).ravel() for table in tables)
    error = np.where(spread > SAME, error, np.nan)  # NaN: no test
    half = scipy.stats.t.ppf(1 - LEVEL / 2, n - 1) * error
    p = 2 * scipy.stats.t.sf(np.abs(mean / error), n - 1)
    why = ("no seed in common", "one seed", "the same difference in every seed")
    why = [f"not testable: {text}" for text in why]
    reason = np.select([n == 0, n == 1, np.isnan(error)], why, "")
    ends = {"low": mean - half, "high": mean + half}
    return {"n": n.astype(int), "difference": mean, **ends, "p": p, "reason": reason}


def _corrected(tests: pd.DataFrame) -> pd.DataFrame:
    """Return tests with p_holm, Holm's correction of p over all rows of one k, and survives."""
    p_holm = tests.groupby("k")["p"].transform(holm)
    return tests.assign(p_holm=p_holm, survives=p_holm <= LEVEL)


def holm(p: pd.Series) -> pd.Series:
    """Return p-values adjusted for the family of all that are not NaN (Holm 1979)."""
    tested = p.dropna().sort_values()
    factors = np.arange(len(tested), 0, -1)
    return (tested * factors).cummax().clip(upper=1.0).reindex(p.index)


def both_ways(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return every row of `paired` twice, as method minus rival, then mirrored.

    Columns: as in `paired`, with method and rival in the place of first and second.
    """
    mirrored = pairs.rename(columns={"first": "second", "second": "first"})
    ends = {"difference": -pairs["difference"], "low": -pairs["high"], "high": -pairs["low"]}
    both = pd.concat([pairs, mirrored.assign(**ends)]).sort_index(kind="stable", ignore_index=True)
    return both.rename(columns={"first": "method", "second": "rival"})


def over_controls(pairs: pd.DataFrame, controls: Collection[str]) -> pd.DataFrame:
    """Return the rows of `both_ways` that compare a method, itself no control, with a control."""
    both = both_ways(pairs)
    return both[~both["method"].isin(controls) & both["rival"].isin(controls)]


def against(pairs: pd.DataFrame, baseline: str = BASELINE) -> pd.DataFrame:
    """Return the rows of `paired` that involve `baseline`, as method minus baseline.

    Columns: k, method, then as in `paired`; no rows where the study has no such method. Here Holm's
    correction covers these rows of one k alone, so `baseline` must not be chosen by its results.
    """
    rows = both_ways(pairs).query("rival == @baseline").reset_index(drop=True)
    return _corrected(rows.drop(columns="rival"))


def ahead_of_all(versus: pd.DataFrame) -> pd.DataFrame:
    """Test whether a method is better than all its rivals, at each k: an intersection-union test.

    versus: rows of `both_ways`, such as `over_controls`. Columns: k, method, rivals (names), p (the
    largest over the rivals; 1 if the method does not lead one), nearest (the rival with that p; of
    several, the one that the method leads least), difference from it with low and high, p_holm
    (over the methods at one k), survives. A rival that the method leads by the same in every seed
    has no p and is no obstacle. No row where all rivals are such, or where one shares fewer than
    two seeds with the method. Source: Berger, "Multiparameter hypothesis testing" (1982).
    """
    keys = ["k", "method"]
    rows = versus[versus.groupby(keys)["n"].transform("min") > 1]
    rows = rows.assign(p=rows["p"].where(rows["difference"] > SAME, 1.0))
    rivals = rows.groupby(keys, sort=False)["rival"].agg(", ".join).rename("rivals")
    least = rows.dropna(subset="p").sort_values(["p", "difference"], ascending=[False, True])
    least = least.rename(columns={"rival": "nearest"}).drop_duplicates(keys).set_index(keys)
    columns = ["nearest", "difference", "low", "high", "p"]
    return _corrected(rivals.to_frame().join(least[columns], how="inner").reset_index())


def ranking(table: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the best method at each k, and the methods that are not separable from it.

    table: see `accuracies`; pairs: see `paired`. Columns: k, best, accuracy, low, high, runner_up,
    difference, p_holm, reason (of best against runner-up), not_separable (the methods that the best
    does not lead significantly, over the seeds of both; also those whose trials all failed).
    """
    rows = []
    for k, asked in table.groupby("k"):
        size = asked.dropna(subset="accuracy").set_index("method")
        if size.empty:
            continue
        size = size.sort_values("accuracy", ascending=False, kind="stable")
        best, *others = size.index
        row = {"k": k, "best": best, **size.loc[best, ["accuracy", "low", "high"]]}
        versus = both_ways(pairs[pairs["k"] == k]).query("rival == @best")
        versus = versus.set_index("method").loc[others]
        if others:
            second = versus.iloc[0]
            row |= {"runner_up": others[0], "difference": -second["difference"]}
            row |= second[["p_holm", "reason"]]
        led = versus.index[versus["survives"].astype(bool) & (versus["difference"] < 0)]
        row["not_separable"] = tuple(name for name in asked["method"] if name not in {best, *led})
        rows.append(row)
    names = ["k", "best", "accuracy", "low", "high", "runner_up", "difference"]
    return pd.DataFrame(rows, columns=[*names, "p_holm", "reason", "not_separable"])


def reordered(trials: pd.DataFrame, label_learners: Collection[str]) -> pd.DataFrame:
    """Compare the order of the methods under each configuration with that under the first.

    trials: the study's; label_learners: the methods that learn labels, which are left out like the
    configurations with learned labels, made for them alone. Columns: configuration, first, pairs
    (two methods at a k that differ significantly under the first; see `paired`), and how many of
    them are kept, reversed (both differ significantly) or unclear (not significant here).
    """
    trials = trials[~trials["method"].isin(label_learners) & (trials["labels"] != "learned")]
    groups = trials.groupby("configuration", sort=False)
    tests = {
        name: paired(rows.sort_values("method", kind="stable")).set_index(["k", "first", "second"])
        for name, rows in groups
    }
    names, rows = list(tests), []
    for name in names[1:]:
        first, before = names[0], tests[names[0]].query("survives")
        after = tests[name].reindex(before.index)
        clear, same = after["p_holm"] <= LEVEL, before["difference"] * after["difference"] > 0
        counts = (clear & same).sum(), (clear & ~same).sum(), (~clear).sum()
        rows.append((name, first, len(before), *counts))
    names = ["configuration", "first", "pairs", "kept", "reversed", "unclear"]
    return pd.DataFrame(rows, columns=names)
