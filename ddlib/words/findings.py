"""Sentences on all findings together, computed from the tables of `ddlib.stats.cells`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ddlib.stats.cells import PAPER_R2, Coverage
from ddlib.stats.families import ABOVE, BELOW
from ddlib.stats.intervals import Interval
from ddlib.stats.laws import LAWS
from ddlib.stats.regressions import confirms
from ddlib.words import coverage as of_law
from ddlib.words import methods
from ddlib.words.summary import sharp
from ddlib.words.text import Text, bullets, listed, p_value

QUANTISERS = ("k_means", "k_center", "herding", "dm", "mgd3")
# The least intrinsic dimension of continuous data: 6 magic_telescope, 13 mnist, 27 cifar10, by the
DIMENSION = 6  # distances of 500 training samples to 20 neighbours (Levina and Bickel 2004)


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells as texts to read, one row each."""
    rows = []
    for _, row in cells.iterrows():
        ends = {"≤": row["tells_below"], "≥": row["tells_above"]}
        ends = [f"{sign} {end:g}" for sign, end in ends.items() if pd.notna(end)]
        rival = "—"
        if pd.notna(row["rival"]):
            rival = f"{row['delta_aic']:+.1f} ({LAWS[row['rival']].formula})"
        texts = {
            "verdict": row["outcome"] + f": {row['why']}" * (row["outcome"] == "undecided"),
            "exponent b": _interval(row, "b", "low", "high"),
            "floor c": _interval(row, "floor", "floor_low", "floor_high"),
            "lack of fit": p_value(row["misfit"]) if pd.notna(row["misfit"]) else "—",
            "R²": _interval(row, "r2", "r2_null", "r2_null_95"),
            "ΔAIC of the best rival": rival,
            "exponents told from 1/2": " or ".join(ends) or "none",
            "trials missing": f"{row['missing']} of {row['asked']}",
        }
        rows.append(texts)
    return pd.DataFrame(rows, index=pd.MultiIndex.from_frame(cells[["data", "method"]]))


def _interval(row: pd.Series, *names: str) -> str:
    values = Interval(*row[list(names)])
    text = "—" if pd.isna(values.estimate) else f"{values:.2f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")  # one line of a table


def r2(cells: pd.DataFrame) -> Text:
    """Say whether R² is above the paper's bound in all cells, and what that is worth."""
    paper = cells[cells["kind"] != "control"].dropna(subset="r2")
    high = paper[paper["r2"] > PAPER_R2]
    failing, above = (high["outcome"] == "fails").sum(), (paper["r2"] > paper["r2_null_95"]).sum()
    return Text(
        f"R² is above {PAPER_R2} in {len(high)} of {len(paper)} cells; the two conditions "
        f"reject {failing} of these. It exceeds what 95 % of random falling curves reach in "
        f"{above}."
    )


def quantisation(cells: pd.DataFrame) -> Text:
    """Say in how many cells of QUANTISERS the exponent may be that of optimal quantisation, 1/d.

    Quantisation in d dimensions errs by k^(-1/d) (Tan and Slade 2026). The tables do not hold the
    real data, so d is not measured: any d of at least DIMENSION counts, which is b up to 1/d.
    """
    fitted = cells[cells["method"].isin(QUANTISERS)].dropna(subset=["b", "low", "high"])
    if fitted.empty:
        return Text("No exponent of these methods has an interval, so the rival is not tested.")
    slow = fitted["low"] <= 1 / DIMENSION
    half = (fitted["low"] <= 0.5) & (fitted["high"] >= 0.5)
    cases = {"1/2 alone": half & ~slow, f"some 1/d with d ≥ {DIMENSION} alone": slow & ~half}
    cases |= {"both": slow & half, "neither": ~slow & ~half}
    counts = [f"{case} in {rows.sum()}" for case, rows in cases.items()]
    return Text(
        f"Of {len(fitted)} cells of {listed(fitted['method'].unique())}, the interval of b "
        f"holds {listed(counts)}. The floor c is free in these fits, and k^(-1/d) bounds "
        "the error of a set, not the gap: a faster fall refutes only that the bound is tight."
    )


