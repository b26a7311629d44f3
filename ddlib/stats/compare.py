"""Methods compared under one protocol: differences within seeds, costs, scores, and agreement.

All functions read the study's tidy tables. A seed shares initial weights, real batches and first
images over methods, so methods are compared seed by seed. Accuracies and all that is made of them
are fractions; evaluations of one distilled set are averaged first. What cannot be tested says why
in a column `reason` and keeps its p-values empty (NaN).

Letters: S seeds, M methods, K sizes.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.intervals import LEVEL, SAME
from ddlib.stats.laws import Fits

CONTROLS = ("random", "herding", "k_center")  # they select real images and learn nothing
BASELINE = "random"  # what every method has to beat
HARDLY = 0.01  # of the way from a guess to being always right
EXACT = 12  # up to this many seeds all sign flips are counted, beyond it 2^12 are drawn
PAIR = ["n", "difference", "low", "high", "p", "p_flip", "reason"]


class Agreement(NamedTuple):
    """Whether the order of the methods is the same at every k; `reason` says why not tested.

    left_out: methods without a result at some k; seeds: those complete, of how many.
    """

    w: float  # Kendall's W over sizes: 0 no common order, 1 the same order at every k
    p: float
    methods: tuple[str, ...]
    ks: tuple[int, ...]
    reason: str
    left_out: tuple[str, ...] = ()
    seeds: tuple[int, int] = (0, 0)


def seed_accuracies(trials: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies, rows (k, seed), columns methods in order of appearance; NaN if failed."""
    values = trials["accuracy"].where(trials["status"] == "ok")
    table = values.groupby([trials["k"], trials["seed"], trials["method"]]).mean()
    return table.unstack("method").reindex(columns=trials["method"].unique())


