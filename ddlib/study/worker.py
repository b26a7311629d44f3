"""What a worker does before a job: check itself, choose its device, and open the data."""

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import torch
from distributed import Worker, get_worker

from ddlib.configurations.configuration import Configuration
from ddlib.data import cache
from ddlib.data.base import DataSet
from ddlib.devices import precision, read_device
from ddlib.fingerprints import DECIDING, METHOD_MODULES, code_digest
from ddlib.networks import functional as networks
from ddlib.networks.layers import Network
from ddlib.study.extensions import Extension, use
from ddlib.study.store import LOCK


def code() -> str:
    """Return a digest of all code that can change a result, and of its libraries."""
    return code_digest(*DECIDING, *METHOD_MODULES)


@dataclass(frozen=True)
class Context:
    """What a worker needs to know about a study.

    network: its name and options; digest: `data_digest` of the data; copy: the file of
    `ddlib.data.cache.one_copy`; folder: the results; code: `code()` of the process that started the
    study. Every worker must see copy and folder.
    """

    network: dict[str, Any]
    digest: str
    copy: Path
    folder: Path
    device: str
    precision: str
    code: str
    extensions: tuple[Extension, ...] = ()


class UnfitWorkerError(ValueError):
    """The worker cannot do the jobs of this study."""


def dask_worker() -> Worker | None:
    """Return the Dask worker of this process; None if it is not a worker."""
    try:
        return get_worker()
    except ValueError:
        return None


def check_worker(context: Context) -> None:
    """Raise UnfitWorkerError, with what to do, if this process cannot work for a study."""
    worker, problem = dask_worker(), ""
    missing = [path for path in (context.copy, context.folder / LOCK) if not path.exists()]
    if code() != context.code:
        problem = (
            f"runs other code ({code()}) than this study ({context.code}); install the same ddlib "
            "and versions of its libraries on every worker, and restart Python after an edit"
        )
    elif worker and worker.state.nthreads > 1:
        problem = (
            f"has {worker.state.nthreads} threads, which would share PyTorch's settings; start it "
            "with --nthreads 1, and more workers"
        )
    elif missing:
        problem = f"does not see {missing[0]}; give every worker the folders of this study"
    else:
        try:
            read_device(context.device)
        except ValueError as error:
            problem = f"lacks the study's device: {error}; start it where there is one"
    if problem:
        raise UnfitWorkerError(f"a worker on {platform.node()} {problem}")


def job(do: Callable) -> Callable:
    """Decorate a job (its first argument is a Context): check the worker, set device, precision.

    On a machine with several CUDA devices, each worker uses its own.
    """

    @wraps(do)
    def checked(context: Context, *rest: Any) -> Any:
        check_worker(context)
        use(context.extensions)
        torch.set_num_threads(1)  # one process per core is faster, and sums keep their order
        with precision(context.precision, context.device), _own_card(context.device):
            return do(context, *rest)

    return checked


def _own_card(device: str) -> AbstractContextManager:
    """Choose a CUDA device by the number of the worker; only workers of this machine have one."""
    number = getattr(dask_worker(), "name", None)
    if device != "cuda" or not isinstance(number, int):
        return nullcontext()
    return torch.cuda.device(number % torch.cuda.device_count())


def seconds(context: Context) -> float:
    """Return a clock in seconds to take differences of: on a CPU, the time of this thread alone."""
    return time.thread_time() if context.device == "cpu" else time.perf_counter()


@lru_cache(maxsize=2)  # two studies may share a worker
def _dataset(copy: Path, digest: str, device: str) -> DataSet:
    try:
        dataset = cache.read(copy, digest)
    except (OSError, ValueError) as error:
        raise UnfitWorkerError(f"a worker cannot open the data: {error}") from error
    return replace(dataset, train=dataset.train.to(device), test=dataset.test.to(device))


def open_data(
    context: Context, configuration: Configuration | None = None
) -> tuple[DataSet, Network | None]:
    """Return the data set, and the network of a configuration (by default the study's)."""
    dataset = _dataset(context.copy, context.digest, context.device)
    if configuration:
        return dataset, configuration.build(**dataset.sizes)
    return dataset, networks.build(**context.network, **dataset.sizes)
