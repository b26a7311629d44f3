"""What explains k*: regressions over families, with p-values from relabelled configurations.

Relabelling (Mantel 1967) permutes which configuration owns which curve of gaps; the distances and
families stay, and every k* is computed again. Families that nest or share members are alike in
every relabelling too, so they do not count as independent. A p-value is the larger of the two ends
of k*, cross-fitted and raw. Simulated size, power and coverage: docs/statistics.md.

`measures`: one row a family, columns the predictors (see `ddlib.stats.covers.measures`).

Letters: F families, D draws, B relabellings.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ddlib.stats.families import KStars
from ddlib.stats.intervals import SAME, interval

FEWEST = 3  # families with a k* inside the grid that a regression needs
RIVAL = "log_members"  # the paper's own regressor
Blocks = Sequence[np.ndarray]  # places of families that are compared with each other


def regress(k_stars: KStars, measures: pd.DataFrame) -> pd.DataFrame:
    """Regress k* on each measure over the families of measures that have a k*.

    k* beyond the measured sizes count as their bound. One row an epsilon and predictor. Columns:
    n, unknown (families without k*), censored, distinct (k* among the n), reduced (families that
    lost seeds), fewest (seeds of a family), shortened (families that lost sizes); slope of k* with
    low and high (least squares, over draws of seeds); r2 and r2_raw (squared correlation with
    ln k*, cross-fitted and raw; negative where k* falls); p (one-sided: relabellings with at least
    this r2); lead (of r2 over that of log_members) and p_lead, likewise; reason. Raises ValueError
    for unknown families.
    """
    rows = []
    for epsilon, table, draws, logs in _by_epsilon(k_stars, measures):
        inside, everyone, scores = (table["censored"] == "").sum(), [np.arange(len(table))], {}
        few = f"{inside} of {len(table)} families have k* inside the grid; it takes {FEWEST}"
        first = len(rows)
        for name in measures:
            x = measures.loc[table.index, name].to_numpy(float)
            reason = few if inside < FEWEST else _refusal(x, logs[0, 0], everyone)
            row = {"epsilon": epsilon, "predictor": name, **_counts(table, len(measures))}
            rows.append(row | {"reason": reason})
            if reason:
                continue
            ends = interval((x - x.mean()) @ draws.T / ((x - x.mean()) ** 2).sum())
            scores[name] = _signed_r2(x, logs, everyone)
            (r2, *_), (r2_raw, *_) = scores[name]
            row = dict(zip(("slope", "low", "high"), ends, strict=True))
            rows[-1] |= row | {"r2": r2, "r2_raw": r2_raw, "p": _p_value(scores[name])}
        for row in rows[first:]:
            if row["predictor"] != RIVAL and {row["predictor"], RIVAL} <= set(scores):
                lead = scores[row["predictor"]] - scores[RIVAL]
                row |= {"lead": lead[0, 0], "p_lead": _p_value(lead)}
    names = ["epsilon", "predictor", "n", "unknown", "censored", "distinct", "reduced", "fewest"]
    names += ["shortened", "slope", "low", "high", "r2", "r2_raw", "p", "lead", "p_lead", "reason"]
    return pd.DataFrame(rows).reindex(columns=names)


def variants(cases: Mapping[str, tuple[KStars, pd.DataFrame]]) -> pd.DataFrame:
    """Tabulate what `regress` says of h_cov in several cases: {name: (k_stars, measures)}."""
    tables = {
        name: regress(k_stars, measures[["h_cov", RIVAL]]).query("predictor == 'h_cov'")
        for name, (k_stars, measures) in cases.items()
    }
    return pd.concat(tables, names=["variant"]).reset_index("variant").drop(columns="predictor")


def within_equal(k_stars: KStars, measures: pd.DataFrame) -> pd.DataFrame:
    """Ask in families of equal M, where ln M explains nothing, whether k* rises with a measure.

    Families are compared about the mean of those of equal M. Columns: epsilon, predictor, n,
    distinct, r2, r2_raw, p, reason, as in `regress`. Raises ValueError where no M is shared.
    """
    if measures["members"].is_unique:
        raise ValueError("no two families share their members; add families of equal size")
    rows = []
    for epsilon, table, _, logs in _by_epsilon(k_stars, measures):
        places = measures.loc[table.index].groupby("members").indices.values()
        blocks = [block for block in places if len(block) > 1]
        used = np.concatenate([*blocks, []]).astype(int)
        distinct = _distinct(table["k_star"].iloc[used])
        for name in measures.columns.drop("members"):
            x = measures.loc[table.index, name].to_numpy(float)
            row = {"epsilon": epsilon, "predictor": name, "n": len(used), "distinct": distinct}
            row["reason"] = _refusal(x, logs[0, 0], blocks)
            if not row["reason"]:
                scores = _signed_r2(x, logs, blocks)
                row |= {"r2": scores[0, 0], "r2_raw": scores[1, 0], "p": _p_value(scores)}
            rows.append(row)
    names = ["epsilon", "predictor", "n", "distinct", "r2", "r2_raw", "p", "reason"]
    return pd.DataFrame(rows).reindex(columns=names)


def _by_epsilon(k_stars: KStars, measures: pd.DataFrame) -> Iterator[tuple]:
    """Yield each epsilon; the table of the families that have a k*, in the order of measures; draws
    of k* (1 + D, F); and ln k* (2, 1 + B, F) under every relabelling, cross-fitted and raw.
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
    """Count what a regression over the families of table rests on; see `regress`."""
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


def _refusal(x: np.ndarray, y: np.ndarray, blocks: Blocks) -> str:
    """Say why nothing can be asked of x and y within blocks; empty if it can."""
    if not blocks:
        return "no two families of equal M have a k*"
    if not np.isfinite(x[np.concatenate(blocks)]).all():
        return "it is not known for every family"
    if all(np.ptp(x[block]) <= SAME * np.abs(x).max() for block in blocks):
        return "it is the same in every family, so it explains nothing"
    flat = all(np.ptp(y[block]) <= SAME for block in blocks)
    return "k* is the same in every family" if flat else ""


def _signed_r2(x: np.ndarray, y: np.ndarray, blocks: Blocks) -> np.ndarray:
    """Return the squared correlation of x (F,) with y (..., F), with the sign of the slope.

    Both about their means within blocks of families; a family whose y is NaN is left out.
    """
    parts = []
    for block in blocks:
        known = ~np.isnan(y[..., block])
        pair = [np.where(known, values[..., block], 0.0) for values in (x, y)]
        count = np.maximum(known.sum(axis=-1, keepdims=True), 1)
        parts.append([known * (v - v.sum(axis=-1, keepdims=True) / count) for v in pair])
    x, y = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    scale = (x**2).sum(axis=-1) * (y**2).sum(axis=-1)
    shared = (x * y).sum(axis=-1)
    flat = scale <= SAME * scale.max()
    return np.where(flat, 0.0, shared * np.abs(shared) / np.where(flat, 1.0, scale))


def _p_value(scores: np.ndarray) -> float:
    """Return the share of scores (2, 1 + B) as high as the first, the larger of both ends."""
    return float((scores >= scores[:, :1] - 1e-9).mean(axis=1).max())
