"""What explains k*: regressions over families, with p-values from relabelled configurations.

Relabelling (Mantel 1967) permutes which configuration owns which curve of gaps; the distances and
families stay, and every k* is computed again. Families that nest or share members are alike in
every relabelling too, so they do not count as independent. A p-value is the larger of the two ends
of k*, cross-fitted and raw. Simulated size, power and coverage: docs/statistics.md.

`measures`: one row a family, columns the predictors (see `ddlib.stats.covers.measures`).

Letters: F families, D draws, B relabellings.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ddlib.stats.families import KStars
from ddlib.stats.intervals import LEVEL, SAME, interval

FEWEST = 3  # families with a k* inside the measured sizes that a regression needs
RIVAL = "log_members"  # the paper's own regressor


def regress(k_stars: KStars, measures: pd.DataFrame) -> pd.DataFrame:
    """Regress k* on each measure over the families of measures that have a k*.

    k* beyond the measured sizes count as their bound. One row an epsilon and predictor. Columns:
    n, unknown (families without k*), censored, distinct (k* among the n), reduced (families that
    lost seeds), shortened (families that lost sizes); slope of k* with low and high (least squares,
    over draws of seeds; no ends where k* are censored, as a bound has no noise); r2 and r2_raw
    (squared correlation with ln k*, cross-fitted and raw; negative where k* falls); p (one-sided:
    relabellings with at least this r2); lead (of r2 over that of log_members) and p_lead, likewise;
    reason. Raises ValueError for unknown families.
    """
    rows = []
    for epsilon, table, draws, logs in _by_epsilon(k_stars, measures):
        one_group, scores, few = np.zeros(len(table)), {}, _few(table)
        for name in measures:
            x = measures.loc[table.index, name].to_numpy(float)
            reason = few or _refusal(x, logs[0, 0], one_group)
            row = {"epsilon": epsilon, "predictor": name, "reason": reason}
            rows.append(row | _counts(table, len(measures)))
            if not reason:
                scores[name] = _signed_r2(x, logs, one_group)
                ends = interval((x - x.mean()) @ draws.T / ((x - x.mean()) ** 2).sum())
                known = 1 if rows[-1]["censored"] else 3
                rows[-1] |= dict(zip(("slope", "low", "high")[:known], ends[:known], strict=True))
                rows[-1] |= _judged(scores[name])
        for row in rows[-len(measures.columns) :]:
            if row["predictor"] != RIVAL and {row["predictor"], RIVAL} <= set(scores):
                lead = _judged(scores[row["predictor"]] - scores[RIVAL])
                row |= {"lead": lead["r2"], "p_lead": lead["p"]}
    names = ["epsilon", "predictor", "n", "unknown", "censored", "distinct", "reduced"]
    names += ["shortened", "slope", "low", "high", "r2", "r2_raw", "p", "lead", "p_lead", "reason"]
    return pd.DataFrame(rows).reindex(columns=names)


def _few(table: pd.DataFrame) -> str:
    """Say that too few k* lie inside the measured sizes; "" if they are enough."""
    inside = (table["censored"] == "").sum()
    if inside >= FEWEST:
        return ""
    return f"{inside} of {len(table)} families have k* inside the measured sizes; it takes {FEWEST}"


def within_equal(k_stars: KStars, measures: pd.DataFrame) -> pd.DataFrame:
    """Ask in families of equal M, where ln M explains nothing, whether k* rises with a measure.

    Families are compared about the mean of those of equal M. Columns: epsilon, predictor, n,
    distinct, r2, r2_raw, p, reason, as in `regress`. Raises ValueError where no M is shared.
    """
    if measures["members"].is_unique:
        raise ValueError("no two families share their members; add families of equal size")
    rows = []
    for epsilon, table, _, logs in _by_epsilon(k_stars, measures):
        sizes = measures.loc[table.index, "members"]
        shared = sizes.duplicated(keep=False).to_numpy()
        table, sizes, logs = table[shared], sizes[shared].to_numpy(), logs[..., shared]
        for name in measures.columns.drop("members"):
            x = measures.loc[table.index, name].to_numpy(float)
            row = {"epsilon": epsilon, "predictor": name, **_counts(table, len(measures))}
            row["reason"] = "no two families of equal M have a k*"
            if len(table):
                row["reason"] = _few(table) or _refusal(x, logs[0, 0], sizes)
            rows.append(row if row["reason"] else row | _judged(_signed_r2(x, logs, sizes)))
    names = ["epsilon", "predictor", "n", "distinct", "r2", "r2_raw", "p", "reason"]
    return pd.DataFrame(rows).reindex(columns=names)


def confirms(tests: pd.DataFrame, within: pd.DataFrame | None) -> str:
    """Return "confirmed", "not confirmed" or "not decided": the coverage law, by three conditions.

    At each epsilon that can be tested, k* rises significantly with H_cov, more than with RIVAL, and
    among families of equal M. Not decided where a condition cannot be tested and the others hold.
    tests, within: of `regress` and `within_equal`.
    """
    rows = tests[(tests["predictor"] == "h_cov") & (tests["reason"] == "")]
    if rows.empty:
        return "not decided"
    equal = np.nan
    if within is not None:
        equal = within[(within["predictor"] == "h_cov") & within["epsilon"].isin(rows["epsilon"])]
        equal = equal["p"]
    ps = np.append(rows[["p", "p_lead"]], equal)
    if (ps > LEVEL).any():
        return "not confirmed"
    return "not decided" if np.isnan(ps).any() else "confirmed"


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
        "distinct": table["k_star"].round(6).nunique(),
        "reduced": int((table["missing_seeds"] > 0).sum()),
        "shortened": int((table["missing_sizes"] > 0).sum()),
    }


def _refusal(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> str:
    """Say why nothing can be asked of x and y within groups (F,); empty if it can."""

    def spread(values: np.ndarray) -> float:
        return pd.Series(values).groupby(groups).agg(np.ptp).max()

    if not np.isfinite(x).all():
        return "it is not known for every family"
    if spread(x) <= SAME * np.abs(x).max():
        return "it is the same in every family, so it explains nothing"
    return "k* is the same in every family" if spread(y) <= SAME else ""


def _signed_r2(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the squared correlation of x (F,) with y (..., F), with the sign of the slope.

    Both about their means within groups (F,); a family whose y is NaN is left out.
    """
    member, known = (groups == np.unique(groups)[:, None]).astype(float), ~np.isnan(y)

    def centred(values: np.ndarray) -> np.ndarray:
        values = np.where(known, values, 0.0)
        means = (values @ member.T) / np.maximum(known @ member.T, 1)
        return known * (values - means @ member)

    x, y = centred(x), centred(y)
    shared, scale = (x * y).sum(axis=-1), (x**2).sum(axis=-1) * (y**2).sum(axis=-1)
    flat = scale <= SAME * scale.max()
    return np.where(flat, 0.0, shared * np.abs(shared) / np.where(flat, 1.0, scale))


def _judged(scores: np.ndarray) -> dict[str, float]:
    """Return the first of scores (2, 1 + B), of both ends, and the larger share as high as it."""
    p = (scores >= scores[:, :1] - 1e-9).mean(axis=1).max()
    return {"r2": scores[0, 0], "r2_raw": scores[1, 0], "p": float(p)}
