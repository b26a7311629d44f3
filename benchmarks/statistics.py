"""How often verdicts, intervals and tests err, by simulation: `python -m benchmarks.statistics`.

It writes docs/statistics.md; about half an hour on two cores. Every study is drawn from a known
truth and judged by the functions that the notebooks call.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import statistics_coverage, statistics_planner
from ddlib import laws

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
STUDIES, DRAWS = 200, 400
KS = np.array([10, 20, 50, 100, 200, 400.0])
TRUTHS = {
    "a/√k + c": lambda k: 1.2 / np.sqrt(k) + 0.03,
    "a/k^0.4": lambda k: 0.95 * k**-0.4,
    "a/k^0.3": lambda k: 0.8 * k**-0.3,
    "a/k^0.7 + c": lambda k: 1.9 * k**-0.7 + 0.03,
    "a/k + c": lambda k: 3.5 / k + 0.03,
    "c − a log k": lambda k: 0.5 - 0.075 * np.log(k),
    "a exp(−k/τ) + c": lambda k: 0.35 * np.exp(-k / 60) + 0.05,
    "a step": lambda k: np.where(k < 75, 0.35, 0.06),
    "a/√k + c, with a wiggle": lambda k: (
        1.2 / np.sqrt(k) + 0.03 + 0.012 * np.cos(np.pi * _place(k))
    ),
    "no fall": lambda k: 0.1 + 0 * k,
}
DESIGNS = {  # seeds, noise at k = 10, its fall with k, and what a seed shares over k
    "5 seeds": {"seeds": 5, "noise": 0.02, "shared": 0.003},
    "5 seeds, twice the noise": {"seeds": 5, "noise": 0.04, "shared": 0.003},
    "5 seeds that share most": {"seeds": 5, "noise": 0.02, "shared": 0.01},
    "3 seeds": {"seeds": 3, "noise": 0.02, "shared": 0.003},
    "10 seeds": {"seeds": 10, "noise": 0.02, "shared": 0.003},
}


def _place(k) -> np.ndarray:
    return np.arange(np.size(k))


def draw(truth, number: int, seeds: int, noise: float, shared: float, lost: int = 0):
    """Draw the gaps of one study (seeds, k); `lost` seeds have none at the largest k."""
    generator = np.random.default_rng([number, seeds])
    own = generator.normal(size=(seeds, len(KS))) * noise * np.sqrt(KS[0] / KS)
    gaps = truth(KS) + own + generator.normal(size=(seeds, 1)) * shared
    gaps[:lost, -1] = np.nan
    return pd.DataFrame(gaps, columns=KS.astype(int))


def judge(number: int, truth: str, design: dict) -> dict:
    """Return what the library says of one study."""
    gaps = draw(TRUTHS[truth], number, **design)
    names = ("inverse_sqrt", "free_exponent")
    fits = {name: laws.fit(gaps, name, draws=DRAWS) for name in names}
    law, free = fits["inverse_sqrt"], fits["free_exponent"]
    b, c = free.parameters["b"], law.parameters["c"]
    size = len(law.data.seeds) * len(KS)
    small = {p: 2 * p * (p + 1) / (len(KS) - p - 1) for p in (2, 3)}
    sample = {p: 2 * (p + 1) * (p + 2) / (size - p - 2) for p in (2, 3)}
    ahead = law.aic - free.aic
    return {
        "outcome": laws.verdict(fits).outcome,
        "b excludes 1/2": not b.low <= 0.5 <= b.high,
        "lack of fit": law.misfit <= laws.LEVEL,
        "b covered": b.low <= 0.5 <= b.high,
        "c covered": c.low <= 0.03 <= c.high,
        "AIC": ahead > 2,
        "AIC, small sample": ahead + sample[2] - sample[3] > 2,
        "AICc": ahead + small[2] - small[3] > 2,
        "told": laws.detectable(free)[0],
        "r2": law.r2,
        "r2 beats": law.r2 is not None and law.r2 > 0.85,
    }


def judged(pool, truth: str, design: dict) -> pd.DataFrame:
    return pd.DataFrame(pool.map(partial(judge, truth=truth, design=design), range(STUDIES)))


def share(values) -> str:
    return f"{np.mean(values):.0%}"


def verdicts(pool) -> list[str]:
    """Tabulate the verdicts on every truth under every design."""
    rows = [["truth", "design", "survives", "fails", "undecided", "R² > 0.85"]]
    for name, design in DESIGNS.items():
        for truth in TRUTHS if name == "5 seeds" else list(TRUTHS)[:4]:
            found = judged(pool, truth, design)
            outcomes = [
                share(found["outcome"] == each) for each in ("survives", "fails", "undecided")
            ]
            rows.append([truth, name, *outcomes, share(found["r2 beats"])])
    return table(rows)


def coverage(pool) -> list[str]:
    """Tabulate, where a/√k + c is true, how often intervals hold it and each condition errs."""
    head = [
        "design",
        "95 % interval holds b",
        "holds c",
        "b wrongly excluded",
        "fit wrongly rejected",
    ]
    rows = [[*head, "verdict wrongly fails"]]
    lost = {"5 seeds, of which 2 lack the largest k": DESIGNS["5 seeds"] | {"lost": 2}}
    for name, design in (DESIGNS | lost).items():
        found = judged(pool, "a/√k + c", design)
        columns = ["b covered", "c covered", "b excludes 1/2", "lack of fit"]
        fails = share(found["outcome"] == "fails")
        rows.append([name, *(share(found[column]) for column in columns), fails])
    return table(rows)


def criteria(pool) -> list[str]:
    """Tabulate how often each criterion prefers the free exponent by more than 2 units."""
    rows = [["truth", "design", "χ² + 2p", "with (p + 1)(p + 2)", "AICc over the K means"]]
    for truth in ("a/√k + c", "a/k^0.4"):
        for name, design in DESIGNS.items():
            found = judged(pool, truth, design)
            shares = [share(found[each]) for each in ("AIC", "AIC, small sample", "AICc")]
            rows.append([truth, name, *shares])
    return table(rows)


def power(pool) -> list[str]:
    """Check what a study says of its own power: draw from the exponent that it names."""
    rows = [["design", "exponent that it names (median)", "studies that exclude 1/2 there"]]
    for name, design in DESIGNS.items():
        b = max(judged(pool, "a/√k + c", design)["told"].median(), 0.02)
        # The curve of exponent b through both ends of a/√k + c.
        ends = TRUTHS["a/√k + c"](KS[[0, -1]])
        a = (ends[0] - ends[1]) / (KS[0] ** -b - KS[-1] ** -b)
        TRUTHS["named"] = lambda k, a=a, b=b, end=ends[1]: end + a * (k**-b - KS[-1] ** -b)
        with ProcessPoolExecutor(2) as fresh:  # whose processes know this truth
            rows.append([name, f"{b:.2f}", share(judged(fresh, "named", design)["b excludes 1/2"])])
        del TRUTHS["named"]
    return table(rows)


def table(rows: list[list[str]]) -> list[str]:
    """Return rows as lines of Markdown, the first the head."""
    rule = ["---"] * len(rows[0])
    return [f"| {' | '.join(map(str, row))} |" for row in (rows[0], rule, *rows[1:])]


INTRODUCTION = f"""# How far can the statistics be trusted?

