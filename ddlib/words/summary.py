"""The findings in a few lines, for the README and the top of notebook 06."""

import textwrap
from collections.abc import Mapping

import pandas as pd

from ddlib.stats.cells import GAINS, OUTCOMES, PAPER_DATA, PAPER_METHODS, PAPER_R2, Coverage
from ddlib.stats.regressions import confirms
from ddlib.stats.verdicts import WAYS
from ddlib.words.text import Text, box, listed

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
    if (leaders["labels"] == "soft").any():
        lines.append(f"**Which method?** {_which(leaders)}")
    held = {name: study.held for name, study in coverage.items() if study.held.answered}
    if held:
        text = "**Planner.** It predicts gaps (at most 1) from a part of a study, and refuses "
        text += "networks and sizes of which this part says nothing."
        for name, (inside, answered, left_out, width) in held.items():
            text += (
                f" On {name} it answered for {answered} of {left_out} hidden gaps; {inside} of "
                "these lie in its 95 % intervals, but half of the intervals are wider than "
                f"{width:.2f}."
            )
        lines.append(text)
    options = {"width": 100, "subsequent_indent": "  ", "break_on_hyphens": False}
    data = textwrap.fill(f"Data: {listed(cells['data'].unique())}.", width=100)
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
        strong = len(sharp(methods))
        text += f" Of the {survive} that survive, {strong} passed a strong test, which a true "
        text += "exponent of 1/4 or of 1 would have failed."
    if len(images):
        count = len(PAPER_DATA) * len(PAPER_METHODS)
        text += f" The paper itself has {count} cells. In those that are measured here, the "
        text += f"curve {_outcomes(images)}."
    if controls.any():
        text += f" For controls, made without learning, it {_outcomes(cells[controls])}."
    if len(data := cells.loc[cells["capped"], "data"].unique()):
        text += f" On {listed(data)} the networks on all data were still improving at the "
        text += "limit on passes, so gaps are too small there."
    return text


def sharp(cells: pd.DataFrame) -> pd.DataFrame:
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
        f"**Coverage law.** It is {_on(coverage)}. It counts as confirmed where, at every worst "
        "gap that can be tested, k*, the samples that a family of training configurations needs, "
        "rises significantly with the family's measured diversity H_cov, more than with ln M, the "
        "log of its size, and also among families of equal size."
    )


def _on(coverage: Mapping[str, Coverage]) -> str:
    return listed(_judged(study, name) for name, study in coverage.items())


def _judged(study: Coverage, name: str) -> str:
    """Say whether a study confirms the law, and at which worst gaps, if not at all of them."""
    tests, gaps = [study.fitted, study.within], {}
    for epsilon in study.fitted["epsilon"].unique():
        parts = (None if t is None else t[t["epsilon"] == epsilon] for t in tests)
        gaps.setdefault(confirms(*parts), []).append(epsilon)
    verdict = confirms(*tests)
    if "confirmed" not in gaps or len(gaps) == 1:
        return f"{verdict} on {name}"
    held = f"at a worst gap of {listed(gaps.pop('confirmed'))}"
    rest = " and ".join(f"{outcome} at {listed(where)}" for outcome, where in gaps.items())
    if verdict == "confirmed":
        return f"confirmed on {name} {held} ({rest})"
    return f"{verdict} on {name} (confirmed {held}, {rest})"


def _tested(cells: pd.DataFrame, gains: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tested gains of methods, as in the cells and in panels with soft labels."""
    tested = gains[gains["kind"] != "control"].dropna(subset="outcome")
    own = tested["data"].isin(cells["data"])
    return tested[own], tested[~own & (tested["labels"] == "soft")]


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
        text += f" With soft labels of one teacher they are better {_won(soft)} and worse in {lost}"
        hard_panel = soft["data"].str.removesuffix("soft labels") + "hard labels"
        same = soft.assign(data=hard_panel)[["data", "method", "ipc"]].merge(gains)
        same = same.dropna(subset="outcome")
        text += f"; the same sets with hard labels are better {_won(same)}" if len(same) else ""
        text += "."
    return text


def _which(leaders: pd.DataFrame) -> str:
    """Name the most accurate methods on the data that were studied with soft labels, too."""
    leaders = leaders[leaders.groupby("data")["labels"].transform("nunique") > 1]
    most = leaders.groupby(["data", "labels"])["methods"].transform("max")
    leaders, lines, soft = leaders[leaders["methods"] == most], [], " with soft labels"
    for (data, labels), rows in leaders.groupby(["data", "labels"], sort=False):
        control = rows["control"].astype(bool)
        names = rows["best"].where(~control, rows["best"] + " (a control)")
        sizes = rows["ipc"].groupby(names, sort=False)
        best = listed((f"{name} at {listed(ipcs)}" for name, ipcs in sizes))
        lines.append(f"on {data}{soft * (labels == 'soft')} {best}")
    alone = leaders[leaders["alone"].astype(bool)]
    cases = [
        f"{row.best} on {row.data} at {row.ipc}{soft * (row.labels == 'soft')}"
        for row in alone.itertuples()
    ]
    return (
        f"The most accurate, by samples per class: {'; '.join(lines)}. Significantly better than "
        f"every other method: {listed(cases) or 'none'}."
    )


def _won(gains: pd.DataFrame) -> str:
    return f"in {gains['outcome'].isin(GAINS[:2]).sum()} of {len(gains)}"
