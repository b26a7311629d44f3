"""What fits decide: the verdict on a/√k + c, the preferred law, and their tables."""

from typing import NamedTuple

import pandas as pd

from ddlib.stats.intervals import LEVEL
from ddlib.stats.laws import COLUMNS, Fits

WAYS = ("slower", "faster", "neither")  # than 1/√k; neither: no one power of k fits, or several do
NEAR = 2  # AIC units within which two laws are not separable (Burnham & Anderson 2002)
QUALITIES = ["misfit", "aic", "loo_error", "r2", "r2_null", "r2_null_95"]


class Verdict(NamedTuple):
    """Whether the curve a/√k + c stands; `why` is a clause for a sentence."""

    outcome: str  # "survives", "fails" or "undecided"
    why: str
    way: str | None = None  # one of WAYS: how the gap falls where the curve fails

    @property
    def survives(self) -> bool:
        return self.outcome == "survives"


def verdict(fits: Fits) -> Verdict:
    """Judge the curve a/√k + c by two conditions, stated beforehand.

    It survives where the interval of the free exponent holds 1/2 and the lack of fit is not
    significant, and fails where one of these is not met. It is undecided where the curve may be
    flat or has no interval; also where both are met but a mean gap is not positive, or the
    exponent's interval holds 0 and 1 too.
    """
    law, free = fits["inverse_sqrt"], fits["free_exponent"]
    if not law.identifiable:
        return Verdict("undecided", law.reason)
    if not free.fitted:
        return Verdict("undecided", free.reason)
    _, low, high = free.parameters["b"]
    if not low <= 0.5 <= high:
        if free.misfit <= LEVEL:
            return Verdict("fails", "no one power of k fits the means", WAYS[2])
        way, words = (WAYS[0], "more slowly") if high < 0.5 else (WAYS[1], "faster")
        return Verdict("fails", f"the gap falls {words} than 1/√k", way)
    if law.misfit <= LEVEL:
        why = "the curve misses the means by more than the noise of the seeds"
        return Verdict("fails", why, WAYS[2])
    if (law.data.means <= 0).any():
        return Verdict("undecided", "a mean gap is not above zero")
    if low <= free.law.bounds(law.data.ks)[0] * 1.001 and high >= 1:
        return Verdict("undecided", "the seeds differ too much: exponents 0, 1/2 and 1 all fit")
    return Verdict("survives", "the gaps lie on a/√k + c, up to the noise of the seeds")


def best(fits: Fits) -> list[str]:
    """Return the laws within NEAR of the least AIC, the best first; [] where no fit has an AIC."""
    scores = {name: fit.aic for name, fit in fits.items() if fit.aic is not None}
    near = (name for name, aic in scores.items() if aic - min(scores.values()) <= NEAR)
    return sorted(near, key=scores.get)


def summary(fits_by_method: dict[str, Fits]) -> pd.DataFrame:
    """Tabulate fits, one row a method and law; pd.NA where something is not available.

    Columns: method, law, identifiable, reason, each parameter with _low and _high, misfit (p-value
    of the lack of fit), aic, delta_aic (to the least of the method), loo_error (see `Fit`), r2,
    r2_null, r2_null_95.
    """
    rows = []
    for method, fits in fits_by_method.items():
        for law, fit in fits.items():
            row = {"method": method, "law": law, "identifiable": fit.identifiable}
            row["reason"] = fit.reason
            for name in COLUMNS:
                ends = fit.parameters.get(name, (None, None, None))
                row |= zip((name, f"{name}_low", f"{name}_high"), ends, strict=True)
            rows.append(row | {quality: getattr(fit, quality) for quality in QUALITIES})
    names = ["method", "law", "identifiable", "reason"]
    table = pd.DataFrame(rows).set_index(names).astype("Float64").reset_index()
    least = table.groupby("method")["aic"].transform("min")
    return table.assign(delta_aic=table["aic"] - least)


def curves(fits_by_method: dict[str, Fits], ks) -> pd.DataFrame:
    """Tabulate the fitted curves at ks: method, law, k, gap, low, high; others are left out."""
    tables = {
        (method, law): fit.predict(ks)
        for method, fits in fits_by_method.items()
        for law, fit in fits.items()
        if fit.fitted
    }
    if not tables:
        return pd.DataFrame(columns=["method", "law", "k", "gap", "low", "high"])
    return pd.concat(tables, names=["method", "law"]).droplevel(2).reset_index()
