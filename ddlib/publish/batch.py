"""Every file of parameters through its notebook, several at once: `python -m ddlib.publish.batch`.

A run is a notebook with one file of parameters. Every notebook is run; trials that are finished are
not, so a second batch goes on where the first stopped. A run stands or falls alone; each has a
process, which ends with the batch.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from ddlib.files import PROGRESS, check_writable, explained, from_root
from ddlib.fingerprints import library_digest
from ddlib.parameters import read_file
from ddlib.publish.execute import WITH_PARENT
from ddlib.publish.runs import Run
from ddlib.study import cluster
from ddlib.study.settings import Exploration, Settings, read_parameters
from ddlib.study.study import check

LOOK_AGAIN = 0.3  # seconds between two looks at the processes
LAST = 4000  # bytes of what a process said, to find its last sentence in
PATIENCE = 5  # seconds for that to arrive; what a killed process started may keep its pipe open
LOST = ("failed", "not run", "refused")


@dataclass
class Ending:
    """How a run ended, a row of the table at the end; folder: where its results should lie."""

    run: str
    status: str
    seconds: float | None = None
    message: str = ""
    folder: Path | None = None


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the YAML files that `paths` name, themselves or in folders below, each once.

    Raises FileNotFoundError for a path that is not there, ValueError where there is no such file.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}; check the path")
        files = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
        found |= dict.fromkeys(file.resolve() for file in files)
    if not found:
        raise ValueError("no .yaml file in what was given; name files of parameters, or folders")
    return list(found)


def read(path: Path, scheduler_address: str | None = None) -> Run:
    """Return the run of a file of parameters, whose folder has the name of its notebook.

    scheduler_address: a cluster to use, whatever the file says. Raises ValueError or OSError, in
    one sentence, for a file that no notebook takes, and for all that can be refused before data
    are read.
    """
    name = f"{path.parent.name}/{path.stem}"
    notebooks = {one.stem[3:]: one for one in sorted(from_root("notebooks").glob("[0-9][0-9]_*"))}
    if path.parent.name not in notebooks:
        raise ValueError(
            f"no notebook takes {name}; put the file in a folder with the name of one: "
            f"{', '.join(notebooks)}"
        )
    settings = read_parameters(read_file(path))
    if isinstance(settings, Settings):
        address = scheduler_address or settings.scheduler_address
        settings = settings.replace(scheduler_address=address)
        check(settings)
    run = Run(name, notebooks[path.parent.name], path, settings)
    check_writable(run.folder)
    _ = run.size, run.inputs  # which read the notebook, and check it
    return run


def read_all(
    paths: Iterable[Path], scheduler_address: str | None = None
) -> tuple[list[Run], list[Ending]]:
    """Return the runs of these files, and how those ended that are refused at once.

    scheduler_address: see `read`.
    """
    runs: dict[Path, Run] = {}
    refused = []
    for path in paths:
        ending = Ending(f"{path.parent.name}/{path.stem}", "refused")
        try:
            run = read(path, scheduler_address)
        except (OSError, ValueError) as error:
            refused.append(replace(ending, message=str(error), folder=_folder(path)))
            continue
        if run.folder in runs:
            message = f"its results folder is that of {runs[run.folder].name}; name another"
            refused.append(replace(ending, message=message))
        else:
            runs[run.folder] = run
    for ending in refused:
        ending.folder = None if ending.folder in runs else ending.folder
    return list(runs.values()), refused


def _folder(path: Path) -> Path | None:
    """Return the results folder that a file names, whatever else is wrong with it, if it does."""
    try:
        return from_root(read_file(path)["results"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass
class _Process:
    """A run under way."""

    run: Run
    lock: FileLock
    process: subprocess.Popen
    log: BinaryIO
    started: float
    last: bytes = b""

    def __post_init__(self) -> None:
        self.listener = Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        """Keep what the process says in its log, and the last of it here: the disk may be full."""
        with suppress(OSError), self.log, self.process.stdout as pipe:
            while said := pipe.read1():
                self.last = (self.last + said)[-LAST:]
                with suppress(OSError):
                    self.log.write(said)


@dataclass
class Batch:
    """Runs, and how many go at once.

    workers: processes that runs on the CPU share whose files leave it open; scheduler_address: a
    cluster to use instead, as the runs were read; endings: of all that have ended, at the start
    those that were refused. Raises ValueError for runs that read each other's tables.
    """

    runs: list[Run]
    at_once: int
    workers: int
    scheduler_address: str | None = None
    endings: list[Ending] = field(default_factory=list)
    under_way: list[_Process] = field(default_factory=list)
    waiting: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.library = library_digest()
        self.environment = dict(os.environ)  # Dask changes it for the workers that it starts
        self.address: str | None = None  # of the processes that runs share, once one needs them
        self.kept = ExitStack()  # them
        self.by_folder = {run.folder: run for run in self.runs}
        known = {run.folder: self.by_folder.keys() & set(run.inputs) for run in self.runs}
        self.order = TopologicalSorter(known)
        try:
            self.order.prepare()
        except CycleError as error:
            names = " reads ".join(self.by_folder[folder].name for folder in error.args[1][::-1])
            raise ValueError(f"{names}: none can go first; change what one reads") from None

    def work(self) -> list[Ending]:
        """Do all runs, with a bar over all of them; return how each ended, refused ones last."""
        total = sum(run.size for run in self.runs)
        live = sys.stdout.isatty()
        bar = tqdm(total=total, desc="batch", file=sys.stdout, mininterval=0.5 if live else 60)
        try:
            while self.order.is_active():
                ready = set(self.order.get_ready())
                self.waiting += [run for run in self.runs if run.folder in ready]
                self._start_some()
                self._end_some(bar)
                self._show(bar)
                time.sleep(LOOK_AGAIN if self.under_way or self.waiting else 0)
        finally:
            bar.close()
            for one in self.under_way:
                self._leave(one)
            self.kept.close()
        places = {folder: number for number, folder in enumerate(self.by_folder)}
        return sorted(self.endings, key=lambda ending: places.get(ending.folder, len(places)))

    def _start_some(self) -> None:
        for run in list(self.waiting):
            lost = [e.run for e in self.endings if e.status in LOST and e.folder in run.inputs]
            if lost:
                self._end(run, "not run", f"it reads what {', '.join(lost)} should have left")
            elif len(self.under_way) < self.at_once and not self._in_turn(run):
                self._start(run)

    def _in_turn(self, run: Run) -> bool:
        """Whether a run is to wait for another to leave the accelerator."""
        others = any(one.run.on_card for one in self.under_way)
        return run.on_card and others

    def _start(self, run: Run) -> None:
        """Start a run; leave it waiting while another batch is at it."""
        lock = FileLock(run.folder / ".batch.lock")
        try:
            lock.acquire(timeout=0)
            self._launch(run, lock)
        except Timeout:
            return
        except OSError as error:
            self._end(run, "failed", str(explained(error, run.folder)))
        finally:
            if not any(one.lock is lock for one in self.under_way):
                lock.release()

    def _launch(self, run: Run, lock: FileLock) -> None:
        (run.folder / PROGRESS).unlink(missing_ok=True)
        options, variables = self._place(run)
        given = [f"{name}={value}" for name, value in options.items()]
        log = (run.folder / f"{run.notebook.stem}.log").open("wb", buffering=0)
        command = [sys.executable, "-m", "ddlib.publish.execute", WITH_PARENT, run.settings.results]
        process = subprocess.Popen(
            [*command, run.notebook, run.parameters, *given],
            env=self.environment | variables,
            stdin=subprocess.PIPE,  # ends when this process does, however it dies
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.waiting.remove(run)
        self.under_way.append(_Process(run, lock, process, log, time.monotonic()))

    def _place(self, run: Run) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what says where a run's trials are done: parameters before its file's, variables.

        The processes that runs share have the library as it was when the batch began: once it has
        changed, a run has its share of processes to itself.
        """
        given = run.settings
        if isinstance(given, Exploration):
            return {}, {}
        if self.scheduler_address:
            return {"scheduler_address": self.scheduler_address}, {}
        if given.workers or given.scheduler_address or run.on_card:
            return {}, {}
        if self.environment.get(cluster.ADDRESS):
            return {}, {}  # where the run will look
        if library_digest() != self.library:
            return {"workers": max(1, self.workers // self.at_once)}, {}
        if self.address is None:
            self.address = self.kept.enter_context(cluster.processes(self.workers))
        return {}, {cluster.ADDRESS: self.address}

    def _end(
        self, run: Run, status: str, message: str = "", seconds: float | None = None
    ) -> Ending:
        if run in self.waiting:
            self.waiting.remove(run)
        self.order.done(run.folder)
        self.endings.append(Ending(run.name, status, seconds, message, run.folder))
        return self.endings[-1]

    def _end_some(self, bar: tqdm) -> None:
        for one in [one for one in self.under_way if one.process.poll() is not None]:
            seconds = round(time.monotonic() - one.started, 1)
            try:
                status, message = self._judge(one)
            except (OSError, ValueError) as error:
                status, message = "failed", str(error)
            self.under_way.remove(one)
            self._leave(one)
            ending = self._end(one.run, status, message, seconds)
            tqdm.write(_line(ending, one.run), file=sys.stdout)
            bar.refresh()

    def _judge(self, one: _Process) -> tuple[str, str]:
        """Return the status of a run whose process has ended, and what there is to say."""
        one.listener.join(PATIENCE)
        if one.process.returncode < 0:
            return "failed", f"its process was killed by signal {-one.process.returncode}"
        if one.process.returncode:
            lines = one.last.decode(errors="replace").splitlines()
            return "failed", next(filter(str.strip, reversed(lines)), "it left no word")
        failed = one.run.failed_trials()
        if failed:
            many = f"{failed} trials failed; the page lists them, and they are tried again"
            return "incomplete", many
        return "done", ""

    def _leave(self, one: _Process) -> None:
        one.process.stdin.close()  # a process that is still there ends with it
        one.process.wait()
        one.lock.release()

    def _show(self, bar: tqdm) -> None:
        under_way = [one.run for one in self.under_way]
        settled = [self.by_folder[e.folder] for e in self.endings if e.folder in self.by_folder]
        elsewhere = [] if len(under_way) >= self.at_once else self.waiting
        at_work = [
            f"{run.name} {_done(run)}/{run.size - 1}" if run.studies else run.name
            for run in under_way
        ]
        waits = [f"waiting for {run.name}" for run in elsewhere]
        bar.set_postfix_str(", ".join(at_work + waits), refresh=False)
        done = sum(run.size for run in settled) + sum(map(_done, under_way))
        bar.update(done - bar.n)


def _done(run: Run) -> int:
    """Return how many trials of a run are done; 0 while what it tells cannot be read."""
    try:
        return run.done()
    except (OSError, ValueError, TypeError):  # a bar is no reason to end other runs
        return 0


def _line(ending: Ending, run: Run) -> str:
    what = f"{ending.run}: {ending.status} after {ending.seconds:.0f} s"
    return f"{what}: {ending.message or os.path.relpath(run.page)}"


def table(endings: list[Ending]) -> str:
    """Return the endings as a table to print: run, status, seconds, message."""
    rows = pd.DataFrame(endings).drop(columns="folder")
    rows["seconds"] = [
        "" if math.isnan(seconds) else f"{seconds:.0f}" for seconds in rows["seconds"].astype(float)
    ]
    texts = [" ".join(message.split()) for message in rows["message"]]
    rows["message"] = texts
    width = max(map(len, texts))
    return rows.to_string(
        index=False, max_colwidth=None, formatters={"message": f"{{:<{width}}}".format}
    )


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the arguments of `python -m ddlib.publish.batch`; exit with the usage for others."""
    parser = argparse.ArgumentParser(prog="python -m ddlib.publish.batch", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="YAML files, or folders of them")
    parser.add_argument(
        "--workers",
        type=_count,
        help="processes in all, for files that leave it open; default: one a core",
    )
    parser.add_argument("--at-once", type=_count, help="notebooks at once; default: one a worker")
    parser.add_argument("--scheduler-address", help="a Dask cluster to use: tcp://host:8786")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes; choose 1 or more")
    return int(text)


def main(arguments: list[str]) -> None:
    """Run a batch from a shell; exit code 1 if any run did not end well."""
    given = read_arguments(arguments)
    try:
        runs, refused = read_all(find(given.paths), given.scheduler_address)
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    for ending in refused:
        print(f"{ending.run}: refused: {ending.message}", flush=True)
    workers = given.workers or os.cpu_count() or 1
    at_once = min(given.at_once or workers, len(runs)) or 1
    try:
        batch = Batch(runs, at_once, workers, given.scheduler_address, refused)
        endings = batch.work()
    except ValueError as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        sys.exit("stopped; what is finished is kept: the same command goes on from there")
    print(table(endings))
    bad = [ending for ending in endings if ending.status != "done"]
    if bad:
        sys.exit(f"{len(bad)} of {len(endings)} runs did not end well")


if __name__ == "__main__":
    main(sys.argv[1:])
