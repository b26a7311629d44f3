"""The explorer of families of configurations: cover, H_cov(r), worst gap and k*."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ddlib.explore.controls import Ticks, menu, slider
from ddlib.explore.explorer import EmptyError, Explorer, View
from ddlib.explore.planner import EPSILONS
from ddlib.explore.tables import Tables
from ddlib.figures import coverage as charts
from ddlib.figures import maps
from ddlib.figures.style import COLOURS, FAINT, INK, k_axis, tips
from ddlib.stats import covers, distances, families, regressions
from ddlib.stats.families import KStars
from ddlib.stats.intervals import Interval
from ddlib.words import coverage as words
from ddlib.words.scaling import no_worse

OWN = "your own choice"
SQUARE = {"width": maps.WIDTH, "height": maps.WIDTH}


class CoverageExplorer(Explorer):
    """Choose a family and a radius; see its smallest cover, its worst gap and its k*.

    Raises ValueError if no study has gaps and distances.
    """

    numbers_width = "100%"  # four charts take the whole width

    def __init__(self, studies: Sequence[Tables], draws: int = 1000):
        studies = [s for s in studies if s.distances is not None and len(s.gaps)]
        if not studies:
            raise ValueError(
                "no study here has gaps and distances between configurations; give the results "
                "folder of notebook 03"
            )
        super().__init__(
            studies,
            draws,
            method=menu("Method"),
            preset=menu("Preset"),
            radius=slider("Radius r", [0.0], 0.0),
            epsilon=slider("Gap ε", EPSILONS, 0.05),
            members=Ticks("Family"),
        )

    def offer(self, tables: Tables) -> None:
        self.controls["method"].options = tables.methods
        self.controls["preset"].options = [*tables.families, OWN]
        first = next(iter(tables.families.values()))
        self.controls["members"].offer(tables.distances.index, first)
        farthest, radius = float(tables.distances.to_numpy().max()), self.controls["radius"]
        usual = tables.radii[covers.QUANTILE]
        steps = np.linspace(0, 1.05 * farthest, 101)
        steps[np.abs(steps - usual).argmin()] = usual
        radius.options = [(f"{r:.3g}", float(r)) for r in steps]
        radius.value = usual
        self.controls["epsilon"].value = _telling(tables)

    def follow(self, control) -> None:
        super().follow(control)
        preset, members = self.controls["preset"], self.controls["members"]
        family = self.controls["study"].value.families.get(preset.value, members.value)
        if control is preset:
            members.offer(self.controls["study"].value.distances.index, family)
        elif set(family) != set(members.value):
            preset.value = OWN

    def view(self, tables, method, preset, radius, epsilon, members) -> View:
        if not members:
            raise EmptyError("the family is empty; tick at least one configuration")
        family = tables.distances.loc[list(members), list(members)]
        centres = list(covers.cover(family, radius))
        points, share = distances.embed(tables.distances)
        points = points.assign(centre=family[centres].idxmin(axis=1))
        k_stars, h_cov = _k_stars(tables, method, epsilon, self.draws), math.log(len(centres))
        need = pd.DataFrame([_need(tables, method, members, epsilon, self.draws)])
        k = need["k*"].iloc[0]
        chart = alt.concat(
            _law(tables, k_stars, radius, need.assign(at=h_cov, family=preset)),
            maps.cover_map(points, radius, tables.radii[covers.QUANTILE]).properties(**SQUARE),
            _worst_gap(tables, method, members, need, epsilon),
            _steps(tables, members, radius),
            columns=2,
            resolve={"scale": dict.fromkeys(("color", "shape", "fill"), "independent")},
        )
        return View(
            chart,
            f"{maps.covered(len(centres), f'{radius:.3g}', len(members))}: H_cov = {h_cov:.2f}; "
            f"k* {'= ' * k[0].isdigit()}{k}",
            "The ring marks your family. The plane shows "
            f"{share:.0%} of the distances' variance, so a ball may look too wide or too narrow.",
            need[["k*", "remark"]],
            " ".join(filter(None, _notes(tables, method, radius, epsilon, members, self.draws))),
        )


def _notes(tables, method, radius, epsilon: float, members, draws: int) -> list[str]:
    """Return the sentences below the numbers; some may be empty."""
    noise = "Seeds alone reach a distance of r or more, so H_cov counts noise."
    errors = tables.full.groupby("configuration")["error"].mean()
    return [
        f"k* is the least k whose worst gap is at most {epsilon:g}. In brackets: 95 % intervals.",
        noise * (radius <= tables.noise),
        _by_radius(tables, method, epsilon, draws),
        words.poor(errors[list(members)], epsilon),
        *_no_worse(tables, method, members),
    ]


def _need(tables, method, members, epsilon: float, draws: int) -> dict[str, Any]:
    """Return k* of a family with its interval, as text too, and why it is unknown or bounded."""
    gaps, family = tables.gaps_of(method), {"": members}
    row = families.k_star(gaps, family, epsilon, draws=draws, relabellings=0).table.iloc[0]
    k, text, remarks = Interval(*row[["k_star", "low", "high"]]), "unknown", [row["reason"]]
    if not row["reason"]:
        censored = row["censored"].split()[:1]  # above the largest k, or below the smallest
        text = f"{censored[0]} {k.estimate:.0f}" if censored else format(k, ".0f")
        side = {tables.sizes[0]: "below ", tables.sizes[-1]: "above "}.get(row["raw"], "")
        remarks = [f"{side}{row['raw']:.0f} by the raw worst gaps"] * pd.notna(row["raw"])
        counts = {kind: row[f"missing_{kind}"] for kind in ("seeds", "sizes")}
        remarks += [f"{kind} left out for missing trials: {n}" for kind, n in counts.items() if n]
    texts = {"k*": text, "interval": k.ends(".0f"), "remark": "; ".join(remarks)}
    return texts | {"k": k.estimate, "low": k.low, "high": k.high}


@cache
def _telling(tables: Tables) -> float:
    """Return the largest ε of the study that has most k* inside the measured sizes."""
    gaps, sets = tables.gaps_of(tables.methods[0]), tables.law_families
    used = {*EPSILONS}.intersection(tables.settings.get("epsilons", ())) or EPSILONS
    used = sorted(used, reverse=True)
    k_stars = families.k_star(gaps, sets, used, draws=0, relabellings=0).table
    inside = k_stars["k_star"].notna() & (k_stars["censored"] == "")
    return float(inside.groupby(k_stars["epsilon"], sort=False).sum().idxmax())


@cache
def _k_stars(tables: Tables, method: str, epsilon: float, draws: int) -> KStars:
    return families.k_star(tables.gaps_of(method), tables.law_families, epsilon, draws=draws)


@cache
def _h_covs(tables: Tables, radius: float) -> pd.DataFrame:
    """Tabulate the H_cov of the study's families: a column h_cov."""
    return covers.measures(tables.distances, tables.law_families, radius, bandwidth=1)[["h_cov"]]


