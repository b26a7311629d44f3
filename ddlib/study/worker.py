"""What a worker is and does before any job: whether it is fit for a study, its device, its data."""

import json
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddlib.configurations.configuration import Configuration
from ddlib.data import cache
from ddlib.data.base import DataSet
from ddlib.devices import precision, read_device
from ddlib.fingerprints import DECIDING, METHOD_MODULES, code_digest
from ddlib.networks import functional as networks
from ddlib.networks.layers import Network
from ddlib.study.extensions import Extension, network_code, use
from ddlib.study.store import LOCK

if TYPE_CHECKING:
    from distributed import Worker


def code() -> str:
    """Return a fingerprint of all code that can decide a result, and of its libraries."""
    return code_digest(*DECIDING, *METHOD_MODULES)


@dataclass(frozen=True)
class Context:
    """What a worker needs to open a study's data set and network.

    network: its options as JSON; digest: of the images; copy: the file of `ddlib.data.cache.write`
    that holds them; folder: the results; code: `code()` where the study was started; extensions:
    the files that bring more methods, networks and data sets. Every worker sees copy and folder.
    """

    network: str
    digest: str
    copy: Path
    folder: Path
    device: str
    precision: str
    code: str
    extensions: tuple[Extension, ...] = ()

    @property
    def identity(self) -> list[str]:
        """What decides results: the images themselves, not how they were asked for."""
        code = [code_digest(*DECIDING), *network_code(self.extensions, self.network)]
        return [self.digest, self.network, self.device, self.precision, *code]


class UnfitWorkerError(RuntimeError):
    """A worker that cannot do the jobs of a study, and would fail them as fast as it gets them."""


def dask_worker() -> "Worker | None":
    """Return what Dask calls this process, None where it is not one of Dask's."""
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def check_worker(context: Context, dask_worker: "Worker | None" = None) -> None:
    """Raise UnfitWorkerError where this process cannot work for a study: why, and what to do."""
    if objection := _objection(context, dask_worker):
        raise UnfitWorkerError(f"a worker on {platform.node()} {objection}")


def _objection(context: Context, dask_worker: "Worker | None") -> str:
    if code() != context.code:
        return (
            f"runs other code ({code()}) than this study ({context.code}); install the same ddlib "
            "and versions of its libraries on every worker, and restart Python after an edit"
        )
    if dask_worker and dask_worker.state.nthreads > 1:
        return (
            f"has {dask_worker.state.nthreads} threads, which would share PyTorch's settings; "
            "start it with --nthreads 1, and more workers"
        )
    for path in (context.copy, context.folder / LOCK):
        if not path.exists():
            return f"does not see {path}; give every worker the folders of this study"
    try:
        read_device(context.device)
    except ValueError as error:
        return f"lacks the study's device: {error}; start it where there is one, or name another"
    return ""


def job(do: Callable) -> Callable:
    """Return a job whose first argument is a Context: done by a fit worker, in its precision.

    Of several CUDA devices of this machine, it computes on the worker's own.
    """

    @wraps(do)
    def checked(context: Context, *rest: Any) -> Any:
        check_worker(context, dask_worker())
        use(context.extensions)
        torch.set_num_threads(1)  # a process a core beats threads, and sums keep one order
        with precision(context.precision, context.device), _own_card(context.device):
            return do(context, *rest)

    return checked


def _own_card(device: str) -> AbstractContextManager:
    """Choose a worker's CUDA device by its number, which only workers of this machine have."""
    number = getattr(dask_worker(), "name", None)
    if device != "cuda" or not isinstance(number, int):
        return nullcontext()
    return torch.cuda.device(number % torch.cuda.device_count())


def seconds(context: Context) -> float:
    """Return a time of which differences count: the CPU's own, whatever else it does."""
    return time.thread_time() if context.device == "cpu" else time.perf_counter()


@lru_cache(maxsize=2)  # studies that share workers take turns
def _dataset(copy: Path, digest: str, device: str) -> DataSet:
    try:
        dataset = cache.read(copy, digest)
    except (OSError, ValueError) as error:
        raise UnfitWorkerError(f"a worker cannot open the data: {error}") from error
    return replace(dataset, train=dataset.train.to(device), test=dataset.test.to(device))


def open_data(
    context: Context, configuration: Configuration | None = None
) -> tuple[DataSet, Network]:
    """Return the data set, and the network of a configuration, or else the study's own."""
    dataset = _dataset(context.copy, context.digest, context.device)
    options = configuration.network if configuration else json.loads(context.network)
    sizes = {"image_shape": dataset.image_shape, "class_count": dataset.class_count}
    return dataset, networks.build(**options, **sizes)
