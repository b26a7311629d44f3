"""A grid of trials (method x ipc x seed) -> worker processes -> one tidy table, resumable.

A trial is plain data with a fingerprint of all that decides its result. What is finished is a
file named by that fingerprint, written atomically, so that a rerun only does what is missing.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from ddlib.configurations.configuration import Configuration, Family
from ddlib.data.base import DataSet, images_digest
from ddlib.data.cache import one_copy
from ddlib.data.load import load
from ddlib.devices import check_precision
from ddlib.distilled import DistilledSet, load_distilled
from ddlib.files import check_writable, from_root, reading, write_atomically
from ddlib.fingerprints import code_digest, fingerprint, plain_text
from ddlib.methods import METHODS, Method
from ddlib.networks import functional as networks
from ddlib.parameters import Parameters
from ddlib.stats.distances import NOISE_SEEDS
from ddlib.study import jobs as work
from ddlib.study.cluster import connect, device
from ddlib.study.extensions import network_code, read_extensions, use
from ddlib.study.running import Running, alone, is_settled, read_record
from ddlib.study.settings import (
    CONVERGED,
    SAME_STEPS,
    Settings,
    check_pilot,
    data_options,
    network_options,
    read_evaluations,
    read_ipcs,
    read_methods,
    read_sets,
)
from ddlib.training.loop import Converged, hold_out, passes

COLUMNS = [
    *("data", "configuration", "network", "method", "base", "ipc", "k", "seed", "evaluation"),
    *("accuracy", "balanced_accuracy", "error", "cross_entropy"),
    *("gap_error", "gap_cross_entropy", "gap_error_same_steps", "gap_cross_entropy_same_steps"),
    *("status", "message"),
]


@dataclass(frozen=True)
class Plan:
    """A study that has passed every check: its data set, what to run, and where results go."""

    settings: Settings
    dataset: DataSet
    context: work.Context
    configurations: dict[str, Configuration]
    families: dict[str, Family]
    methods: dict[str, tuple[str, Parameters]]
    ipcs: list[int]
    folder: Path
    cache: Path

    @property
    def seeds(self) -> range:
        return range(self.settings.seeds)

    @cached_property
    def trials(self) -> list["Trial"]:
        """Every trial of the grid, in the order of the table."""
        return [
            Trial(self, method, ipc, seed, configuration)
            for configuration in self.configurations
            for method in self.methods
            for ipc in self.ipcs
            for seed in self.seeds
        ]

    @property
    def first(self) -> Configuration:
        """The first configuration, which is the study's own."""
        return next(iter(self.configurations.values()))

    @property
    def references(self) -> list[tuple[str, int, str]]:
        """Configuration, seed and reference of every network to train on all data."""
        return list(itertools.product(self.configurations, self.seeds, self.settings.references))

    @property
    def converged(self) -> Converged:
        """How long the references that have converged are trained."""
        return Converged.read(self.settings.converged, "converged")

    def evaluation(self, configuration: str) -> list[Any]:
        """All that decides how a network is trained and scored."""
        plain = asdict(self.configurations[configuration])
        return [plain, *self.network_code(plain)]

    def network_code(self, plain: Any) -> list[str]:
        """Digests of the code of the networks of one's own that plain data names."""
        return network_code(self.context.extensions, plain_text(plain))

    def entry(self, method: str) -> Method:
        """The registered method behind the name that it has in this study."""
        use(self.context.extensions)  # another study may have been read since
        return METHODS[self.methods[method][0]]

    def reference_path(self, configuration: str, seed: int, reference: str) -> Path:
        """A full-data reference of `seed`, shared by all studies with this cache."""
        identity = [self.context.identity, self.evaluation(configuration), seed]
        identity += [asdict(self.converged)] if reference == CONVERGED else []
        name = f"{self.dataset.name}-seed{seed}-{reference}-{fingerprint(identity)}.json"
        return self.cache / "references" / name

    def length_path(self, configuration: str) -> Path:
        """The steps of the converged references of all seeds; see `find_length`."""
        evaluation = self.evaluation(configuration)
        identity = [self.context.identity, evaluation, asdict(self.converged)]
        return self.cache / "lengths" / f"{self.dataset.name}-{fingerprint(identity)}.json"

    def has_reference(self, configuration: str, seed: int, reference: str) -> bool:
        """Whether a reference is settled: it diverged, or ended and left what it should show."""
        path = self.reference_path(configuration, seed, reference)
        if not is_settled(path) or read_record(path)["status"] == "diverged":
            return is_settled(path)
        return reference != SAME_STEPS or self.observed_path(configuration, seed).exists()

    def observed_path(self, configuration: str, seed: int) -> Path:
        """What the reference of the same steps showed; see `train_and_observe`."""
        identity = [self.reference_path(configuration, seed, SAME_STEPS).stem, self.settings.probe]
        name = f"{self.dataset.name}-seed{seed}-{fingerprint(identity)}.safetensors"
        return self.cache / "observed" / name

    def pretrained_path(self, configuration: str) -> Path | None:
        """The pretrained body that a configuration starts from; None where it has none."""
        chosen = self.configurations[configuration]
        if not chosen.pretrained:
            return None
        plain = [chosen.network, chosen.initialisation, asdict(chosen.pretraining)]
        context = replace(self.context, network="any")
        identity = [context.identity, plain, *self.network_code(plain)]
        name = f"{chosen.initialisation}-{self.dataset.name}-{fingerprint(identity)}.safetensors"
        return self.cache / "pretrained" / name

    def preparations(self, method: str) -> list[tuple[dict[str, Any], Path]]:
        """What `method` makes once for all sizes and seeds: jobs, and the files they fill."""
        base, parameters = self.methods[method]
        entry, folder = self.entry(method), self.cache / "prepared"
        if not entry.preparation:
            return []
        of_network = entry.preparation.of_network
        context = self.context if of_network else replace(self.context, network="any")
        jobs, length = entry.preparation.jobs(parameters, self.ipcs), entry.preparation.length
        code = [code_digest(*entry.modules), *self.network_code(jobs)]
        identity = [context.identity, *code, *entry.reads(parameters)]
        there = [path.name for path in folder.iterdir()] if length and folder.exists() else []
        found = []
        for job in jobs:
            named = {key: value for key, value in job.items() if key != length}
            name = f"{base}-{self.dataset.name}-{fingerprint([*identity, named])}"
            found.append(_long_enough(name, job[length], there) if length else name)
        return [(job, folder / name) for job, name in zip(jobs, found, strict=True)]