@cache
def _by_radius(tables: Tables, method: str, epsilon: float, draws: int) -> str:
    """Say how the verdict on the law depends on the radius."""
    k_stars, tests = _k_stars(tables, method, epsilon, draws), []
    for radius in tables.radii:
        test = regressions.regress(k_stars, _h_covs(tables, radius))
        tests.append(test.assign(radius=radius))
    return words.by_radius(pd.concat(tests))


@cache
def _no_worse(tables: Tables, method: str, members: tuple[str, ...]) -> list[str]:
    gaps = tables.gaps_of(method)
    return no_worse(gaps[gaps["configuration"].isin(members)])


@cache
def _h_cov(tables: Tables, members: tuple[str, ...]) -> pd.DataFrame:
    return covers.h_cov_curve(tables.distances, members).assign(family="the family")


@cache
def _worst(tables: Tables, method: str, members: tuple[str, ...]) -> pd.DataFrame:
    """Tabulate the worst member of a family and its gap at each k: k, member, gap."""
    rows = []
    for k, gaps in tables.gaps_of(method).groupby("k"):
        with suppress(ValueError):  # too few seeds have trials of every member
            rows.append((k, *families.worst_member(gaps, members)))
    worst = pd.DataFrame(rows, columns=["k", "member", "gap"])
    return worst.assign(label=worst["member"].where(worst["member"] != worst["member"].shift(), ""))