def labels(regimes: Mapping[str, tuple[Mapping[str, pd.DataFrame], pd.DataFrame]]) -> Text:
    """Say of each study with several label regimes what soft labels give.

    regimes: by study, its trials by regime and its teachers; see `methods.labels`.
    """
    texts = [f"### {name}\n\n{methods.labels(*tables)}" for name, tables in regimes.items()]
    return Text("\n\n".join(texts) or "No study among these findings has several label regimes.")


def orders(tables: Mapping[str, pd.DataFrame]) -> Text:
    """Say of each study how its other configurations change the order of the methods.

    tables: by study, those of `compare.reordered`.
    """
    texts = [f"### {name}\n\n{methods.orders(table)}" for name, table in tables.items()]
    return Text("\n\n".join(texts) or "No study compares methods under several configurations.")


def coverage(name: str, study: Coverage) -> Text:
    """Say whether a study confirms the coverage law, what it lacks, and which member decides."""
    tests, member = (study.fitted, study.within), _decides(study.k_stars.dropna(subset="worst"))
    unequal = study.unequal and f"There are {study.unequal}."
    parts = f"### {name}: {confirms(*tests)}", of_law.verdicts(*tests), unequal, member
    return Text("\n\n".join(filter(None, [*parts, of_law.explained(*tests)])))


def _decides(k_stars: pd.DataFrame) -> str:
    """Name the worst member that goes with the largest k*.

    This is at the smallest accepted gap at which some k* lies inside the measured sizes.
    """
    inside = k_stars[k_stars["censored"] == ""]
    if inside.empty:
        return ""
    rows = k_stars[k_stars["epsilon"] == inside["epsilon"].min()]
    name = rows.groupby("worst")["k_star"].median().idxmax()
    sizes, others = rows[rows["worst"] == name], rows[rows["worst"] != name]
    text = f"The worst member decides: where it is {name} ({len(sizes)} of {len(rows)} families at "
    text += f"a gap of {rows['epsilon'].iloc[0]:g}), the median k* is {_median(sizes)}"
    return f"{text}, elsewhere {_median(others)}." if len(others) else f"{text}."


def _median(k_stars: pd.DataFrame) -> str:
    """Say the median k*, or that it is below or above a number, beyond the measured sizes."""
    middle = k_stars["k_star"].median()
    if (k_stars["censored"] == BELOW).mean() > 0.5:
        return f"below {middle:.0f}, the smallest size"
    if not (k_stars.loc[k_stars["k_star"] >= middle, "censored"] == ABOVE).all():
        return f"{middle:.0f}"
    return f"above {middle:.0f}" + ", the largest size" * bool((k_stars["k_star"] == middle).any())


def change(cells: pd.DataFrame) -> Text:
    """Say what would decide the undecided cells, and what could overturn the others."""
    undecided, survive = (cells[cells["outcome"] == name] for name in ("undecided", "survives"))
    reasons = [f"in {count} {why}" for why, count in undecided["why"].value_counts().items()]
    needs = undecided[np.isfinite(undecided["seeds_needed"])]
    seeds = [f"{row.method} on {row.data}: {row.seeds_needed:.0f}" for row in needs.itertuples()]
    lines = (
        f"{len(undecided)} of {len(cells)} cells, controls too, are undecided: "
        f"{'; '.join(reasons) or 'none'}.",
        f"Seeds that would tell an exponent of 1 from 1/2: {'; '.join(seeds) or 'none'}. In "
        f"{len(undecided) - len(needs)} no number that was tried would decide, or none could be "
        "tried.",
        f"{len(survive) - len(sharp(cells))} of {len(survive)} cells that survive do so in a weak "
        "test, so more seeds may reject them.",
    )
    return bullets(lines)
