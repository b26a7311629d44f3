"""What sets cost, who is ahead of cheaper controls, and DD-Ranking's scores: from `compare`."""

import numpy as np
import pandas as pd

from ddlib.stats.compare import BASELINE, ahead_of_all, control_names, over_controls, paired

SPENT = ("search_seconds", "prepare_seconds", "teacher_seconds", "distil_seconds")
NEAREST = ("nearest", "difference", "low", "high", "p", "p_holm")  # of `ahead_of_all`


def cost_table(costs: pd.DataFrame, trials: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate what a set costs who wants that set alone: means over seeds, in seconds of one core.

    costs, trials: the study's, of one configuration; table: see `accuracies`. Columns: method, ipc,
    k, accuracy, search_seconds (NaN if not counted), prepare_seconds (all that the method makes
    once), teacher_seconds (of soft labels), distil_seconds (see `whole_call`; NaN for a set from a
    file), train_seconds (of one network, test included; the mean over the methods, as all train it
    for the same steps), seconds (their sum; NaN if one besides the search is), front (see `front`).
    """
    costs = costs.astype(dict.fromkeys([*SPENT, "evaluate_seconds"], float))
    imported = trials.loc[trials["base"] == "imported", "method"]
    made_here = ~costs["method"].isin(imported)
    costs["distil_seconds"] = whole_call(costs).where(made_here)
    train = costs.groupby("ipc")["evaluate_seconds"].mean() / (trials["evaluation"].max() + 1)
    means = costs.groupby(["method", "ipc"], as_index=False)[[*SPENT]].mean()
    spent = table[["method", "ipc", "k", "accuracy"]].merge(means, how="left")
    spent["train_seconds"] = spent["ipc"].map(train).astype(float)
    counted = spent[[*SPENT, "train_seconds"]].fillna({"search_seconds": 0.0})
    spent["seconds"] = counted.sum(axis=1, skipna=False)
    return spent.assign(front=front(spent["seconds"], spent["accuracy"]))


def whole_call(costs: pd.DataFrame) -> pd.Series:
    """Return the seconds of the call that made each set: of all sizes that share them equally."""
    same_call = costs.groupby(["method", "seed", "distil_seconds"])
    return same_call["distil_seconds"].transform("sum")


def against_controls(trials: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Compare each method at each k with the controls that cost less: is it ahead of all of them?

    trials: of one label regime; costs: its `cost_table`. Columns: k, method, controls (names of
    those that cost less), nearest, difference, low, high, p, p_holm (see `ahead_of_all`), outcome:
    "ahead" (significantly better than all of them), "level" (not significantly better than one), or
    "untested" (there are none, one cannot be tested, or the method's seconds are unknown). Controls
    whose seconds are unknown count, as they may cost less.
    """
    versus = over_controls(paired(trials), control_names(trials))
    seconds = costs[["method", "k", "seconds"]]
    rival = seconds.rename(columns={"method": "rival", "seconds": "less"})
    versus = versus.merge(seconds, how="left").merge(rival, how="left")
    dearer = versus["less"] >= versus["seconds"]
    tested = ahead_of_all(versus[~dearer & versus["seconds"].notna()])
    tested["outcome"] = np.where(tested["survives"], "ahead", "level")
    table = versus[["k", "method"]].drop_duplicates().merge(tested, how="left")
    table = table.rename(columns={"rivals": "controls"})
    table = table.fillna({"controls": "", "nearest": "", "outcome": "untested"})
    return table[["k", "method", "controls", *NEAREST, "outcome"]]


def front(seconds: pd.Series, accuracy: pd.Series) -> pd.Series:
    """Say which points no other beats, with no more seconds and no less accuracy; no NaN ones."""
    cost, value = seconds.to_numpy(float), accuracy.to_numpy(float)
    as_good = (cost[:, None] <= cost) & (value[:, None] >= value)  # (beats, beaten)
    beaten = (as_good & ~as_good.T).any(axis=0)
    return pd.Series(~beaten & ~np.isnan(cost + value), index=seconds.index)


def dd_ranking(
    table: pd.DataFrame, full: pd.DataFrame, other: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Tabulate HLR, IOR, LRS and ARS (fractions) of `accuracies` and `full_data`.

    HLR = full - synthetic, with hard labels as here; IOR = synthetic - random, under one protocol;
    LRS = (e^x - e^-1) / (e - e^-1) with x = (IOR - HLR) / 2; ARS the same with x the mean of IOR
    with augmentation and without. other: `accuracies` of the same sets under a second
    configuration; one of the two augments. Columns: method, ipc, k, hlr, ior, lrs, ars; NaN without
    BASELINE, or without `other`. Source: Li et al., "DD-Ranking" (arXiv 2505.13300).
    """

    def score(advantage: pd.Series) -> pd.Series:
        return (np.exp(advantage) - np.exp(-1)) / (np.e - np.exp(-1))

    scores = table[["method", "ipc", "k"]].assign(
        hlr=float(full["accuracy"].iloc[0]) - table["accuracy"], ior=_over_baseline(table)
    )
    scores["lrs"] = score((scores["ior"] - scores["hlr"]) / 2)
    if other is None:
        return scores.assign(ars=np.nan)
    second = other[["method", "k"]].assign(second=_over_baseline(other))
    second = scores.merge(second, how="left")["second"].to_numpy()
    return scores.assign(ars=score((second + scores["ior"]) / 2))


def _over_baseline(table: pd.DataFrame) -> pd.Series:
    """Return, for every row, its accuracy over that of BASELINE at its k."""
    baseline = table[table["method"] == BASELINE].set_index("k")["accuracy"]
    return table["accuracy"] - table["k"].map(baseline).astype(float)