Made by `python -m benchmarks.statistics`, from {STUDIES} simulated studies a row and {DRAWS} draws
a study, so shares are known to about 3 percentage points. Sizes are k = 10, 20, 50, 100, 200, 400.
A gap is its truth, plus noise whose standard deviation falls from its value at k = 10 like 1/√k,
plus a shift that its seed shares over all k."""

SECTIONS = {
    "The verdict on the scaling law": (
        verdicts,
        "What notebook 01 says of a/√k + c where the truth is known. The last column is the "
        "paper's criterion, which decides nothing here: most falling curves meet it.",
    ),
    "Intervals and conditions where the law is true": (
        coverage,
        "The verdict fails a true law where either condition errs.",
    ),
    "Which AIC": (
        criteria,
        "How often the free exponent is preferred to 1/2 by more than 2 units: an error in the "
        "first rows, right in the others. The library uses χ² + 2p: seed variances count as known. "
        "The rule for small samples adds 2(p + 1)(p + 2) / (SK − p − 2). AICc counts the K means "
        "as the sample, as earlier versions did.",
    ),
    "The power that a verdict states": (
        power,
        "Notebook 01 names the exponent that 9 of 10 studies of the same design would tell from "
        "1/2. Here studies are drawn from that exponent.",
    ),
}


def main() -> None:
    """Write the page."""
    parts = [INTRODUCTION]
    with ProcessPoolExecutor(2) as pool:
        others = [pool.submit(each.report) for each in (statistics_coverage, statistics_planner)]
        for head, (simulate, text) in SECTIONS.items():
            parts += [f"## {head}", text, "\n".join(simulate(pool))]
            print("\n\n".join(parts[-3:]), flush=True)
        parts += [each.result() for each in others]
    PAGE.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
