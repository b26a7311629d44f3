"""Processes that do a study's jobs: one a core on this machine, or those of a Dask scheduler.

Dask is imported where it is used: who only reads what a study found does not wait for it to load.
"""

import asyncio
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ddlib import work
from ddlib.devices import read_device
from ddlib.settings import Settings

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
LOADED = ["distributed", "ddlib.forked"]
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


@contextmanager
def connect(settings: Settings, cache: Path) -> Iterator[tuple["Client", bool]]:
    """Give the client that hands jobs to workers, and whether they all see the cache folder.

    They are those of the named scheduler, or else one-thread processes on this machine.
    A scheduler is named by the settings, or where they leave it open by the environment's ADDRESS.
    Nothing is taken for granted of a scheduler's workers but ddlib and the data: they may be on
    other machines, without a folder that they share. Raises ValueError, in one sentence, if none
    answers or if one runs other code.
    """
    from distributed import Client

    accelerated = read_device(settings.device) != "cpu"
    address = settings.scheduler_address
    if address is None and settings.workers is None and not accelerated:
        address = os.environ.get(ADDRESS) or None
    if address is not None:
        with _connected(address) as client:
            yield client, _checked(client, address, cache)
        return
    # Processes that share an accelerator would each hold the data in its memory.
    count = settings.workers or (1 if accelerated else None)
    with processes(count, accelerated) as own, Client(own, loop=event_loop()) as client:
        yield client, True


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


def _checked(client: "Client", address: str, cache: Path) -> bool:
    """Return whether all workers see the cache folder; ValueError where one runs other code.

    A worker that joins later is checked by each of its jobs (see `work.UnfitWorkerError`).
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, prefix=".seen-") as token:
        try:
            told = client.run(work.describe, Path(token.name).resolve())
        except Exception as error:  # a worker without ddlib fails in many ways
            raise ValueError(
                f"the Dask workers at scheduler_address={address!r} cannot run this study "
                f"({type(error).__name__}: {error}); install this version of ddlib on each of them"
            ) from error
    ours = work.code()
    others = [worker for worker, (code, _) in told.items() if code != ours]
    if others:
        raise ValueError(
            f"the Dask workers {', '.join(others)} run other code than this study ({ours}); "
            "install the same ddlib and the same versions of its libraries on each of them"
        )
    return all(seen for _, seen in told.values())
