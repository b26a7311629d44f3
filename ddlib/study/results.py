"""The results of a study: tables that are read from its files and written beside them."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from ddlib.configurations.teaching import read_score
from ddlib.distilled import DistilledSet, load_distilled
from ddlib.files import reading, write_atomically
from ddlib.fingerprints import plain_text
from ddlib.parameters import at_ipc
from ddlib.stats.distances import NOISE_SEEDS
from ddlib.study.plan import Plan, Trial
from ddlib.study.settings import SAME_STEPS
from ddlib.study.store import read_record, read_seconds
from ddlib.training.loop import Score, passes

COLUMNS = [
    *("data", "configuration", "labels", "network", "method", "base", "ipc", "k", "seed"),
    *("evaluation", "learning_rate", "accuracy", "balanced_accuracy", "measure", "error"),
    "cross_entropy",
    *("gap_error", "gap_cross_entropy", "gap_error_same_steps", "gap_cross_entropy_same_steps"),
    *("status", "message"),
]
TEACHERS = ["configuration", "network", "steps", *vars(Score(0.0, 0.0, 0.0))]


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

    @property
    def other_augmentation(self) -> "Result | None":
        """The part of the configuration that augments where the first does not, or the reverse.

        It equals the first in all else. None if there is no such configuration.
        """
        first = self.plan.first
        for name, other in self.plan.configurations.items():
            one_augments = (first.augmentation == "none") != (other.augmentation == "none")
            if one_augments and other.replace(augmentation=first.augmentation) == first:
                return self.under(name)
        return None

    @property
    def regimes(self) -> dict[str, "Result"]:
        """The parts, by label regime, whose configurations differ from the first only in labels.

        Of several configurations of one regime, the first counts.
        """
        names, first = {}, self.plan.first
        for name, other in self.plan.configurations.items():
            if other.replace(labels=first.labels) == first:
                names.setdefault(other.labels.regime, name)
        return {regime: self.under(name) for regime, name in names.items()}

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
        tables = (self.trials, self.references, self.costs, self.teachers)
        rows = [table[table["configuration"] == name].reset_index(drop=True) for table in tables]
        return Result(self.plan, *rows)

    def observed(
        self, configuration: str, seeds: Iterable[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the observations of a configuration's networks on all data, of the same steps.

        They are arrays (S, ...) over seeds, by the names of `probing.train_and_observe`. Seeds
        without a network are left out.
        """
        seeds = self.plan.seeds if seeds is None else seeds
        paths = [self.plan.reference(configuration, seed, SAME_STEPS).observed for seed in seeds]
        observations = []
        for path in filter(Path.exists, paths):
            with reading(path):
                observations.append(load_file(path))
        names = observations[0] if observations else {}
        return {name: np.stack([arrays[name] for arrays in observations]) for name in names}

    def observed_together(self, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
        """Return `observed` for several configurations, over the same seeds for all.

        These are the seeds for which every configuration has a network. If they are too few for
        distances, configurations that lack a seed are left out instead.
        """
        seeds = {name: set() for name in names}
        for configuration, seed in itertools.product(names, self.plan.seeds):
            if self.plan.reference(configuration, seed, SAME_STEPS).observed.exists():
                seeds[configuration].add(seed)
        common = set.intersection(*seeds.values()) if seeds else set()
        if len(common) < NOISE_SEEDS:
            common = set(self.plan.seeds)
        kept = [name for name in names if seeds[name] >= common]
        return {name: self.observed(name, sorted(common)) for name in kept}

    def distilled(self, seed: int = 0) -> list[DistilledSet]:
        """Return the distilled sets of one seed that exist, of every method and size."""
        paths = [trial.set_path for trial in self.plan.trials if trial.seed == seed]
        return [load_distilled(path) for path in dict.fromkeys(paths) if path.exists()]


def collect(plan: Plan) -> Result:
    """Read all records of a study into tables, and write these as Parquet to its folder.

    `settings.json` is written too. It has all parameters of each method, lists the members of each
    family, names the reference and the pilot, and leaves out `workers` and `scheduler_address`,
    which change no result.
    """
    records = [(trial, read_record(trial.path)) for trial in plan.trials if trial.path.exists()]
    rows = []
    for trial, record in records:
        takes_steps = plan.configurations[trial.configuration].takes_steps
        rate = record.get("learning_rate", math.nan) if takes_steps else math.nan
        rows += _rows(record, _described(plan, trial) | {"learning_rate": rate})
    trials, references = pd.DataFrame(rows, columns=COLUMNS), _references(plan)
    for table in (trials, references):
        accuracy = "balanced_accuracy" if plan.measure == "balanced" else "accuracy"
        table["measure"], table["error"] = plan.measure, 1 - table[accuracy]
    _measure_gaps(trials, references, plan.settings.reference)
    result = Result(plan, trials, references, _costs(plan, records), _teachers(plan))
    places = ("workers", "scheduler_address")
    settings = {name: value for name, value in plan.settings.table.items() if name not in places}
    settings["methods"] = {
        name: {"method": base, **parameters.model_dump(mode="json")}
        for name, (base, parameters) in plan.methods.items()
    }
    settings["families"] = plan.settings.families
    settings["reference"] = plan.settings.reference
    settings["pilot"] = plan.settings.pilot.model_dump()
    write_atomically(plan.folder / "settings.json", plain_text(settings).encode())
    for name in ("trials", "references", "costs", "teachers"):
        table = getattr(result, name).to_parquet(index=False)
        write_atomically(plan.folder / f"{name}.parquet", table)
    return result


def _described(plan: Plan, trial: Trial) -> dict[str, Any]:
    configuration, base = plan.configurations[trial.configuration], plan.methods[trial.method][0]
    network, regime = configuration.network, configuration.labels.regime
    return {
        **{"data": plan.dataset.name, "configuration": trial.configuration, "labels": regime},
        **{"network": network["name"], "method": trial.method, "base": base, "ipc": trial.ipc},
        **{"k": trial.ipc * plan.dataset.class_count, "seed": trial.seed},
    }


def _rows(record: dict[str, Any], described: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per evaluation in a record, or one row that says why the trial failed."""
    ending = {"status": record["status"], "message": record["message"]}
    nothing = dict.fromkeys(["accuracy", "cross_entropy", "balanced_accuracy"], math.nan)
    return [
        {**described, "evaluation": number, **score, **ending}
        for number, score in enumerate(record["scores"] or [nothing])
    ]


def _references(plan: Plan) -> pd.DataFrame:
    count, rows = len(plan.dataset.train.labels), []
    for reference in plan.references:
        name, record = reference.configuration, read_record(reference.path)
        batch_size = plan.configurations[name].recipe.batch_size
        described = {
            **{"configuration": name, "seed": reference.seed, "reference": reference.kind},
            **{"steps": record["steps"], "capped": record["capped"]},
            "passes": passes(record["steps"] or math.nan, batch_size, count),
        }
        rows += _rows(record, described)
    return pd.DataFrame(rows).astype({"steps": "Int64"})


def _teachers(plan: Plan) -> pd.DataFrame:
    rows = []
    for name, configuration in plan.configurations.items():
        path, teacher = plan.teacher_path(name), configuration.teacher
        if path and path.exists():
            described = {"configuration": name, "network": teacher.network["name"]}
            rows.append({**described, "steps": teacher.steps, **read_score(path)})
    return pd.DataFrame(rows, columns=TEACHERS)


def _measure_gaps(trials: pd.DataFrame, references: pd.DataFrame, reference: str) -> None:
    """Add the gaps to the trials: the risk minus that of the network on all data.

    That network has the same configuration and seed. If it failed or diverged, the gaps are NaN and
    the message says why.
    """
    keys = ["configuration", "seed"]
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


def _costs(plan: Plan, records: list[tuple[Trial, dict[str, Any]]]) -> pd.DataFrame:
    prepared = {
        method: sum(read_seconds(path) for _, path in plan.preparations(method))
        for method in plan.methods
    }
    teachers = {name: plan.teacher_path(name) for name in plan.configurations}
    taught = {name: read_seconds(path) if path else 0.0 for name, path in teachers.items()}
    search = plan.settings.search_seconds
    rows = [
        {
            **{"configuration": trial.configuration, "method": trial.method},
            **{"ipc": trial.ipc, "seed": trial.seed, "set": trial.set_path.name},
            "search_seconds": at_ipc(search.get(trial.method, math.nan), trial.ipc),
            "prepare_seconds": prepared[trial.method],
            "teacher_seconds": taught[trial.configuration],
            "distil_seconds": read_seconds(trial.set_path),
            "evaluate_seconds": record["seconds"],
        }
        for trial, record in records
    ]
    return pd.DataFrame(rows)
