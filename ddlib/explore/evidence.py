"""What all findings decide together: the numbers of notebook 06 and of the README.

`python -m ddlib.explore.evidence` writes the findings into the README, and the pictures of the
README and of notebook 05.
"""

import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddlib.explore import tables
from ddlib.explore.coverage import CoverageExplorer
from ddlib.explore.ipc import IpcExplorer
from ddlib.explore.planner import Planner
from ddlib.explore.tables import Tables
from ddlib.figures import findings as charts
from ddlib.figures import scaling
from ddlib.figures.render import mime_bundle, small
from ddlib.files import from_root, write_atomically
from ddlib.stats import cells, covers, laws, regressions
from ddlib.stats.cells import Coverage, Held
from ddlib.stats.compare import control_names, reordered
from ddlib.stats.families import k_star, series, worst_member
from ddlib.stats.means import gap_cube
from ddlib.stats.pilot import read_pilot
from ddlib.stats.worst import usable
from ddlib.words import summary as words
from ddlib.words.text import listed

PICTURED = ("dc", "dm", "mtt", "mgd3", "random", "herding")  # the last two are real samples
BLOCK = re.compile(r"(<!-- findings: .*? -->\n).*?(<!-- end of findings -->)", re.DOTALL)


class Evidence(NamedTuple):
    """What the studies decide.

    cells, gains, leaders: the tables of `ddlib.stats.cells`; regimes: of each study that has
    several label regimes, the trials by regime and the teachers; orders: of each study that
    compares methods under several configurations, `compare.reordered`; coverage: by study.
    """

    cells: pd.DataFrame
    gains: pd.DataFrame
    leaders: pd.DataFrame
    regimes: Mapping[str, tuple[Mapping[str, pd.DataFrame], pd.DataFrame]]
    orders: Mapping[str, pd.DataFrame]
    coverage: Mapping[str, Coverage]


def gather(studies: Sequence[Tables], draws: int = 1000) -> Evidence:
    """Judge both laws, and methods against controls, in all studies.

    Of several studies of a data set, the scaling law is judged in the one with the most sizes, and
    methods are compared in the one with the most trials under these labels. Accuracies are balanced
    where gaps are.
    """
    trials, panels, regimes, orders, coverage, capped, best = {}, {}, {}, {}, {}, {}, []
    for name, study in tables.named([study.as_measured for study in studies]).items():
        parts, data = by_labels(study), study.data
        first = next(iter(parts.values()))
        if data not in trials or first["k"].nunique() > trials[data]["k"].nunique():
            trials[data], capped[data] = first, _capped(study)
        if len(parts) > 1:
            regimes[name] = parts, study.teachers
            for labels, rows in parts.items():
                panel = f"{data}, {labels} labels"
                panels[panel] = max(panels.get(panel, rows), rows, key=len)
        if study.distances is not None:
            coverage[name if data in coverage else data] = cover(study, draws)
            continue
        best += [("own", parts.get("learned", first))]  # it compares methods
        best += [("soft", parts["soft"])] if parts.get("soft", first) is not first else []
        if len(study.configurations) > 1:
            orders[name] = reordered(study.trials, label_learners(study))
    fits = {data: laws.fit_table(rows, "gap_error", draws=draws) for data, rows in trials.items()}
    controls = {name for rows in trials.values() for name in control_names(rows)}
    judged = cells.cells(fits, controls)
    judged["capped"] = judged["data"].map(capped)
    gains, leaders = cells.gains(trials | panels), cells.leaders(best)
    return Evidence(judged, gains, leaders, regimes, orders, coverage)


def _capped(study: Tables) -> bool:
    """Return whether the limit on passes ended the networks on all data of the judged gaps."""
    full = study.full[study.full["configuration"] == study.trials["configuration"].iloc[0]]
    return bool(full["capped"].any())


def label_learners(study: Tables) -> list[str]:
    """Return the names of the methods that learn labels."""
    methods = study.settings.get("methods", {}).items()
    return [name for name, options in methods if (options or {}).get("label_learning_rate")]


def by_labels(study: Tables) -> dict[str, pd.DataFrame]:
    """Return trials by label regime, of the first configuration and those that differ in labels.

    If one of them has learned labels, methods that learn labels are left out of the others: they
    are not made for those.
    """
    trials = study.trials
    names = trials.drop_duplicates("configuration")
    names = names[names["network"] == names["network"].iloc[0]]
    others = {
        name: {key: value for key, value in (changes or {}).items() if key != "labels"}
        for name, changes in study.settings.get("configurations", {}).items()
    }
    first = others.get(names["configuration"].iloc[0])
    same = [others.get(name) == first for name in names["configuration"]]
    names = names[same].drop_duplicates("labels")
    learn, parts = label_learners(study) if "learned" in set(names["labels"]) else [], {}
    for labels, name in names[["labels", "configuration"]].itertuples(index=False):
        rows = trials[trials["configuration"] == name]
        parts[labels] = rows if labels == "learned" else rows[~rows["method"].isin(learn)]
    return parts


