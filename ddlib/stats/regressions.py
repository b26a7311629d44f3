"""What explains k*: regressions over families, with p-values from relabelled configurations."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from ddlib.stats.families import KStars
from ddlib.stats.intervals import SAME, interval

FEWEST = 3  # families with a k* inside the grid that a regression needs


RIVAL = "log_members"  # the paper's own regressor


def regress(
    k_stars: KStars, measures: pd.DataFrame, groups: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Regress k* on each measure over the families of measures that have a k*.

    k* beyond the measured sizes count as their bound. One row an epsilon and predictor, "constant"
    first. Columns: n, unknown (families without k*), censored, distinct (k* among the n), reduced
    (families that lost seeds), fewest (seeds of a family), shortened (families that lost sizes);
    slope of k* with low and high (least
    squares, over draws of seeds: what the measured families say, not families at large); r2 and
    r2_raw (squared correlation with ln k*, cross-fitted and raw; negative where k* falls); p (one-
    sided, the larger of the two ends: relabellings with at least this r2); lead (of r2 over that of
    log_members) and p_lead, likewise; loo (root mean square error of k* = intercept + slope x, in
    images, at what `left_out` says: whole `groups`, {family: series}, or single families), reason.
    In simulation r2 of ln k* found a true law more often than that of k*, of ranks, or tau.
    Raises ValueError for families that k_stars does not have.
    """
    rows = []
    for epsilon, table, draws, logs in _by_epsilon(k_stars, measures):
        labels = [(groups or {}).get(family, family) for family in table.index]
        head = {"epsilon": epsilon, **_counts(table, len(measures))}
        head["left_out"] = "series" if len(set(labels)) < len(labels) else "families"
        scores = {}
        for name, column in {"constant": 0.0, **measures}.items():
            x = np.array(column if name == "constant" else column[table.index], dtype=float)
            x = np.broadcast_to(x, len(table))
            row = head | {"predictor": name, "reason": _refusal(name, x, table)}
            if not row["reason"]:
                row["loo"] = _left_out(x, draws[0], labels)
            if not row["reason"] and name != "constant":
                ends = interval((x - x.mean()) @ draws.T / ((x - x.mean()) ** 2).sum())
                row |= zip(("slope", "low", "high"), ends, strict=True)
                scores[name] = _signed_r2(x, logs, [np.arange(len(x))])
                row |= {"r2": scores[name][0, 0], "r2_raw": scores[name][1, 0]}
                row["p"] = _p_value(scores[name])
            rows.append(row)
        for row in rows[-len(measures.columns) :]:
            if row["predictor"] != RIVAL and {row["predictor"], RIVAL} <= set(scores):
                lead = scores[row["predictor"]] - scores[RIVAL]
                row |= {"lead": lead[0, 0], "p_lead": _p_value(lead)}
    names = ["epsilon", "predictor", "n", "unknown", "censored", "distinct", "reduced", "fewest"]
    names += ["shortened", "slope", "low", "high", "r2", "r2_raw", "p", "lead", "p_lead", "loo"]
    return pd.DataFrame(rows).reindex(columns=[*names, "left_out", "reason"])


def within_equal(k_stars: KStars, measures: pd.DataFrame) -> pd.DataFrame:
    """Ask in families of equal M, where ln M explains nothing, whether k* rises with a measure.

    Families are grouped by the column members of `measures`. Columns: epsilon, predictor, group
    (the shared number, or "all": about the mean of each group), n, distinct, r2, r2_raw and p as
    in `regressions`, reason. Raises ValueError where no two families have equal M.
    """
    if measures["members"].is_unique:
        raise ValueError("no two families share their members; add families of equal size")
    rows = []
    for epsilon, table, _, logs in _by_epsilon(k_stars, measures):
        places = measures.loc[table.index].groupby("members").indices
        groups = {str(number): [block] for number, block in places.items() if len(block) > 1}
        if len(groups) != 1:
            groups["all"] = [block for blocks in groups.values() for block in blocks]
        for name, (group, blocks) in product(measures.columns.drop("members"), groups.items()):
            used = np.concatenate([*blocks, []]).astype(int)
            x = measures.loc[table.index, name].to_numpy(float)
            row = {"epsilon": epsilon, "predictor": name, "group": group, "n": len(used)}
            row["distinct"] = _distinct(table["k_star"].iloc[used])
            row["reason"] = _refusal_within(x, logs[0, 0], blocks)
            if not row["reason"]:
                scores = _signed_r2(x, logs, blocks)
                row |= {"r2": scores[0, 0], "r2_raw": scores[1, 0], "p": _p_value(scores)}
            rows.append(row)
    names = ["epsilon", "predictor", "group", "n", "distinct", "r2", "r2_raw", "p", "reason"]
    return pd.DataFrame(rows).reindex(columns=names)


