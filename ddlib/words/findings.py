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
from ddlib.stats.intervals import LEVEL, Interval
from ddlib.stats.laws import LAWS
from ddlib.stats.regressions import confirms
from ddlib.words.methods import labels as of_labels
from ddlib.words.text import Text, bullets, listed, p_value

SMALL = 10  # samples per class, up to which a set counts as small


def verdicts(cells: pd.DataFrame, gains: pd.DataFrame, coverage: Mapping[str, Coverage]) -> Text:
    """Say in a few sentences what was found of both laws, and of methods against controls.

    cells, gains, coverage (by study): as in `ddlib.stats.cells`.
    """
    return Text(bullets([_scaling(cells), _criterion(cells), _law(coverage), _gains(cells, gains)]))


def _scaling(cells: pd.DataFrame) -> str:
    paper, controls = (cells[cells["kind"] == kind] for kind in ("paper", "control"))
    images = paper[paper["data"].isin(PAPER_DATA)]
    what = " cells (a method on a data set, judged by test error)"
    text = f"**Scaling law.** The curve a/√k + c {_outcomes(paper, what)}."
    if len(images) not in (0, len(paper)):
        count = len(PAPER_DATA) * len(PAPER_METHODS)
        text += f" Of the paper's own {count} cells, {len(images)} are measured: it "
        text += f"{_outcomes(images)}."
    ways = paper["way"].value_counts()
    if len(ways):
        slower, faster, other = (int(ways.get(way, 0)) for way in WAYS)
        text += f" Of those that fail, {slower} fall more slowly than 1/√k, {faster} faster, which "
        text += f"the paper's upper bound allows, and {other} like no power of k."
    if len(controls):
        text += f" For controls, which select real samples, it {_outcomes(controls)}."
    return text


def _outcomes(cells: pd.DataFrame, what: str = "") -> str:
    survives, fails, undecided = (int((cells["outcome"] == name).sum()) for name in OUTCOMES)
    return (
        f"survives in {survives} of {len(cells)}{what}, fails in {fails} and is undecided in "
        f"{undecided}"
    )


def _criterion(cells: pd.DataFrame) -> str:
    paper = cells[(cells["kind"] == "paper") & cells["r2"].notna()]
    high = paper[paper["r2"] > PAPER_R2]
    random = cells[(cells["method"] == "random") & cells["r2"].notna()]
    shares = paper["r2_null_share"]
    text = f"**R² above {PAPER_R2}**, the paper's criterion for all cells, is reached in "
    text += f"{len(high)} of {len(paper)}. It decides little: "
    if len(random):
        reached = (random["r2"] > PAPER_R2).sum()
        text += f"random real samples reach it on {reached} of {len(random)} data sets, and "
    low, high = (f"{share:.0%}" for share in (shares.min(), shares.max()))
    return f"{text}{low if low == high else f'{low} to {high}'} of random falling curves do."


def _law(coverage: Mapping[str, Coverage]) -> str:
    if not coverage:
        return "**Coverage law.** No study of it is among these findings."
    outcomes = pd.Series({n: confirms(study.fitted, study.within) for n, study in coverage.items()})
    groups = outcomes.index.groupby(outcomes).items()
    parts = [f"{outcome} on {listed(studies, 'and')}" for outcome, studies in groups]
    return (
        f"**Coverage law.** It is {'; '.join(parts)}. It counts as confirmed where k*, the samples "
        "that a family of training configurations needs, rises significantly with the family's "
        "measured diversity H_cov, more than with ln M, the log of its size, and also among "
        "families of equal size."
    )


def _gains(cells: pd.DataFrame, gains: pd.DataFrame) -> str:
    tested = gains[gains["method"].isin(PAPER_METHODS)].dropna(subset="outcome")
    hard, soft = tested[tested["data"].isin(cells["data"])], tested[tested["labels"] == "soft"]
    small, large = hard[hard["ipc"] <= SMALL], hard[hard["ipc"] > SMALL]
    every, worse = ((hard["outcome"] == name).sum() for name in (GAINS[0], GAINS[3]))
    text = f"**Against random real samples.** Distilled sets are significantly better {_won(hard)} "
    text += f"comparisons (a method at a size), worse in {worse}, and better than all controls, "
    text += f"such as herding, in {every}. Up to {SMALL} samples per class they are better "
    text += f"{_won(small)}, above {_won(large)}."
    if len(soft):
        text += f" With soft labels of one teacher they are better {_won(soft)}."
    return text


def _won(gains: pd.DataFrame) -> str:
    return f"in {gains['outcome'].isin(GAINS[:2]).sum()} of {len(gains)}"