@cache
def _means(tables: Tables, method: str) -> pd.DataFrame:
    """Tabulate the mean gap of every configuration: member, k, gap."""
    gaps = tables.gaps_of(method).rename(columns={"configuration": "member", "gap_error": "gap"})
    means = gaps[gaps["status"] == "ok"].groupby(["member", "k"], sort=False)["gap"].mean()
    return means.reset_index()


def _law(tables: Tables, k_stars: KStars, radius: float, here: pd.DataFrame) -> alt.LayerChart:
    """Draw k* of the study's families against H_cov, with a ring around the chosen one."""
    groups = pd.Series(families.series(tables.law_families))
    table = charts.k_star_rows(k_stars.table, _h_covs(tables, radius)["h_cov"], groups)
    widest = math.log(len(tables.distances))
    x = alt.Scale(domain=[-0.06 * widest, 1.04 * widest], nice=False)
    x = alt.X("at:Q", scale=x, title="H_cov(r) = ln N(r), nats")
    y = charts.k_star_axis(tables.sizes[0], tables.sizes[-1])
    at = here["family"].map(table.set_index("family")["at"]).fillna(here["at"])
    ring = alt.Chart(here.assign(at=at)).mark_point(size=320, color=INK, strokeWidth=2.5, opacity=1)
    ring = ring.encode(x, alt.Y("k:Q"))
    title = alt.Title(
        "The law: k* of every family of the study against H_cov",
        subtitle="Line: of ln k*. Short dash: by raw worst gaps. Triangle: beyond the sizes.",
        fontSize=12,
    )
    size = {"width": 440, "height": maps.WIDTH, "title": title}
    return charts.k_star_marks(table, x, y, ring, legend="bottom", **size)


def _steps(tables: Tables, members: tuple[str, ...], radius: float) -> alt.LayerChart:
    edge = 1.1 * max(tables.noise, float(tables.distances.to_numpy().max()))
    most = math.log(len(tables.distances))
    steps = charts.h_cov_steps(
        _h_cov(tables, members), tables.noise, [radius], edge, COLOURS[1], most
    )
    title = alt.Title("H_cov(r)", subtitle="Grey: what seeds alone reach.", fontSize=12)
    return steps.properties(width=maps.WIDTH, height=150, title=title)


def _worst_gap(tables, method, members, need, epsilon: float) -> alt.LayerChart:
    """Draw the gaps of the members and the worst of them at each k, and k* at epsilon."""
    sizes, means = tables.sizes, _means(tables, method)
    ends = need[["k", "low", "high"]].astype(float).clip(sizes[0] / 2, 3 * sizes[-1])  # as drawn
    need = need[["k*", "interval"]].join(ends)
    x = k_axis(pd.Series([sizes[0] / 2, 3 * sizes[-1]]), pd.Series(sizes))
    domain = [min(0, means["gap"].min()), 1.15 * max(means["gap"].max(), epsilon)]
    y = alt.Y("gap:Q", title="gap to all data", scale=alt.Scale(domain=domain))
    tip = tips("member:N", "k", "gap")
    others = alt.Chart(means[means["member"].isin(members)]).encode(x, y, tooltip=tip)
    line = alt.Chart(_worst(tables, method, members)).encode(x, y, tooltip=tip)
    need = alt.Chart(need.assign(gap=epsilon)).encode(y, tooltip=tips("k*:N", "interval:N"))
    goal = alt.Chart().mark_rule(color=INK, strokeDash=[4, 3]).encode(alt.YDatum(epsilon))
    layers = [
        others.mark_line(color="#BBBBBB", strokeWidth=1).encode(detail="member:N"),
        line.mark_line(color=FAINT, strokeWidth=2.5, point={"color": FAINT}),
        line.mark_text(dy=-9).encode(text="label:N"),
        goal,
        need.mark_rule(color=COLOURS[0], strokeWidth=3, opacity=0.5).encode(
            alt.X("low:Q"), alt.X2("high:Q")
        ),
        need.mark_point(color=COLOURS[0], filled=True, size=80, opacity=1).encode(x),
    ]
    subtitle = "Grey: members. The worst is chosen on other seeds: one may lie higher."
    title = alt.Title("The worst member at each k", subtitle=subtitle, fontSize=12)
    return alt.layer(*layers, width=440, height=150, title=title)
