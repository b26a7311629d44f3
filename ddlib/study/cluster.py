"""Processes that do a study's jobs: one a core on this machine, or those of a Dask scheduler.

Dask is imported where it is used: who only reads what a study found does not wait for it to load.
"""

import ast
import asyncio
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ddlib.devices import read_device
from ddlib.study import jobs as work
from ddlib.study.settings import Settings

if TYPE_CHECKING:
    from distributed import Client
    from tornado.ioloop import IOLoop

ADDRESS = "DASK_SCHEDULER_ADDRESS"
"""The variable that names a scheduler to Dask, and here to a study that leaves it open."""

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
# What workers that are forks of one process find loaded: each by itself would take four seconds of
# a core for it, and memory of its own.
LOADED = ["distributed", "ddlib.study.forked"]
DASK = {
    # Distilled sets travel to the workers with their jobs; Dask warns above 10 MB.
    "distributed.admin.large-graph-warning-threshold": "1GB",
    "distributed.nanny.pre-spawn-environ": KEEP_MEMORY,
    # Looks at what jobs are at, for a dashboard: they took a twelfth of the jobs' time.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
    # A machine that wakes is not to take workers for dead: one that dies is missed at once.
    "distributed.scheduler.worker-ttl": None,
}


def scheduler(settings: Settings) -> str | None:
    """Return the address of the Dask scheduler whose workers do a study, None for processes here.

    The settings name it, or where they leave it open and this machine would use its CPU, the
    environment's ADDRESS.
    """
    if settings.scheduler_address is not None or settings.workers is not None:
        return settings.scheduler_address
    on_cpu = settings.device in ("auto", "cpu") and read_device(settings.device) == "cpu"
    return os.environ.get(ADDRESS) or None if on_cpu else None


def device(settings: Settings) -> str:
    """Return the device that a study computes on; "auto" is that of this machine.

    Raises ValueError for one that this machine lacks, unless other machines may do the work: each
    of their workers answers for itself (see `work.objection`).
    """
    elsewhere = settings.device != "auto" and scheduler(settings) is not None
    return settings.device if elsewhere else read_device(settings.device)


@contextmanager
def connect(settings: Settings, context: work.Context) -> Iterator["Client"]:
    """Give the client that hands jobs to workers: a scheduler's, or processes on this machine.

    Raises ValueError, in one sentence, if no worker of the scheduler answers or one is unfit;
    RuntimeError where a script that starts processes has no main guard.
    """
    from distributed import Client

    address = scheduler(settings)
    if address is not None:
        with _connected(address) as client:
            _check(client, address, settings, context)
            yield client
        return
    # Processes that share an accelerator would each hold the data in its memory.
    accelerated = context.device != "cpu"
    count = settings.workers or (max(1, torch.cuda.device_count()) if accelerated else None)
    with processes(count, accelerated) as own, Client(own, loop=event_loop()) as client:
        yield client


@cache
def event_loop() -> "IOLoop":
    """Return this process's event loop, to give to what Dask starts, however late it began.

    Dask's own is to run within ten seconds, or an assertion fails: a machine that is put to sleep
    in that moment takes the study with it.
    """
    from tornado.ioloop import IOLoop

    async def current() -> IOLoop:
        return IOLoop.current()

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="Dask", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(current(), loop).result()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=event_loop.cache_clear)  # which has no such thread


@contextmanager
def processes(count: int | None, accelerated: bool = False) -> Iterator[str]:
    """Keep one-thread processes on this machine, one a core by default; give their address."""
    import dask
    from distributed import LocalCluster
    from distributed.utils import get_mp_context

    check_main_guard()

    # A fork of a process that has asked for an accelerator cannot use it, and loading may ask.
    forks = sys.platform == "linux" and not accelerated
    method = "forkserver" if forks else "spawn"
    dask.config.set(DASK | {"distributed.worker.multiprocessing-method": method})
    get_mp_context().set_forkserver_preload(LOADED)  # of which spawn takes no notice
    try:
        cluster = LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            loop=event_loop(),
            silence_logs=logging.CRITICAL,  # see `forked`
            env=os.environ | KEEP_MEMORY,  # a fork's own is that of the first study
        )
    except RuntimeError as error:
        raise OSError(f"worker processes do not start on this machine: {error}") from error
    with cluster:
        yield cluster.scheduler_address


def _connected(address: str) -> "Client":
    import dask
    from distributed import Client

    dask.config.set(DASK)
    try:
        client = Client(address, loop=event_loop(), timeout="20s")
        client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no Dask workers answer at scheduler_address={address!r}; start one, or leave the "
            f"parameter out (and {ADDRESS} unset) to work on this machine"
        ) from error
    return client


def _check(client: "Client", address: str, settings: Settings, context: work.Context) -> None:
    """Raise ValueError where one of the workers cannot do the jobs of a study.

    A worker that joins later is checked by each of its jobs (see `work.UnfitWorkerError`).
    """
    asked = context.code, context.device, context.copy
    try:
        objections = client.run(work.objection, *asked)
        own = client.run(read_device, "auto") if settings.device == "auto" else {}
    except Exception as error:  # a worker without ddlib fails in many ways
        raise ValueError(
            f"the Dask workers at scheduler_address={address!r} cannot run this study "
            f"({type(error).__name__}: {error}); install this version of ddlib on each of them"
        ) from error
    for worker, objection in objections.items():
        if objection:
            raise ValueError(f"the Dask worker {worker} {objection}")
    if others := sorted(set(own.values()) - {context.device}):
        raise ValueError(
            f"device: auto is {context.device} on this machine, but {', '.join(others)} on the "
            f"Dask workers at scheduler_address={address!r}; name the device to compute on"
        )


def check_main_guard() -> None:
    """Raise RuntimeError where a script would start a study again in every process of its own.

    Such a process first runs the script anew, under another name than "__main__".
    """
    main = sys.modules["__main__"]
    frame = sys._getframe()
    while frame and not (frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    path = Path(getattr(main, "__file__", None) or "")  # a notebook has none, and is not run anew
    if frame is None or not path.is_file():
        return
    guarded = [
        range(node.lineno, node.end_lineno + 1)
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
    ]
    if not any(frame.f_lineno in lines for lines in guarded):
        raise RuntimeError(
            f"{path}, line {frame.f_lineno}: worker processes run this script again when they "
            'start; put what runs a study under `if __name__ == "__main__":`'
        )
