"""The jobs that worker processes do for a study; each opens the data set once and keeps it."""

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from ddlib.configurations import pretraining
from ddlib.configurations.configuration import Configuration
from ddlib.configurations.probing import train_and_observe
from ddlib.data import cache as shared
from ddlib.data.base import DataSet
from ddlib.devices import precision, read_device
from ddlib.distilled import DistilledSet, check_set
from ddlib.files import read_json, reading, write_atomically
from ddlib.fingerprints import DECIDING, METHOD_MODULES, code_digest, plain_text
from ddlib.methods import METHODS
from ddlib.networks import functional as networks
from ddlib.networks.functional import Theta
from ddlib.networks.layers import Network
from ddlib.study.extensions import Extension, network_code, use
from ddlib.training.divergence import DivergedError, or_diverged
from ddlib.training.loop import Score, final, passes, score, train_and_score
from ddlib.training.recipe import Converged, hold_out, search_length
from ddlib.training.together import train_and_score_all

if TYPE_CHECKING:
    from distributed import Worker


class UnfitWorkerError(RuntimeError):
    """A worker that cannot do the jobs of a study, and would fail them as fast as it gets them."""


def _unfit(reason: str) -> UnfitWorkerError:
    return UnfitWorkerError(f"a worker on {platform.node()} {reason}")


@dataclass(frozen=True)
class Context:
    """What a worker needs to open a study's data set and network.

    network: its options as JSON; digest: of the images; copy: the file of `ddlib.data.cache.write`
    that holds them, in a folder that every worker sees; code: `code()` where the study was
    started; extensions: the files that bring more methods, networks and data sets, as text.
    """

    network: str
    digest: str
    copy: str
    device: str
    precision: str
    code: str
    extensions: tuple[Extension, ...] = ()

    @property
    def identity(self) -> list[str]:
        """What decides results: the images themselves, not how they were asked for."""
        code = [code_digest(*DECIDING), *network_code(self.extensions, self.network)]
        return [self.digest, self.network, self.device, self.precision, *code]


def in_precision(job: Callable) -> Callable:
    """Return a job whose first argument is a Context, computed with the precision it names.

    Of several CUDA devices of this machine, it computes on the worker's own.
    """

    @wraps(job)
    def rounded(context: Context, *rest: Any) -> Any:
        with precision(context.precision, context.device), _own_card(context.device):
            return job(context, *rest)

    return rounded


def code() -> str:
    """Return a fingerprint of all code that can decide a result, and of its libraries."""
    return code_digest(*DECIDING, *METHOD_MODULES)


def objection(ours: str, device: str, copy: str, dask_worker: "Worker | None" = None) -> str:
    """Return why this process cannot work for a study, and what to do; nothing if it can.

    ours, device, copy: code, device and copy of the study's Context; dask_worker: this process, as
    Dask knows it.
    """
    if code() != ours:
        return (
            f"runs other code ({code()}) than this study ({ours}); install the same ddlib and the "
            "same versions of its libraries on every worker"
        )
    threads = dask_worker.state.nthreads if dask_worker else 1
    if threads > 1:
        return (
            f"has {threads} threads, which would share PyTorch's settings; start it with "
            "--nthreads 1, and more workers"
        )
    try:
        if device != "cpu":  # asking would keep a process from being forked
            read_device(device)
    except ValueError as error:
        return f"lacks the study's device: {error}; start it where there is one, or name another"
    if not Path(copy).exists():
        return f"does not see {copy}; give every worker the folders of this study"
    return ""


def card(worker: Any, count: int) -> int | None:
    """Return which of `count` CUDA devices the worker takes that has this name, None for the first.

    Only the processes that a study starts have numbers for names; who starts others says with
    CUDA_VISIBLE_DEVICES which device each sees.
    """
    return worker % count if isinstance(worker, int) and count > 1 else None


