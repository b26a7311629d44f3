"""A grid of trials (method x ipc x seed) -> worker processes -> one tidy table, resumable.

A trial is plain data with a fingerprint of all that decides its result. What is finished is a
file named by that fingerprint, written atomically, so that a rerun only does what is missing.
"""

import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
from distributed import Client, Future, LocalCluster, as_completed
from safetensors.numpy import load_file
from tqdm import tqdm

from ddlib import data, networks, work
from ddlib.configurations import Configuration, Family
from ddlib.distilled import DistilledSet, load_distilled
from ddlib.extensions import network_code, read_extensions, use
from ddlib.files import check_writable, from_root, write_atomically
from ddlib.fingerprints import code_digest, fingerprint, images_digest, plain_text
from ddlib.methods import METHODS, Method
from ddlib.parameters import Parameters
from ddlib.settings import (
    Settings,
    check_pilot,
    check_values,
    data_options,
    network_options,
    read_device,
    read_evaluations,
    read_ipcs,
    read_methods,
    read_sets,
)
from ddlib.training import DivergedError, Recipe, Score

# Dask has workers give freed memory back at once, and a tensor's pages are then faulted in anew at
# every step: half of the processor's time went there.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
DASK = {
    # Distilled sets travel to the workers with their jobs; Dask warns above 10 MB.
    "distributed.admin.large-graph-warning-threshold": "1GB",
    "distributed.nanny.pre-spawn-environ": KEEP_MEMORY,
}

COLUMNS = [
    *("data", "configuration", "network", "method", "base", "ipc", "k", "seed", "evaluation"),
    *("accuracy", "error", "cross_entropy", "gap_error", "gap_cross_entropy"),
    *("status", "message"),
]


