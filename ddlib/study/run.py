"""Run a study: submit its jobs to Dask, and write a record when a trial ends.

A job gets the futures of the jobs that it depends on as arguments. So if a job fails, Dask cancels
only the jobs that depend on it.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distributed import Client, Future, as_completed, wait
from tqdm import tqdm

from ddlib.files import PROVENANCE
from ddlib.methods import METHODS
from ddlib.study import jobs, store
from ddlib.study.cluster import check_main_guard, connect
from ddlib.study.plan import Plan, Reference, Trial, check_folder, make_plan
from ddlib.study.provenance import machine, write_provenance
from ddlib.study.results import Result, collect
from ddlib.study.settings import CONVERGED, Settings
from ddlib.study.worker import UnfitWorkerError
from ddlib.training.divergence import DivergedError
from ddlib.training.together import at_once
from ddlib.words.text import listed

GONE = "the Dask scheduler went away; what is finished is kept: start it, and run again"


def run(settings: Settings) -> Result:
    """Run the trials of a study that are missing, in worker processes, and return all results.

    Each finished trial is written at once, so an interrupted study continues when it is run again.
    A trial that diverged keeps that record; a trial that failed for another reason is tried again.
    A second process that uses the same results folder waits. The tables show this run; if the last
    one had other methods, sizes or the like, this is printed.
    """
    check_main_guard()
    plan = make_plan(settings)
    with store.alone(plan.folder):
        if changed := check_folder(plan.settings):  # again: another process may have written
            print(
                f"the last run in {settings.results} had other {listed(changed)}: its "
                "trials are kept, and the tables will show this run",
                flush=True,
            )
        trials, references = missing(plan)
        machines, to_do = [], len(trials) + len(references)
        if to_do:
            print(counts(plan), flush=True)
            done = len(plan.trials) + len(plan.references) - to_do
            machines = compute(plan, trials, references, done)
        result = collect(plan)
        # It is missing if the run that finished all trials was stopped.
        if to_do or not (plan.folder / PROVENANCE).exists():
            write_provenance(result, machines)
        return result


def missing(plan: Plan) -> tuple[list[Trial], list[Reference]]:
    """Return the trials and the networks on all data that are still to be computed."""
    trials = [trial for trial in plan.trials if not store.stands(trial.path)]
    return trials, [full for full in plan.references if not store.stands(full.path, full.observed)]


def counts(plan: Plan) -> str:
    """Say how many trials and networks on all data a study has, and how many are cached."""
    trials, references = map(len, missing(plan))
    return (
        f"{len(plan.trials)} trials, {len(plan.trials) - trials} of them cached; "
        f"{len(plan.references)} networks on all data, {len(plan.references) - references} of them "
        "cached"
    )


def compute(
    plan: Plan, trials: Sequence[Trial], references: Sequence[Reference], done: int = 0
) -> list[dict[str, Any]]:
    """Compute trials and networks on all data, write their records, and return workers' machines.

    done: the number that is cached, for the progress bar. The caller holds the lock of the folder.
    """
    with connect(plan.settings, plan.context) as client:
        machines = list(client.run(machine).values())
        graph = Graph(plan, client)
        ends: dict[Future, Sequence[Trial | Reference]] = {
            graph.reference(wanted): [wanted] for wanted in references
        }
        ends |= graph.evaluations(trials)
        total = done + len(trials) + len(references)
        with tqdm(total=total, initial=done, desc="trials", file=sys.stdout, ncols=90) as bar:
            for future in as_completed(list(ends)):
                targets = ends[future]
                for target, record in zip(targets, _records(future, targets), strict=True):
                    if record:
                        store.write_record(target.path, record)
                bar.update(len(targets))
        wait(list(graph.files.values()))  # some remain if a job that needed them failed
    return machines


def _records(future: Future, targets: Sequence[Trial | Reference]) -> Sequence[Any]:
    """Return the record of each target of a job; None if the job has written it itself."""
    if future.cancelled():
        raise ConnectionError(GONE)
    error = future.exception()
    if isinstance(error, UnfitWorkerError):  # it would fail all other jobs too
        raise error
    if error is not None:
        record = store.failure(error)
        if isinstance(error, DivergedError):  # the job itself records a network that diverges
            record["message"] = f"a teacher or a prepared file that it needs: {error}"
        return [record] * len(targets)
    return [None] if isinstance(targets[0], Reference) else future.result()


class Graph:
    """The jobs of a plan, each submitted with the futures of the jobs that it depends on."""

    def __init__(self, plan: Plan, client: Client):
        self.plan, self.client = plan, client
        self.files: dict[Path, Future] = {}  # the jobs that make files of the cache

    def submit(self, job: Any, *arguments: Any, priority: int = 0) -> Future:
        """Submit a job; jobs of higher priority run first."""
        options = {"pure": False, "priority": priority}
        return self.client.submit(job, self.plan.context, *arguments, **options)

    def file(self, path: Path | None, job: Any, *arguments: Any) -> Path | Future | None:
        """Return a file of the cache if it exists, and else the future of the job that makes it."""
        if path is None or path.exists():
            return path
        if path not in self.files:
            self.files[path] = self.submit(job, *arguments, path, priority=2)
        return self.files[path]

    def weights(self, configuration: str) -> tuple[Path | Future | None, Path | Future | None]:
        """Return the files of a configuration's pretrained body and teacher; see `jobs.Weights`."""
        plan, chosen = self.plan, self.plan.configurations[configuration]
        body = self.file(plan.pretrained_path(configuration), jobs.pretrain, chosen)
        return body, self.file(plan.teacher_path(configuration), jobs.teach, chosen.teacher)

    def reference(self, wanted: Reference) -> Future:
        """Submit the training of a network on all data."""
        name, plan = wanted.configuration, self.plan
        chosen, weights, length = plan.configurations[name], self.weights(name), None
        if wanted.kind == CONVERGED and chosen.takes_steps:
            search = jobs.find_length, chosen, weights, plan.settings.converged
            length = self.file(plan.length_path(name), *search)
        return self.submit(jobs.reference, wanted, chosen, weights, length, plan.settings.probe)

    def sets(self, trials: Iterable[Trial]) -> dict[Path, Future]:
        """Submit the jobs that make the missing sets; return the job of each set.

        Methods that share work between sizes make all sizes in one job, and run first. Large sets
        run before small ones, so that the last jobs are short.
        """
        missing = {trial.set_path: trial for trial in trials if not trial.set_path.exists()}
        shares = {name: METHODS[base].shares for name, (base, _) in self.plan.methods.items()}
        calls: dict[Any, list[Trial]] = {}
        for trial in sorted(missing.values(), key=lambda t: (not shares[t.method], -t.ipc)):
            size = None if shares[trial.method] else trial.ipc
            calls.setdefault((trial.method, trial.seed, size), []).append(trial)
        sets = {}
        for (method, *_), call in calls.items():
            base, parameters = self.plan.methods[method]
            preparations = self.plan.preparations(method)
            prepared = [self.file(path, jobs.prepare, base, plain) for plain, path in preparations]
            future = self.submit(jobs.distil, base, parameters.model_dump(), call, prepared)
            sets |= {trial.set_path: future for trial in call}
        return sets

    def evaluations(self, trials: Sequence[Trial]) -> dict[Future, list[Trial]]:
        """Submit the evaluations of trials; return the jobs and the trials of each."""
        sets, groups, ends = self.sets(trials), {}, {}
        for trial in trials:
            seeds = self.seeds_at_once(trial.configuration, trial.ipc)
            group = trial.configuration, trial.method, trial.ipc, trial.seed // seeds
            groups.setdefault(group, []).append(trial)
        for (name, *_), group in groups.items():
            failed = [sets[trial.set_path] for trial in group if trial.set_path in sets]
            chosen, count = self.plan.configurations[name], self.plan.settings.evaluations
            arguments = group, count, chosen, self.weights(name), failed
            ends[self.submit(jobs.evaluate, *arguments, priority=1)] = group
        return ends

    def seeds_at_once(self, configuration: str, ipc: int) -> int:
        """Return for how many seeds a GPU trains the networks at the same time."""
        plan, chosen = self.plan, self.plan.configurations[configuration]
        if plan.context.device == "cpu" or not chosen.takes_steps:
            return 1
        shape, classes = plan.dataset.sample_shape, plan.dataset.class_count
        network = chosen.build(shape, classes)
        networks = at_once(network, ipc * classes, shape, chosen.recipe, plan.context.device)
        return max(1, networks // plan.settings.evaluations)
