"""What a study will cost: trials, hours and memory, from a handful of timed steps.

Each method takes a few steps at its smallest and largest size, and so does the training of each
configuration. What a method does is counted by its loops (LOOPS); least squares on the short runs
give the seconds of the long one. Where earlier trials of the study left their seconds, these count.
"""

import math
import sys
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from scipy.optimize import nnls

from ddlib.configurations.configuration import Configuration
from ddlib.files import read_json
from ddlib.methods import METHODS
from ddlib.networks.functional import with_buffers
from ddlib.parameters import Parameters, at_ipc
from ddlib.seeds import generator
from ddlib.study import store
from ddlib.study.cluster import connect
from ddlib.study.plan import Plan, Reference
from ddlib.study.results import costs
from ddlib.study.run import missing
from ddlib.study.settings import CONVERGED
from ddlib.study.worker import Context, job, open_data, seconds
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import score, train
from ddlib.training.targets import Teacher
from ddlib.words.text import listed

PATIENCE = 0.5  # seconds for which short runs are repeated; the fastest of each counts
UNITS = ("hours", 3600), ("minutes", 60)  # the first of which a study takes at least two
SCORED = 256  # test images on which a score is timed
EXPERT = {"iterations": 1, "experts": 1, "expert_epochs": 1, "max_start": 1}
MATCH = {"iterations": 1, "outer_steps": 2, "inner_epochs": 0}


def _loop(names: Sequence[str], most: int, **changes: Any) -> tuple:
    """Return the entry of a method with one loop, which runs as often as the product of `names`.

    Its two short runs have 1 and `most` of the last name.
    """
    shorts = [changes | {names[-1]: count} for count in (1, most)]
    return shorts, lambda of: [math.prod(map(of, names))]


MATCHING = (
    [MATCH | {"outer_steps": 1}, MATCH, MATCH | {"inner_epochs": 1}],
    lambda of: [
        of("iterations") * of("outer_steps"),
        of("iterations") * (of("outer_steps") - 1) * of("inner_epochs"),
    ],
)
STUDENTS = ["iterations", "student_steps"]
SELECTORS = ("herding", "k_center", "kernel_herding", "nearest_to_centroid")
LOOPS = {
    **dict.fromkeys(("random", "k_means", "rded", "imported"), ([{}], lambda of: [])),
    **dict.fromkeys(SELECTORS, _loop(["steps"], 20)),
    **dict.fromkeys(("dm", "sre2l"), _loop(["iterations"], 3)),
    **dict.fromkeys(("dc", "dsa"), MATCHING),
    "ncfm": _loop(["iterations"], 3, networks=1),
    "mtt": _loop(STUDENTS, 4, **EXPERT),
    "datm": _loop(STUDENTS, 4, **EXPERT, min_start=0, label_snapshot=1),
    "mgd3": _loop(["steps"], 4, stop=0),
}
"""By method: the changes of parameters that make short runs, and how often each loop runs,
from the function that gives a parameter of a size."""


@dataclass(frozen=True)
class Forecast:
    """A forecast: parts, the seconds of a core of each method, of evaluations, of networks on all
    data, and of teachers, if there are any (NaN: the method has no entry in LOOPS); megabytes, the
    most that a worker held."""

    parts: pd.Series
    workers: int
    megabytes: float

    def __str__(self) -> str:
        total = self.parts.sum()
        unit, size = next((unit for unit in UNITS if total >= 2 * unit[1]), ("seconds", 1))
        column = (self.parts / size).map("{:,.1f}".format).rename(f"{unit} of a core")
        end = f"{total / self.workers / size:,.1f} {unit} on {self.workers} workers, "
        end += f"{self.megabytes:,.0f} MB each at most"
        unknown = listed(self.parts.index[self.parts.isna()])
        without = f", without {unknown}, whose loops are not known" if unknown else ""
        return f"{column.to_frame().to_string()}\n{end}{without}"