def _by_epsilon(k_stars: KStars, measures: pd.DataFrame):
    """Yield each epsilon with its families that have a k*, in the order of measures.

    That is their table, index family; draws of k* (1 + D, F); ln k* (2, 1 + B, F) under every
    relabelling, cross-fitted and raw.
    """
    if not measures.index.is_unique:
        raise ValueError(f"measures have {measures.index[measures.index.duplicated()][0]!r} twice")
    if missing := measures.index.difference(k_stars.table["family"]).tolist():
        raise ValueError(f"no k* of family {missing[0]!r}; invert its gaps first")
    for epsilon, table in k_stars.table.reset_index().groupby("epsilon"):
        table = table.set_index("family").loc[measures.index].dropna(subset="k_star")
        logs = np.log(k_stars.relabelled[:, table["index"]]).swapaxes(1, 2)
        yield epsilon, table, k_stars.draws[table["index"]].T, logs


def _counts(table: pd.DataFrame, families: int) -> dict[str, int]:
    """Count what a regression over the families of table rests on; see `regressions`."""
    return {
        "n": len(table),
        "unknown": families - len(table),
        "censored": int((table["censored"] != "").sum()),
        "distinct": _distinct(table["k_star"]),
        "reduced": int((table["missing_seeds"] > 0).sum()),
        "fewest": table["seeds"].min(),
        "shortened": int((table["missing_sizes"] > 0).sum()),
    }


def _distinct(k_stars: pd.Series) -> int:
    return k_stars.round(6).nunique()


def _refusal(name: str, x: np.ndarray, table: pd.DataFrame) -> str:
    """Say why nothing can be regressed on x; empty if it can."""
    inside = (table["censored"] == "").to_numpy()
    if inside.sum() < FEWEST:
        return f"{inside.sum()} of {len(x)} families have k* inside the grid; it takes {FEWEST}"
    if name == "constant":
        return ""
    if not np.isfinite(x).all():
        return f"{name} is missing or negative for a family"
    if np.ptp(x) <= SAME * np.abs(x).max():
        return f"{name} is the same in every family, so it explains nothing"
    return "" if _distinct(table["k_star"]) > 1 else "k* is the same in every family"


def _refusal_within(x: np.ndarray, y: np.ndarray, blocks: list[np.ndarray]) -> str:
    """Say why nothing can be asked within blocks; empty if it can."""
    if not blocks:
        return "no two families of equal M have a k*"
    if not np.isfinite(x[np.concatenate(blocks)]).all():
        return "not known for every family"
    if all(np.ptp(x[block]) <= SAME * np.abs(x).max() for block in blocks):
        return "the same in every family of the group, so it explains nothing"
    if all(np.ptp(y[block]) <= SAME for block in blocks):
        return "k* is the same in every family of the group"
    return ""


def _signed_r2(x: np.ndarray, y: np.ndarray, blocks: list[np.ndarray]) -> np.ndarray:
    """Return the squared correlation of x (F,) with y (..., F), with the sign of the slope.

    Both about their means within blocks of families; a family whose y is NaN is left out.
    """
    known = ~np.isnan(y)
    x, y = np.where(known, x, 0.0), np.where(known, y, 0.0)
    for values, block in product((x, y), blocks):
        count = np.maximum(known[..., block].sum(axis=-1, keepdims=True), 1)
        mean = values[..., block].sum(axis=-1, keepdims=True) / count
        values[..., block] -= known[..., block] * mean
    used = np.concatenate(blocks)
    x, y = x[..., used], y[..., used]
    scale = (x**2).sum(axis=-1) * (y**2).sum(axis=-1)
    shared = (x * y).sum(axis=-1)
    flat = scale <= SAME * scale.max()
    return np.where(flat, 0.0, shared * np.abs(shared) / np.where(flat, 1.0, scale))


def _p_value(scores: np.ndarray) -> float:
    """Return the share of relabellings that score as high as the truth, the first; (2, 1 + B).

    The larger of that of both ends.
    """
    return float((scores >= scores[:, :1] - 1e-9).mean(axis=1).max())


def _left_out(x: np.ndarray, y: np.ndarray, labels: Sequence[str]) -> float:
    """Return the root mean square error at points left out by equal labels; NaN if not possible."""
    design, labels, misses = np.column_stack([np.ones(len(x)), x]), np.array(labels), []
    design = design if x.any() else design[:, :1]
    for label in dict.fromkeys(labels):
        rest = labels != label
        found, _, rank, _ = np.linalg.lstsq(design[rest], y[rest])
        if rank < design.shape[1]:
            return np.nan
        misses.append(y[~rest] - design[~rest] @ found)
    return float(np.sqrt((np.concatenate(misses) ** 2).mean()))
