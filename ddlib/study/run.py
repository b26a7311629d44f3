"""Run a study: hand its jobs to Dask with what they wait for, and record how each ends.

Dask holds the graph. A job takes the futures of the jobs that it depends on as arguments, so that
what fails takes with it what waits for it, and nothing else.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ddlib.study import jobs, store
from ddlib.study.cluster import check_main_guard, connect
from ddlib.study.plan import Plan, Reference, Trial, make_plan
from ddlib.study.results import Result, collect
from ddlib.study.settings import CONVERGED, SAME_STEPS, Settings
from ddlib.study.worker import UnfitWorkerError
from ddlib.training.together import at_once

if TYPE_CHECKING:
    from distributed import Client, Future

GONE = "the Dask scheduler went away; what is finished is kept: start it, and run again"


def run(settings: Settings) -> Result:
    """Do what is missing of a study, in worker processes, and return all of it.

    Every finished trial is on disk at once; interrupt and run again to go on. A trial that
    diverged is kept as such, one that failed for another reason is tried again. One process at a
    time works in a results folder.
    """
    check_main_guard()
    plan = make_plan(settings)
    with store.alone(plan.folder):
        trials = [trial for trial in plan.trials if not store.stands(trial.path)]
        references = [
            wanted for wanted in plan.references if not store.stands(wanted.path, wanted.observed)
        ]
        if trials or references:
            with connect(plan) as client:
                _finish(plan, client, trials, references)
        return collect(plan)


def _finish(
    plan: Plan, client: "Client", trials: Sequence[Trial], references: Sequence[Reference]
) -> None:
    """Submit all jobs, and record each trial once it has ended."""
    from distributed import as_completed, wait

    graph = Graph(plan, client)
    ends: dict[Future, Sequence[Trial | Reference]] = {
        graph.reference(wanted): [wanted] for wanted in references
    }
    ends |= graph.evaluations(trials)
    total = len(plan.trials) + len(plan.references)
    done = total - len(trials) - len(references)
    with tqdm(total=total, initial=done, desc="trials", file=sys.stdout, ncols=90) as bar:
        for future in as_completed(list(ends)):
            for target, record in zip(ends[future], _records(future, ends[future]), strict=True):
                if record:
                    store.write_record(target.path, record)
            bar.update(len(ends[future]))
    wait(list(graph.files.values()))  # files that nobody waits for, since another one failed


def _records(future: "Future", targets: Sequence[Trial | Reference]) -> Sequence[Any]:
    """Return how each target of a job ended, None where the job has recorded it itself."""
    if future.cancelled():
        raise ConnectionError(GONE)
    error = future.exception()
    if isinstance(error, UnfitWorkerError):  # it would fail all jobs as fast as it gets them
        raise ValueError(f"{error}, or stop it; what is finished is kept")
    if error is not None:
        return [store.failure(error)] * len(targets)
    return [None] if isinstance(targets[0], Reference) else future.result()


class Graph:
    """The jobs of a plan, each submitted with the futures of what it waits for."""

    def __init__(self, plan: Plan, client: "Client"):
        self.plan, self.client = plan, client
        self.files: dict[Path, Future] = {}  # files of the cache

    def submit(self, job: Any, *arguments: Any, priority: int = 0) -> "Future":
        """Hand a job to the workers; jobs of a higher priority go first."""
        call = job, self.plan.context, *arguments
        return self.client.submit(*call, pure=False, priority=priority)

    def file(self, path: Path | None, job: Any, *arguments: Any) -> "Path | Future | None":
        """Return a file of the cache, or the future of the job that makes it."""
        if path is None or path.exists():
            return path
        if path not in self.files:
            self.files[path] = self.submit(job, *arguments, path, priority=2)
        return self.files[path]

    def body(self, configuration: str) -> "Path | Future | None":
        """Return the pretrained body that a configuration starts from, if it has one."""
        chosen = self.plan.configurations[configuration]
        return self.file(self.plan.pretrained_path(configuration), jobs.pretrain, chosen)

    def reference(self, wanted: Reference) -> "Path | Future":
        """Return the record of a network trained on all data."""
        if wanted.path in self.files:
            return self.files[wanted.path]
        if store.stands(wanted.path, wanted.observed):
            return wanted.path
        name, plan = wanted.configuration, self.plan
        chosen, body, length, same_steps = plan.configurations[name], self.body(name), None, None
        if wanted.kind == CONVERGED:
            search = jobs.find_length, chosen, body, plan.settings.converged
            length = self.file(plan.length_path(name), *search)
            same_steps = self.reference(plan.reference(name, wanted.seed, SAME_STEPS))
        arguments = wanted, chosen, body, length, same_steps, plan.settings.probe
        self.files[wanted.path] = self.submit(jobs.reference, *arguments)
        return self.files[wanted.path]

    def sets(self, trials: Iterable[Trial]) -> "dict[Path, Future]":
        """Return the job that makes each missing set.

        Methods that share work make all sizes in one call, and go first. Large sets go before small
        ones, so that the last jobs to end are short.
        """
        missing = {trial.set_path: trial for trial in trials if not trial.set_path.exists()}
        calls: dict[Any, list[Trial]] = {}
        for trial in sorted(missing.values(), key=lambda trial: -trial.ipc):
            size = 0 if self.plan.entry(trial.method).shares else trial.ipc
            calls.setdefault((size > 0, -size, trial.method, trial.seed), []).append(trial)
        sets = {}
        for (*_, method, _), call in sorted(calls.items(), key=lambda item: item[0][:2]):
            base, parameters = self.plan.methods[method]
            preparations = self.plan.preparations(method)
            prepared = [self.file(path, jobs.prepare, base, plain) for plain, path in preparations]
            future = self.submit(jobs.distil, base, parameters, call, prepared)
            sets |= {trial.set_path: future for trial in call}
        return sets

    def evaluations(self, trials: Sequence[Trial]) -> "dict[Future, list[Trial]]":
        """Return the jobs that end with the records of trials, and the trials of each."""
        sets, groups = self.sets(trials), {}
        for trial in trials:
            seeds = self.seeds_at_once(trial.configuration, trial.ipc)
            group = trial.configuration, trial.method, trial.ipc, trial.seed // seeds
            groups.setdefault(group, []).append(trial)
        return {self.evaluation(group, sets): group for group in groups.values()}

    def evaluation(self, trials: list[Trial], sets: "dict[Path, Future]") -> "Future":
        """Submit the training of all networks on sets of one size: each is a job on a CPU."""
        name, plan = trials[0].configuration, self.plan
        numbers = list(range(plan.settings.evaluations))
        on_cpu = plan.context.device == "cpu"
        parts = [[number] for number in numbers] if on_cpu else [numbers]
        failed = [sets[trial.set_path] for trial in trials if trial.set_path in sets]
        arguments = plan.configurations[name], self.body(name), failed
        ends = [self.submit(jobs.evaluate, trials, part, *arguments, priority=1) for part in parts]
        return self.client.submit(jobs.join, ends, pure=False, priority=1)

    def seeds_at_once(self, configuration: str, ipc: int) -> int:
        """Return of how many seeds' sets a GPU trains all networks at the same time."""
        plan, chosen = self.plan, self.plan.configurations[configuration]
        if plan.context.device == "cpu":
            return 1
        shape, classes = plan.dataset.image_shape, plan.dataset.class_count
        network = chosen.build(shape, classes)
        networks = at_once(network, ipc * classes, shape, chosen.recipe, plan.context.device)
        return max(1, networks // plan.settings.evaluations)
