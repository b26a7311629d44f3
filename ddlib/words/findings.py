"""Sentences on all findings together, computed from the tables of `ddlib.stats.cells`."""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd

from ddlib.stats.cells import (
    GAINS,
    OUTCOMES,
    PAPER_DATA,
    PAPER_METHODS,
    PAPER_R2,
    WAYS,
    Coverage,
)
from ddlib.stats.families import ABOVE
from ddlib.stats.intervals import Interval
from ddlib.stats.laws import LAWS
from ddlib.stats.regressions import confirms
from ddlib.words import coverage as of_law
from ddlib.words.methods import labels as of_labels
from ddlib.words.text import Text, box, bullets, listed, p_value

QUANTISERS = ("k_means", "k_center", "herding", "dm", "mgd3")
# The least intrinsic dimension of continuous data: 6 magic_telescope, 13 mnist, 27 cifar10, by the
DIMENSION = 6  # distances of 500 training samples to 20 neighbours (Levina and Bickel 2004)
SMALL = 10  # samples per class, up to which a set counts as small


def summary(
    cells: pd.DataFrame,
    gains: pd.DataFrame,
    leaders: pd.DataFrame,
    coverage: Mapping[str, Coverage],
) -> Text:
    """Say in a few lines what was found of both laws, of the methods, and of the planner.

    cells, gains, leaders, coverage (by study): as in `ddlib.stats.cells`.
    """
    lines = [_scaling(cells), _criterion(cells), _law(coverage), _gains(cells, gains)]
    if len(leaders):
        lines.append(f"**Which method?** {_which(leaders)}")
    held = {name: study.held for name, study in coverage.items() if study.held.answered}
    if held:
        parts = [_planner(name, *counts) for name, counts in held.items()]
        lines.append(" ".join(["**Planner.** It predicts gaps from a part of a study.", *parts]))
    options = {"width": 100, "subsequent_indent": "  ", "break_on_hyphens": False}
    data = textwrap.fill(f"Data: {listed(cells['data'].unique(), 'and')}.", width=100)
    return Text("\n".join([data, "", *(textwrap.fill(f"- {line}", **options) for line in lines)]))


def verdicts(cells: pd.DataFrame, gains: pd.DataFrame, coverage: Mapping[str, Coverage]) -> Text:
    """Return a line on each law, and one on random samples: the shortest form of `summary`."""
    methods, (hard, _) = cells[cells["kind"] != "control"], _tested(cells, gains)
    worse = (hard["outcome"] == GAINS[3]).sum()
    lines = (
        f"**Scaling law:** a/√k + c {_outcomes(methods, ' cells (a method on a data set)')}.",
        f"**Coverage law:** {_on(coverage) or 'no study of it is among these findings'}.",
        f"**Against random real samples:** distilled sets are significantly better {_won(hard)} "
        f"comparisons (a method at a size), worse in {worse}.",
    )
    return box(lines)


def _planner(name: str, inside: int, answered: int, left_out: int, width: float) -> str:
    return (
        f"On {name} that part left out {left_out} gaps. It answered {answered}, and its 95 % "
        f"intervals, half of them wider than {width:.2f}, held {inside}."
    )


def _scaling(cells: pd.DataFrame) -> str:
    controls = cells["kind"] == "control"
    methods = cells[~controls]
    images = methods[methods["data"].isin(PAPER_DATA) & (methods["kind"] == "paper")]
    what = " cells (a method on a data set, judged by test error, balanced where classes differ)"
    text = f"**Scaling law.** The curve a/√k + c {_outcomes(methods, what)}."
    slower, faster, other = ((methods["way"] == way).sum() for way in WAYS)
    text += f" Of those that fail, {slower} fall more slowly than 1/√k, {faster} faster, which the "
    text += f"paper's upper bound allows; for {other} no one power of k fits, or several do."
    if survive := (methods["outcome"] == "survives").sum():
        text += (
            f" Of the {survive} that survive, {len(_sharp(methods))} could have told an exponent "
        )
        text += "of 1/4 and of 1 from 1/2."
    if len(images):
        count = len(PAPER_DATA) * len(PAPER_METHODS)
        text += f" In those of the paper's own {count} cells that are measured, it "
        text += f"{_outcomes(images)}."
    if controls.any():
        text += f" For controls, made without learning, it {_outcomes(cells[controls])}."
    if len(data := cells.loc[cells["capped"], "data"].unique()):
        text += f" On {listed(data, 'and')} the networks on all data were still improving at the "
        text += "limit on passes, so gaps are too small there."
    return text