def _own_card(device: str) -> AbstractContextManager:
    worker = _dask_worker()
    if device != "cuda" or worker is None:
        return nullcontext()
    index = card(worker.name, torch.cuda.device_count())
    return nullcontext() if index is None else torch.cuda.device(index)


def _dask_worker() -> "Worker | None":
    """Return what Dask calls this process, None where it is not one of Dask's."""
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def seconds(context: Context) -> float:
    """Return a time of which differences count: a processor's own, whatever else it is at."""
    return time.thread_time() if context.device == "cpu" else time.perf_counter()


@in_precision
def prepare(context: Context, method: str, job: dict[str, Any]) -> tuple[bytes, float]:
    """Return what `METHODS[method].preparation` shares over sizes and seeds, and the seconds."""
    dataset, network = _open(context)
    start = seconds(context)
    content = METHODS[method].preparation.make(dataset, network, job)
    return content, seconds(context) - start


@in_precision
def pretrain(context: Context, configuration: Configuration) -> tuple[bytes, float]:
    """Return the pretrained body that a configuration starts from, and the seconds."""
    dataset, _ = _open(context)
    start = seconds(context)
    content = pretraining.pretrain(dataset, configuration)
    return content, seconds(context) - start


def write_seconds(path: Path, seconds: float) -> None:
    """Keep the seconds that the file `path` took, beside it: its own bytes are its seed's alone."""
    write_atomically(_seconds_path(path), json.dumps(seconds).encode())


def read_seconds(path: Path) -> float | None:
    """Return the seconds that the file `path` took; None where it was never made."""
    beside = _seconds_path(path)
    return read_json(beside, float) if beside.exists() else None


def _seconds_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.seconds")


@in_precision
def distil(
    context: Context,
    method: str,
    parameters: dict[str, Any],
    ipcs: Sequence[int],
    seed: int,
    prepared: Sequence[Path],
) -> tuple[dict[int, DistilledSet | DivergedError | ValueError], float]:
    """Return the outcome of every size, and the seconds it took.

    parameters: plain data, since a worker only learns their class with the context's extensions;
    prepared: the files of `prepare`. A ValueError stands for what is no set of its size.
    """
    dataset, network = _open(context)
    start = seconds(context)
    entry = METHODS[method]
    more = [prepared] if entry.preparation else []
    made = entry.distil(dataset, network, ipcs, seed, entry.parameters(**parameters), *more)
    taken = seconds(context) - start
    shape = json.loads(context.network)
    outcomes: dict[int, DistilledSet | DivergedError | ValueError] = {}
    for ipc in ipcs:
        outcome = made.get(ipc) if isinstance(made, Mapping) else None
        if isinstance(outcome, DistilledSet):  # of a method that may call another one
            outcome = replace(outcome, method=method, network=shape)
        try:
            if not isinstance(outcome, DivergedError):
                check_set(outcome, dataset, method, ipc, seed)
            outcomes[ipc] = outcome
        except ValueError as error:
            outcomes[ipc] = ValueError(f"the method {method!r} returned no valid set: {error}")
    return outcomes, taken


@in_precision
def evaluate(
    context: Context,
    sets: Sequence[DistilledSet],
    configuration: Configuration,
    seeds: Sequence[int],
    numbers: Sequence[int],
    body: Path | None,
) -> tuple[list[list[Score] | DivergedError], float]:
    """Return the scores of the networks `numbers` trained on each distilled set, and the seconds.

    sets, seeds: of one size, a seed a set; where a network of a set diverged, that stands for its
    scores. body: the file of the pretrained body that the configuration starts from, if any.
    """
    dataset, network = _open(context, configuration)
    start, device = seconds(context), context.device
    moved = [(each.images.to(device), each.labels.to(device)) for each in sets]
    every = [(own, (seed, n)) for own, seed in zip(moved, seeds, strict=True) for n in numbers]
    given, streams = map(list, zip(*every, strict=True))
    thetas = [_initial(context, network, configuration, each, body) for each in streams]
    recipe = configuration.recipe
    found = train_and_score_all(network, given, dataset.test, recipe, streams, thetas)
    by_set = [found[at : at + len(numbers)] for at in range(0, len(found), len(numbers))]
    outcomes = [next((e for e in own if isinstance(e, DivergedError)), own) for own in by_set]
    return outcomes, seconds(context) - start


