"""Workers: one process per core of this machine, or the workers of a running Dask scheduler."""

import logging
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import dask
import torch
from distributed import Client, LocalCluster
from distributed.comm import get_address_host_port
from distributed.utils import get_mp_context

from ddlib.devices import read_device
from ddlib.study.settings import Settings
from ddlib.study.worker import Context, UnfitWorkerError, check_worker

ADDRESS = "DASK_SCHEDULER_ADDRESS"
"""Dask's environment variable for a scheduler; used if a study names neither one nor `workers`."""

# glibc returns freed memory to the system and gets it back at every step of a training, which took
# half of the CPU's time. These settings let workers keep it. Dask computes in a thread; with a heap
# of its own, a thread would still return each tensor above 64 MB.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# Workers are forks of a process that has loaded these modules; otherwise each starts in 4 seconds.
LOADED = ["distributed", "torch._dynamo", "ddlib.study.jobs"]
# Workers ignore Ctrl-C: the study handles it and ends them.
IGNORE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
DASK = {
    "distributed.nanny.pre-spawn-environ": KEEP_MEMORY,
    "distributed.worker.preload": [IGNORE_INTERRUPTS],
    # Dask's own statistics took a twelfth of the CPU's time.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
    # Workers stay alive when the machine sleeps.
    "distributed.scheduler.worker-ttl": None,
}
GUARD = 'in a script, put what runs a study under `if __name__ == "__main__":`'


def scheduler(settings: Settings) -> str | None:
    """Return the address of the Dask scheduler for a study, None for workers on this machine.

    The settings name it. If they name neither a scheduler nor `workers`, and the device is this
    machine's CPU, the environment variable ADDRESS names it.
    """
    if settings.scheduler_address is not None or settings.workers is not None:
        return settings.scheduler_address
    on_cpu = settings.device in ("auto", "cpu") and read_device(settings.device) == "cpu"
    return os.environ.get(ADDRESS) or None if on_cpu else None


def device(settings: Settings) -> str:
    """Return the device that a study computes on; "auto" is that of this machine.

    Raises ValueError if this machine lacks the device. Workers of a scheduler may be on other
    machines and check it themselves (see `check_worker`).
    """
    elsewhere = settings.device != "auto" and scheduler(settings) is not None
    return settings.device if elsewhere else read_device(settings.device)


def check_main_guard() -> None:
    """Raise RuntimeError in a worker process that, to start, runs the user's script again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(f"a worker process would start a study; {GUARD}")


@contextmanager
def connect(settings: Settings, context: Context) -> Iterator[Client]:
    """Connect to the workers of a study; yield the Dask client.

    Raises ValueError, in one sentence, if no worker answers or a worker is unfit.
    """
    # Processes that share a GPU would each hold the data in its memory.
    on_gpu = context.device != "cpu"
    count = settings.workers or (max(1, torch.cuda.device_count()) if on_gpu else None)
    with ExitStack() as stack:
        address = scheduler(settings) or stack.enter_context(processes(count, on_gpu))
        try:
            # Test the address first: a client that failed to connect can hang when Python
            # collects it, and then Ctrl-C is lost.
            socket.create_connection(get_address_host_port(address), timeout=20).close()
            client = stack.enter_context(Client(address))
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no Dask workers answer at scheduler_address={address!r}; start one, or leave the "
                f"parameter out (and {ADDRESS} unset) to work on this machine"
            ) from error
        try:
            client.run(check_worker, context)  # jobs check workers that join later
        except UnfitWorkerError:
            raise
        except Exception as error:  # a worker without ddlib fails in many ways
            raise ValueError(
                f"the Dask workers at scheduler_address={address!r} cannot run this study "
                f"({type(error).__name__}: {error}); install this version of ddlib on each of them"
            ) from error
        yield client


@contextmanager
def processes(count: int | None, on_gpu: bool = False) -> Iterator[str]:
    """Run one-thread workers on this machine, by default one per core; yield the address.

    Raises OSError if they do not start.
    """
    # A forked process cannot use a GPU if its parent has initialised CUDA, which imports may do.
    method = "forkserver" if sys.platform == "linux" and not on_gpu else "spawn"
    with dask.config.set(DASK | {"distributed.worker.multiprocessing-method": method}):
        get_mp_context().set_forkserver_preload(LOADED)  # spawn ignores this
        try:
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                memory_limit=0,
                silence_logs=logging.CRITICAL,  # the tables hold the errors of jobs
            )
        except RuntimeError as error:
            raise OSError(
                f"worker processes do not start on this machine: {error}; {GUARD}"
            ) from error
        with cluster:
            yield cluster.scheduler_address
