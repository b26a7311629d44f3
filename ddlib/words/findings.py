"""Sentences on all findings together, computed from the tables of `ddlib.stats.cells`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ddlib.stats.cells import GAINS, OUTCOMES, PAPER_DATA, PAPER_METHODS, PAPER_R2
from ddlib.stats.intervals import LEVEL, Interval
from ddlib.stats.laws import LAWS
from ddlib.words.text import Text, bullets, listed

SMALL = 10  # samples per class, up to which a set counts as small
CONFIRMED = "confirmed"
CELL = "a method on a data set"


def verdicts(cells: pd.DataFrame, gains: pd.DataFrame, tests: Mapping[str, pd.DataFrame]) -> Text:
    """Say in a few sentences what was found of both laws, and of methods against controls.

    cells, gains: the tables of `ddlib.stats.cells`; tests: by study, that of
    `ddlib.stats.regressions.regress`.
    """
    return Text(bullets([_scaling(cells), _criterion(cells), _coverage(tests), _gains(gains)]))


def _scaling(cells: pd.DataFrame) -> str:
    paper = cells[cells["kind"] == "paper"]
    text = f"**Scaling law.** {_outcomes(paper, f'cells ({CELL}, in test error)')}."
    images = paper[paper["data"].isin(PAPER_DATA)]
    if len(images) not in (0, len(paper)):
        every = len(PAPER_DATA) * len(PAPER_METHODS)
        text += f" {_outcomes(images, f'cells of the paper, which has {every},')}."
    failed = paper[paper["outcome"] == "fails"]
    slower, faster = (failed["high"] < 0.5).sum(), (failed["low"] > 0.5).sum()
    if len(failed):
        text += f" Of those that fail, {slower} fall more slowly than 1/√k and {faster} faster, "
        text += "which the paper's upper bound allows."
    controls = cells[cells["kind"] == "control"]
    if len(controls):
        text += f" {_outcomes(controls, 'cells of controls, which select real samples,')}."
    return text


def _outcomes(cells: pd.DataFrame, what: str) -> str:
    survives, fails, undecided = (int((cells["outcome"] == name).sum()) for name in OUTCOMES)
    return (
        f"Of {len(cells)} {what} the curve a/√k + c survives in {survives}, fails in {fails}, "
        f"and cannot be decided in {undecided}"
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


def _coverage(tests: Mapping[str, pd.DataFrame]) -> str:
    outcomes = pd.Series({study: law_of_coverage(table) for study, table in tests.items()})
    if outcomes.empty:
        return "**Coverage law.** No study of it is among these findings."
    parts = [
        f"{outcome} on {listed(studies, 'and')}"
        for outcome, studies in outcomes.groupby(outcomes, sort=False).groups.items()
    ]
    return (
        f"**Coverage law.** {'; '.join(parts).capitalize()}. It is confirmed where k*, the samples "
        "that a family of training configurations needs, rises significantly with the family's "
        "measured diversity H_cov, and more than with ln M, the log of its size."
    )


def law_of_coverage(tests: pd.DataFrame) -> str:
    """Return the verdict on the coverage law from a table of `regressions.regress`.

    It must rise with H_cov, and more than with ln M, at each accepted gap that can be tested.
    """
    rows = tests[(tests["predictor"] == "h_cov") & (tests["reason"] == "")]
    if rows.empty:
        return "not decided"
    rises, leads = (bool((rows[name] <= LEVEL).all()) for name in ("p", "p_lead"))
    return CONFIRMED if rises and leads else "not confirmed"


def _gains(gains: pd.DataFrame) -> str:
    hard = _learned(gains)
    small, large = (hard[hard["ipc"] <= SMALL], hard[hard["ipc"] > SMALL])
    text = f"**Against random real samples.** Distilled sets are significantly better {_won(hard)}"
    if len(small) and len(large):
        text += f": {_won(small)} of at most {SMALL} samples per class, {_won(large)} of more"
    every, worse = ((hard["outcome"] == name).sum() for name in (GAINS[0], GAINS[3]))
    return (
        f"{text}. They are better than random samples, herding and k-center alike in {every}, "
        f"and worse than random samples in {worse}."
    )


def _learned(gains: pd.DataFrame) -> pd.DataFrame:
    """Return the tested comparisons of distilled sets under hard labels."""
    paper, single = gains["method"].isin(PAPER_METHODS), ~gains["data"].str.contains(", ")
    return gains[paper & single].dropna(subset="outcome")


def _won(gains: pd.DataFrame) -> str:
    return f"in {gains['outcome'].isin(GAINS[:2]).sum()} of {len(gains)} comparisons"


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells as texts to read, one row each."""

    def ends(row: pd.Series, names: tuple[str, str, str]) -> str:
        values = Interval(*row[list(names)])
        return "—" if np.isnan(values.estimate) else f"{values:.2f}"

    def power(row: pd.Series) -> str:
        signs = {"tells_below": "≤", "tells_above": "≥"}
        return (
            ", ".join(f"{s} {row[n]:.3g}" for n, s in signs.items() if row[n] == row[n]) or "none"
        )

    rows = [
        {
            **{"data": row["data"], "method": row["method"], "verdict": row["outcome"]},
            "because": row["why"],
            "exponent b": ends(row, ("b", "low", "high")),
            "R²": f"{row['r2']:.3f} ({row['r2_null']:.2f}, {row['r2_null_95']:.2f})",
            "floor c": ends(row, ("floor", "floor_low", "floor_high")),
            "ΔAIC of the best rival": f"{row['delta_aic']:+.1f} ({LAWS[row['rival']].formula})"
            if isinstance(row["rival"], str)
            else "—",
            "exponents told from 1/2": power(row),
            "trials missing": f"{row['missing']} of {row['asked']}",
        }
        for _, row in cells.iterrows()
    ]
    return pd.DataFrame(rows)


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
        parts = []
        for words, outcomes in {"better": GAINS[:2], "worse": GAINS[3:]}.items():
            sizes = rows[rows["outcome"].isin(outcomes)].groupby("method", sort=False)["ipc"]
            names = [f"{method} ({listed(ipcs, 'and')})" for method, ipcs in sizes]
            parts.append(f"{words}: {listed(names, 'and') or 'none'}")
        lines.append(f"**{data}**, at samples per class: {'; '.join(parts)}.")
    return Text(bullets(lines))


