"""A study under way: what waits for what, what other processes are making, and what is done."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout
from tqdm import tqdm

from ddlib.distilled import DistilledSet, check_set, load_distilled
from ddlib.files import PROGRESS, read_json, write_atomically
from ddlib.fingerprints import plain_text
from ddlib.study import jobs as work
from ddlib.study.settings import SAME_STEPS
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import Score
from ddlib.training.together import at_once

if TYPE_CHECKING:
    from distributed import Client, Future

    from ddlib.study.study import Plan, Trial

T = TypeVar("T")
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
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is at work in {folder}; waiting for it to end", flush=True)
        held = lock.acquire()
    with held:
        yield


class JobError(Exception):
    """A job failed, and takes with it what waits for it; its cause is what the job raised."""


class Running:
    """The jobs of a plan that are under way; what waits for them are coroutines in Dask's loop.

    All that jobs make comes back through their results and is written here. What studies share,
    files of the cache, is made by one process at a time: it holds a lock of the file's name, and
    others look again until the file is there.
    """

    def __init__(self, plan: "Plan", client: "Client"):
        self.plan, self.client = plan, client
        # Reads, packs and writes sets, in the order that is asked for: the loop is Dask's, whose
        # connections wait for it.
        self.hand = ThreadPoolExecutor(1)
        # One after another, for a set may be large: those on their way there, and those back.
        self.leaving, self.arriving = asyncio.Semaphore(1), asyncio.Semaphore(1)
        self.making: dict[Path, asyncio.Future[None]] = {}
        self.distilling: dict[Path, asyncio.Task[dict[int, BaseException]]] = {}
        self.seeds_at_once: dict[tuple[str, int], int] = {}

    def finish(self, trials: list["Trial"], references: list[tuple[str, int, str]]) -> None:
        """Do these trials and networks trained on all data; return when none is left."""
        from distributed.comm import CommClosedError

        self.total = len(self.plan.trials) + len(self.plan.references)
        self.done = self.total - len(trials) - len(references)
        shown = {"desc": "trials", "file": sys.stdout, "ncols": 90}
        with tqdm(total=self.total, initial=self.done, **shown) as self.bar:
            everything = self._finish(trials, references)
            loop = self.client.loop.asyncio_loop  # a notebook's own is at work
            working = asyncio.run_coroutine_threadsafe(everything, loop)
            try:
                working.result()
            except CommClosedError as error:
                raise ConnectionError(GONE) from error
            finally:
                working.cancel()
                self.hand.shutdown(wait=False, cancel_futures=True)
        if self.done < self.total:
            raise ConnectionError(GONE)

    async def _finish(self, trials: list["Trial"], references: list[tuple[str, int, str]]) -> None:
        groups: dict[Any, list[Trial]] = {}
        for trial in trials:
            groups.setdefault(self._group(trial), []).append(trial)
        missing = {trial.set_path: trial for trial in trials if not trial.set_path.exists()}
        try:
            async with asyncio.TaskGroup() as tasks:
                for each in references:
                    tasks.create_task(self._train_reference(*each))
                for group in groups.values():
                    tasks.create_task(self._evaluate(group))
                for job in _jobs(missing.values()):
                    task = tasks.create_task(self._distil(job))
                    self.distilling |= {trial.set_path: task for trial in job}
            # Files that nobody here waits for, since another of their method's failed.
            await asyncio.gather(*self.making.values(), return_exceptions=True)
        except BaseExceptionGroup as several:
            error = several.exceptions[0]
            raise error from error.__cause__
        finally:
            for one in self.making.values():
                one.cancel()

    async def _aside(self, do: Callable[..., T], *given: Any, **named: Any) -> T:
        """Return what a call returns that may take long, made beside the loop."""
        call = partial(do, *given, **named)
        return await asyncio.get_running_loop().run_in_executor(self.hand, call)

    async def _submit(self, *call: Any, priority: int = 0) -> "Future":
        """Hand a job to the workers."""
        return await self._aside(self.client.submit, *call, pure=False, priority=priority)

    async def _result(self, future: "Future") -> Any:
        """Return the result of a job once it has ended; JobError if it failed."""
        error = await future.exception()
        if future.cancelled():
            raise ConnectionError(GONE)
        if isinstance(error, work.UnfitWorkerError):
            # The scheduler would give it every job that it is quick to fail.
            raise ValueError(f"{error}, or stop it; what is finished is kept")
        if error is not None:
            raise JobError from error
        async with self.arriving:
            return await future

    # What studies share.

    @asynccontextmanager
    async def _claimed(self, path: Path) -> AsyncIterator[None]:
        """Hold the name of a file of the cache, once no other process does, which may make it."""
        folder = self.plan.cache / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{path.name}.lock")
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                await asyncio.sleep(LOOK_AGAIN)
        try:
            yield
        finally:
            # Who opens the lock's file at this moment, and holds it once it has no name, looks for
            # `path` before any work, and finds it.
            if path.exists():
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def _made(self, path: Path, *job: Any) -> "asyncio.Future[None]":
        """Return what ends once a file of the cache is there, with JobError if it cannot be made.

        job: the call that returns its content and seconds.
        """
        if path not in self.making:
            self.making[path] = asyncio.ensure_future(self._make(path, job))
        return self.making[path]

    async def _make(self, path: Path, job: tuple[Any, ...]) -> None:
        if path.exists():
            return
        self.bar.total += 1
        try:
            async with self._claimed(path):
                if not path.exists():
                    handed = await self._submit(*job, priority=2)
                    content, seconds = await self._result(handed)
                    work.write_seconds(path, seconds)
                    write_atomically(path, content)
        finally:
            self.bar.update()

    async def _pretrained(self, name: str) -> None:
        """Wait for the pretrained body that a configuration starts from, if it does."""
        path = self.plan.pretrained_path(name)
        if path is not None:
            chosen = self.plan.configurations[name]
            await self._made(path, work.pretrain, self.plan.context, chosen)

    def _body(self, name: str) -> Path | None:
        path = self.plan.pretrained_path(name)
        return path and path.resolve()

    # Networks trained on all data.

    async def _train_reference(self, name: str, seed: int, reference: str) -> None:
        await self._settle_reference(name, seed, reference)
        self._advance()

    async def _settle_reference(self, name: str, seed: int, reference: str) -> None:
        plan, length = self.plan, {"steps": None, "capped": False}
        path = plan.reference_path(name, seed, reference)
        async with self._claimed(path):
            if not plan.has_reference(name, seed, reference):
                try:
                    length = await self._length(name, reference)
                    record = await self._reference(name, seed, reference, length["steps"])
                except JobError as failed:
                    record = failure(failed.__cause__)
                write_record(path, record | length)

    async def _length(self, name: str, reference: str) -> dict[str, Any]:
        """Return the steps of a reference, and whether the most that may be taken ended them."""
        plan, chosen = self.plan, self.plan.configurations[name]
        if reference == SAME_STEPS:
            return {"steps": chosen.recipe.steps, "capped": False}
        await self._pretrained(name)
        job = work.find_length, plan.context, chosen, self._body(name), plan.converged
        await self._made(plan.length_path(name), *job)
        length = read_json(plan.length_path(name), names=("steps", "capped"))
        return {key: length[key] for key in ("steps", "capped")}

    async def _reference(self, name: str, seed: int, reference: str, steps: int) -> dict[str, Any]:
        """Return the record of a network trained on all data for so many steps."""
        plan, chosen = self.plan, self.plan.configurations[name]
        if reference != SAME_STEPS and steps == chosen.recipe.steps:  # the same training
            await self._settle_reference(name, seed, SAME_STEPS)
            return read_record(plan.reference_path(name, seed, SAME_STEPS))
        await self._pretrained(name)
        longer = chosen.replace(steps=steps)
        probe = plan.settings.probe if reference == SAME_STEPS else 0
        job = work.reference, plan.context, longer, seed, self._body(name), probe
        score, observed = await self._result(await self._submit(*job))
        if observed:
            write_atomically(plan.observed_path(name, seed), observed)
        return success([score])

    # Trials.

    async def _distil(self, job: list["Trial"]) -> dict[int, BaseException]:
        """Distil and save the sets of one call; return why, by ipc, there are some that failed."""
        plan, first, ipcs = self.plan, job[0], [trial.ipc for trial in job]
        base, parameters = plan.methods[first.method]
        prepared = plan.preparations(first.method)
        asked = [
            self._made(path, work.prepare, plan.context, base, one)
            for one, path in prepared
            if not path.exists()  # or large sets would come after small ones that need no files
        ]
        try:
            await asyncio.gather(*asked)
            files = [path.resolve() for _, path in prepared]
            call = work.distil, plan.context, base, parameters.model_dump(), ipcs, first.seed, files
            outcomes, seconds = await self._result(await self._submit(*call))
        except JobError as failed:
            return dict.fromkeys(ipcs, failed.__cause__)
        failed = {}
        for trial in job:
            outcome = outcomes[trial.ipc]
            if isinstance(outcome, Exception):
                failed[trial.ipc] = outcome
            else:
                work.write_seconds(trial.set_path, seconds / len(job))
                await self._aside(replace(outcome, method=trial.method).save, trial.set_path)
        return failed

    async def _evaluate(self, group: list["Trial"]) -> None:
        """Evaluate trials together, once all have a set that did not fail before."""
        ready = [trial for trial in group if await self._is_ready(trial)]
        trials, sets, jobs = [], [], []
        async with self.leaving:
            for trial in ready:
                try:
                    sets.append(await self._aside(self._load, trial))
                    trials.append(trial)
                except ValueError as error:
                    self._save_failure(trial, error)
            if trials:
                jobs = await self._train_on(trials, sets)
            del sets  # Dask has copies
        if trials:
            await self._save_scores(trials, jobs)

    def _load(self, trial: "Trial") -> DistilledSet:
        """Return the set of a trial; ValueError if its file holds another one."""
        synthetic = load_distilled(trial.set_path)
        try:
            check_set(synthetic, self.plan.dataset, trial.method, trial.ipc, trial.seed)
        except ValueError as error:
            raise ValueError(
                f"{trial.set_path} is not the set of its name: {error}; delete it, and run again"
            ) from error
        return synthetic

    async def _is_ready(self, trial: "Trial") -> bool:
        """Wait for what an evaluation needs; return whether it is there, or else fail the trial."""
        task = self.distilling.get(trial.set_path)
        error = (await task).get(trial.ipc) if task else None
        if error is None:
            try:
                await self._pretrained(trial.configuration)
                return True
            except JobError as failed:
                error = failed.__cause__
        self._save_failure(trial, error)
        return False

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
        network = chosen.build(shape, classes)
        networks = at_once(network, ipc * classes, shape, chosen.recipe, plan.context.device)
        return max(1, networks // plan.settings.evaluations)

    async def _train_on(self, trials: list["Trial"], sets: list[DistilledSet]) -> list["Future"]:
        """Hand the training on sets of one size to the workers."""
        # Not scattered: a worker that dies would take its scattered sets with it. Evaluations go
        # before sets that are still to be distilled: done is done.
        plan, name = self.plan, trials[0].configuration
        seeds = [trial.seed for trial in trials]
        job = work.evaluate, plan.context, sets, plan.configurations[name], seeds
        numbers = list(range(plan.settings.evaluations))
        alone = plan.context.device == "cpu"  # an accelerator trains all of them together
        parts = [[number] for number in numbers] if alone else [numbers]
        body = self._body(name)
        return [await self._submit(*job, part, body, priority=1) for part in parts]

    async def _save_scores(self, trials: list["Trial"], jobs: list["Future"]) -> None:
        try:
            ended = await asyncio.gather(*map(self._result, jobs))
            outcomes, seconds = zip(*ended, strict=True)
        except JobError as failed:
            for trial in trials:
                self._save_failure(trial, failed.__cause__)
            return
        each = sum(seconds) / len(trials)
        for trial, *found in zip(trials, *outcomes, strict=True):
            errors = [one for one in found if isinstance(one, DivergedError)]
            if errors:
                self._save_failure(trial, errors[0])
            else:
                self._save(trial, {**success(itertools.chain(*found)), "seconds": each})

    def _save_failure(self, trial: "Trial", error: BaseException) -> None:
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


def _jobs(trials: Iterable["Trial"]) -> Iterable[list["Trial"]]:
    """Group trials into calls: all sizes of a method that shares work over them, else one each.

    Large sizes come first, so that the last calls to end are short ones.
    """
    calls: dict[Any, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: -trial.ipc):
        size = 0 if trial.plan.entry(trial.method).shares else trial.ipc
        calls.setdefault((trial.method, trial.seed, size), []).append(trial)
    return [calls[call] for call in sorted(calls, key=lambda call: call[-1] > 0)]


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
    """Return the record in a file of `write_record`; ValueError, with its path, if it is broken."""
    return read_json(path, names=("status", "message", "scores"))


def is_settled(path: Path) -> bool:
    """Whether a record is there that stands."""
    return path.exists() and read_record(path)["status"] != "failed"