def _long_enough(name: str, length: int, there: Iterable[str]) -> str:
    """Return the file of a name: the shortest that is there and long enough, or one to be made."""
    lengths = (re.fullmatch(rf"{re.escape(name)}-(\d+)", each) for each in there)
    enough = [int(each[1]) for each in lengths if each and int(each[1]) >= length]
    return f"{name}-{min(enough, default=length)}"


@dataclass(frozen=True)
class Trial:
    """One distilled set and its evaluation under one configuration."""

    plan: Plan
    method: str
    ipc: int
    seed: int
    configuration: str

    @property
    def identity(self) -> list[Any]:
        """All that decides the distilled set."""
        base, parameters = self.plan.methods[self.method]
        entry, plain = self.plan.entry(self.method), asdict(parameters)
        code = [code_digest(*entry.modules), *self.plan.network_code(plain)]
        made_by = [base, plain, *code, *entry.reads(parameters)]
        return [self.plan.context.identity, self.method, made_by, self.ipc, self.seed]

    @property
    def name(self) -> str:
        return f"{self.method}-ipc{self.ipc}-seed{self.seed}"

    @property
    def set_path(self) -> Path:
        name = f"{self.name}-{fingerprint(self.identity)}.safetensors"
        return self.plan.folder / "distilled" / name

    @property
    def path(self) -> Path:
        evaluation = self.plan.evaluation(self.configuration)
        evaluated = [self.identity, evaluation, self.plan.settings.evaluations]
        return self.plan.folder / "trials" / f"{self.name}-{fingerprint(evaluated)}.json"