@dataclass(frozen=True)
class Plan:
    """A study that has passed every check: its data set, what to run, and where results go."""

    settings: Settings
    dataset: data.DataSet
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
    def recipe(self) -> Recipe:
        """How the networks of the first configuration, the study's own, are trained."""
        return next(iter(self.configurations.values())).recipe

    @property
    def network(self) -> dict[str, Any]:
        """The network of the first configuration, its name and options."""
        return dict(next(iter(self.configurations.values())).network)

    @property
    def references(self) -> list[tuple[str, int]]:
        """Configuration and seed of every network to train on all data."""
        return [(name, seed) for name in self.configurations for seed in self.seeds]

    def evaluation(self, configuration: str) -> list[Any]:
        """All that decides how a network is trained and scored."""
        plain = asdict(self.configurations[configuration])
        return [plain, code_digest("ddlib.configurations"), *self.network_code(plain)]

    def network_code(self, plain: Any) -> list[str]:
        """Digests of the code of the networks of one's own that plain data names."""
        return network_code(self.context.extensions, plain_text(plain))

    def entry(self, method: str) -> Method:
        """The registered method behind the name that it has in this study."""
        use(self.context.extensions)  # another study may have been read since
        return METHODS[self.methods[method][0]]

    def reference_path(self, configuration: str, seed: int) -> Path:
        """The full-data reference of `seed`, shared by all studies with this cache."""
        identity = [self.context.identity, self.evaluation(configuration), seed]
        name = f"{self.dataset.name}-seed{seed}-{fingerprint(identity)}.json"
        return self.cache / "references" / name

    def reference_paths(self, configuration: str, seed: int) -> tuple[Path, Path]:
        """The files of a reference: its score, and what it showed on the probe images."""
        return self.reference_path(configuration, seed), self.observed_path(configuration, seed)

    def has_reference(self, configuration: str, seed: int) -> bool:
        """Whether a reference is settled: it diverged, or ended and left what it showed."""
        path, observed = self.reference_paths(configuration, seed)
        return _is_settled(path) and (observed.exists() or _read(path)["status"] == "diverged")

    def observed_path(self, configuration: str, seed: int) -> Path:
        """What the full-data reference showed; see `ddlib.probing.train_and_observe`."""
        made = [self.settings.probe, code_digest("ddlib.probing")]
        identity = [self.reference_path(configuration, seed).stem, made]
        name = f"{self.dataset.name}-seed{seed}-{fingerprint(identity)}.safetensors"
        return self.cache / "observed" / name

    def pretrained_path(self, configuration: str) -> Path | None:
        """The pretrained body that a configuration starts from; None where it has none."""
        chosen = self.configurations[configuration]
        if not chosen.pretrained:
            return None
        plain = [chosen.network, chosen.initialisation, asdict(chosen.pretraining)]
        code = code_digest("ddlib.configurations")
        images = [self.context.digest, self.context.device]
        identity = [*images, plain, code, *self.network_code(plain)]
        name = f"{chosen.initialisation}-{self.dataset.name}-{fingerprint(identity)}.safetensors"
        return self.cache / "pretrained" / name

    def preparations(self, method: str) -> list[tuple[dict[str, Any], Path]]:
        """What `method` makes once for all sizes and seeds: jobs, and the files they fill."""
        base, parameters = self.methods[method]
        entry, folder = self.entry(method), self.cache / "prepared"
        jobs = entry.preparation.jobs(parameters) if entry.preparation else []
        of_network = not entry.preparation or entry.preparation.of_network
        context = self.context if of_network else replace(self.context, network="any")
        identity = [context.identity, code_digest(entry.module), *self.network_code(jobs)]
        names = [f"{base}-{self.dataset.name}-{fingerprint([*identity, job])}" for job in jobs]
        return [(job, folder / name) for job, name in zip(jobs, names, strict=True)]


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
        code = [code_digest(entry.module), *self.plan.network_code(plain)]
        made_by = [base, plain, *code, *entry.outside(parameters)]
        return [self.plan.context.identity, self.method, made_by, self.ipc, self.seed]

    @property
    def name(self) -> str:
        return f"{self.method}-ipc{self.ipc}-seed{self.seed}"

    @property
    def shares(self) -> bool:
        """Whether one call distils all sizes."""
        return self.plan.entry(self.method).shares

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

    trials: one row an evaluation, columns COLUMNS (fractions; cross-entropy in nats); references:
    the networks trained on all data, one row a seed and configuration; costs: seconds of one core
    of every trial; prepare_seconds are those of all that its method made once, for all sizes and
    seeds together.
    """

    plan: Plan
    trials: pd.DataFrame
    references: pd.DataFrame
    costs: pd.DataFrame

    @property
    def failures(self) -> pd.DataFrame:
        """The trials, and the networks trained on all data, that did not end well, and why."""
        everything = pd.concat([self.references.assign(method="all data"), self.trials])
        failed = everything[everything["status"] != "ok"]
        failed = failed.astype({"k": "Int64"})  # whole numbers, though all data has no k
        columns = ["configuration", "method", "k", "seed", "status", "message"]
        return failed[columns].reset_index(drop=True)

    @property
    def sound(self) -> list[str]:
        """The configurations whose networks trained on all data ended well, every seed."""
        ended = (self.references["status"] == "ok").groupby(self.references["configuration"]).all()
        return [name for name in self.plan.configurations if ended[name]]

    @property
    def families(self) -> dict[str, Family]:
        """The plan's families, of `sound` configurations alone; one without any is left out."""
        sound, left = self.sound, {}
        for name, family in self.plan.families.items():
            members = tuple(member for member in family.members if member in sound)
            if members:
                left[name] = replace(family, members=members)
        return left

    @property
    def augmented(self) -> "Result | None":
        """The part under the configuration that differs from the first in augmenting alone."""
        (_, first), *rest = self.plan.configurations.items()
        for name, other in rest:
            plain = replace(other, recipe=replace(other.recipe, augmentation="none"))
            if first.recipe.augmentation == "none" and plain == first:
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

        Arrays (S, ...) by the names of `probing.train_and_observe`; seeds without one are left out.
        """
        paths = [self.plan.observed_path(configuration, seed) for seed in self.plan.seeds]
        shown = [load_file(path) for path in paths if path.exists()]
        return (
            {name: np.stack([each[name] for each in shown]) for name in shown[0]} if shown else {}
        )

    def distilled(self, seed: int = 0) -> list[DistilledSet]:
        """Return the distilled sets of one seed, every method and size, that are there."""
        paths = [trial.set_path for trial in self.plan.trials if trial.seed == seed]
        return [load_distilled(path) for path in dict.fromkeys(paths) if path.exists()]


def prepare(settings: Settings) -> Plan:
    """Check every parameter against the data, and return the study ready to run.

    Raises ValueError or OSError, in one sentence, before anything is computed.
    """
    check_values(settings)
    extensions = read_extensions(settings.extensions)
    methods = read_methods(settings)
    configurations = read_evaluations(settings)
    check_pilot(settings.pilot, settings.k, configurations)
    families = read_sets(settings)
    options, shape = data_options(settings), network_options(settings)
    device = read_device(settings.device)
    dataset = data.load(**options)
    texts = plain_text(options), plain_text(shape)
    context = work.Context(*texts, images_digest(dataset), device, extensions)
    networks.build(**shape, image_shape=dataset.image_shape, class_count=dataset.class_count)
    for name, configuration in configurations.items():
        _check_fits(name, configuration, dataset)
    ipcs = read_ipcs(settings.k, dataset)
    folder, cache = from_root(settings.results), from_root(settings.cache)
    check_writable(cache)
    write_atomically(folder / "settings.json", _json(asdict(settings)))
    places = ipcs, folder, cache
    return Plan(settings, dataset, context, configurations, families, methods, *places)


def _check_fits(name: str, configuration: Configuration, dataset: data.DataSet) -> None:
    try:
        configuration.build(dataset.image_shape, dataset.class_count)
    except ValueError as error:
        raise ValueError(
            f"the configuration {name!r} does not fit {dataset.name}: {error}"
        ) from None


def run(settings: Settings) -> Result:
    """Do what is missing of a study, in worker processes, and return all of it.

    Every finished trial is on disk at once; interrupt and run again to go on. A trial that
    diverged is kept as such, one that failed for another reason is tried again.
    """
    plan = prepare(settings)
    trials = [trial for trial in plan.trials if not _is_settled(trial.path)]
    references = [pair for pair in plan.references if not plan.has_reference(*pair)]
    if trials or references:
        with _client(settings) as client:
            _Run(plan, client, trials, references).finish()
    return collect(plan)


def collect(plan: Plan) -> Result:
    """Return the tables of what is on disk, and write them as Parquet beside it."""
    references = pd.DataFrame(
        {"configuration": configuration, "seed": seed, **scored}
        for configuration, seed in plan.references
        for scored in _scored(_read(plan.reference_path(configuration, seed)))
    )
    records = [(trial, _read(trial.path)) for trial in plan.trials if trial.path.exists()]
    trials = pd.DataFrame(
        [
            {**_described(trial), **scored}
            for trial, record in records
            for scored in _scored(record)
        ],
        columns=COLUMNS,
    )
    for measure in ("error", "cross_entropy"):
        full = references.groupby("configuration")[measure].mean()
        trials[f"gap_{measure}"] = trials[measure] - trials["configuration"].map(full)
    costs = pd.DataFrame(_costs(plan, records))
    for name, table in (("trials", trials), ("references", references), ("costs", costs)):
        write_atomically(plan.folder / f"{name}.parquet", table.to_parquet(index=False))
    return Result(plan, trials, references, costs)


class _Run:
    """The trials under way: what each future stands for, and the bar that counts them."""

    def __init__(
        self, plan: Plan, client: Client, trials: list[Trial], references: list[tuple[str, int]]
    ):
        self.plan, self.client = plan, client
        self.waiting: dict[Future, Callable[[Future], None]] = {}
        count = len(trials) + len(references)
        self.bar = tqdm(total=count, desc="trials", file=sys.stdout, ncols=90)
        self.queue = as_completed([])
        self.making: dict[Path, Future] = {}
        for name, seed in references:
            paths, start = plan.reference_paths(name, seed), self._start(name)
            self._submit(
                lambda future, paths=paths: self._save_reference(*paths, future),
                *(work.reference, plan.context, plan.configurations[name], seed, start),
                plan.settings.probe,
            )
        self.wanted: dict[Path, list[Trial]] = {}
        for trial in trials:
            self.wanted.setdefault(trial.set_path, []).append(trial)
        for path, evaluations in self.wanted.items():
            if path.exists():
                self._evaluate(evaluations, load_distilled(path))
        missing = [each[0] for path, each in self.wanted.items() if not path.exists()]
        for job in _jobs(missing):
            first = job[0]
            base, parameters = plan.methods[first.method]
            self._submit(
                lambda future, job=job: self._save_sets(job, future),
                *(work.distil, plan.context, base, asdict(parameters)),
                *([trial.ipc for trial in job], first.seed, self._prepare(first.method)),
            )

    def finish(self) -> None:
        """Take results as they come until none is left."""
        with self.bar:
            for future in self.queue:
                self.waiting.pop(future)(future)

    def _submit(self, then: Callable[[Future], None], *call: Any, priority: int = 0) -> Future:
        future = self.client.submit(*call, pure=False, priority=priority)
        self.waiting[future] = then
        self.queue.add(future)
        return future

    def _prepare(self, method: str) -> list[Path | Future]:
        """Return the files that `method` works from; what is missing is being made.

        A job that fails fails the trials that wait for it, and is tried again with them.
        """
        base = self.plan.methods[method][0]
        return [
            self._make(path, work.prepare, self.plan.context, base, job, path)
            for job, path in self.plan.preparations(method)
        ]

    def _start(self, name: str) -> Path | Future | None:
        """Return the file that holds the pretrained weights of a configuration, if it has any."""
        path = self.plan.pretrained_path(name)
        if path is None:
            return None
        configuration = self.plan.configurations[name]
        return self._make(path, work.pretrain, self.plan.context, configuration, path)

    def _make(self, path: Path, *call: Any) -> Path | Future:
        """Return `path`, or what will be it: a file that several trials wait for is made once."""
        if path.exists():
            return path
        if path not in self.making:
            self.bar.total += 1
            self.making[path] = self._submit(lambda _: self.bar.update(), *call, priority=2)
        return self.making[path]

    def _evaluate(self, trials: list[Trial], synthetic: DistilledSet) -> None:
        # Not scattered: a worker that dies would take its scattered sets with it. Evaluations go
        # before sets that are still to be distilled: done is done.
        for trial in trials:
            configuration = self.plan.configurations[trial.configuration]
            job = (work.evaluate, self.plan.context, synthetic, configuration, trial.seed)
            start = self._start(trial.configuration)
            networks_trained = [
                self.client.submit(*job, number, start, pure=False, priority=1)
                for number in range(self.plan.settings.evaluations)
            ]
            self._submit(
                lambda future, trial=trial: self._save_trial(trial, future),
                *(list, networks_trained),
                priority=1,
            )

    def _save_sets(self, job: list[Trial], future: Future) -> None:
        if future.exception() is not None:
            for one in job:
                self._save_failures(one.set_path, future.exception())
            return
        outcomes, seconds = future.result()
        for one in job:
            outcome, path = outcomes[one.ipc], one.set_path
            if isinstance(outcome, DivergedError):
                self._save_failures(path, outcome)
            else:
                work.write_seconds(path, seconds / len(job))
                named = replace(outcome, method=one.method)
                named.save(path)
                self._evaluate(self.wanted[path], named)

    def _save_failures(self, set_path: Path, error: BaseException) -> None:
        for trial in self.wanted[set_path]:
            self._save_failure(trial, error)

    def _save_trial(self, trial: Trial, future: Future) -> None:
        if future.exception() is not None:
            self._save_failure(trial, future.exception())
            return
        scores, seconds = zip(*future.result(), strict=True)
        self._save(trial, {**_success(scores), "seconds": sum(seconds)})

    def _save_failure(self, trial: Trial, error: BaseException) -> None:
        self._save(trial, {**_failure(error), "seconds": None})

    def _save(self, trial: Trial, record: dict[str, Any]) -> None:
        write_atomically(trial.path, _json(record))
        self.bar.update()

    def _save_reference(self, path: Path, observed_path: Path, future: Future) -> None:
        error = future.exception()
        if error:
            record = _failure(error)
        else:
            score, observed = future.result()
            write_atomically(observed_path, observed)
            record = _success([score])
        write_atomically(path, _json(record))
        self.bar.update()


def _success(scores: Iterable[Score]) -> dict[str, Any]:
    return {"status": "ok", "message": "", "scores": [asdict(score) for score in scores]}


def _failure(error: BaseException) -> dict[str, Any]:
    diverged = isinstance(error, DivergedError)
    message = str(error) if diverged else f"{type(error).__name__}: {error}"
    return {"status": "diverged" if diverged else "failed", "message": message, "scores": []}


def _jobs(trials: list[Trial]) -> Iterator[list[Trial]]:
    """Group trials into calls: all sizes of a method that shares work over them, else one each.

    Large sizes come first, so that the last calls to end are short ones.
    """
    shared: dict[tuple[str, int], list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: -trial.ipc):
        if trial.shares:
            shared.setdefault((trial.method, trial.seed), []).append(trial)
    yield from shared.values()
    for trial in sorted(trials, key=lambda trial: -trial.ipc):
        if not trial.shares:
            yield [trial]


@contextmanager
def _client(settings: Settings) -> Iterator[Client]:
    """Give a client of the named scheduler, or of one-thread worker processes on this machine."""
    if settings.scheduler_address is not None:
        try:
            client = Client(settings.scheduler_address, timeout="20s")
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no Dask workers answer at scheduler_address={settings.scheduler_address!r}; "
                "start one, or leave the parameter out to work on this machine"
            ) from error
        with client:
            yield client
        return
    dask.config.set(DASK)
    cluster = LocalCluster(
        n_workers=settings.workers,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=logging.ERROR,  # a worker slow to leave is no news
    )
    with cluster, Client(cluster) as client:
        yield client


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
            "prepare_seconds": prepared[trial.method],
            "distil_seconds": work.read_seconds(trial.set_path),
            "evaluate_seconds": record["seconds"],
        }


def _scored(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an evaluation of a record, or one row that says how it failed."""
    ending = {"status": record["status"], "message": record["message"]}
    nothing = {"accuracy": math.nan, "cross_entropy": math.nan}
    return [
        {"evaluation": number, **score, "error": 1 - score["accuracy"], **ending}
        for number, score in enumerate(record["scores"] or [nothing])
    ]


def _is_settled(path: Path) -> bool:
    return path.exists() and _read(path)["status"] != "failed"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _json(plain: Any) -> bytes:
    return plain_text(plain).encode()