def learned(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the methods that learn images: neither CONTROLS nor variants."""
    own = trials["method"] == trials.get("base", trials["method"])
    return trials[own & ~trials["method"].isin(CONTROLS)]


def full_data(references: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return one row, n, accuracy, low, high, balanced_accuracy: networks trained on all data.

    reference: which of them, as in the column of that name.
    """
    own = references[references["reference"] == reference].groupby("seed")
    row = *_student(own["accuracy"].mean()), own["balanced_accuracy"].mean().mean()
    return pd.DataFrame([row], columns=["n", "accuracy", "low", "high", "balanced_accuracy"])


def accuracies(trials: pd.DataFrame) -> pd.DataFrame:
    """Tabulate accuracy and gap to full data with Student t intervals (95 %) over seeds.

    Columns: method, ipc, k, seeds (asked for), n (that ended well), accuracy, low, high,
    balanced_accuracy, gap, gap_low, gap_high, gap_n, one row for each method and k. Intervals are
    NaN for one seed and where all seeds agree. The gap is that of the gap_n seeds that have a
    network on all data, too.
    """
    keys, rows, sound = ["method", "ipc", "k"], [], trials["status"] == "ok"
    known = trials[["accuracy", "balanced_accuracy", "gap_error"]]
    known = known.apply(lambda values: values.where(sound))
    seeds = known.groupby([trials[key] for key in [*keys, "seed"]], sort=False).mean()
    for (method, ipc, k), own in seeds.groupby(keys, sort=False):
        n, *accuracy = _student(own["accuracy"])
        gap_n, *gap = _student(own["gap_error"])
        balanced = own["balanced_accuracy"].mean()
        rows.append((method, ipc, k, len(own), n, *accuracy, balanced, *gap, gap_n))
    names = [*keys, "seeds", "n", "accuracy", "low", "high", "balanced_accuracy"]
    return pd.DataFrame(rows, columns=[*names, "gap", "gap_low", "gap_high", "gap_n"])


def not_positive(trials: pd.DataFrame) -> dict[str, list[int]]:
    """Return, by method, the k at which the mean gap in error is at or below 0, if there are any.

    There networks trained on S do as well as those trained on all data D, or better, so the gap is
    no price of distillation. trials: of one configuration.
    """
    gaps = trials["gap_error"].where(trials["status"] == "ok")
    means = gaps.groupby([trials["method"], trials["k"], trials["seed"]], sort=False).mean()
    means = means.groupby(["method", "k"], sort=False).mean()
    found: dict[str, list[int]] = {}
    for method, k in sorted(means.index[means <= 0], key=lambda place: place[1]):
        found.setdefault(method, []).append(int(k))
    return found


def guesses(trials: pd.DataFrame, references: pd.DataFrame) -> str:
    """Say which networks hardly beat a guess: naming one class, or any at random.

    Those are the networks whose balanced accuracy is less than HARDLY of the way from that of such
    guesses, 1 / C, to 1. trials, references: the study's tables.
    """
    guess = float(trials["ipc"].iloc[0] / trials["k"].iloc[0])
    least = guess + HARDLY * (1 - guess)
    full = references.assign(method="all data (" + references["reference"] + ")", k=0)
    both = pd.concat([full, trials])
    both = both[both["status"] == "ok"]
    several, lines = both["configuration"].nunique() > 1, []
    for (name, method), rows in both.groupby(["configuration", "method"], sort=False):
        low = rows[rows["balanced_accuracy"] < least]
        if low.empty:
            continue
        ks = ", ".join(str(k) for k in sorted(low["k"].unique()) if k)
        rows = rows[rows["k"].isin(low["k"])]
        lines.append(
            f"- {method}{f' under {name}' * several}{f' at k = {ks}' * bool(ks)}: {len(low)} of "
            f"{len(rows)} networks, balanced accuracy {low['balanced_accuracy'].mean():.3f}"
        )
    if both.empty:
        return "No network ended well."
    if not lines:
        return f"Every network beats a guess, whose balanced accuracy is {guess:.1%}."
    listed = "\n".join(lines)
    return (
        f"**Hardly better than a guess.** The balanced accuracy of a guess is {guess:.1%}. "
        f"Below {least:.1%}:\n\n{listed}\n\n"
        "A gap from or to such a network says nothing of the images."
    )


def paired(trials: pd.DataFrame) -> pd.DataFrame:
    """Compare each pair of methods at each k, seed by seed: first minus second.

    Columns: k, first, second, n (seeds of both), difference with its Student t interval (95 %),
    p (two-sided paired t test), p_flip (exact sign-flip permutation test), reason, p_holm,
    survives. Holm's correction (1979) covers all pairs at one k, because the pairs worth reading
    (the best and its runner-up) are chosen after the fact; what is said of one k is wrong in at
    most 5 % of studies, and of several k more often. It corrects the t test: with S seeds the
    least p_flip is 2^(1-S), which no correction can bring below 5 % for few seeds.
    """
    rows = [
        (k, first, second, *_compare(table[first] - table[second]))
        for k, table in seed_accuracies(trials).groupby("k")
        for first, second in combinations(table.columns, 2)
    ]
    pairs = pd.DataFrame(rows, columns=["k", "first", "second", *PAIR])
    p_holm = pairs.groupby("k")["p"].transform(holm)
    return pairs.assign(p_holm=p_holm, survives=p_holm <= LEVEL)


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
    """Return the best method at each k, and whether it can be told from the others.

    table: see `accuracies`; pairs: see `paired`. Columns: k, best, accuracy, low, high, runner_up,
    difference, p_holm, reason (of best against runner-up), untold (the methods whose difference
    from the best does not survive the correction).
    """
    rows = []
    for k, size in table.dropna(subset="accuracy").groupby("k"):
        size = size.sort_values("accuracy", ascending=False, kind="stable")
        best = size.iloc[0]
        row = {"k": k, "best": best["method"], **best[["accuracy", "low", "high"]]}
        others = against(pairs[pairs["k"] == k], best["method"]).set_index("method")
        others = others.loc[size["method"].iloc[1:]]
        if len(others):
            second = others.iloc[0]
            row |= {"runner_up": second.name, "difference": -second["difference"]}
            row |= second[["p_holm", "reason"]]
        rows.append(row | {"untold": tuple(others.index[~others["survives"].astype(bool)])})
    names = ["k", "best", "accuracy", "low", "high", "runner_up", "difference"]
    return pd.DataFrame(rows, columns=[*names, "p_holm", "reason", "untold"])


def cost_table(costs: pd.DataFrame, trials: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate what each method and k costs and gains: means over seeds, in seconds of one core.

    costs, trials: the study's; table: see `accuracies`. Columns: method, ipc, k, accuracy,
    distil_seconds (an equal share of the call that made the set, and all that its method makes once
    for many sets, as if this were the only one),
    train_seconds, seconds (both), gain (accuracy over BASELINE at the same k), gain_per_second
    (of distillation; NaN for BASELINE, which distils nothing), front (see `front`). Training
    is that of one network, test included; as every method trains the same network for the same
    steps on k images, it is the mean over the methods.
    """
    names = ["prepare_seconds", "distil_seconds", "evaluate_seconds"]
    spent = costs.reindex(columns=["method", "ipc", *names]).astype(dict.fromkeys(names, float))
    spent["distil_seconds"] += spent["prepare_seconds"]
    networks = trials["evaluation"].max() + 1
    train = spent.groupby("ipc")["evaluate_seconds"].mean() / networks
    distil = spent.groupby(["method", "ipc"], as_index=False)["distil_seconds"].mean()
    found = table[["method", "ipc", "k", "accuracy"]].merge(distil, how="left")
    gain = _over_baseline(found)
    found = found.assign(train_seconds=found["ipc"].map(train).astype(float))
    seconds = found["distil_seconds"] + found["train_seconds"]
    return found.assign(
        seconds=seconds,
        gain=gain,
        gain_per_second=(gain / found["distil_seconds"]).where(found["method"] != BASELINE),
        front=front(seconds, found["accuracy"]),
    )


def front(seconds: pd.Series, accuracy: pd.Series) -> pd.Series:
    """Say which points no other beats: at most as many seconds, at least the accuracy, not equal.

    Points without a number are never on the front.
    """
    cost, value = seconds.to_numpy(float), accuracy.to_numpy(float)
    as_good = (cost[:, None] <= cost) & (value[:, None] >= value)  # (beats, beaten)
    better = as_good & ~as_good.T
    known = ~np.isnan(cost) & ~np.isnan(value)
    return pd.Series(known & ~better.any(axis=0), index=seconds.index)


def robust_score(advantage):
    """Return DD-Ranking's score in [0, 1] of an advantage in [-1, 1], a number or Series.

    (e^advantage - e^-1) / (e - e^-1). Source: Li et al., "DD-Ranking" (arXiv 2505.13300).
    """
    return (np.exp(advantage) - np.exp(-1)) / (np.e - np.exp(-1))


def dd_ranking(
    table: pd.DataFrame, full: pd.DataFrame, augmented: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Tabulate HLR, IOR, LRS and ARS (fractions) of `accuracies` and `full_data`.

    HLR = full - synthetic, with hard labels as here; IOR = synthetic - random, under one protocol;
    LRS the `robust_score` of (IOR - HLR) / 2; ARS that of the mean of IOR with augmentation and
    without. augmented: `accuracies` of the same sets under a configuration that augments.
    Columns: method, ipc, k, hlr, ior, lrs, ars; NaN without BASELINE, or without `augmented`.
    """
    hlr, ior = float(full["accuracy"].iloc[0]) - table["accuracy"], _over_baseline(table)
    scores = table[["method", "ipc", "k"]]
    scores = scores.assign(hlr=hlr, ior=ior, lrs=robust_score((ior - hlr) / 2))
    if augmented is None:
        return scores.assign(ars=np.nan)
    other = augmented.assign(other=_over_baseline(augmented))[["method", "k", "other"]]
    other = scores[["method", "k"]].merge(other, how="left")["other"].to_numpy()
    return scores.assign(ars=robust_score((other + ior) / 2))


def _over_baseline(table: pd.DataFrame) -> pd.Series:
    """Return, for every row, its accuracy over that of BASELINE at its k."""
    own = table[table["method"] == BASELINE].set_index("k")["accuracy"]
    return table["accuracy"] - table["k"].map(own).astype(float)


def agreement(trials: pd.DataFrame, draws: int = 10_000, seed: int = 0) -> Agreement:
    """Test whether the methods come in the same order at every k, by Kendall's W of their means.

    Methods without a result at some k and seeds that are not complete are left out. p is the part
    of `draws`, the observed among them, in which orders drawn at random for each k agree as much.
    Noise that a seed shares over k can make orders alike, too: read p beside `paired`, which says
    whether there is more than noise.
    """
    table = seed_accuracies(trials).unstack("k")  # rows seeds, columns (method, k)
    missing = table.columns[table.isna().all()].get_level_values("method").unique()
    asked = len(table)
    table = table.drop(columns=missing, level="method").dropna()
    others = tuple(missing), (len(table), asked)
    methods, ks = (tuple(table.columns.unique(level)) for level in ("method", "k"))
    few = [f"{len(c)} {name}" for name, c in (("method", methods), ("size", ks)) if len(c) < 2]
    if few or table.empty:
        reason = f"{few[0] if few else 'no seed'} with a result everywhere"
        return Agreement(np.nan, np.nan, methods, ks, reason, *others)
    means = table.mean().to_numpy().reshape(len(methods), len(ks)).T
    w = kendall_w(means)
    if np.isnan(w):
        reason = "all methods reach the same accuracy at every k"
        return Agreement(w, np.nan, methods, ks, reason, *others)
    shuffle = np.random.default_rng(seed).random((draws - 1, *means.shape)).argsort(axis=-1)
    shuffled = kendall_w(np.take_along_axis(means[None], shuffle, axis=-1))
    p = (1 + (shuffled >= w - SAME).sum()) / draws
    return Agreement(float(w), p, methods, ks, "", *others)


def kendall_w(values: np.ndarray) -> np.ndarray:
    """Return Kendall's coefficient of concordance of K rankings of M items, values (..., K, M).

    Equal values share their mean rank, with the usual correction; NaN where all are equal.
    """
    ranks = scipy.stats.rankdata(np.round(values, 12), axis=-1)  # equal but for rounding is equal
    ranks -= ranks.mean(axis=-1, keepdims=True)
    most = ranks.shape[-2] * (ranks**2).sum(axis=(-2, -1))
    agreed = (ranks.sum(axis=-2) ** 2).sum(axis=-1)
    return np.divide(agreed, most, out=np.full(np.shape(most), np.nan), where=most > 0)


def crossings(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs of `paired` that change places: each leads at some k, beyond doubt.

    Columns: first, second, first_leads and second_leads (tuples of k), of differences that survive
    the correction.
    """
    told, rows = pairs[pairs["survives"]], []
    for names, group in told.groupby(["first", "second"], sort=False):
        leads = [tuple(group.loc[sign * group["difference"] > 0, "k"]) for sign in (1, -1)]
        if all(leads):
            rows.append((*names, *leads))
    return pd.DataFrame(rows, columns=["first", "second", "first_leads", "second_leads"])


def exponents(fits_by_method: dict[str, Fits]) -> pd.DataFrame:
    """Compare the fitted exponents b of a/k^b + c of each pair of methods, controls left out.

    fits_by_method: see `ddlib.stats.laws.fit_table`. Draws weigh a seed alike in all methods, so
    differences of draws are within seeds. Columns: first, second, b_first, b_second, difference,
    low, high, differs, reason. The intervals hold together with 95 %: their half-width, in median
    deviations of the draws, is the 95th percentile of the largest deviation over all pairs.
    """
    fits = {name: fitted["free_exponent"] for name, fitted in fits_by_method.items()}
    rows, draws = [], {}
    for pair in combinations([name for name in fits if name not in CONTROLS], 2):
        vague = [f"{name}: {fits[name].reason}" for name in pair if not fits[name].identifiable]
        b = [fits[name].parameters["b"].estimate if fits[name].fitted else np.nan for name in pair]
        if not vague:
            draws[pair] = np.subtract(*(fits[name].coefficients[1:, 1] for name in pair))
        rows.append((*pair, *b, b[0] - b[1], "; ".join(vague)))
    names = ["first", "second", "b_first", "b_second", "difference", "reason"]
    table = pd.DataFrame(rows, columns=names)
    half = pd.Series(_together(draws), dtype=float)
    half = half.reindex(pd.MultiIndex.from_frame(table[["first", "second"]])).to_numpy()
    low, high = table["difference"] - half, table["difference"] + half
    return table.assign(low=low, high=high, differs=(low > 0) | (high < 0))


def _together(draws: dict[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], float]:
    """Return half-widths within which 95 % of the joint draws lie in all intervals at once."""
    if not draws:
        return {}
    deviations = np.stack(list(draws.values()))
    deviations = np.abs(deviations - np.median(deviations, axis=1, keepdims=True))
    size = np.median(deviations, axis=1, keepdims=True)
    factor = np.quantile((deviations / size).max(axis=0), 1 - LEVEL)
    return dict(zip(draws, factor * size[:, 0], strict=True))


def holm(p: pd.Series) -> pd.Series:
    """Return p-values adjusted for the family of all that are not NaN (Holm 1979)."""
    tested = p.dropna().sort_values()
    factors = np.arange(len(tested), 0, -1)
    return (tested * factors).cummax().clip(upper=1.0).reindex(p.index)


def sign_flip(differences: np.ndarray) -> float:
    """Return the two-sided p of a mean of n differences if their signs were coin flips.

    All 2^n flips are counted up to n = EXACT; beyond, 2^EXACT are drawn, the observed among them.
    """
    n = len(differences)
    if n <= EXACT:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (2**EXACT, n))
        signs[0] = 1
    sums = np.abs(signs @ differences)
    return float((sums >= sums[0] - SAME * np.abs(differences).sum()).mean())


def _student(values: pd.Series) -> tuple[int, float, float, float]:
    """Return n, mean and its 95 % interval; NaN ends where the seeds show no variance."""
    values = values.dropna()
    n, mean = len(values), values.mean()
    if n < 2 or np.ptp(values) <= SAME:
        return n, mean, np.nan, np.nan
    half = scipy.stats.t.ppf(1 - LEVEL / 2, n - 1) * values.std() / np.sqrt(n)
    return n, mean, mean - half, mean + half


def _compare(differences: pd.Series) -> tuple:
    """Return the values of PAIR for the differences of two methods, one a seed."""
    values = differences.dropna().to_numpy()
    n, mean, low, high = _student(differences)
    if n < 2:
        reason = "one seed" if n else "no seed in common"
        return n, mean, low, high, np.nan, np.nan, f"not testable: {reason}"
    p_flip = sign_flip(values)
    if np.isnan(low):
        reason = "not testable: the same difference in every seed"
        return n, mean, low, high, np.nan, p_flip, reason
    return n, mean, low, high, float(scipy.stats.ttest_1samp(values, 0).pvalue), p_flip, ""