def cover(study: Tables, draws: int) -> Coverage:
    """Judge the coverage law as notebook 03 does, from the sets of the study's first method."""
    gaps, sets, radii = study.gaps_of(study.methods[0]), study.law_families, study.radii
    measured = covers.measures(study.distances, sets, radii[covers.QUANTILE], radii[0.5])
    epsilons = study.settings.get("epsilons") or [gaps["gap_error"].median()]
    k_stars = k_star(gaps, sets, epsilons, draws=draws)
    equal, unequal = measured.loc[list(study.spread[0])], study.spread[1]
    table = k_stars.table.join(measured, on="family")
    worst = [_worst(gaps, sets[row.family], row.k_star) for row in table.itertuples()]
    return Coverage(
        table.assign(worst=worst, series=table["family"].map(series(sets))),
        regressions.regress(k_stars, measured),
        regressions.within_equal(k_stars, equal) if len(equal) else None,
        _held(study, gaps, draws),
        unequal,
    )


def _worst(gaps: pd.DataFrame, members: Sequence[str], k: float) -> str | None:
    """Return the worst member of a family at the usable size that is nearest to k in log."""
    if np.isnan(k):
        return None
    cube = gap_cube(gaps, members)
    sizes = cube.ks[usable(cube.values)[0]]
    nearest = sizes[np.abs(np.log(sizes / k)).argmin()]
    return worst_member(gaps[gaps["k"] == nearest], members)[0]


def _held(study: Tables, gaps: pd.DataFrame, draws: int) -> Held:
    """Count the planner's intervals, from the study's pilot, that held what the pilot left out."""
    chosen = study.settings["pilot"]
    part = gaps[gaps["k"].isin(chosen["k"]) & gaps["configuration"].isin(chosen["configurations"])]
    networks = dict(gaps[["configuration", "network"]].to_numpy())
    try:
        pilot, whole = (read_pilot(rows, networks=networks, draws=draws) for rows in (part, gaps))
    except ValueError:  # too many trials failed
        return Held(0, 0, 0, 0.0)
    names = [name for name in whole.names if not pilot.refusal(name)]
    held, widths = pilot.answers(names, whole)
    left_out = int(np.isfinite(whole.means).sum() - np.isfinite(pilot.means).sum())
    width = float(np.median(widths)) if len(widths) else 0.0
    return Held(int(held.sum()), len(held), left_out, width)


def provenance(studies: Sequence[Tables]) -> pd.DataFrame:
    """Tabulate how each study was made: one row a study, None where it is not known."""
    rows = []
    for name, study in tables.named(studies).items():
        origin, trials = study.provenance, study.trials
        row = {
            "study": name,
            "seeds": trials["seed"].nunique(),
            "k": study.sizes,
            "trials": len(trials),
            "diverged": (trials["status"] == "diverged").sum(),
            "failed": (trials["status"] == "failed").sum(),
        }
        if origin:
            row |= {"commit": (origin["commit"] or "")[:10] or None, "date": origin["date"]}
            row["machines"] = listed(machine["cpu"] for machine in origin["machines"])
            hours = origin["core_hours"].values()
            row["core hours"] = round(sum(hours), 1) if hours else None
        rows.append(row)
    return pd.DataFrame(rows)


def readme(page: str, found: Evidence) -> str:
    """Return the README with these findings in the place of those between its two marks."""
    text = words.summary(found.cells, found.gains, found.leaders, found.coverage)
    return BLOCK.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", page)


def gap_against_k(study: Tables):
    """Return the figure of the gap against k for PICTURED in a study."""
    trials = study.gaps[study.gaps["method"].isin(PICTURED)]
    trials = trials[trials["configuration"] == study.configurations[0]]
    fits = laws.fit_table(trials, "gap_error")
    return scaling.gap_against_k(trials, fits, "gap_error", "gap in error (fraction)")


def pictures(studies: Sequence[Tables]) -> dict[str, bytes]:
    """Return PNGs by name: explorers as they open on these studies, and the first study's gaps."""
    kinds = {"ipc": IpcExplorer, "coverage": CoverageExplorer, "planner": Planner}
    specs = {f"explore_{name}": kind(studies).spec for name, kind in kinds.items()}
    specs["gap_against_k"] = gap_against_k(studies[0]).to_dict()
    return {name: _png(spec) for name, spec in specs.items()}


def _png(spec: dict) -> bytes:
    return small(mime_bundle(spec)[0]["image/png"])


def write(readme_path: Path, images: Path) -> None:
    """Write the findings that come with the library into the README, and all pictures."""
    studies = tables.findings()
    found = gather(studies)
    write_atomically(readme_path, readme(readme_path.read_text(encoding="utf-8"), found).encode())
    drawn = {"exponents": _png(charts.exponents(found.cells).to_dict()), **pictures(studies)}
    for name, png in drawn.items():
        write_atomically(images / f"{name}.png", png)


if __name__ == "__main__":
    ArgumentParser("python -m ddlib.explore.evidence", description=__doc__).parse_args()
    write(from_root("README.md"), from_root("notebooks/images"))
