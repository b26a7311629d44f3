"""How often the planner's 95 % intervals hold on simulated families: see benchmarks.statistics."""

import numpy as np
import pandas as pd

from ddlib.stats.pilot import ends, read_pilot

KS, PILOT = np.array([10, 20, 50, 100, 200, 400]), [10, 20, 50, 100]
CONFIGURATIONS, IN_PILOT = 12, 6
CELLS = [(sd, b) for sd in (0.1, 0.3, 0.6) for b in (0.4, 0.5, 0.6)]

TEXT = f"""## The planner

How many of its 95 % intervals held the measured gap, from 40 studies per row. A study has 5 seeds
and {CONFIGURATIONS} configurations; the first column is the standard deviation of their ln a.
The pilot is {IN_PILOT} of them at k = {", ".join(map(str, PILOT))}. *Refused*: the share of cases
beyond twice the largest k of the pilot, which the planner refuses; they are scored all the same.
*Law doubted*: the share of pilots whose interval of the exponent excludes 1/2."""


def simulate(
    sd: float, exponent: float, generator: np.random.Generator, seeds: int = 5
) -> tuple[pd.DataFrame, np.ndarray]:
    """Simulate the gaps of a study; return its table and the true gaps (C, K).

    A configuration's gap is a (k/10)^-exponent + c: ln a normal about ln 0.3 with this sd, c
    uniform on 0 to 0.06. Noise: sd 0.02 at k = 10, falling like k^-0.3; of its variance 35 % is a
    seed's in a configuration over all k, 15 % that of a distilled set under all configurations.
    """
    shape = (CONFIGURATIONS, seeds, len(KS))
    a = 0.3 * np.exp(generator.normal(0, sd, (CONFIGURATIONS, 1)))
    truth = a * (KS / 10) ** -exponent + generator.uniform(0, 0.06, (CONFIGURATIONS, 1))
    parts = {shape: 0.5, (*shape[:2], 1): 0.35, (1, *shape[1:]): 0.15}
    noise = sum(np.sqrt(share) * generator.normal(size=size) for size, share in parts.items())
    gaps = truth[:, None] + 0.02 * (KS / 10) ** -0.3 * noise
    c, s, j = np.indices(shape).reshape(3, -1)
    columns = {"configuration": [f"c{i}" for i in c], "seed": s, "k": KS[j], "network": "convnet"}
    return pd.DataFrame(columns | {"gap_error": gaps.ravel()}), truth


def coverage(
    sd: float, exponent: float, *, studies: int = 40, seeds: int = 5, draws: int = 400, seed=0
) -> pd.DataFrame:
    """Predict simulated studies from their pilots; a row a configuration or family and k.

    Families: all twelve configurations, and three of 3 to 8 drawn at random. Cases that are in the
    pilot are left out. Columns: kind ("configuration" or "family"), new (whether a member is not in
    the pilot), k, inside (whether the interval holds the measured gap), width (of the interval),
    refused (whether the planner would not have answered), study, doubted (whether no free exponent
    can be fitted, or its interval excludes 1/2).
    """
    generator, tables = np.random.default_rng([seed, int(100 * sd), int(100 * exponent)]), []
    names = [f"c{i}" for i in range(CONFIGURATIONS)]
    for study in range(studies):
        gaps, _ = simulate(sd, exponent, generator, seeds)
        sizes = generator.integers(3, 9, 3)
        families = [list(generator.permutation(names)[:m]) for m in sizes] + [names]
        first = gaps[gaps["configuration"].isin(names[:IN_PILOT]) & gaps["k"].isin(PILOT)]
        whole = read_pilot(gaps, draws=draws, seed=study)
        pilot = read_pilot(first, networks=whole.networks, draws=draws, seed=study)
        everyone = list(dict.fromkeys(name for members in families for name in members))
        claims = pilot.claim(everyone, whole)
        doubted = pilot.exponent is None or not pilot.exponent.low <= 0.5 <= pilot.exponent.high
        for members in [[name] for name in everyone] + families:
            rows = [everyone.index(name) for name in members]
            draw, measured = (values[rows].max(axis=0) for values in claims)
            low, high = ends(draw)
            new = not {*members} <= {*pilot.names}
            table = pd.DataFrame({"k": KS, "inside": (low <= measured) & (measured <= high)})
            table["refused"] = [any(pilot.refusal(name, k) for name in members) for k in KS]
            kind = "family" if len(members) > 1 else "configuration"
            table = table.assign(kind=kind, new=new, width=high - low, study=study, doubted=doubted)
            tables.append(table[new | ~np.isin(KS, PILOT)])
    return pd.concat(tables, ignore_index=True)


def summary(tested: pd.DataFrame) -> dict[str, float]:
    """Return the share of intervals that held, by what was left out, and their median width."""
    new = tested["new"]
    single, family = tested["kind"] == "configuration", tested["kind"] == "family"
    past = tested["k"] > max(PILOT)
    groups = {
        "new configurations": single & new & ~past,
        "new sizes": single & ~new,
        "both": single & new & past,
        "families, k to 100": family & ~past,
        "families, k = 200": family & (tested["k"] == 200),
        "families, k = 400": family & (tested["k"] == 400),
    }
    row = {name: tested.loc[rows, "inside"].mean() for name, rows in groups.items()}
    row["width at 200"] = tested.loc[groups["families, k = 200"], "width"].median()
    row["refused"] = tested["refused"].mean()
    return row | {"law doubted": tested.groupby("study")["doubted"].first().mean()}


def report() -> list[str | list[list[str]]]:
    """Return the section of docs/statistics.md: its text, and the rows of its table."""
    cells = {(sd, b): summary(coverage(sd, b)) for sd, b in CELLS}
    rows = [["sd of ln a", "exponent", *next(iter(cells.values()))]]
    for place, row in cells.items():
        said = [f"{v:.3f}" if name.startswith("width") else f"{v:.0%}" for name, v in row.items()]
        rows.append([*map(str, place), *said])
    return [TEXT, rows]