@dataclass(frozen=True)
class Result:
    """What a study found.

    trials: one row an evaluation, columns COLUMNS (fractions; cross-entropy in nats). A gap is the
    risk minus that of the seed's own network on all data: of the reference that the settings name,
    and of the same steps. references: the networks trained on all data, one row a configuration,
    seed and reference ("converged", "same_steps"), with the steps, the passes over all data and
    whether the most allowed of those ended them (capped). costs: seconds of one core of every
    trial, and the file of its set; distil_seconds are an equal share of those of the call
    that made it, prepare_seconds those of all that its method made once, for all sizes and seeds
    together.
    """

    plan: Plan
    trials: pd.DataFrame
    references: pd.DataFrame
    costs: pd.DataFrame

    @property
    def failures(self) -> pd.DataFrame:
        """The trials, and the networks trained on all data, that did not end well, and why."""
        full = self.references.assign(method="all data, " + self.references["reference"])
        everything = pd.concat([full, self.trials])
        failed = everything[everything["status"] != "ok"]
        failed = failed.astype({"k": "Int64"})  # whole numbers, though all data has no k
        columns = ["configuration", "method", "k", "seed", "status", "message"]
        return failed[columns].reset_index(drop=True)

    @property
    def augmented(self) -> "Result | None":
        """The part under the configuration that differs from the first in augmenting alone."""
        first = self.plan.first
        for name, other in self.plan.configurations.items():
            plain = replace(other, recipe=replace(other.recipe, augmentation="none"))
            if plain == first != other:
                return self.under(name)
        return None

    def under(self, configuration: str | None = None) -> "Result":
        """Return the part of this result of one configuration, by default the first."""
        name = configuration or next(iter(self.plan.configurations))
        tables = (self.trials, self.references, self.costs)
        own = [table[table["configuration"] == name].reset_index(drop=True) for table in tables]
        return Result(self.plan, *own)

    def observed(self, configuration: str) -> dict[str, np.ndarray]:
        """Return what the networks trained on all data under a configuration showed, seed by seed.

        They are those of the same steps. Arrays (S, ...) by the names of
        `probing.train_and_observe`; seeds without one are left out.
        """
        return self._observed(configuration, self.plan.seeds)

    def observed_together(self, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
        """Return what `observed` gives of some configurations, over the same seeds for all.

        The seeds are those of which no configuration lacks a network. Where that leaves fewer than
        distances need, configurations that lack a seed are left out instead.
        """
        seeds = {name: set(filter(partial(self._shown, name), self.plan.seeds)) for name in names}
        common = set.intersection(*seeds.values()) if seeds else set()
        if len(common) < NOISE_SEEDS:
            common = set(self.plan.seeds)
        kept = [name for name in names if seeds[name] >= common]
        return {name: self._observed(name, sorted(common)) for name in kept}

    def _shown(self, configuration: str, seed: int) -> bool:
        return self.plan.observed_path(configuration, seed).exists()

    def _observed(self, configuration: str, seeds: Iterable[int]) -> dict[str, np.ndarray]:
        paths = [self.plan.observed_path(configuration, seed) for seed in seeds]
        shown = [_observation(path) for path in paths if path.exists()]
        return (
            {name: np.stack([each[name] for each in shown]) for name in shown[0]} if shown else {}
        )

    def distilled(self, seed: int = 0) -> list[DistilledSet]:
        """Return the distilled sets of one seed, every method and size, that are there."""
        paths = [trial.set_path for trial in self.plan.trials if trial.seed == seed]
        return [load_distilled(path) for path in dict.fromkeys(paths) if path.exists()]


def _observation(path: Path) -> dict[str, np.ndarray]:
    with reading(path):
        return load_file(path)


def check(settings: Settings) -> dict[str, Any]:
    """Return methods, configurations and families of a study, as its `Plan` has them.

    Raises ValueError, in one sentence, for all that can be refused before data are read.
    """
    methods, configurations = read_methods(settings), read_evaluations(settings)
    check_pilot(settings.pilot, settings.k, configurations)
    families = read_sets(settings)
    data_options(settings)
    network_options(settings)
    check_precision(settings.precision, device(settings))
    return {"methods": methods, "configurations": configurations, "families": families}


def prepare(settings: Settings) -> Plan:
    """Check every parameter against the data, and return the study ready to run.

    Raises ValueError or OSError, in one sentence, before anything is computed.
    """
    read = check(settings)
    options, shape = data_options(settings), network_options(settings)
    dataset = load(**options)
    sizes = {"image_shape": dataset.image_shape, "class_count": dataset.class_count}
    networks.build(**shape, **sizes)
    for name, configuration in read["configurations"].items():
        try:
            configuration.build(**sizes)
        except ValueError as error:
            raise ValueError(
                f"the configuration {name!r} does not fit {dataset.name}: {error}"
            ) from None
    ipcs = read_ipcs(settings.k, dataset)
    if settings.reference == CONVERGED:
        hold_out(dataset.train.labels, Converged.read(settings.converged, "converged").held_out)
    folder, cache = from_root(settings.results), from_root(settings.cache)
    for place in (cache, folder):
        check_writable(place)
    digest = images_digest(dataset)
    copy = cache / "data" / f"{dataset.name}-{digest[:12]}.safetensors"
    dataset = one_copy(dataset, digest, copy)
    where = str(copy.resolve()), device(settings), settings.precision
    extensions = read_extensions(settings.extensions)
    context = work.Context(plain_text(shape), digest, *where, work.code(), extensions)
    return Plan(settings, dataset, context, **read, ipcs=ipcs, folder=folder, cache=cache)


def run(settings: Settings) -> Result:
    """Do what is missing of a study, in worker processes, and return all of it.

    Every finished trial is on disk at once; interrupt and run again to go on. A trial that
    diverged is kept as such, one that failed for another reason is tried again. One process at a
    time works in a results folder.
    """
    plan = prepare(settings)
    with alone(plan.folder):
        trials = [trial for trial in plan.trials if not is_settled(trial.path)]
        references = [each for each in plan.references if not plan.has_reference(*each)]
        if trials or references:
            with connect(settings, plan.context) as client:
                Running(plan, client).finish(trials, references)
        return collect(plan)


def collect(plan: Plan) -> Result:
    """Return the tables of what is on disk, and write them as Parquet beside it.

    With them goes `settings.json`, without what decides no number: how many work at it, and where.
    There the families are lists of their members.
    """
    references = _references(plan)
    records = [(trial, read_record(trial.path)) for trial in plan.trials if trial.path.exists()]
    trials = pd.DataFrame(
        [
            {**_described(trial), **scored}
            for trial, record in records
            for scored in _scored(record)
        ],
        columns=COLUMNS,
    )
    _measure_gaps(trials, references, plan.settings.reference)
    costs = pd.DataFrame(_costs(plan, records))
    told = asdict(replace(plan.settings, workers=None, scheduler_address=None))
    families = {name: list(family.members) for name, family in plan.families.items()}
    told["families"] = families or None
    write_atomically(plan.folder / "settings.json", plain_text(told).encode())
    for name, table in (("trials", trials), ("references", references), ("costs", costs)):
        write_atomically(plan.folder / f"{name}.parquet", table.to_parquet(index=False))
    return Result(plan, trials, references, costs)


def _references(plan: Plan) -> pd.DataFrame:
    """Return the table of the networks trained on all data."""
    labels, rows = plan.dataset.train.labels, []
    for configuration, seed, reference in plan.references:
        record = read_record(plan.reference_path(configuration, seed, reference))
        batch_size = plan.configurations[configuration].recipe.batch_size
        seen = passes(record["steps"] or math.nan, batch_size, len(labels))
        names = {"configuration": configuration, "seed": seed, "reference": reference}
        length = {"steps": record["steps"], "passes": seen, "capped": record["capped"]}
        rows += [{**names, **length, **scored} for scored in _scored(record)]
    return pd.DataFrame(rows).astype({"steps": "Int64"})


def _measure_gaps(trials: pd.DataFrame, references: pd.DataFrame, reference: str) -> None:
    """Add the gaps to trials, each from the network on all data of its configuration and seed.

    Where that network did not end well the gaps are NaN, and the message says why.
    """
    keys = ["configuration", "seed"]
    places = pd.MultiIndex.from_frame(trials[keys])
    for suffix, name in {"": reference, "_same_steps": SAME_STEPS}.items():
        own = references[references["reference"] == name].set_index(keys)
        full = own.reindex(places).reset_index(drop=True)
        for measure in ("error", "cross_entropy"):
            trials[f"gap_{measure}{suffix}"] = trials[measure] - full[measure]
        lacks = (full["status"] != "ok") & (trials["message"] == "")
        ended = full["status"] + ": " + full["message"]
        said = f"no gap to the network on all data ({name}), which " + ended
        trials["message"] = trials["message"].mask(lacks, said)


def _described(trial: Trial) -> dict[str, Any]:
    return {
        "data": trial.plan.dataset.name,
        "configuration": trial.configuration,
        "network": trial.plan.configurations[trial.configuration].network["name"],
        "method": trial.method,
        "base": trial.plan.methods[trial.method][0],
        "ipc": trial.ipc,
        "k": trial.ipc * trial.plan.dataset.class_count,
        "seed": trial.seed,
    }


def _costs(plan: Plan, records: list[tuple[Trial, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    prepared = {
        method: sum(work.read_seconds(path) or math.nan for _, path in plan.preparations(method))
        for method in plan.methods
    }
    for trial, record in records:
        yield {
            **{"configuration": trial.configuration, "method": trial.method},
            **{"ipc": trial.ipc, "seed": trial.seed},
            "set": trial.set_path.name,
            "prepare_seconds": prepared[trial.method],
            "distil_seconds": work.read_seconds(trial.set_path),
            "evaluate_seconds": record["seconds"],
        }


def _scored(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an evaluation of a record, or one row that says how it failed."""
    ending = {"status": record["status"], "message": record["message"]}
    nothing = dict.fromkeys(["accuracy", "cross_entropy", "balanced_accuracy"], math.nan)
    return [
        {"evaluation": number, **score, "error": 1 - score["accuracy"], **ending}
        for number, score in enumerate(record["scores"] or [nothing])
    ]
