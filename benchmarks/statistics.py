"""How often verdicts, intervals and tests err, by simulation: `python -m benchmarks.statistics`.

It writes docs/statistics.md; about half an hour on two cores. Every study is drawn from a known
truth and judged by the functions that the notebooks call.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import statistics_coverage, statistics_planner
from ddlib.stats import intervals, laws, verdicts

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
LOST = {  # seeds without a trial, and at how many of the largest k
    "5 seeds, 2 lost at the largest k": {"lost": 2, "sizes": 1},
    "5 seeds, 3 lost at the 3 largest k": {"lost": 3, "sizes": 3},
    "5 seeds, 4 lost at the 2 largest k": {"lost": 4, "sizes": 2},
}
SOUND = list(DESIGNS)
DESIGNS |= {name: DESIGNS["5 seeds"] | lost for name, lost in LOST.items()}
Judged = Callable[[str | float, str], pd.DataFrame]  # (truth, design) -> a row a study


def _place(k) -> np.ndarray:
    return np.arange(np.size(k))


def curve(truth: str | float, k: np.ndarray) -> np.ndarray:
    """Return the true gaps at k: of a named truth, or of an exponent, with the ends of a/√k + c."""
    if isinstance(truth, str):
        return TRUTHS[truth](k)
    first, last = TRUTHS["a/√k + c"](KS[[0, -1]])
    part = (k**-truth - KS[-1] ** -truth) / (KS[0] ** -truth - KS[-1] ** -truth)
    return last + (first - last) * part


def draw(truth: str | float, number: int, seeds: int, noise: float, shared: float, lost=0, sizes=0):
    """Draw the gaps of one study (seeds, k); `lost` seeds have none at the largest sizes."""
    generator = np.random.default_rng([number, seeds])
    own = generator.normal(size=(seeds, len(KS))) * noise * np.sqrt(KS[0] / KS)
    gaps = curve(truth, KS) + own + generator.normal(size=(seeds, 1)) * shared
    gaps[:lost, len(KS) - sizes :] = np.nan
    return pd.DataFrame(gaps, columns=KS.astype(int))


def judge(number: int, truth: str | float, name: str) -> dict:
    """Return what the library says of one study."""
    gaps = draw(truth, number, **DESIGNS[name])
    names = ("inverse_sqrt", "free_exponent")
    fits = {name: laws.fit(gaps, name, draws=DRAWS) for name in names}
    law, free = fits["inverse_sqrt"], fits["free_exponent"]
    if not free.fitted:  # too few sizes are left
        return {"outcome": "undecided"}
    b, c = free.parameters["b"], law.parameters["c"]
    size = len(law.data.seeds) * len(KS)
    small = {p: 2 * p * (p + 1) / (len(KS) - p - 1) for p in (2, 3)}
    sample = {p: 2 * (p + 1) * (p + 2) / (size - p - 2) for p in (2, 3)}
    ahead = law.aic - free.aic
    return {
        "outcome": verdicts.verdict(fits).outcome,
        "b excludes 1/2": not b.low <= 0.5 <= b.high,
        "lack of fit": law.misfit <= intervals.LEVEL,
        "b covered": b.low <= 0.5 <= b.high,
        "c covered": c.low <= 0.03 <= c.high,
        "AIC": ahead > 2,
        "AIC, small sample": ahead + sample[2] - sample[3] > 2,
        "AICc": ahead + small[2] - small[3] > 2,
        **dict(zip(("below", "above"), verdicts.detectable(free), strict=True)),
        "r2": law.r2,
        "r2 beats": law.r2 is not None and law.r2 > 0.85,
    }


def simulated(pool: ProcessPoolExecutor, truth: str | float, name: str) -> pd.DataFrame:
    return pd.DataFrame(pool.map(partial(judge, truth=truth, name=name), range(STUDIES)))


def share(values) -> str:
    known = pd.Series(values).dropna()
    return f"{known.mean():.0%}" if len(known) else "–"


def outcomes(judged: Judged) -> list[list[str]]:
    """Tabulate the verdicts on every truth under every design."""
    rows = [["truth", "design", "survives", "fails", "undecided", "R² > 0.85"]]
    for name in SOUND:
        for truth in TRUTHS if name == "5 seeds" else list(TRUTHS)[:4]:
            found = judged(truth, name)
            kinds = [found["outcome"] == each for each in ("survives", "fails", "undecided")]
            rows.append([truth, name, *map(share, kinds), share(found["r2 beats"])])
    return rows


def coverage(judged: Judged) -> list[list[str]]:
    """Tabulate, where a/√k + c is true, how often intervals hold it and each condition errs."""
    head = ["design", "95 % interval holds b", "holds c", "b wrongly excluded"]
    rows = [[*head, "fit wrongly rejected", "verdict wrongly fails"]]
    for name in DESIGNS:
        found = judged("a/√k + c", name)
        columns = ["b covered", "c covered", "b excludes 1/2", "lack of fit"]
        fails = share(found["outcome"] == "fails")
        rows.append([name, *(share(found[column]) for column in columns), fails])
    return rows


def criteria(judged: Judged) -> list[list[str]]:
    """Tabulate how often each criterion prefers the free exponent by more than 2 units."""
    rows = [["truth", "design", "χ² + 2p", "with (p + 1)(p + 2)", "AICc over the K means"]]
    for truth, name in product(("a/√k + c", "a/k^0.4"), SOUND):
        found = judged(truth, name)
        shares = [share(found[each]) for each in ("AIC", "AIC, small sample", "AICc")]
        rows.append([truth, name, *shares])
    return rows


def power(judged: Judged) -> list[list[str]]:
    """Check what a study says of its own power: draw from the exponents that it names."""
    rows = [["design", "exponents that it names (median)", "excludes 1/2 there, below", "above"]]
    for name in SOUND:
        found = judged("a/√k + c", name)
        named = [max(round(found[end].median(), 2), 0.02) for end in ("below", "above")]
        told = [share(judged(b, name)["b excludes 1/2"]) for b in named]
        rows.append([name, " and ".join(f"{b:.2f}" for b in named), *told])
    return rows


def table(rows: list[list[str]]) -> list[str]:
    """Return rows as lines of Markdown, the first the head."""
    rule = ["---"] * len(rows[0])
    return [f"| {' | '.join(map(str, row))} |" for row in (rows[0], rule, *rows[1:])]


INTRODUCTION = f"""# How far can the statistics be trusted?

