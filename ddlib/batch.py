"""Every file of parameters through its notebook, several at once: `python -m ddlib.study batch`.

A run is a notebook with one file of parameters. What ended well leaves a note of all that decided
it, and is left alone until its notebook, its parameters, the library or the tables that it reads
change. A run stands or falls alone; each has a process, which ends with the batch.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import nbformat
import pandas as pd
from filelock import FileLock, Timeout
from tqdm import tqdm

from ddlib.execute import WITH_PARENT, read_file
from ddlib.extensions import read_extensions
from ddlib.files import check_writable, from_root, write_atomically
from ddlib.fingerprints import files_digest, fingerprint, library_digest, plain_text
from ddlib.running import PROGRESS
from ddlib.settings import (
    Exploration,
    Settings,
    read_evaluations,
    read_parameters,
    read_theory,
)
from ddlib.study import check

NOTE = "run.json"  # beside the executed notebook: what decided it, once it has ended well
LOOK_AGAIN = 0.3  # seconds between two looks at the processes
LOST = ("failed", "not run")
TABLES = ("trials.parquet", "references.parquet")


@dataclass(frozen=True)
class Run:
    """A notebook and a file of parameters, checked; `name` is that of the file, with its folder."""

    name: str
    notebook: Path
    parameters: Path
    settings: Settings | Exploration

    @cached_property
    def folder(self) -> Path:
        return from_root(self.settings.results)

    @property
    def page(self) -> Path:
        return self.folder / f"{self.notebook.stem}.html"

    @cached_property
    def sources(self) -> list[str]:
        """The cells of the notebook, as they are written."""
        return [cell.source for cell in nbformat.read(self.notebook, 4).cells]

    @property
    def studies(self) -> bool:
        """Whether the notebook runs a study, so has trials to count."""
        return any("study.run(" in source for source in self.sources)

    @property
    def size(self) -> int:
        """How much of the progress bar this run is: its trials, and one for the rest."""
        if not self.studies:
            return 1
        given = self.settings
        each = len(read_evaluations(given)) * given.seeds
        return 1 + each * (len(given.methods) * len(given.k) + 1)

    @property
    def inputs(self) -> list[Path]:
        """The results folders whose tables this run reads."""
        if isinstance(self.settings, Exploration):
            return [from_root(name) for name in self.settings.studies]
        return [from_root(read_theory(self.settings).coverage)] if self.settings.theory else []

    def identity(self) -> str:
        """Return a fingerprint of all that decides this run; the number of workers does not."""
        given = vars(self.settings) | {"workers": None, "scheduler_address": None}
        given["extensions"] = [each.text for each in read_extensions(given.get("extensions"))]
        tables = [files_digest(folder, TABLES) for folder in self.inputs]
        return fingerprint([self.sources, plain_text(given), library_digest(), tables])

    def is_current(self) -> bool:
        """Whether it ended well, of what decides it now, and all that it left is still there."""
        path = self.folder / NOTE
        if not path.exists():
            return False
        note = json.loads(path.read_text())
        there = all((self.folder / name).exists() for name in note["files"])
        return there and note["identity"] == self.identity()

    def failed_trials(self) -> int:
        """Return how many trials, and networks trained on all data, failed: no divergence."""
        paths = [self.folder / name for name in TABLES] if self.studies else []
        return sum(
            int((pd.read_parquet(path, columns=["status"])["status"] == "failed").sum())
            for path in paths
        )

    def write_note(self, identity: str) -> None:
        """Note that it has ended well, and what is in its folder."""
        files = sorted(path.name for path in self.folder.iterdir() if path.name[0] != ".")
        write_atomically(
            self.folder / NOTE, plain_text({"identity": identity, "files": files}).encode()
        )

    def done(self) -> int:
        """Return how many of its trials are done, as the study under way tells."""
        path = self.folder / PROGRESS
        told = json.loads(path.read_text())["done"] if path.exists() else 0
        return min(told, self.size - 1)


@dataclass
class Ending:
    """How a run of the batch ended: a row of the table at the end."""

    run: str
    status: str
    seconds: float | None = None
    message: str = ""


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
    return run


def read_all(paths: Iterable[Path]) -> tuple[list[Run], list[Ending]]:
    """Return the runs of these files, and how those ended that are refused at once."""
    runs: dict[Path, Run] = {}
    refused = []
    for path in paths:
        try:
            run = read(path)
            if run.folder in runs:
                other = runs[run.folder].name
                raise ValueError(f"its results folder is that of {other}; name another")
            runs[run.folder] = run
        except (OSError, ValueError) as error:
            name = f"{path.parent.name}/{path.stem}"
            refused.append(Ending(name, "refused", message=str(error)))
    return list(runs.values()), refused


@dataclass
class _Process:
    """A run under way."""

    run: Run
    identity: str
    lock: FileLock
    process: subprocess.Popen
    log: TextIO
    started: float


@dataclass
class Batch:
    """Runs, and how many go at once; `options` are parameters that go before those of the files."""

    runs: list[Run]
    at_once: int
    options: dict[str, Any]
    again: bool = False
    endings: list[Ending] = field(default_factory=list)
    under_way: list[_Process] = field(default_factory=list)
    waiting: list[Run] = field(default_factory=list)

    def work(self) -> list[Ending]:
        """Do all runs, with a bar over all of them; return how each ended, in the order given."""
        self.waiting = list(self.runs)
        total = sum(run.size for run in self.runs)
        live = sys.stdout.isatty()
        bar = tqdm(total=total, desc="batch", file=sys.stdout, mininterval=0.5 if live else 60)
        try:
            while self.waiting or self.under_way:
                self._start_some()
                self._end_some(bar)
                self._show(bar)
                time.sleep(LOOK_AGAIN if self.under_way or self.waiting else 0)
        finally:
            bar.close()
            for one in self.under_way:
                self._leave(one)
        order = {run.name: number for number, run in enumerate(self.runs)}
        return sorted(self.endings, key=lambda ending: order[ending.run])

    def _start_some(self) -> None:
        for run in list(self.waiting):
            if len(self.under_way) >= self.at_once:
                return
            to_come = [other for other in self.waiting if other is not run]
            to_come += [one.run for one in self.under_way]
            if any(other.folder in run.inputs for other in to_come):
                continue
            lost = {ending.run for ending in self.endings if ending.status in LOST}
            missing = [
                other.name
                for other in self.runs
                if other.folder in run.inputs and other.name in lost
            ]
            if missing:
                self.waiting.remove(run)
                message = f"it reads what {', '.join(missing)} should have left"
                self.endings.append(Ending(run.name, "not run", message=message))
            else:
                self._start(run)

    def _start(self, run: Run) -> None:
        """Start a run, unless it is current; leave it waiting while another batch is at it."""
        lock = FileLock(run.folder / ".batch.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return
        self.waiting.remove(run)
        identity = run.identity()
        if not self.again and run.is_current():
            lock.release()
            self.endings.append(Ending(run.name, "up to date"))
            return
        for name in (NOTE, PROGRESS):
            (run.folder / name).unlink(missing_ok=True)
        options = self.options if isinstance(run.settings, Settings) else {}
        given = [f"{name}={value}" for name, value in options.items()]
        log = (run.folder / f"{run.notebook.stem}.log").open("w")
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ddlib.execute",
                WITH_PARENT,
                run.notebook,
                run.parameters,
                *given,
            ],
            stdin=subprocess.PIPE,  # ends when this process does, however it dies
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.under_way.append(_Process(run, identity, lock, process, log, time.monotonic()))

    def _end_some(self, bar: tqdm) -> None:
        for one in list(self.under_way):
            if one.process.poll() is not None:
                self.under_way.remove(one)
                ending = self._judge(one)
                self._leave(one)
                self.endings.append(ending)
                tqdm.write(_line(ending, one.run), file=sys.stdout)
                bar.refresh()

    def _judge(self, one: _Process) -> Ending:
        run, seconds = one.run, round(time.monotonic() - one.started, 1)
        if one.process.returncode:
            lines = Path(one.log.name).read_text().splitlines()
            message = next((line for line in reversed(lines) if line.strip()), "it left no word")
            if one.process.returncode < 0:
                message = f"its process was killed by signal {-one.process.returncode}"
            return Ending(run.name, "failed", seconds, message)
        failed = run.failed_trials()
        if failed:
            message = f"{failed} trials failed; the page lists them, and they are tried again"
            return Ending(run.name, "incomplete", seconds, message)
        run.write_note(one.identity)
        return Ending(run.name, "done", seconds)

    def _leave(self, one: _Process) -> None:
        one.process.stdin.close()  # a process that is still there ends with it
        one.process.wait()
        one.log.close()
        one.lock.release()

    def _show(self, bar: tqdm) -> None:
        settled = {ending.run for ending in self.endings}
        done = sum(run.size for run in self.runs if run.name in settled)
        elsewhere = [] if len(self.under_way) >= self.at_once else self.waiting
        at_work = [
            f"{one.run.name} {one.run.done()}/{one.run.size - 1}"
            if one.run.studies
            else one.run.name
            for one in self.under_way
        ]
        waits = [f"waiting for {run.name}" for run in elsewhere]
        bar.set_postfix_str(", ".join(at_work + waits), refresh=False)
        bar.update(done + sum(one.run.done() for one in self.under_way) - bar.n)


def _line(ending: Ending, run: Run) -> str:
    what = f"{ending.run}: {ending.status} after {ending.seconds:.0f} s"
    return f"{what}: {ending.message or os.path.relpath(run.page)}"


def table(endings: list[Ending]) -> str:
    """Return the endings as a table to print: run, status, seconds, message."""
    rows = pd.DataFrame(endings)
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
    """Return the arguments of `python -m ddlib.study batch`; exit with the usage for others."""
    parser = argparse.ArgumentParser(prog="python -m ddlib.study", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="batch")
    batch = commands.add_parser("batch", help="run files of parameters, several at once")
    batch.add_argument("paths", nargs="+", type=Path, help="YAML files, or folders of them")
    batch.add_argument("--workers", type=_count, help="processes in all; default: one a core")
    batch.add_argument("--at-once", type=_count, help="notebooks at once; default: one a worker")
    batch.add_argument("--scheduler-address", help="a Dask cluster to use: tcp://host:8786")
    batch.add_argument("--again", action="store_true", help="run what is up to date, too")
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
    workers = given.workers or os.cpu_count() or 1
    at_once = min(given.at_once or workers, len(runs)) or 1
    options = {"workers": max(1, workers // at_once)}
    if given.scheduler_address:
        options = {"scheduler_address": given.scheduler_address}
    try:
        endings = Batch(runs, at_once, options, given.again).work()
    except KeyboardInterrupt:
        sys.exit("stopped; what is finished is kept: the same command goes on from there")
    print(table(endings + refused))
    bad = [ending for ending in endings + refused if ending.status not in ("done", "up to date")]
    if bad:
        sys.exit(f"{len(bad)} of {len(endings + refused)} runs did not end well")