def forecast(plan: Plan) -> Forecast:
    """Time short runs on the workers of a study, and return what its missing trials will cost.

    A network on all data until converged counts as if it ended half-way, in doublings, between the
    steps of `training` and the limit on passes. A GPU trains many networks together, so it is
    faster than forecast.
    """
    trials, references = missing(plan)
    sets = {trial.set_path: trial for trial in trials if not trial.set_path.exists()}.values()
    sizes, classes = sorted(plan.ipcs), plan.dataset.class_count
    ended = {trial: store.read_record(trial.path) for trial in plan.trials if trial.path.exists()}
    earlier = costs(plan, ended).astype({"distil_seconds": float, "evaluate_seconds": float})
    distilled = earlier.groupby(["method", "ipc"])["distil_seconds"].mean().dropna()
    evaluated = earlier.groupby(["configuration", "ipc"])["evaluate_seconds"].mean().dropna()
    methods = [trial.method for trial in sets if (trial.method, trial.ipc) not in distilled]
    trained: dict[str | Path, Configuration] = dict(plan.configurations)
    for name, configuration in plan.configurations.items():
        path = plan.teacher_path(name)
        if path and not path.exists():
            trained[path] = configuration.teacher
    ks = sizes[0] * classes, sizes[-1] * classes, len(plan.dataset.train.labels)
    (plan.folder / store.LOCK).touch()  # workers look for it
    with connect(plan.settings, plan.context) as client:
        submit = partial(client.submit, pure=False)
        runs = [submit(*call) for call in _short_runs(plan, dict.fromkeys(methods))]
        trainings = {n: submit(train_shortly, plan.context, trained[n], ks) for n in trained}
        try:
            runs, trainings = client.gather([runs, trainings])
        except DivergedError as error:
            raise ValueError(f"no forecast, because a short training diverged: {error}") from None
        workers = len(client.ncores())

    timed = pd.DataFrame(runs, columns=["method", "ipc", "set", "files", "megabytes"])
    parts = timed.groupby("method")["files"].max().to_dict()
    for trial in sets:
        own = timed[timed["method"] == trial.method]
        spent = np.interp(trial.ipc, own["ipc"], own["set"]) if len(own) else math.nan
        spent = distilled.get((trial.method, trial.ipc), spent)
        parts[trial.method] = parts.get(trial.method, 0) + spent
    parts["evaluation"] = 0
    for trial in trials:
        spent = np.interp(trial.ipc * classes, *trainings[trial.configuration][:2])
        spent *= plan.settings.evaluations
        parts["evaluation"] += evaluated.get((trial.configuration, trial.ipc), spent)
    lengths = {name: _relative_length(plan, name, references) for name in plan.configurations}
    parts["networks on all data"] = sum(trainings[name][1][-1] * lengths[name] for name in lengths)
    if teachers := trained.keys() - plan.configurations:
        parts["teachers"] = sum(trainings[path][1][-1] for path in teachers)
    megabytes = max([*timed["megabytes"], *(peak for *_, peak in trainings.values())])
    return Forecast(pd.Series(parts), workers, megabytes)


def _short_runs(plan: Plan, methods: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """Yield calls of `run_shortly`, by size or for all; methods without known loops have none.

    A file that several methods need is timed with the first of them.
    """
    sizes, counted = sorted(plan.ipcs), set()
    for method in methods:
        base, parameters = plan.methods[method]
        if base not in LOOPS:
            continue
        jobs = {path: plain for plain, path in plan.preparations(method) if not path.exists()}
        files = [plain for path, plain in jobs.items() if path not in counted]
        counted |= jobs.keys()
        for ipcs in [sizes] if METHODS[base].shares else [sizes[:1], sizes[-1:]]:
            yield run_shortly, plan.context, method, base, parameters, ipcs, files


def _relative_length(plan: Plan, configuration: str, references: Sequence[Reference]) -> float:
    """Return the length of the missing trainings on all data, in trainings of the recipe."""
    kinds = [full.kind for full in references if full.configuration == configuration]
    recipe, path = plan.configurations[configuration].recipe, plan.length_path(configuration)
    epoch = len(plan.dataset.train.labels) / recipe.batch_size
    longest = max(1.0, plan.settings.converged.passes * epoch / recipe.steps)
    length = math.sqrt(longest)
    search = 4 * length if longest > 1 and CONVERGED in kinds else 0  # 1 + 2 + ... + 2 x length
    if path.exists():
        length, search = read_json(path, names=("steps",))["steps"] / recipe.steps, 0
    return search + sum(length if kind == CONVERGED else 1 for kind in kinds)


@job
def run_shortly(
    context: Context,
    method: str,
    base: str,
    parameters: Parameters,
    ipcs: Sequence[int],
    files: Sequence[dict[str, Any]],
) -> tuple[str, int, float, float, float]:
    """Return what a method costs: its name, largest size, seconds of a set and of files, peak MB.

    files: the jobs of its preparation that are to be done; all take as many steps.
    """
    dataset, network = open_data(context)
    (changes, loops), preparation, ipc = LOOPS[base], METHODS[base].preparation, ipcs[-1]
    shorts = [parameters.replace(**change) for change in changes]
    first = preparation.jobs(shorts[0], ipcs)[:1] if preparation else []
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / "prepared"] * len(first)

        def prepare(count: int) -> None:
            content = preparation.make(dataset, network, _shortened(first[0], count))
            paths[0].write_bytes(content)

        distil = partial(METHODS[base].distil, dataset, network, ipcs, 0)
        calls = [partial(prepare, count) for _ in first for count in (1, 4)]
        calls += [partial(distil, short, *([paths] if preparation else [])) for short in shorts]
        spent = _fastest(context, calls)
    made, distilled = np.split(spent, [2 * len(first)])
    counted = [
        [1, *loops(lambda name, chosen=chosen: at_ipc(getattr(chosen, name), ipc))]
        for chosen in [*shorts, parameters]
    ]
    a_set = _extrapolated(counted[:-1], distilled, counted[-1]) / len(ipcs)
    steps = [_steps_of(plain, len(dataset.train.labels)) for plain in files]
    of_files = _extrapolated([(1, 1), (1, 4)], made, (len(files), sum(steps))) if files else 0.0
    return method, ipc, a_set, of_files, _peak(context)


