"""A Dask scheduler and workers, real processes on loopback, and a method that waits."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dask
from distributed import LocalCluster
from mounts import run_with

import ddlib
from ddlib.study.cluster import DASK as OPTIONS

ROOT = Path(ddlib.__file__).parents[1]
DASK = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker"]
HOLDING = """
import os, time
from contextlib import suppress
from pathlib import Path
from ddlib.methods import METHODS, Method, selection

def distil(dataset, network, ipc, seed, parameters):
    hold = Path({hold!r})
    with suppress(FileNotFoundError, FileExistsError), (hold / "held").open("x") as file:
        print(os.getpid(), file=file, flush=True)
        while hold.exists():
            time.sleep(0.05)
    return selection.random(dataset, network, [ipc], seed, parameters)[ipc]

METHODS[{name!r}] = Method(distil, selection.RandomSelection)
"""


def write_holding(path: Path, hold: Path) -> Path:
    """Write an extension with a method of the file's name.

    While the folder `hold` exists, the method's first trial does not end.
    """
    path.write_text(HOLDING.format(hold=str(hold), name=path.stem))
    return path


def heed_interrupts() -> None:
    """Let a new process end on Ctrl-C, like a process that was started from a terminal.

    A shell without job control makes its background processes ignore SIGINT. Their children inherit
    this, and Python then raises no KeyboardInterrupt.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def held(hold: Path) -> int:
    """Wait until a trial of that method runs; return its process id."""
    file, end = hold / "held", time.monotonic() + 120
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < end, "no trial began within two minutes"
        time.sleep(0.05)
    return int(file.read_text())


@contextmanager
def in_process(threads: int = 1) -> Iterator[str]:
    """Run a scheduler and a worker as threads of this process; yield their address."""
    places = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tcp"}
    options = {name: value for name, value in OPTIONS.items() if "preload" not in name}
    with (
        dask.config.set(options),
        LocalCluster(1, threads_per_worker=threads, processes=False, **places) as local,
    ):
        yield local.scheduler_address


@dataclass
class Cluster:
    """A scheduler on loopback and its workers, each a process."""

    address: str
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen] = field(default_factory=list)

    def add(self, hidden: Path | None = None, library: Path = ROOT) -> None:
        """Start a worker with the ddlib of `library`, which sees `hidden` as an empty folder."""
        command = [*WORKER, self.address, "--nthreads=1", "--no-nanny", "--no-dashboard"]
        if hidden:
            hidden.mkdir(parents=True, exist_ok=True)
            command = run_with(f"mount -t tmpfs none {hidden}", command)
        options = {"stderr": subprocess.DEVNULL, "start_new_session": True}
        # Python imports from the working folder first.
        process = subprocess.Popen([*command, "--host=127.0.0.1"], cwd=library, **options)
        self.workers.append(process)


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """Start a scheduler, which writes its address to a file in `folder`; end all at the end."""
    file = folder / "scheduler.json"
    words = ["--host=127.0.0.1", "--port=0", f"--scheduler-file={file}", "--no-dashboard"]
    scheduler = subprocess.Popen([*DASK, *words], cwd=ROOT, stderr=subprocess.DEVNULL)
    cluster = Cluster("", scheduler)
    try:
        while not (file.exists() and file.read_text().strip().endswith("}")):
            assert scheduler.poll() is None
            time.sleep(0.05)
        cluster.address = json.loads(file.read_text())["address"]
        yield cluster
    finally:
        for process in [*cluster.workers, scheduler]:
            process.kill()
            process.wait()