def _sharp(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells that survive a test that would have told 1/4 and 1 from 1/2."""
    told = (cells["tells_above"] <= 1) & (cells["tells_below"] >= 0.25)
    return cells[told & (cells["outcome"] == "survives")]


def _outcomes(cells: pd.DataFrame, what: str = "") -> str:
    survives, fails, undecided = ((cells["outcome"] == name).sum() for name in OUTCOMES)
    return (
        f"survives in {survives} of {len(cells)}{what}, fails in {fails} and is undecided in "
        f"{undecided}"
    )


def _criterion(cells: pd.DataFrame) -> str:
    fitted = cells.dropna(subset="r2")
    paper, random = fitted[fitted["kind"] != "control"], fitted[fitted["method"] == "random"]
    if paper.empty:
        return (
            f"**R² above {PAPER_R2}**, the paper's criterion, cannot be judged: nothing is fitted."
        )
    high, reached = ((rows["r2"] > PAPER_R2).sum() for rows in (paper, random))
    low, top = (f"{share:.0%}" for share in (paper["r2_null_share"].agg(["min", "max"])))
    return (
        f"**R² above {PAPER_R2}**, the paper's criterion for all cells, is reached in {high} of "
        f"{len(paper)}. It decides little: random real samples reach it on {reached} of "
        f"{len(random)} data sets, and {low if low == top else f'{low} to {top}'} of random "
        "falling curves do."
    )


def _law(coverage: Mapping[str, Coverage]) -> str:
    if not coverage:
        return "**Coverage law.** No study of it is among these findings."
    return (
        f"**Coverage law.** It is {_on(coverage)}. It counts as confirmed where k*, the "
        "samples that a family of training configurations needs, rises significantly with the "
        "family's measured diversity H_cov, more than with ln M, the log of its size, and also "
        "among families of equal size."
    )


def _on(coverage: Mapping[str, Coverage]) -> str:
    names = (
        f"{confirms(study.fitted, study.within)} on {name}{_only_at(study)}"
        for name, study in coverage.items()
    )
    return listed(names, "and")


def _only_at(study: Coverage) -> str:
    """Name the worst gaps at which a law is confirmed that is not confirmed at all of them."""
    tests = [study.fitted, study.within]
    held = []
    for epsilon in study.fitted["epsilon"].unique():
        parts = (None if t is None else t[t["epsilon"] == epsilon] for t in tests)
        held += [epsilon] if confirms(*parts) == "confirmed" else []
    some = held and confirms(*tests) == "not confirmed"
    return f" (only at a worst gap of {listed(held, 'and')})" if some else ""


def _tested(cells: pd.DataFrame, gains: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the gains of methods that could be tested, with hard and with soft labels."""
    tested = gains[gains["kind"] != "control"].dropna(subset="outcome")
    return tested[tested["data"].isin(cells["data"])], tested[tested["labels"] == "soft"]


def _gains(cells: pd.DataFrame, gains: pd.DataFrame) -> str:
    hard, soft = _tested(cells, gains)
    small, large = hard[hard["ipc"] <= SMALL], hard[hard["ipc"] > SMALL]
    every, worse = ((hard["outcome"] == name).sum() for name in (GAINS[0], GAINS[3]))
    text = f"**Against random real samples.** Distilled sets are significantly better {_won(hard)} "
    text += f"comparisons (a method at a size), worse in {worse}, and better than all controls, "
    text += f"such as herding, in {every}. Up to {SMALL} samples per class they are better "
    text += f"{_won(small)}, above {_won(large)}."
    if len(soft):
        lost = (soft["outcome"] == GAINS[3]).sum()
        text += f" With soft labels of one teacher they are better {_won(soft)}, worse in {lost}."
    return text


def _which(leaders: pd.DataFrame) -> str:
    lines = ["The most accurate, controls included, by samples per class."]
    for data, rows in leaders.groupby("data", sort=False):
        parts = []
        for labels, sizes in rows.groupby("labels", sort=False):
            best = sizes.groupby("best", sort=False)["ipc"]
            names = [f"{method} at {listed(ipcs, 'and')}" for method, ipcs in best]
            parts.append(f"with {labels} labels {listed(names, 'and')}")
        lines.append(f"Of {rows['methods'].max()} on {data}, {'; '.join(parts)}.")
    alone = leaders["alone"].astype(bool).sum()
    lines.append(f"They lead all others significantly in {alone} of {len(leaders)} cases.")
    return " ".join(lines)


def _won(gains: pd.DataFrame) -> str:
    return f"in {gains['outcome'].isin(GAINS[:2]).sum()} of {len(gains)}"


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells as texts to read, one row each."""
    rows = []
    for _, row in cells.iterrows():
        ends = (("≤", row["tells_below"]), ("≥", row["tells_above"]))
        rival = "—"
        if pd.notna(row["rival"]):
            rival = f"{row['delta_aic']:+.1f} ({LAWS[row['rival']].formula})"
        texts = {
            **{"data": row["data"], "method": row["method"]},
            "verdict": row["outcome"] + f": {row['why']}" * (row["outcome"] == "undecided"),
            "exponent b": _interval(row, "b", "low", "high"),
            "floor c": _interval(row, "floor", "floor_low", "floor_high"),
            "lack of fit": p_value(row["misfit"]) if pd.notna(row["misfit"]) else "—",
            "R²": _interval(row, "r2", "r2_null", "r2_null_95"),
            "ΔAIC of the best rival": rival,
            "exponents told from 1/2": listed(f"{s} {e:g}" for s, e in ends if pd.notna(e))
            or "none",
            "trials missing": f"{row['missing']} of {row['asked']}",
        }
        rows.append(texts)
    return pd.DataFrame(rows).set_index(["data", "method"])


def _interval(row: pd.Series, *names: str) -> str:
    values = Interval(*row[list(names)])
    text = "—" if np.isnan(values.estimate) else f"{values:.2f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")  # one line of a table


def r2(cells: pd.DataFrame) -> Text:
    """Say whether R² is above the paper's bound in all cells, and what that is worth."""
    paper = cells[cells["kind"] != "control"].dropna(subset="r2")
    low, high = paper[paper["r2"] <= PAPER_R2], paper[paper["r2"] > PAPER_R2]
    names = [f"{row.method} on {row.data} ({row.r2:.2f})" for row in low.itertuples()]
    failing, above = (high["outcome"] == "fails").sum(), (paper["r2"] > paper["r2_null_95"]).sum()
    lines = (
        f"R² is above {PAPER_R2} in {len(high)} of {len(paper)} cells. At most that: "
        f"{listed(names, 'and') or 'none'}.",
        f"Of the {len(high)} cells above {PAPER_R2}, {failing} fail the two conditions.",
        f"R² exceeds what 95 % of random falling curves reach in {above} of {len(paper)} cells.",
    )
    return Text(bullets(lines))


def quantisation(cells: pd.DataFrame) -> Text:
    """Say in how many cells of QUANTISERS the exponent may be that of optimal quantisation, 1/d.

    Quantisation in d dimensions errs by k^(-1/d) (Tan and Slade 2026). The tables do not hold the
    real data, so d is not measured: any d of at least DIMENSION counts, which is b up to 1/d.
    """
    fitted = cells[cells["method"].isin(QUANTISERS)].dropna(subset="b")
    if fitted.empty:
        return Text("No set of these methods is fitted, so the rival is not tested.")
    slow = fitted["low"] <= 1 / DIMENSION
    half = (fitted["low"] <= 0.5) & (fitted["high"] >= 0.5)
    cases = {"1/2 alone": half & ~slow, f"some 1/d with d ≥ {DIMENSION} alone": slow & ~half}
    cases |= {"both": slow & half, "neither": ~slow & ~half}
    counts = [f"{case} in {rows.sum()}" for case, rows in cases.items()]
    return Text(
        f"Of {len(fitted)} cells of {listed(fitted['method'].unique(), 'and')}, the interval of b "
        f"holds {listed(counts, 'and')}. The floor c is free in these fits, and k^(-1/d) bounds "
        "the error of a set, not the gap: a faster fall refutes only that the bound is tight."
    )


def against_random(gains: pd.DataFrame) -> Text:
    """Say for each data set and label regime at which sizes methods beat random samples."""
    lines = []
    for data, rows in gains[gains["kind"] != "control"].groupby("data", sort=False):
        every, parts = rows["ipc"].nunique(), []
        for words, outcomes in {"better": GAINS[:2], "worse": GAINS[3:]}.items():
            sizes = rows[rows["outcome"].isin(outcomes)].groupby("method", sort=False)["ipc"]
            places = {m: "all" if len(ipcs) == every else listed(ipcs, "and") for m, ipcs in sizes}
            names = [f"{method} ({place})" for method, place in places.items()]
            parts.append(f"{words}: {listed(names, 'and') or 'none'}")
        lines.append(f"**{data}**, at samples per class: {'; '.join(parts)}.")
    return Text(bullets(lines))


def labels(regimes: Mapping[str, tuple[Mapping[str, pd.DataFrame], pd.DataFrame]]) -> Text:
    """Say of each study with several label regimes what soft labels give.

    regimes: by study, its trials by regime and its teachers; see `methods.labels`.
    """
    texts = [f"### {name}\n\n{of_labels(*tables)}" for name, tables in regimes.items()]
    return Text("\n\n".join(texts) or "No study among these findings has several label regimes.")


def coverage(name: str, study: Coverage) -> Text:
    """Say whether a study confirms the coverage law, and which member decides k*."""
    tests, member = (study.fitted, study.within), _decides(study.k_stars.dropna(subset="worst"))
    parts = f"### {name}: {confirms(*tests)}", of_law.verdicts(*tests), member
    return Text("\n\n".join(filter(None, [*parts, of_law.explained(*tests)])))


def _decides(k_stars: pd.DataFrame) -> str:
    """Name the worst member that goes with the largest k*, at the smallest accepted gap."""
    if k_stars.empty:
        return ""
    rows = k_stars[k_stars["epsilon"] == k_stars["epsilon"].min()]
    name = rows.groupby("worst")["k_star"].median().idxmax()
    sizes, others = (rows[(rows["worst"] == name) == chosen] for chosen in (True, False))
    text = f"The worst member decides: where it is {name} ({len(sizes)} of {len(rows)} families at "
    text += f"a gap of {rows['epsilon'].iloc[0]:g}), the median k* is {_median(sizes)}"
    return f"{text}, elsewhere {_median(others)}." if len(others) else f"{text}."


def _median(k_stars: pd.DataFrame) -> str:
    """Say the median k*, or that it lies beyond the measured sizes."""
    middle = k_stars["k_star"].median()
    beyond = k_stars.loc[k_stars["k_star"] >= middle, "censored"] == ABOVE
    return f"above {middle:.0f}, the largest size" if beyond.all() else f"{middle:.0f}"


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
        f"{len(undecided) - len(needs)} no number of seeds that was tried would decide.",
        f"Of {len(survive)} cells that survive, {len(_sharp(cells))} would have told both 1/4 and "
        "1 from 1/2. The others survive a weak test, and more seeds may reject them.",
    )
    return Text(bullets(lines))