def summary(cells: pd.DataFrame, gains: pd.DataFrame, coverage: Mapping[str, Coverage]) -> Text:
    """Return the data, the verdicts and how many of the planner's intervals held, wrapped."""
    inside, count = np.sum([(0, 0), *(study.held for study in coverage.values())], axis=0)
    lines = verdicts(cells, gains, coverage).removeprefix("- ").split("\n- ")
    if count:
        lines.append(
            "**Planner.** It predicts gaps from a part of a study. Of what that part had left out, "
            f"its 95 % intervals held {inside} of {count} gaps ({inside / count:.0%})."
        )
    options = {"width": 100, "subsequent_indent": "  ", "break_on_hyphens": False}
    data = textwrap.fill(f"Data: {listed(cells['data'].unique(), 'and')}.", width=100)
    return Text("\n".join([data, "", *(textwrap.fill(f"- {line}", **options) for line in lines)]))


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells as texts to read, one row each."""
    rows = []
    for _, row in cells.iterrows():
        ends = (("≤", row["tells_below"]), ("≥", row["tells_above"]))
        told = ", ".join(f"{sign} {end:g}" for sign, end in ends if pd.notna(end))
        rival = ""
        if pd.notna(row["rival"]):
            rival = f"{row['delta_aic']:+.1f} ({LAWS[row['rival']].formula})"
        texts = {
            **{"data": row["data"], "method": row["method"], "verdict": row["outcome"]},
            **{"decided by": _decided_by(row), "exponent b": _interval(row, "b", "low", "high")},
            "R²": _interval(row, "r2", "r2_null", "r2_null_95"),
            "floor c": _interval(row, "floor", "floor_low", "floor_high"),
            "ΔAIC of the best rival": rival or "—",
            "exponents told from 1/2": told or "none",
            "trials missing": f"{row['missing']} of {row['asked']}",
        }
        rows.append(texts)
    return pd.DataFrame(rows).set_index(["data", "method"])


def _decided_by(row: pd.Series) -> str:
    """Name the conditions that a cell fails, or say why it is undecided."""
    if row["outcome"] != "fails":
        return row["why"] if row["outcome"] == "undecided" else "both conditions"
    failed = {
        "b below 1/2": row["high"] < 0.5,
        "b above 1/2": row["low"] > 0.5,
        f"lack of fit ({p_value(row['misfit'])})": row["misfit"] <= LEVEL,
    }
    return "; ".join(condition for condition, holds in failed.items() if holds)


def _interval(row: pd.Series, *names: str) -> str:
    values = Interval(*row[list(names)])
    text = "—" if np.isnan(values.estimate) else f"{values:.2f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")  # one line of a table


def r2(cells: pd.DataFrame) -> Text:
    """Say whether R² is above the paper's bound in all cells, and what that is worth."""
    paper = cells[(cells["kind"] == "paper") & cells["r2"].notna()]
    low, high = paper[paper["r2"] <= PAPER_R2], paper[paper["r2"] > PAPER_R2]
    names = listed(
        (f"{row.method} on {row.data} ({row.r2:.2f})" for row in low.itertuples()), "and"
    )
    failing, above = (high["outcome"] == "fails").sum(), (paper["r2"] > paper["r2_null_95"]).sum()
    meant = "**As the paper means it:** R² is above 0.85 in all cells."
    if len(low):
        meant = (
            f"**As the paper means it:** R² is not above {PAPER_R2} in all cells. It is at most "
        )
        meant += f"that in {len(low)} of {len(paper)}: {names}."
    read = (
        f"**As it should be read:** of {len(high)} cells above {PAPER_R2}, {failing} fail the two "
        f"conditions. R² exceeds what 95 % of random falling curves reach in {above} of "
        f"{len(paper)} cells."
    )
    return Text(f"{meant}\n\n{read}")


def against_random(gains: pd.DataFrame) -> Text:
    """Say for each data set and label regime at which sizes methods beat random samples."""
    lines = []
    for data, rows in gains[gains["method"].isin(PAPER_METHODS)].groupby("data", sort=False):
        every, parts = rows["ipc"].nunique(), []
        for words, outcomes in {"better": GAINS[:2], "worse": GAINS[3:]}.items():
            sizes = rows[rows["outcome"].isin(outcomes)].groupby("method", sort=False)["ipc"]
            places = {m: "all" if len(ipcs) == every else listed(ipcs, "and") for m, ipcs in sizes}
            names = [f"{method} ({place})" for method, place in places.items()]
            parts.append(f"{words}: {listed(names, 'and') or 'none'}")
        lines.append(f"**{data}**, at samples per class: {'; '.join(parts)}.")
    return Text(bullets(lines))


