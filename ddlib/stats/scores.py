"""What methods cost and gain, and DD-Ranking's scores: from the tables of `compare`."""

import numpy as np
import pandas as pd

from ddlib.stats.compare import BASELINE


def cost_table(costs: pd.DataFrame, trials: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate what each method and k costs and gains: means over seeds, in seconds of one core.

    costs, trials: the study's; table: see `accuracies`. Columns: method, ipc, k, accuracy,
    distil_seconds (an equal share of the call that made the set, and all that its method makes once
    for many sets), train_seconds (of one network, test included; the mean over the methods, as all
    train it for the same steps), seconds (both), gain (accuracy over BASELINE at the same k),
    gain_per_second (of distillation; NaN for BASELINE), front (see `front`).
    """
    names = ["prepare_seconds", "distil_seconds", "evaluate_seconds"]
    costs = costs.reindex(columns=["method", "ipc", *names]).astype(dict.fromkeys(names, float))
    costs["distil_seconds"] += costs["prepare_seconds"]
    train = costs.groupby("ipc")["evaluate_seconds"].mean() / (trials["evaluation"].max() + 1)
    distil = costs.groupby(["method", "ipc"], as_index=False)["distil_seconds"].mean()
    spent = table[["method", "ipc", "k", "accuracy"]].merge(distil, how="left")
    spent["train_seconds"] = spent["ipc"].map(train).astype(float)
    spent["seconds"] = spent["distil_seconds"] + spent["train_seconds"]
    spent["gain"] = _over_baseline(spent)
    rate = spent["gain"] / spent["distil_seconds"]
    spent["gain_per_second"] = rate.where(spent["method"] != BASELINE)
    return spent.assign(front=front(spent["seconds"], spent["accuracy"]))


def front(seconds: pd.Series, accuracy: pd.Series) -> pd.Series:
    """Say which points no other beats: at most as many seconds, at least the accuracy, not equal.

    Points without a number are never on the front.
    """
    cost, value = seconds.to_numpy(float), accuracy.to_numpy(float)
    as_good = (cost[:, None] <= cost) & (value[:, None] >= value)  # (beats, beaten)
    beaten = (as_good & ~as_good.T).any(axis=0)
    return pd.Series(~beaten & ~np.isnan(cost + value), index=seconds.index)


def dd_ranking(
    table: pd.DataFrame, full: pd.DataFrame, augmented: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Tabulate HLR, IOR, LRS and ARS (fractions) of `accuracies` and `full_data`.

    HLR = full - synthetic, with hard labels as here; IOR = synthetic - random, under one protocol;
    LRS = (e^x - e^-1) / (e - e^-1) with x = (IOR - HLR) / 2; ARS the same with x the mean of IOR
    with augmentation and without. augmented: `accuracies` of the same sets under a configuration
    that augments. Columns: method, ipc, k, hlr, ior, lrs, ars; NaN without BASELINE, or without
    `augmented`. Source: Li et al., "DD-Ranking" (arXiv 2505.13300).
    """

    def score(advantage: pd.Series) -> pd.Series:
        return (np.exp(advantage) - np.exp(-1)) / (np.e - np.exp(-1))

    scores = table[["method", "ipc", "k"]].assign(
        hlr=float(full["accuracy"].iloc[0]) - table["accuracy"], ior=_over_baseline(table)
    )
    scores["lrs"] = score((scores["ior"] - scores["hlr"]) / 2)
    if augmented is None:
        return scores.assign(ars=np.nan)
    other = augmented[["method", "k"]].assign(other=_over_baseline(augmented))
    other = scores.merge(other, how="left")["other"].to_numpy()
    return scores.assign(ars=score((other + scores["ior"]) / 2))


def _over_baseline(table: pd.DataFrame) -> pd.Series:
    """Return, for every row, its accuracy over that of BASELINE at its k."""
    baseline = table[table["method"] == BASELINE].set_index("k")["accuracy"]
    return table["accuracy"] - table["k"].map(baseline).astype(float)
