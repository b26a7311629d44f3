"""Cells: what the fits and comparisons of many studies decide, one row a data set and method.

Letters: K distinct k.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddlib.stats.compare import (
    CONTROLS,
    accuracies,
    against,
    ahead_of_all,
    control_names,
    over_controls,
    paired,
    ranking,
)
from ddlib.stats.laws import Fits, null_r2
from ddlib.stats.power import POWER, detectable, power
from ddlib.stats.verdicts import verdict

PAPER_DATA = ("mnist", "cifar10", "cifar100", "imagenette")
PAPER_METHODS = ("dc", "dsa", "dm", "mtt", "mgd3")
PAPER_R2 = 0.85  # the paper's criterion: R² of a/√k + c above it in all cells
MORE_SEEDS = (2, 4, 8, 16)  # times those of the study
KINDS = ("paper", "other", "control")
OUTCOMES = ("survives", "fails", "undecided")
GAINS = ("beats all controls", "beats random", "level with random", "worse than random")


class Held(NamedTuple):
    """Of the gaps that a pilot left out: how many the planner answered, and its intervals held.

    width: the median width of these intervals, a gap.
    """

    inside: int
    answered: int
    left_out: int
    width: float


class Coverage(NamedTuple):
    """What one study says of the coverage law and of the planner.

    k_stars: the table of `families.k_star` with the measures of `covers.measures`, the series of
    `families.series`, and worst (the member whose gap is worst at the measured size nearest to k*);
    fitted, within: of `regressions`, within None where no families are of equal size; unequal: why
    there are none, if the study asked for some.
    """

    k_stars: pd.DataFrame
    fitted: pd.DataFrame
    within: pd.DataFrame | None
    held: Held
    unequal: str = ""


def cells(
    fits: Mapping[str, Mapping[str, Fits]], controls: Collection[str] = CONTROLS
) -> pd.DataFrame:
    """Judge the scaling law in each cell: {data: {method: fits}}, see `laws.fit_table`.

    controls: the names of controls. Columns: data, method; kind (see `kind`); outcome, why and way
    (see `Verdict`); b, low, high (the free exponent); floor, floor_low, floor_high (c), misfit, r2,
    r2_null, r2_null_95 of a/√k + c, and r2_null_share (of random falling curves above PAPER_R2);
    rival (the law with the least AIC among the others) and delta_aic (its AIC less that of a/√k +
    c); tells_below, tells_above (see `detectable`); missing (trials without a gap, of asked);
    seeds_needed (of undecided cells). What is not available is NaN or None.
    """
    rows = []
    for data, methods in fits.items():
        kinds = {method: kind(method, controls) for method in methods}
        rows += [
            {"data": data, "method": method, "kind": kinds[method], **_cell(methods[method])}
            for method in ordered(kinds)
        ]
    return pd.DataFrame(rows)


def kind(method: str, controls: Collection[str]) -> str:
    """Return "paper" for PAPER_METHODS, "control" for controls, "other" for the rest."""
    return "paper" if method in PAPER_METHODS else "control" if method in controls else "other"


def ordered(kinds: Mapping[str, str]) -> list[str]:
    """Return the methods of the paper, then others, then controls; kinds: by method, see `kind`."""
    places = {name: place for place, name in enumerate((*PAPER_METHODS, *CONTROLS))}
    return sorted(kinds, key=lambda m: (KINDS.index(kinds[m]), places.get(m, len(places))))


def _cell(fits: Fits) -> dict[str, object]:
    law, free, judged = fits["inverse_sqrt"], fits["free_exponent"], verdict(fits)
    data, unknown = law.data, (np.nan,) * 3
    row = judged._asdict()
    row |= zip(("b", "low", "high"), free.parameters.get("b", unknown), strict=True)
    names = ("floor", "floor_low", "floor_high")
    row |= zip(names, law.parameters.get("c", unknown), strict=True)
    row |= {name: getattr(law, name) for name in ("misfit", "r2", "r2_null", "r2_null_95")}
    if law.r2 is not None:
        row["r2_null_share"] = (null_r2(tuple(data.ks), law.law.name) > PAPER_R2).mean()
    row |= {"rival": None, "delta_aic": np.nan}
    rivals = {n: fit.aic for n, fit in fits.items() if fit.aic is not None and fit is not law}
    if rivals and law.aic is not None:
        row["rival"] = min(rivals, key=rivals.get)
        row["delta_aic"] = rivals[row["rival"]] - law.aic
    ends = detectable(free) if free.fitted else unknown[:2]
    row |= zip(("tells_below", "tells_above"), ends, strict=True)
    row["missing"] = sum(data.missing.values())
    row["asked"] = data.asked * len({*data.ks, *data.missing})
    return row | {"seeds_needed": seeds_needed(fits) if judged.outcome == "undecided" else np.nan}


def seeds_needed(fits: Fits) -> float:
    """Return how many seeds would tell 1 from 1/2 in 9 of 10 studies; infinite if none would.

    Tried are MORE_SEEDS times those of the study. No number of seeds decides a cell where the means
    do not fall, or where one is not above zero: that gap is not a price of distillation.
    """
    law, free = fits["inverse_sqrt"], fits["free_exponent"]
    judged = law.data.errors is not None and free.fitted and (law.data.means > 0).all()
    if not judged or law.coefficients[0, 0] <= 0:
        return np.inf
    numbers = [factor * len(law.data.seeds) for factor in MORE_SEEDS]
    return next((n for n in numbers if power(free, 1.0, seeds=n) >= POWER), np.inf)


def gains(studies: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Compare methods with the controls at each k, in each study: {name: trials}.

    trials: of one configuration. Columns: data (the name), labels, method, kind (see `kind`), ipc,
    k, outcome (one of GAINS; None where it is not testable), difference (how much smaller the gap
    in error is than that of BASELINE) with low and high. The test against BASELINE is that of
    `compare.against`. What beats BASELINE and is no control "beats all controls" by the test of
    `compare.ahead_of_all`. A study without BASELINE has no rows.
    """
    tables = []
    for name, trials in studies.items():
        pairs = paired(trials.assign(accuracy=-trials["gap_error"]))
        controls, table = control_names(trials), against(pairs)
        every = ahead_of_all(over_controls(pairs, controls)).query("survives")[["k", "method"]]
        every = table.merge(every.assign(every=True), how="left")["every"].notna()
        untested, level = table["reason"] != "", ~table["survives"]
        conditions = [untested, level, table["difference"] < 0, every]
        outcome = np.select(conditions, [None, GAINS[2], GAINS[3], GAINS[0]], GAINS[1])
        table["kind"] = [kind(method, controls) for method in table["method"]]
        ipc = table["k"] // (trials["k"] // trials["ipc"]).iloc[0]
        labels = trials["labels"].iloc[0]
        tables.append(table.assign(data=name, labels=labels, ipc=ipc, outcome=outcome))
    names = ["data", "labels", "method", "kind", "ipc", "k", "outcome", "difference", "low", "high"]
    return pd.concat(tables).reindex(columns=names).reset_index(drop=True)