@in_precision
def find_length(
    context: Context, configuration: Configuration, body: Path | None, converged: Converged
) -> tuple[bytes, float]:
    """Return the steps after which a training on all data has converged, and the seconds.

    The steps are JSON: steps; capped, whether `converged.passes` and not the risk ended the search;
    tried, a list of steps and the cross-entropy on images held out (null: diverged). Seed 0 is
    trained, on the rest of the training set.
    """
    dataset, network = _open(context, configuration)
    start, real, recipe = seconds(context), dataset.train, configuration.recipe
    held = hold_out(real.labels.cpu(), converged.held_out).to(context.device)
    test, rest = (real.subset(part.nonzero().flatten()) for part in (held, ~held))
    theta = _initial(context, network, configuration, (0, 0), body)

    def risk(steps: int) -> float:
        shorter = recipe.replace(steps=steps)
        given = rest.images, rest.labels, test, shorter, (0, 0), theta
        outcome = or_diverged(train_and_score, network, *given)
        return math.inf if isinstance(outcome, DivergedError) else outcome.cross_entropy

    most = int(converged.passes / passes(1, recipe.batch_size, len(real.labels)))
    steps, tried = search_length(recipe.steps, most, risk)
    lengths = [(length, found if math.isfinite(found) else None) for length, found in tried]
    length = {"steps": steps, "capped": steps >= most, "tried": lengths}
    return plain_text(length).encode(), seconds(context) - start


@in_precision
def reference(
    context: Context, configuration: Configuration, seed: int, body: Path | None, probe: int
) -> tuple[Score, bytes]:
    """Return the score of a network trained on the whole training set, and what it showed.

    The latter is the file of `train_and_observe` over `probe` test images; empty for
    a probe of 0.
    """
    dataset, network = _open(context, configuration)
    real, test, recipe = dataset.train, dataset.test, configuration.recipe
    theta = _initial(context, network, configuration, (seed, 0), body)
    if not probe:
        given = real.images, real.labels, test, recipe, (seed, 0), theta
        return train_and_score(network, *given), b""
    theta, observed = train_and_observe(network, theta, real, test, recipe, (seed, 0), probe)
    return final(score(network, theta, test), recipe), observed


def _initial(
    context: Context,
    network: Network,
    configuration: Configuration,
    seed: object,
    body: Path | None,
) -> Theta:
    weights = None
    if body:
        with reading(body):
            weights = load_file(body)
    theta = configuration.evaluated(network, seed, weights)
    return {name: value.to(context.device) for name, value in theta.items()}


@lru_cache(maxsize=2)  # studies that share workers take turns
def _opened(copy: str, digest: str) -> DataSet:
    try:
        return shared.read(Path(copy), digest)
    except (OSError, ValueError) as error:
        raise _unfit(f"cannot open the data: {error}") from error


@lru_cache(maxsize=1)  # an accelerator's memory is small
def _dataset(copy: str, digest: str, device: str) -> DataSet:
    torch.set_num_threads(1)  # a process a core beats threads, and sums keep one order
    dataset = _opened(copy, digest)
    return replace(dataset, train=dataset.train.to(device), test=dataset.test.to(device))


def _open(context: Context, configuration: Configuration | None = None) -> tuple[DataSet, Network]:
    """Return the data set, and the network of a configuration, or else the study's own."""
    if problem := objection(context.code, context.device, context.copy, _dask_worker()):
        raise _unfit(problem)
    use(context.extensions)
    dataset = _dataset(context.copy, context.digest, context.device)
    options = configuration.network if configuration else json.loads(context.network)
    network = networks.build(
        **options, image_shape=dataset.image_shape, class_count=dataset.class_count
    )
    return dataset, network
