"""The results of a study: tables that are read from its files and written beside them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from ddlib.configurations.configuration import Configuration
from ddlib.configurations.teaching import read_score
from ddlib.distilled import DistilledSet, load_distilled
from ddlib.files import read_json, reading, write_atomically
from ddlib.parameters import at_ipc
from ddlib.stats.distances import NOISE_SEEDS
from ddlib.study.plan import Plan, Trial, make_plan
from ddlib.study.settings import SAME_STEPS, Settings
from ddlib.study.store import read_record, read_seconds
from ddlib.training.loop import Score, passes

COLUMNS = [
    *("data", "configuration", "labels", "network", "method", "base", "ipc", "k", "seed"),
    *("evaluation", "learning_rate", "accuracy", "balanced_accuracy", "measure", "error"),
    "cross_entropy",
    *("gap_error", "gap_cross_entropy", "gap_error_same_steps", "gap_cross_entropy_same_steps"),
    *("status", "message"),
]
TRIAL = ["configuration", "method", "ipc", "seed"]
TABLES = ("trials", "references", "costs", "teachers")
REFERENCES = [
    *("configuration", "seed", "reference", "steps", "capped", "passes", "evaluation"),
    *("accuracy", "balanced_accuracy", "cross_entropy", "status", "message"),
]
TEACHERS = ["configuration", "network", "steps", *vars(Score(0.0, 0.0, 0.0))]

Record = dict[str, Any]  # the outcome of a trial, see `ddlib.study.store`


@dataclass(frozen=True)
class Result:
    """The results of a study.

    trials: one row per evaluation, columns COLUMNS (fractions; cross-entropy in nats). A gap is the
    risk minus the risk of the same seed's network on all data: of the reference that the settings
    name, and of the same steps.
    labels: the regime, one of REGIMES; learning_rate: that of the networks on S, which differs from
    the configuration's where a step size was learned (NaN for table models); error: one minus the
    accuracy that `measure` names.
    references: the networks trained on all data, one row per configuration, seed and reference
    ("converged", "same_steps"), with steps and passes over all data. capped: whether the limit on
    passes ended the training.
    costs: seconds of one core for every trial, and the file of its set. distil_seconds are an equal
    share of the call that made the set; prepare_seconds are the sum of the files that the method
    made once for all sizes and seeds; teacher_seconds are 0 without a teacher; search_seconds are
    those of the settings, NaN where they name none.
    teachers: the scores of the teacher of each configuration with soft labels, columns TEACHERS.
    """

    plan: Plan
    trials: pd.DataFrame
    references: pd.DataFrame
    costs: pd.DataFrame
    teachers: pd.DataFrame

    @property
    def failures(self) -> pd.DataFrame:
        """The trials and the networks on all data that failed or diverged, and why."""
        full = self.references.assign(method="all data, " + self.references["reference"])
        rows = pd.concat([full, self.trials]).query("status != 'ok'")
        rows = rows.astype({"k": "Int64"})  # whole numbers, though all data has no k
        columns = ["configuration", "method", "k", "seed", "status", "message"]
        return rows[columns].reset_index(drop=True)

    def _equal_but_for(self, name: str) -> dict[str, Configuration]:
        """Return the configurations that equal the first in all fields but this one."""
        first, others = self.plan.first, self.plan.configurations.items()
        same = {name: getattr(first, name)}
        return {other: changed for other, changed in others if changed.replace(**same) == first}

    @property
    def other_augmentation(self) -> "Result | None":
        """The part of the configuration that augments where the first does not, or the reverse.

        It equals the first in all else. None if there is no such configuration.
        """
        without = self.plan.first.augmentation == "none"
        for name, other in self._equal_but_for("augmentation").items():
            if (other.augmentation == "none") != without:
                return self.under(name)
        return None

    @property
    def regimes(self) -> dict[str, "Result"]:
        """The parts, by label regime, whose configurations differ from the first only in labels.

        Of several configurations of one regime, the first counts. If one of them has learned
        labels, methods that learn labels are left out of the others: they are not made for those.
        """
        names = {}
        for name, other in self._equal_but_for("labels").items():
            names.setdefault(other.labels.regime, name)
        learn = self.label_learners if "learned" in names else []
        parts = {regime: self.under(name) for regime, name in names.items()}
        return {r: part if r == "learned" else part._without(learn) for r, part in parts.items()}

    @property
    def label_learners(self) -> list[str]:
        """The methods that learn labels."""
        methods = self.plan.methods.items()
        return [name for name, (_, p) in methods if getattr(p, "label_learning_rate", 0)]

    def _without(self, methods: Sequence[str]) -> "Result":
        """Return this result without the trials and costs of some methods."""
        tables = ((name, getattr(self, name)) for name in ("trials", "costs"))
        rest = {name: t[~t["method"].isin(methods)].reset_index(drop=True) for name, t in tables}
        return replace(self, **rest)

    @property
    def as_measured(self) -> "Result":
        """This result with `accuracy` as gaps measure it: balanced, if the plan's `measure` is."""
        if self.plan.measure != "balanced":
            return self
        tables = {name: getattr(self, name) for name in ("trials", "references", "teachers")}
        for name, table in tables.items():
            tables[name] = table.assign(accuracy=table["balanced_accuracy"])
        return replace(self, **tables)

    def under(self, configuration: str | None = None) -> "Result":
        """Return the part of this result for one configuration, by default the first."""
        name = configuration or next(iter(self.plan.configurations))
        tables = (getattr(self, table) for table in TABLES)
        rows = (table[table["configuration"] == name].reset_index(drop=True) for table in tables)
        return Result(self.plan, *rows)

    def _observations(self, configuration: str) -> dict[int, Path]:
        """Return the file of observations of each seed that has one."""
        seeds = self.plan.seeds
        paths = {s: self.plan.reference(configuration, s, SAME_STEPS).observed for s in seeds}
        return {seed: path for seed, path in paths.items() if path.exists()}

    def observed(
        self, configuration: str, seeds: Iterable[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the observations of a configuration's networks on all data, of the same steps.

        They are arrays (S, ...) over seeds, by the names of `probing.train_and_observe`. Seeds
        without a network are left out.
        """
        paths, observations = self._observations(configuration), []
        for seed in paths if seeds is None else sorted(paths.keys() & seeds):
            with reading(paths[seed]):
                observations.append(load_file(paths[seed]))
        names = observations[0] if observations else {}
        return {name: np.stack([arrays[name] for arrays in observations]) for name in names}

    def observed_together(self, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
        """Return `observed` for several configurations, over the same seeds for all.

        These are the seeds for which every configuration has a network. If they are too few for
        distances, configurations that lack a seed are left out instead.
        """
        seeds = {name: self._observations(name).keys() for name in names}
        common = set(self.plan.seeds).intersection(*seeds.values())
        if len(common) < NOISE_SEEDS:
            common = set(self.plan.seeds)
        return {name: self.observed(name, common) for name in names if seeds[name] >= common}

    def distilled(self, seed: int = 0) -> list[DistilledSet]:
        """Return the distilled sets of one seed that exist, of every method and size."""
        paths = [trial.set_path for trial in self.plan.trials if trial.seed == seed]
        return [load_distilled(path) for path in dict.fromkeys(paths) if path.exists()]


def read(folder: Path, **changes: Any) -> Result:
    """Return the result in a results folder or a finding, from its tables alone.

    changes: parameters that replace those in its settings.json. Raises FileNotFoundError for a
    missing table, and the errors of `make_plan`, such as for data that are not at hand.
    """
    plan = make_plan(Settings.read(read_json(folder / "settings.json") | changes))
    *paths, taught = (folder / f"{name}.parquet" for name in TABLES)
    if missing := [path.name for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} has no {missing[0]}; run its study with this version of ddlib"
        )
    without = pd.DataFrame(columns=TEACHERS)  # findings have no empty tables
    teachers = pd.read_parquet(taught) if taught.is_file() else without
    return Result(plan, *map(pd.read_parquet, paths), teachers)


def collect(plan: Plan) -> Result:
    """Read all records of a study into tables, and write these as Parquet to its folder.

    `settings.json` is written too. It has all parameters of each method, lists the members of each
    family, names the reference and the pilot, and leaves out `workers` and `scheduler_address`,
    which change no result.
    """
    records = {trial: read_record(trial.path) for trial in plan.trials if trial.path.exists()}
    trials, references = _trials(plan, records), _references(plan)
    measure_gaps(plan, trials, references)
    result = Result(plan, trials, references, costs(plan, records), _teachers(plan))
    settings, pilot = dict(plan.settings.table), plan.settings.pilot.model_dump()
    settings |= {"families": plan.settings.families, "reference": plan.settings.reference}
    settings |= {"pilot": pilot, "methods": {}}
    for name, (base, parameters) in plan.methods.items():
        settings["methods"][name] = {"method": base, **parameters.model_dump(mode="json")}
    for name in ("workers", "scheduler_address"):
        settings.pop(name, None)
    # in the order of the study: its first configuration stays the first
    write_atomically(plan.folder / "settings.json", json.dumps(settings).encode())
    for name in TABLES:
        table = getattr(result, name).to_parquet(index=False)
        write_atomically(plan.folder / f"{name}.parquet", table)
    return result


def _trials(plan: Plan, records: Mapping[Trial, Record]) -> pd.DataFrame:
    rows = [row for trial, record in records.items() for row in _rows(record, vars(trial))]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    configurations = [plan.configurations[name] for name in table["configuration"]]
    table["data"], table["k"] = plan.dataset.name, table["ipc"] * plan.dataset.class_count
    table["base"] = [plan.methods[name][0] for name in table["method"]]
    table["labels"] = [chosen.labels.regime for chosen in configurations]
    table["network"] = [chosen.network["name"] for chosen in configurations]
    takes_steps = [chosen.takes_steps for chosen in configurations]
    table["learning_rate"] = table["learning_rate"].where(takes_steps)
    return table


def _rows(record: Record, described: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per evaluation in a record, or one row that says why the trial failed."""
    nothing = dict.fromkeys(["accuracy", "cross_entropy", "balanced_accuracy"], math.nan)
    return [
        {**record, **described, **score, "evaluation": number}
        for number, score in enumerate(record["scores"] or [nothing])
    ]


def _references(plan: Plan) -> pd.DataFrame:
    count, rows = len(plan.dataset.train.labels), []
    for full in plan.references:
        record, recipe = read_record(full.path), plan.configurations[full.configuration].recipe
        taken = passes(record["steps"] or math.nan, recipe.batch_size, count)
        rows += _rows(record, {**vars(full), "reference": full.kind, "passes": taken})
    return pd.DataFrame(rows, columns=REFERENCES).astype({"steps": "Int64"})


def _teachers(plan: Plan) -> pd.DataFrame:
    rows = []
    for name, configuration in plan.configurations.items():
        path, teacher = plan.teacher_path(name), configuration.teacher
        if path and path.exists():
            described = {"configuration": name, "network": teacher.network["name"]}
            rows.append({**described, "steps": teacher.steps, **read_score(path)})
    return pd.DataFrame(rows, columns=TEACHERS)


def measure_gaps(plan: Plan, trials: pd.DataFrame, references: pd.DataFrame) -> None:
    """Add errors to both tables, and gaps to the trials: the risk minus that on all data.

    That network has the same configuration and seed. If it failed or diverged, the gaps are NaN and
    the message says why.
    """
    for table in (trials, references):
        accuracy = "balanced_accuracy" if plan.measure == "balanced" else "accuracy"
        table["measure"], table["error"] = plan.measure, 1 - table[accuracy]
    keys, reference = ["configuration", "seed"], plan.settings.reference
    places = pd.MultiIndex.from_frame(trials[keys])
    for suffix, name in {"": reference, "_same_steps": SAME_STEPS}.items():
        full = references[references["reference"] == name].set_index(keys)
        full = full.reindex(places).reset_index(drop=True)
        for measure in ("error", "cross_entropy"):
            trials[f"gap_{measure}{suffix}"] = trials[measure] - full[measure]
        lacks = (full["status"] != "ok") & (trials["message"] == "")
        ended = full["status"] + ": " + full["message"]
        reasons = f"no gap to the network on all data ({name}), which " + ended
        trials["message"] = trials["message"].mask(lacks, reasons)


def costs(plan: Plan, records: Mapping[Trial, Record]) -> pd.DataFrame:
    """Return the seconds of these trials, as in `Result.costs`."""
    table, search = pd.DataFrame(map(vars, records), columns=TRIAL), plan.settings.search_seconds
    teachers = {name: plan.teacher_path(name) for name in plan.configurations}
    taught = {name: read_seconds(path) if path else 0.0 for name, path in teachers.items()}
    prepared = {
        method: sum(read_seconds(path) for _, path in plan.preparations(method))
        for method in plan.methods
    }
    table["set"] = [trial.set_path.name for trial in records]
    table["search_seconds"] = [at_ipc(search.get(t.method, math.nan), t.ipc) for t in records]
    table["prepare_seconds"] = table["method"].map(prepared)
    table["teacher_seconds"] = table["configuration"].map(taught)
    table["distil_seconds"] = [read_seconds(trial.set_path) for trial in records]
    table["evaluate_seconds"] = [record["seconds"] for record in records.values()]
    return table
