"""Every file of parameters through its notebook, several at once: `python -m ddlib.batch`.

A run is a notebook with one file of parameters. What ended well leaves a note of all that decided
it, and is left alone until its notebook, its parameters, the library, or the tables and images that
it reads change. A run stands or falls alone; each has a process, which ends with the batch.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from threading import Lock, Thread
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from tqdm import tqdm

from ddlib import cluster
from ddlib.execute import WITH_PARENT, read_file
from ddlib.files import NOTE, PROGRESS, check_writable, explained, from_root
from ddlib.fingerprints import library_digest
from ddlib.runs import Run
from ddlib.settings import Exploration, Settings, read_parameters
from ddlib.study import check

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


def read(path: Path) -> Run:
    """Return the run of a file of parameters, whose folder has the name of its notebook.

    Raises ValueError or OSError, in one sentence, for a file that no notebook takes, and for all
    that can be refused before data are read.
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
        check(settings)
    run = Run(name, notebooks[path.parent.name], path, settings)
    check_writable(run.folder)
    _ = run.size, run.inputs  # which read the notebook, and what it reads
    return run


def read_all(paths: Iterable[Path]) -> tuple[list[Run], list[Ending]]:
    """Return the runs of these files, and how those ended that are refused at once."""
    runs: dict[Path, Run] = {}
    refused = []
    for path in paths:
        try:
            run = read(path)
            if there := runs.get(run.folder):
                raise ValueError(f"its results folder is that of {there.name}; name another")
            runs[run.folder] = run
        except (OSError, ValueError) as error:
            name = f"{path.parent.name}/{path.stem}"
            refused.append(Ending(name, "refused", None, str(error), _folder(path)))
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
class Batch:
    """Runs, of which as many go at once as there are workers.

    workers: processes that runs on the CPU share whose files leave it open; scheduler_address: a
    cluster to use instead, whatever the files say; endings: of all that have ended, at the start
    those that were refused. Raises ValueError for runs that read each other's tables.
    """

    runs: list[Run]
    workers: int
    scheduler_address: str | None = None
    endings: list[Ending] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at_once = min(self.workers, len(self.runs)) or 1
        self.library = library_digest()
        self.environment = dict(os.environ)  # Dask changes it for the workers that it starts
        self.address: str | None = None  # of the processes that runs share, once one needs them
        self.kept = ExitStack()  # them
        self.checking, self.card = Lock(), Lock()  # extensions are of the process
        self.under_way: dict[Path, subprocess.Popen] = {}  # by results folder
        self.stopped = False
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
        pool = ThreadPoolExecutor(self.at_once)
        turns: dict[Future[Ending | None], Run] = {}
        try:
            while self.order.is_active():
                ready = set(self.order.get_ready())
                turns |= {
                    pool.submit(self._do, run): run for run in self.runs if run.folder in ready
                }
                for turn in wait(turns, LOOK_AGAIN, FIRST_COMPLETED).done:
                    run, ending = turns.pop(turn), turn.result()
                    if ending:
                        self._end(run, ending, bar)
                    else:  # after all that wait
                        turns[pool.submit(self._do, run)] = run
                self._show(bar, list(turns.values()))
        finally:
            bar.close()
            self.stopped = True
            for process in list(self.under_way.values()):
                process.stdin.close()  # a process that is still there ends with it
            pool.shutdown(cancel_futures=True)
            self.kept.close()
        places = {folder: number for number, folder in enumerate(self.by_folder)}
        return sorted(self.endings, key=lambda ending: places.get(ending.folder, len(places)))

    def _do(self, run: Run) -> Ending | None:
        """Return how a run ended; None, a moment later, where it is not its turn."""
        lost = [e.run for e in self.endings if e.status in LOST and e.folder in run.inputs]
        if lost:
            message = f"it reads what {', '.join(lost)} should have left"
            return Ending(run.name, "not run", None, message, run.folder)
        started = time.monotonic()
        try:
            with ExitStack() as held:
                held.enter_context(FileLock(run.folder / ".batch.lock").acquire(timeout=0))
                if run.on_card and not self.scheduler_address:
                    if not self.card.acquire(blocking=False):
                        raise Timeout("the accelerator")
                    held.callback(self.card.release)
                with self.checking:
                    identity = run.identity()
                if run.is_current(identity):
                    return Ending(run.name, "up to date", folder=run.folder)
                status, message = self._run(run, identity)
        except Timeout:
            time.sleep(LOOK_AGAIN)
            return None
        except OSError as error:
            status, message = "failed", str(explained(error, run.folder))
        except ValueError as error:
            status, message = "failed", str(error)
        return Ending(run.name, status, time.monotonic() - started, message, run.folder)

    def _run(self, run: Run, identity: str) -> tuple[str, str]:
        """Do a run in a process of its own; return its status, and what there is to say."""
        for name in (NOTE, PROGRESS):
            (run.folder / name).unlink(missing_ok=True)
        options, variables = self._place(run)
        given = [f"{name}={value}" for name, value in options.items()]
        log = (run.folder / f"{run.notebook.stem}.log").open("wb", buffering=0)
        checked = [run.settings.results, identity]
        command = [sys.executable, "-m", "ddlib.execute", WITH_PARENT, *checked]
        process = self.under_way[run.folder] = subprocess.Popen(
            [*command, run.notebook, run.parameters, *given],
            env=self.environment | variables,
            stdin=subprocess.PIPE,  # ends when this process does, however it dies
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        last = bytearray()
        listener = Thread(target=_listen, args=(process.stdout, log, last), daemon=True)
        listener.start()
        if self.stopped:
            process.stdin.close()
        code = process.wait()
        process.stdin.close()
        listener.join(PATIENCE)
        if code < 0:
            return "failed", f"its process was killed by signal {-code}"
        if code:
            lines = last.decode(errors="replace").splitlines()
            return "failed", next(filter(str.strip, reversed(lines)), "it left no word")
        failed = run.failed_trials()
        if failed:
            many = f"{failed} trials failed; the page lists them, and they are tried again"
            return "incomplete", many
        return "done", ""

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
        own = given.workers or given.scheduler_address or run.on_card
        if own or self.environment.get(cluster.ADDRESS):
            return {}, {}  # it knows where, or will look there
        if library_digest() != self.library:
            return {"workers": max(1, self.workers // self.at_once)}, {}
        with self.checking:
            if self.address is None:
                self.address = self.kept.enter_context(cluster.processes(self.workers))
        return {}, {cluster.ADDRESS: self.address}

    def _end(self, run: Run, ending: Ending, bar: tqdm) -> None:
        self.under_way.pop(run.folder, None)
        self.endings.append(ending)
        self.order.done(run.folder)
        if ending.seconds is not None:
            what = f"{ending.run}: {ending.status} after {ending.seconds:.0f} s"
            tqdm.write(f"{what}: {ending.message or os.path.relpath(run.page)}", file=sys.stdout)
            bar.refresh()

    def _show(self, bar: tqdm, left: list[Run]) -> None:
        at_work = [run for run in left if run.folder in self.under_way]
        waiting = [run for run in left if run.folder not in self.under_way]
        told = [
            f"{run.name} {run.done()}/{run.size - 1}" if run.studies else run.name
            for run in at_work
        ]
        if len(at_work) < self.at_once:
            told += [f"waiting for {run.name}" for run in waiting]
        bar.set_postfix_str(", ".join(told), refresh=False)
        settled = [self.by_folder[e.folder] for e in self.endings if e.folder in self.by_folder]
        done = sum(run.size for run in settled) + sum(run.done() for run in at_work)
        bar.update(done - bar.n)


def _listen(pipe: BinaryIO, log: BinaryIO, last: bytearray) -> None:
    """Keep what a process says in its log, and the last of it in `last`: the disk may be full."""
    with suppress(OSError), log, pipe:
        while said := pipe.read1():
            last += said
            del last[:-LAST]
            with suppress(OSError):
                log.write(said)


def table(endings: list[Ending]) -> str:
    """Return the endings as a table to print: run, status, seconds, message."""
    rows = [("run", "status", "seconds", "message")]
    for each in endings:
        seconds = "" if each.seconds is None else f"{each.seconds:.0f}"
        rows.append((each.run, each.status, seconds, " ".join(each.message.split())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(" ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the arguments of `python -m ddlib.batch`; exit with the usage for others."""
    parser = argparse.ArgumentParser(prog="python -m ddlib.batch", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="YAML files, or folders of them")
    parser.add_argument(
        "--workers",
        type=_count,
        default=os.cpu_count() or 1,
        help="notebooks at once, and processes for files that leave it open; default: one a core",
    )
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
        runs, refused = read_all(find(given.paths))
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    for ending in refused:
        print(f"{ending.run}: refused: {ending.message}", flush=True)
    try:
        endings = Batch(runs, given.workers, given.scheduler_address, refused).work()
    except ValueError as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        sys.exit("stopped; what is finished is kept: the same command goes on from there")
    print(table(endings))
    bad = [ending for ending in endings if ending.status not in ("done", "up to date")]
    if bad:
        sys.exit(f"{len(bad)} of {len(endings)} runs did not end well")


if __name__ == "__main__":
    main(sys.argv[1:])