def _shortened(plain: dict[str, Any], count: int) -> dict[str, Any]:
    """Return a job of a preparation that takes `count` SGD steps."""
    return plain | ({"epochs": 1, "epoch_steps": count} if "epochs" in plain else {"steps": count})


def _steps_of(plain: dict[str, Any], count: int) -> int:
    """Return the SGD steps of a job of a preparation, with `count` training images."""
    if "epochs" not in plain:
        return plain["steps"]
    return plain["epochs"] * (plain["epoch_steps"] or math.ceil(count / plain["batch_size"]))


@job
def train_shortly(
    context: Context, configuration: Configuration, ks: Sequence[int]
) -> tuple[list[int], list[float], float]:
    """Return batch sizes, the seconds of a training with each and of its test, and the peak in MB.

    ks: the sizes of the sets, in ascending order; a small set is one batch. Table models are fitted
    in seconds, and count as nothing.
    """
    dataset, network = open_data(context, configuration)
    if not configuration.takes_steps:
        return [1], [0.0], _peak(context)
    theta = configuration.evaluated(network, 0)
    theta = {name: value.to(context.device) for name, value in theta.items()}
    teacher = _untrained(context, configuration) if configuration.teacher else None
    recipe, real, test = configuration.recipe, dataset.train, dataset.test
    scored = test.subset(torch.arange(min(SCORED, len(test.labels)), device=test.device))
    batches = [min(k, recipe.batch_size) for k in ks]

    def steps(batch: int, count: int) -> None:
        rows = torch.arange(batch, device=real.device)
        data, short = (real.at(rows), real.labels[rows]), recipe.replace(steps=count)
        train(network, theta, *data, short, generator("forecast"), teacher=teacher)

    calls = [partial(steps, batch, count) for batch in batches for count in (1, 4)]
    *spent, a_score = _fastest(context, [*calls, partial(score, network, theta, scored)])
    a_test, a_step = a_score * len(test.labels) / len(scored.labels), np.diff(spent)[::2] / 3
    return batches, list(recipe.steps * a_step + a_test), _peak(context)


def _untrained(context: Context, configuration: Configuration) -> Teacher:
    """Return the teacher of a configuration before its training; its answers take as long."""
    network = open_data(context, configuration.teacher)[1]
    theta = with_buffers(network, configuration.teacher.evaluated(network, 0))
    theta = {name: value.to(context.device) for name, value in theta.items()}
    return Teacher(network, theta, configuration.labels.temperature, configuration.labels.loss)


def _fastest(context: Context, calls: Sequence[Callable[[], object]]) -> np.ndarray:
    """Return the seconds of each call, the least of several; a first one loads libraries."""
    clock = partial(seconds, context)
    calls[0]()
    end, rounds = time.monotonic() + PATIENCE, []
    while not rounds or time.monotonic() < end:
        rounds.append([timeit.timeit(call, timer=clock, number=1) for call in calls])
    return np.min(rounds, axis=0)


def _extrapolated(counted: Sequence, spent: Sequence[float], wanted: Sequence[float]) -> float:
    """Return the seconds of `wanted` loops, from the loops of short runs and their seconds."""
    return float(nnls(np.array(counted, float), np.array(spent))[0] @ wanted)


def _peak(context: Context) -> float:
    """Return the most memory that this worker has held, in MB: the GPU's, if it computes there."""
    if context.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 1e6
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