def leaders(studies: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """Return the most accurate method at each size of each data set: (labels, trials) of studies.

    trials: of one configuration; labels: a name for its labels. Of several studies of a data set
    with these labels, the one with the most methods at a size counts there. Columns: data, labels,
    methods (their number), ipc, best, control (whether the best is one), alone (whether it is
    significantly better than every other method; see `compare.ranking`).
    """
    tables = []
    for labels, trials in studies:
        ranks = ranking(accuracies(trials), paired(trials))
        ranks["ipc"] = ranks["k"] // (trials["k"] // trials["ipc"]).iloc[0]
        ranks["alone"] = ranks["runner_up"].notna() & (ranks["not_separable"].map(len) == 0)
        ranks["control"] = ranks["best"].isin(control_names(trials))
        names = {"data": trials["data"].iloc[0], "labels": labels}
        tables.append(ranks.assign(**names, methods=trials["method"].nunique()))
    names = ["data", "labels", "methods", "ipc", "best", "control", "alone"]
    table = pd.concat(tables or [pd.DataFrame()]).reindex(columns=names)
    order = ["data", "labels", "ipc"]
    most = table.sort_values("methods", ascending=False, kind="stable").drop_duplicates(order)
    return most.sort_values(order, kind="stable", ignore_index=True)
