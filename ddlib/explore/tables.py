"""Read the tables of a finished study: one of the findings, or one of your own.

Findings are the studies that come with the library; see `ddlib.explore.findings`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ddlib.explore import sheets
from ddlib.files import FINDINGS, PROVENANCE, from_root, read_json, write_atomically
from ddlib.stats import covers, laws

STUDIES = ("scaling_law", "methods", "coverage_law")  # the notebooks that run one
FRAMES = ("trials", "references", "costs", "teachers")
DISTANCES = "distances.parquet"
Families = dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of a finished study, without its data and networks.

    folder: absolute; settings: the study's parameters, with the members of each family; trials,
    references, costs, teachers: as in `Result` (costs and teachers are empty where they were not
    kept); distances: (C, C) between the predictions of configurations, None if notebook 03 did not
    run; noise: the distance that seeds alone reach; provenance: where and how the study ran, empty
    if unknown; sheets: the distilled images of the first seed by (method, ipc), as a picture (see
    `sheets.small`) or as the file of the set.
    """

    folder: Path
    settings: Mapping[str, Any]
    trials: pd.DataFrame
    references: pd.DataFrame
    costs: pd.DataFrame
    teachers: pd.DataFrame
    distances: pd.DataFrame | None
    noise: float
    provenance: Mapping[str, Any]
    sheets: Mapping[tuple[str, int], bytes | Path] = field(repr=False)

    @property
    def as_measured(self) -> "Tables":
        """These tables with the accuracy of S as gaps measure it: balanced, if `measure` is."""
        if self.trials["measure"].iloc[0] != "balanced":
            return self
        tables = {name: getattr(self, name) for name in ("trials", "teachers")}
        for name, table in tables.items():
            if len(table):
                tables[name] = table.assign(accuracy=table["balanced_accuracy"])
        return replace(self, **tables)

    @property
    def data(self) -> str:
        """The name of the data set."""
        return self.trials["data"].iloc[0]

    @property
    def methods(self) -> list[str]:
        """The methods in the order of the study."""
        return list(dict.fromkeys(self.trials["method"]))

    @property
    def ipcs(self) -> list[int]:
        """The samples per class that were measured, ascending."""
        return sorted(self.trials["ipc"].unique().tolist())

    @property
    def sizes(self) -> list[int]:
        """The k that were measured, ascending."""
        return sorted(self.trials["k"].unique().tolist())

    @property
    def class_count(self) -> int:
        """The number of classes."""
        return int(self.trials["k"].iloc[0] // self.trials["ipc"].iloc[0])

    @property
    def full(self) -> pd.DataFrame:
        """The networks trained on all data from which gaps are measured."""
        return self.references[self.references["reference"] == self.settings["reference"]]

    @cached_property
    def configurations(self) -> list[str]:
        """The configurations with a network on all data, so with gaps, for at least one seed."""
        ended = set(self.full["configuration"][self.full["status"] == "ok"])
        return [name for name in dict.fromkeys(self.trials["configuration"]) if name in ended]

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """The trials of `configurations`."""
        return self.trials[self.trials["configuration"].isin(self.configurations)]

    def gaps_of(self, method: str) -> pd.DataFrame:
        """Return the rows of `gaps` of one method."""
        return self.gaps[self.gaps["method"] == method]

    @cached_property
    def radii(self) -> pd.Series:
        """The radii that notebook 03 uses, by quantile; see `covers.radii`."""
        return covers.radii(self.distances, self.noise)

    @cached_property
    def families(self) -> Families:
        """All configurations, the families of the study, and those of equal size, by name.

        Where a study compares label regimes, all configurations are one family a regime.
        """
        names = self._measured
        families = {"all configurations": tuple(names)}
        if self.trials["labels"].nunique() > 1:
            labels = self.trials.set_index("configuration")["labels"].to_dict()
            groups = pd.Series(names).groupby([labels[name] for name in names], sort=False)
            families = {
                f"all configurations, {group} labels": tuple(part) for group, part in groups
            }
        return {name: members for name, members in families.items() if members} | self.law_families

    @property
    def _measured(self) -> list[str]:
        """The configurations that families may hold: those with distances, where there are some."""
        return self.configurations if self.distances is None else list(self.distances.index)

    @property
    def law_families(self) -> Families:
        """The families over which the law is tested: the study's, and those of equal size."""
        names = self._measured
        families = {
            name: tuple(member for member in members if member in names)
            for name, members in self.settings["families"].items()
        }
        return {name: members for name, members in families.items() if members} | self.spread[0]

    @cached_property
    def spread(self) -> tuple[Families, str]:
        """The families of equal size, and why there are none, if the study asked for some."""
        if not self.settings.get("spread") or self.distances is None:
            return {}, ""
        try:
            return covers.spread_families(self.distances, **self.settings["spread"]), ""
        except ValueError as reason:  # failed trials leave too few configurations
            return {}, f"no families of equal size: {reason}"

    def sheet(self, method: str, ipc: int) -> bytes | None:
        """Return a picture of the distilled images, a column per class; None if there are none."""
        content = self.sheets.get((method, ipc))
        return sheets.draw(content) if isinstance(content, Path) else content


@cache
def fitted(
    tables: Tables,
    configuration: str,
    method: str,
    draws: int,
    measure: str,
    known: float,
) -> laws.Fits:
    """Fit every law to the gaps of a method under one configuration at k up to `known`."""
    trials = tables.gaps[tables.gaps["configuration"] == configuration]
    gaps = laws.gap_matrix(trials, method, measure)
    return laws.fit_all(gaps.loc[:, gaps.columns <= known], draws=draws)


def read(folder: str | Path) -> Tables:
    """Return the tables in a study's results folder, such as "results/scaling_law/quick".

    A relative path starts at the project's root. Raises FileNotFoundError if no study has ended
    there, ValueError if the study has no trials.
    """
    folder = from_root(str(folder)).resolve()
    for name in ("settings.json", "trials.parquet", "references.parquet"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no finished study ({name} is not there); give the results "
                "folder of a notebook that ran to its end"
            )
    settings = read_json(folder / "settings.json")
    trials, references, costs, teachers = (_frame(folder / f"{name}.parquet") for name in FRAMES)
    if trials.empty:
        raise ValueError(f"the study in {folder} has no trials; run its notebook again")
    needed = {"reference", "families"} - settings.keys() | {"capped"} - set(references)
    needed |= {"base", "gap_error", "labels", "measure"} - set(trials)
    if (folder / DISTANCES).is_file():
        needed |= {"pilot"} - settings.keys()
    if needed:
        raise ValueError(
            f"the study in {folder} is of an older ddlib and lacks {', '.join(sorted(needed))}; "
            "run its notebook again"
        )
    distances, noise = None, 0.0
    if (folder / DISTANCES).is_file():
        table = pd.read_parquet(folder / DISTANCES)
        order, noise = table["first"].unique(), float(table["noise"].iloc[0])
        distances = table.pivot(index="first", columns="second", values="distance")
        distances = distances.loc[order, order].rename_axis(index=None, columns=None)
    provenance = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    tables = trials, references, costs, teachers, distances, noise, provenance
    return Tables(folder, settings, *tables, sheets.find(folder, costs))


def _frame(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame()


def findings() -> list[Tables]:
    """Return all findings: those with images first, then in the order of the notebooks."""
    folders = [
        path.parent
        for name in STUDIES
        for path in sorted((FINDINGS / name).glob("*/settings.json"))
    ]
    return sorted(map(read, folders), key=lambda study: not study.sheets)


def named(studies: Sequence[Tables]) -> dict[str, Tables]:
    """Return studies by name: the data set and the end of the folder, or all of it if ambiguous."""
    ends = Counter(study.folder.parts[-2:] for study in studies)
    names = {}
    for study in studies:
        end = study.folder.parts[-2:]
        place = Path(*end) if ends[end] == 1 else study.folder
        names[f"{study.data}: {place.as_posix()}"] = study
    return names


def write_distances(folder: Path, distance: pd.DataFrame, noise: float) -> None:
    """Write the distances between configurations and the seeds' noise into a results folder."""
    table = distance.stack().rename_axis(["first", "second"]).rename("distance").reset_index()
    write_atomically(folder / DISTANCES, table.assign(noise=noise).to_parquet(index=False))