def coverage(tests: Mapping[str, pd.DataFrame], k_stars: Mapping[str, pd.DataFrame]) -> Text:
    """Say of each study whether the coverage law is confirmed, and which member decides k*.

    tests: as in `verdicts`; k_stars: columns family, epsilon, k_star and worst, the member whose
    gap is worst at k*.
    """
    lines = []
    for study, table in tests.items():
        parts = []
        for predictor, name in {"h_cov": "H_cov", "log_members": "ln M"}.items():
            rows = table[(table["predictor"] == predictor) & (table["reason"] == "")]
            shares = [f"{row.r2:.2f} (p = {row.p:.2f})" for row in rows.itertuples()]
            parts.append(f"{listed(shares, 'and') or 'not testable'} with {name}")
        epsilons = listed((f"{e:g}" for e in table["epsilon"].unique()), "and")
        verdict = law_of_coverage(table)
        line = f"**{study}: {verdict}.** R² of ln k* at gaps of {epsilons}: {', '.join(parts)}."
        worst = k_stars[study].dropna(subset="worst")["worst"]
        if len(worst):
            (name, count), *_ = worst.value_counts().items()
            line += f" The worst member decides: in {count} of {len(worst)} cases (a family at one "
            line += f"gap) it is {name}."
        lines.append(line)
    return Text(bullets(lines) or "No study of the coverage law is among these findings.")


def planner(held: Mapping[str, tuple[int, int]]) -> Text:
    """Say how many of the planner's 95 % intervals held what its pilot had left out."""
    lines = [
        f"{study}: {inside} of {count} ({inside / count:.0%})" if count else f"{study}: not tested"
        for study, (inside, count) in held.items()
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
        "A curve also fails if a method's settings are worse at some sizes than at others. Rates "
        "were searched on held-out training data, by the same search for every method; a better "
        "search could bend curves back."
    )
    return Text(bullets(lines))
