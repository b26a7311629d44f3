"""Simulate what the statistics of the coverage law claim: see benchmarks.statistics.

Gaps are a/√k + c with the noise of a trial, of a seed and of a seed's network; configurations lie
in three dimensions, with nested and overlapping families as notebook 03 has them.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from ddlib.stats import covers, regressions
from ddlib.stats.families import k_star

KS = np.array([10, 20, 50, 100, 400])
NAMES = [f"c{i}" for i in range(12)]
ARMS = {"a": [0, 1, 2, 3, 4], "b": [0, 5, 6, 7, 8], "c": [0, 9, 10, 11]}  # from the first two on
FLOOR, NOISE, SHARED, EPSILON = 0.01, 0.01, 0.005, 0.08
NEEDS = {  # ln a of a configuration: how much grows with its distance from the first, and how not
    "null: gaps independent of distances": (0.0, 0.4),
    "gaps grow with the distance from the first": (0.4, 0.0),
    "the same, and as much for other reasons": (0.3, 0.3),
}
MEMBERS = {  # a of each member
    "one member": [1.0],
    "4 distinct members": [1.0, 0.8, 0.6, 0.4],
    "8 equal members": [1.0] * 8,
    "16 members, sd of a 0.03": None,
}

TEXT = """## The coverage law

Shares of 300 studies that make each claim, tested at 5 %. If gaps do not depend on distances
(null), a claim is an error. p comes from relabelling configurations. For comparison, the columns
*families as independent* show the claims of least squares over families."""
KEPT = "How often the 95 % interval holds k*. Seeds left: how many of 5 seeds have every trial."


def tabulate(scales, seeds: int, rng: np.random.Generator, exponent: float = 0.5) -> pd.DataFrame:
    """Draw the gaps of configurations c0, c1, ... whose laws are a/k^exponent + FLOOR."""
    shape = (len(scales), seeds, len(KS))
    gaps = np.asarray(scales)[:, None, None] / KS**exponent + FLOOR
    gaps = gaps + NOISE * rng.normal(size=shape) + SHARED * rng.normal(size=(1, seeds, 1))
    gaps += SHARED * rng.normal(size=(len(scales), seeds, 1))  # the network on all data
    c, s, j = np.indices(shape).reshape(3, -1)
    names = np.array([f"c{i}" for i in range(len(scales))])
    return pd.DataFrame(
        {"configuration": names[c], "seed": s, "k": KS[j], "gap_error": gaps.ravel()}
    )


def place(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, list[str]], pd.DataFrame]:
    """Place configurations; return distances from the first, families, and their measures."""
    points = rng.normal(size=(len(NAMES), 3)) * rng.lognormal(0, 0.4, size=(len(NAMES), 1))
    points[0] *= 0.3
    distances = np.sqrt(((points[:, None] - points) ** 2).sum(axis=-1))
    distances = pd.DataFrame(distances, NAMES, NAMES)
    families = {
        f"{arm}-{count}": [NAMES[i] for i in members[:count]]
        for arm, members in ARMS.items()
        for count in range(2, len(members) + 1)
    }
    families |= covers.spread_families(distances, 4, 5)
    radii = covers.radii(distances)
    measures = covers.measures(distances, families, radii[covers.QUANTILE], radii[0.5])
    return distances.iloc[0].to_numpy(), families, measures


def judge(
    places: list, needs: tuple[float, float], seeds: int, rng: np.random.Generator
) -> pd.Series:
    """Run one study and say which claims it would make, before (least squares) and now."""
    away, families, measures = places[rng.integers(len(places))]
    grows, otherwise = needs
    logs = grows * (away - away.mean()) / away.std() + otherwise * rng.normal(size=len(away))
    gaps = tabulate(0.6 * np.exp(logs), seeds, rng)
    k_stars = k_star(gaps, families, EPSILON, draws=0, relabellings=199)
    table = regressions.regress(k_stars, measures).set_index("predictor")
    h_cov, k = table.loc["h_cov"], k_stars.table["k_star"].to_numpy()
    lines = {name: stats.linregress(measures[name], k) for name in ("h_cov", "log_members")}
    left = {name: np.log(1 - line.rvalue**2) for name, line in lines.items()}
    return pd.Series(
        {
            "k* rises with H_cov": h_cov["p"] <= 0.05,
            "more than with ln M": h_cov["p_lead"] <= 0.05,
            "families as independent: rises": lines["h_cov"].pvalue
            <= 0.05
            < 1 + lines["h_cov"].slope,
            "families as independent: AIC lead > 2": len(k) * (left["log_members"] - left["h_cov"])
            > 2,
            "distinct k*": h_cov["distinct"],
        },
        dtype=float,
    )


def claims(studies: int, rng: np.random.Generator) -> Iterator[dict]:
    """Yield the share of studies that make each claim, by what is true and by seeds."""
    places = [place(rng) for _ in range(12)]
    for (truth, needs), seeds in [(item, s) for item in NEEDS.items() for s in (4, 5)]:
        found = [judge(places, needs, seeds, rng) for _ in range(studies)]
        yield {"truth": truth, "seeds": seeds, **pd.DataFrame(found).mean().round(3)}


def hold(scales, kept: int, exponent: float, rng: np.random.Generator) -> pd.Series:
    """Say whether the interval of k* of one study, with `kept` of 5 seeds, holds the truth."""
    scales = 1 + 0.03 * rng.normal(size=16) if scales is None else np.array(scales)
    gaps = tabulate([*scales, 1.0], 5, rng, exponent)  # the last is no member and has all seeds
    gaps = gaps[(gaps["seed"] < kept) | (gaps["configuration"] == f"c{len(scales)}")]
    epsilon = 50.0**-exponent
    truth = (scales.max() / (epsilon - FLOOR)) ** (1 / exponent)
    family = {"all": [f"c{i}" for i in range(len(scales))]}
    row = k_star(gaps, family, epsilon, draws=200, relabellings=0).table.iloc[0]
    ends = sorted(row[["k_star", "raw"]])
    return pd.Series(
        {
            "held": row["low"] <= truth <= row["high"],
            "smaller": ends[0] / truth,
            "larger": ends[1] / truth,
        }
    )


def intervals(studies: int, rng: np.random.Generator) -> Iterator[dict]:
    """Yield how often intervals hold the true k*, by members, seeds left and exponent."""
    cases = [(m, kept, 0.5) for m in MEMBERS for kept in (5, 3, 2)]
    for name, kept, exponent in [*cases, ("one member", 5, 0.8)]:
        found = pd.DataFrame([hold(MEMBERS[name], kept, exponent, rng) for _ in range(studies)])
        row = {"family": name, "exponent": exponent, "seeds left": f"{kept} of 5"}
        row["interval holds k*"] = found["held"].mean().round(3)
        for end in ("smaller", "larger"):
            row[f"median of the {end} of k_star and raw / k*"] = (
                found[end].astype(float).median().round(3)
            )
        yield row


def report(studies: int = 300) -> list[str | list[list[str]]]:
    """Return the section of docs/statistics.md: texts, and the rows of their tables."""
    rng, parts = np.random.default_rng(0), []
    for text, rows in ((TEXT, claims(studies, rng)), (KEPT, intervals(studies, rng))):
        table = pd.DataFrame(rows)
        parts += [text, [list(table.columns), *table.astype(str).to_numpy().tolist()]]
    return parts
