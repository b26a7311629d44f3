"""A Dask scheduler and workers, real processes on loopback, and a method that holds them up."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distributed import LocalCluster
from mounts import run_with

import ddlib

ROOT = Path(ddlib.__file__).parents[1]
DASK = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker"]
HOLDING = """
import os
import time
from contextlib import suppress
from pathlib import Path

from ddlib.methods import METHODS, Method, selection


def distil(dataset, network, ipc, seed, parameters):
    hold = Path({hold!r})
    with suppress(FileNotFoundError, FileExistsError), (hold / "held").open("x") as told:
        print(os.getpid(), file=told, flush=True)
        while hold.exists():
            time.sleep(0.05)
    return selection.random(dataset, network, [ipc], seed, parameters)[ipc]


METHODS[{name!r}] = Method(distil, selection.RandomSelection)
"""


def write_holding(path: Path, hold: Path) -> Path:
    """Write a file that brings a method of its own name.

    Where the folder `hold` is there, its first trial does not end before that is removed.
    """
    path.write_text(HOLDING.format(hold=str(hold), name=path.stem))
    return path


def heed_interrupts() -> None:
    """Let a new process end on Ctrl-C, as one does that a terminal starts.

    A shell without job control starts background processes that ignore SIGINT, and so do all their
    children: Python then raises no KeyboardInterrupt.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def held(hold: Path) -> int:
    """Return the process that is in the midst of that trial, once it is."""
    told, end = hold / "held", time.monotonic() + 120
    while not (told.exists() and told.read_text().endswith("\n")):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return int(told.read_text())


@contextmanager
def in_process(threads: int = 1) -> Iterator[str]:
    """Keep a scheduler and a worker that are threads of this process; give their address."""
    with LocalCluster(
        n_workers=1,
        threads_per_worker=threads,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as local:
        yield local.scheduler_address


@dataclass
class Cluster:
    """A scheduler on loopback, and its workers: processes that know nothing of each other."""

    address: str
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen] = field(default_factory=list)

    def add(self, hidden: Path | None = None, library: Path = ROOT, threads: int = 1) -> None:
        """Start a worker with the ddlib of `library`, to whom `hidden` is an empty folder."""
        command = [*WORKER, self.address, f"--nthreads={threads}", "--no-nanny", "--no-dashboard"]
        if hidden:
            hidden.mkdir(parents=True, exist_ok=True)
            command = run_with(f"mount -t tmpfs none {hidden}", command)
        process = subprocess.Popen(
            [*command, "--host=127.0.0.1"],
            cwd=library,  # goes before what is installed
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.workers.append(process)


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """Start a scheduler, which says its address in a file of `folder`; end all at the end."""
    told = folder / "scheduler.json"
    scheduler = subprocess.Popen(
        [*DASK, "--host=127.0.0.1", "--port=0", f"--scheduler-file={told}", "--no-dashboard"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    started = Cluster("", scheduler)
    try:
        while not (told.exists() and told.read_text().strip().endswith("}")):
            assert scheduler.poll() is None
            time.sleep(0.05)
        started.address = json.loads(told.read_text())["address"]
        yield started
    finally:
        for process in [*started.workers, scheduler]:
            process.kill()
            process.wait()