`python -m benchmarks.statistics` makes this page. Each row is from {STUDIES} simulated studies
with {DRAWS} draws each, unless the text says otherwise, so shares have an error of about 3
percentage points. Sizes are k = 10, 20, 50, 100, 200, 400. A gap is the sum of the true gap,
noise, and a shift that is the same for all k of a seed. The noise has a standard deviation of
0.02 at k = 10 (0.04 with *twice the noise*) and falls like 1/√k. The shift has one of 0.003
(0.01 with *seeds that share most*). Designs with the same number of seeds use the same random
numbers. S is the number of seeds, K the number of sizes, p the number of parameters of a law."""

SECTIONS = {
    "The verdict on the scaling law": (
        outcomes,
        "The verdict of notebook 01 on a/√k + c, by the true law. The last column is the "
        "paper's criterion. It decides nothing here, because most falling curves meet it.",
    ),
    "Intervals and conditions where the law is true": (
        coverage,
        "The verdict rejects a true law if either condition is wrong.",
    ),
    "Which AIC": (
        criteria,
        "How often the free exponent is better than 1/2 by more than 2 units. This is an error in "
        "the rows of a/√k + c, and right in the others. The library uses χ² + 2p, which takes seed "
        "variances as known. The next column adds the correction for small samples, "
        "2(p + 1)(p + 2) / (SK − p − 2). AICc takes the K means as the sample.",
    ),
    "The power that a verdict states": (
        power,
        "Notebook 01 names exponents that about 9 of 10 studies of the same design would "
        "distinguish from 1/2. Here studies are simulated with those exponents.",
    ),
}


def main() -> None:
    """Write the page."""
    parts = [INTRODUCTION]
    with ProcessPoolExecutor(2) as pool:
        judged = cache(partial(simulated, pool))
        others = [pool.submit(each.report) for each in (statistics_coverage, statistics_planner)]
        for head, (simulate, text) in SECTIONS.items():
            parts += [f"## {head}", text, "\n".join(table(simulate(judged)))]
            print("\n\n".join(parts[-3:]), flush=True)
        for part in (part for each in others for part in each.result()):
            parts.append(part if isinstance(part, str) else "\n".join(table(part)))
    PAGE.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
