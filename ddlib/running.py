"""A study under way: what waits for what, what other processes are making, and what is done."""

import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from ddlib import work
from ddlib.cluster import Workers
from ddlib.distilled import DistilledSet, load_distilled
from ddlib.files import PROGRESS, write_atomically
from ddlib.fingerprints import plain_text
from ddlib.networks import build
from ddlib.training import DivergedError, Score, at_once

if TYPE_CHECKING:
    from distributed import Future

    from ddlib.study import Plan, Trial

Go, Fail = Callable[[], None], Callable[[BaseException], None]
GONE = "the Dask scheduler went away; what is finished is kept: start it, and run again"
LOOK_AGAIN = 1.0  # seconds between two looks at what another process is making


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a results folder; whoever comes second says so and waits until the first has ended.

    A process that dies, however, holds nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is at work in {folder}; waiting for it to end", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Running:
    """The jobs of a plan that are under way: what each future stands for, and what waits for it.

    All that jobs make comes back through their results and is written here, so that workers may
    be anywhere. What studies share, files of the cache, is made by one process at a time: it holds
    a lock of the file's name, and others look again until the file is there.
    """

    def __init__(self, plan: "Plan", workers: Workers):
        from distributed import as_completed  # see `ddlib.cluster`

        self.plan, self.client, self.sees_cache = plan, workers.client, workers.sees_cache
        self.under_way: dict[Future, Callable[[Future], None]] = {}
        self.queue = as_completed([], loop=self.client.loop)
        self.held: dict[Path, FileLock] = {}
        self.elsewhere: list[tuple[Path, Callable[[], bool], Go, Go]] = []
        self.waiting: dict[Path, list[tuple[Go, Fail]]] = {}
        self.given: dict[Path, Future] = {}
        self.wanted: dict[Path, list[Trial]] = {}
        self.expected: Counter[Any] = Counter()  # trials to evaluate in one job, by `_group`
        self.seeds_at_once: dict[tuple[str, int], int] = {}
        self.ready: dict[Any, list[tuple[Trial, DistilledSet]]] = {}

    def finish(self, trials: list["Trial"], references: list[tuple[str, int]]) -> None:
        """Do these trials and networks trained on all data; return when none is left."""
        from distributed.comm import CommClosedError

        self.total = len(self.plan.trials) + len(self.plan.references)
        self.done = self.total - len(trials) - len(references)
        shown = {"desc": "trials", "file": sys.stdout, "ncols": 90}
        self.bar = tqdm(total=self.total, initial=self.done, **shown)
        try:
            with self.bar:
                self._start(trials, references)
                while self.under_way or self.elsewhere:
                    for future in self._ended():
                        self._take(future)
        except CommClosedError as error:
            raise ConnectionError(GONE) from error
        finally:
            for lock in self.held.values():
                lock.release()

    def _start(self, trials: list["Trial"], references: list[tuple[str, int]]) -> None:
        for name, seed in references:
            there = partial(self.plan.has_reference, name, seed)
            path = self.plan.reference_path(name, seed)
            self._claim(path, there, partial(self._train_reference, name, seed), self._advance)
        self.expected.update(map(self._group, trials))
        for trial in trials:
            self.wanted.setdefault(trial.set_path, []).append(trial)
        for path, evaluations in self.wanted.items():
            if path.exists():
                self._evaluate(evaluations, load_distilled(path))
        missing = [each[0] for path, each in self.wanted.items() if not path.exists()]
        for job in _jobs(missing):
            method = job[0].method
            files = dict(self._prepared(method))
            self._when(files, partial(self._distil, job, files), partial(self._fail_sets, job))

    def _ended(self) -> Iterable["Future"]:
        """Return the jobs that ended since; look at what other processes make where some do."""
        if not self.elsewhere:
            return [next(self.queue)]
        time.sleep(LOOK_AGAIN)
        looked, self.elsewhere = self.elsewhere, []
        for claim in looked:
            self._claim(*claim)
        return self.queue.next_batch(block=False) if self.under_way else []

    def _take(self, future: "Future") -> None:
        then = self.under_way.pop(future)
        if future.cancelled():
            raise ConnectionError(GONE)
        if isinstance(future.exception(), work.UnfitWorkerError):
            # The scheduler would give it every job that it is quick to fail.
            raise ValueError(f"{future.exception()}, or stop it; what is finished is kept")
        then(future)

    def _submit(self, then: Callable[["Future"], None], *call: Any, priority: int = 0) -> None:
        future = self.client.submit(*call, pure=False, priority=priority)
        self.under_way[future] = then
        self.queue.add(future)

    # What studies share.

    def _claim(
        self,
        path: Path,
        there: Callable[[], bool],
        start: Go,
        ended: Go,
    ) -> None:
        """Call `start`, which makes `path`, or `ended` when it is `there`, made by another."""
        folder = self.plan.cache / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{path.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.elsewhere.append((path, there, start, ended))
            return
        self.held[path] = lock
        if there():
            self._release(path)
            ended()
            return
        start()

    def _release(self, path: Path) -> None:
        # Who opens the lock's file at this moment, and holds it once it has no name, looks for
        # `path` before any work, and finds it.
        lock = self.held.pop(path)
        if path.exists():
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()

    def _when(
        self,
        files: dict[Path, tuple[Any, ...]],
        go: Go,
        fail: Fail,
    ) -> None:
        """Call `go` once all `files` are there, or `fail` if one cannot be made.

        files: the call of a job that returns its content and seconds, by path.
        """
        missing = [path for path in files if not path.exists()]
        if not missing:
            go()
            return
        first, asked = missing[0], [path for path in missing if path not in self.waiting]
        for path in asked:
            self.waiting[path] = []
        self.waiting[first].append((partial(self._when, files, go, fail), fail))
        for path in asked:
            self.bar.total += 1
            start = partial(self._submit, partial(self._save_file, path), *files[path], priority=2)
            self._claim(path, path.exists, start, partial(self._go_on, path))

    def _save_file(self, path: Path, future: "Future") -> None:
        error = future.exception()
        if error is None:
            content, seconds = future.result()
            work.write_seconds(path, seconds)
            write_atomically(path, content)
        self._release(path)
        if error is None:
            self._go_on(path)
            return
        self.bar.update()
        for _, fail in self.waiting.pop(path):
            fail(error)

    def _go_on(self, path: Path) -> None:
        self.bar.update()
        for go, _ in self.waiting.pop(path):
            go()

    def _give(self, path: Path) -> "Path | Future":
        """Return what hands the file to a job: its path, or its content to who does not see it."""
        if self.sees_cache:
            return path.resolve()
        if path not in self.given:
            content = path.read_bytes()
            self.given[path] = self.client.submit(work.pass_on, content, pure=False, priority=2)
        return self.given[path]

    def _prepared(self, method: str) -> Iterator[tuple[Path, tuple[Any, ...]]]:
        base = self.plan.methods[method][0]
        for job, path in self.plan.preparations(method):
            yield path, (work.prepare, self.plan.context, base, job)

    def _pretrained(self, name: str) -> dict[Path, tuple[Any, ...]]:
        path = self.plan.pretrained_path(name)
        call = work.pretrain, self.plan.context, self.plan.configurations[name]
        return {} if path is None else {path: call}

    def _body(self, name: str) -> "Path | Future | None":
        path = self.plan.pretrained_path(name)
        return None if path is None else self._give(path)

    # Networks trained on all data.

    def _train_reference(self, name: str, seed: int) -> None:
        def save(future: "Future") -> None:
            error = future.exception()
            self._save_reference(name, seed, error or future.result())

        def go() -> None:
            plan = self.plan
            job = work.reference, plan.context, plan.configurations[name], seed
            self._submit(save, *job, self._body(name), plan.settings.probe)

        self._when(self._pretrained(name), go, partial(self._save_reference, name, seed))

    def _save_reference(
        self, name: str, seed: int, outcome: BaseException | tuple[Score, bytes]
    ) -> None:
        path, observed_path = self.plan.reference_paths(name, seed)
        if isinstance(outcome, BaseException):
            record = failure(outcome)
        else:
            score, observed = outcome
            write_atomically(observed_path, observed)
            record = success([score])
        write_record(path, record)
        self._release(path)
        self._advance()

    # Trials.

    def _distil(self, job: list["Trial"], files: Iterable[Path]) -> None:
        first = job[0]
        base, parameters = self.plan.methods[first.method]
        self._submit(
            partial(self._save_sets, job),
            *(work.distil, self.plan.context, base, asdict(parameters)),
            *([trial.ipc for trial in job], first.seed, [self._give(path) for path in files]),
        )

    def _save_sets(self, job: list["Trial"], future: "Future") -> None:
        if future.exception() is not None:
            self._fail_sets(job, future.exception())
            return
        outcomes, seconds = future.result()
        for one in job:
            outcome, path = outcomes[one.ipc], one.set_path
            if isinstance(outcome, DivergedError):
                self._fail_sets([one], outcome)
            else:
                work.write_seconds(path, seconds / len(job))
                named = replace(outcome, method=one.method)
                named.save(path)
                self._evaluate(self.wanted[path], named)

    def _fail_sets(self, job: list["Trial"], error: BaseException) -> None:
        for one in job:
            for trial in self.wanted[one.set_path]:
                self._lose(trial, error)

    def _evaluate(self, trials: list["Trial"], synthetic: DistilledSet) -> None:
        for trial in trials:
            go = partial(self._add, trial, synthetic)
            files = self._pretrained(trial.configuration)
            self._when(files, go, partial(self._lose, trial))

    def _group(self, trial: "Trial") -> Any:
        """Return what trials of one job have in common: on a processor each has its own."""
        if self.plan.context.device == "cpu":
            return trial.path
        kind = trial.configuration, trial.ipc
        if kind not in self.seeds_at_once:
            self.seeds_at_once[kind] = self._seeds_at_once(*kind)
        return trial.method, *kind, trial.seed // self.seeds_at_once[kind]

    def _seeds_at_once(self, configuration: str, ipc: int) -> int:
        """Return of how many seeds' sets an accelerator trains all evaluations at once."""
        plan, chosen = self.plan, self.plan.configurations[configuration]
        shape, classes = plan.dataset.image_shape, plan.dataset.class_count
        network = build(**chosen.network, image_shape=shape, class_count=classes)
        networks = at_once(network, ipc * classes, shape, chosen.recipe, plan.context.device)
        return max(1, networks // plan.settings.evaluations)

    def _add(self, trial: "Trial", synthetic: DistilledSet) -> None:
        group = self._group(trial)
        self.ready.setdefault(group, []).append((trial, synthetic))
        self._start_group(group)

    def _lose(self, trial: "Trial", error: BaseException) -> None:
        self._fail_trial(trial, error)
        group = self._group(trial)
        self.expected[group] -= 1
        self._start_group(group)

    def _start_group(self, group: Any) -> None:
        """Evaluate a group of trials once all are there that did not fail before."""
        ready = self.ready.get(group, [])
        if not ready or len(ready) < self.expected[group]:
            return
        del self.ready[group]
        by_shape: dict[Any, list[tuple[Trial, DistilledSet]]] = {}  # of which one may be a method's
        for trial, synthetic in sorted(ready, key=lambda one: one[0].seed):
            by_shape.setdefault(synthetic.images.shape, []).append((trial, synthetic))
        for own in by_shape.values():
            self._train_on([trial for trial, _ in own], [synthetic for _, synthetic in own])

    def _train_on(self, trials: list["Trial"], sets: list[DistilledSet]) -> None:
        # Not scattered: a worker that dies would take its scattered sets with it. Evaluations go
        # before sets that are still to be distilled: done is done.
        plan, name = self.plan, trials[0].configuration
        seeds = [trial.seed for trial in trials]
        job = work.evaluate, plan.context, sets, plan.configurations[name], seeds
        numbers = list(range(plan.settings.evaluations))
        alone = plan.context.device == "cpu"  # an accelerator trains all of them together
        networks_trained = [
            self.client.submit(*job, some, self._body(name), pure=False, priority=1)
            for some in ([[number] for number in numbers] if alone else [numbers])
        ]
        self._submit(partial(self._save_trials, trials), list, networks_trained, priority=1)

    def _save_trials(self, trials: list["Trial"], future: "Future") -> None:
        if future.exception() is not None:
            for trial in trials:
                self._fail_trial(trial, future.exception())
            return
        outcomes, seconds = zip(*future.result(), strict=True)
        each = sum(seconds) / len(trials)
        for trial, *found in zip(trials, *outcomes, strict=True):
            errors = [one for one in found if isinstance(one, DivergedError)]
            if errors:
                self._fail_trial(trial, errors[0])
            else:
                self._save(trial, {**success(itertools.chain(*found)), "seconds": each})

    def _fail_trial(self, trial: "Trial", error: BaseException) -> None:
        self._save(trial, {**failure(error), "seconds": None})

    def _save(self, trial: "Trial", record: dict[str, Any]) -> None:
        write_record(trial.path, record)
        self._advance()

    def _advance(self) -> None:
        """Count a trial or a network trained on all data; the bar alone counts what they need."""
        self.bar.update()
        self.done += 1
        state = {"done": self.done, "total": self.total}
        write_atomically(self.plan.folder / PROGRESS, plain_text(state).encode())


def _jobs(trials: list["Trial"]) -> Iterator[list["Trial"]]:
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


# Records: how a trial or a network trained on all data ended.


def success(scores: Iterable[Score]) -> dict[str, Any]:
    """Return the record of scores, one an evaluation."""
    return {"status": "ok", "message": "", "scores": [asdict(score) for score in scores]}


def failure(error: BaseException) -> dict[str, Any]:
    """Return the record of what diverged, which stands, or failed, which is tried again."""
    diverged = isinstance(error, DivergedError)
    message = str(error) if diverged else f"{type(error).__name__}: {error}"
    return {"status": "diverged" if diverged else "failed", "message": message, "scores": []}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, whole or not at all."""
    write_atomically(path, plain_text(record).encode())


def read_record(path: Path) -> dict[str, Any]:
    """Return the record in a file of `write_record`."""
    return json.loads(path.read_text())


def is_settled(path: Path) -> bool:
    """Whether a record is there that stands."""
    return path.exists() and read_record(path)["status"] != "failed"