def labels(
    regimes: Mapping[str, Mapping[str, pd.DataFrame]], teachers: Mapping[str, pd.DataFrame]
) -> Text:
    """Say of each study with several label regimes what soft labels give.

    regimes: by study, its trials by regime; teachers: their tables; see `methods.labels`.
    """
    texts = [f"### {name}\n\n{of_labels(parts, teachers[name])}" for name, parts in regimes.items()]
    return Text("\n\n".join(texts) or "No study among these findings has several label regimes.")


def coverage(studies: Mapping[str, Coverage]) -> Text:
    """Say of each study whether the coverage law is confirmed, and which member decides k*."""
    lines = []
    for name, study in studies.items():
        parts = []
        for epsilon, rows in study.fitted.groupby("epsilon"):
            h_cov, rival = (rows.set_index("predictor").loc[p] for p in ("h_cov", "log_members"))
            text = f"At a gap of {epsilon:g} "
            if reason := h_cov["reason"]:
                parts.append(f"{text}nothing can be tested: {reason}.")
                continue
            text += (
                f"R² of ln k* is {h_cov['r2']:.2f} with H_cov ({p_value(h_cov['p'])}; more than "
            )
            text += f"with ln M: {p_value(h_cov['p_lead'])}"
            if study.within is not None:
                equal = study.within.set_index(["predictor", "epsilon"]).loc[("h_cov", epsilon)]
                text += f"; in families of equal size: {equal['reason'] or p_value(equal['p'])}"
            parts.append(f"{text}), and {rival['r2']:.2f} with ln M ({p_value(rival['p'])}).")
            if beyond := int(h_cov["censored"]):
                parts.append(f"{beyond} of {h_cov['n']:.0f} k* lie beyond the measured sizes.")
        verdict = confirms(study.fitted, study.within)
        parts.append(_decides(study.k_stars.dropna(subset="worst")))
        lines.append(f"**{name}: {verdict}.** {' '.join(filter(None, parts))}")
    return Text(bullets(lines) or "No study of the coverage law is among these findings.")


def _decides(k_stars: pd.DataFrame) -> str:
    """Name the worst member that goes with the largest k*, at the smallest accepted gap."""
    if k_stars.empty:
        return ""
    rows = k_stars[k_stars["epsilon"] == k_stars["epsilon"].min()]
    name = rows.groupby("worst")["k_star"].median().idxmax()
    sizes, others = (rows.loc[(rows["worst"] == name) == chosen, "k_star"] for chosen in (1, 0))
    text = f"The worst member decides: where it is {name} ({len(sizes)} of {len(rows)} families at "
    text += f"a gap of {rows['epsilon'].iloc[0]:g}), the median k* is {sizes.median():.0f}"
    return f"{text}, elsewhere {others.median():.0f}." if len(others) else f"{text}."


def planner(studies: Mapping[str, Coverage]) -> Text:
    """Say how many of the planner's 95 % intervals held what its pilot had left out."""
    held = {name: study.held for name, study in studies.items()}
    lines = [
        f"{name}: {inside} of {count} ({inside / count:.0%})" if count else f"{name}: not tested"
        for name, (inside, count) in held.items()
    ]
    return Text(bullets(lines) or "No study has a pilot.")


def change(cells: pd.DataFrame) -> Text:
    """Say what would decide the undecided cells, and what could overturn the others."""
    undecided = cells[cells["outcome"] == "undecided"]
    zero = undecided[undecided["why"] == "a mean gap is not above zero"]
    rest = undecided.drop(zero.index)
    needs = rest[np.isfinite(rest["seeds_needed"])]
    lines = [f"{len(undecided)} of {len(cells)} cells are undecided."]
    if len(zero):
        lines[0] += (
            f" In {len(zero)} a mean gap is not above zero: networks trained on S are no worse "
            "than those trained on D. More seeds decide nothing there; smaller sets or a stronger "
            "R(D) would."
        )
    if len(needs):
        seeds = [
            f"{row.method} on {row.data}: {row.seeds_needed:.0f}" for row in needs.itertuples()
        ]
        lines.append(f"Seeds that would tell an exponent of 1 from 1/2: {'; '.join(seeds)}.")
    if len(rest) > len(needs):
        lines.append(f"In {len(rest) - len(needs)} no number of seeds that was tried would decide.")
    survive = cells[cells["outcome"] == "survives"]
    sharp = survive[(survive["tells_above"] <= 1) & (survive["tells_below"] >= 0.25)]
    if len(survive):
        lines.append(
            f"Of {len(survive)} cells that survive, {len(sharp)} would have told both 1/4 and 1 "
            "from 1/2. The others survive a weak test, and more seeds may reject them."
        )
    lines.append(
        "A curve also fails if a method's settings are worse at some sizes than at others. A "
        "better search for them, size by size, could bend it back."
    )
    return Text(bullets(lines))
