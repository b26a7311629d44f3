"""What a study will cost: trials, hours and memory, from a handful of timed steps.

Each method takes a few steps at its smallest and largest size, and so does the training of each
configuration. What a method does is counted by its loops (LOOPS); least squares on the short runs
give the seconds of the long one. Where earlier trials of the study left their seconds, these count.
"""

import inspect
import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
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
from ddlib.study.plan import Plan, Reference, Trial
from ddlib.study.run import missing
from ddlib.study.settings import CONVERGED
from ddlib.study.worker import Context, job, open_data, seconds
from ddlib.training.loop import score, train
from ddlib.training.targets import Teacher
from ddlib.words.text import listed

PATIENCE = 0.5  # seconds for which short runs are repeated; the fastest of each counts
UNITS = ("hours", 3600), ("minutes", 60)  # the first of which a study takes at least two
SCORED = 256  # test images on which a score is timed
EXPERT = {"iterations": 1, "experts": 1, "expert_epochs": 1, "max_start": 1}
MATCH = {"iterations": 1, "outer_steps": 2, "inner_epochs": 0}


def _matches(iterations: float, outer_steps: float, inner_epochs: float) -> tuple[float, ...]:
    return 1, iterations * outer_steps, iterations * (outer_steps - 1) * inner_epochs


SELECTION = [{"steps": 1}, {"steps": 20}], lambda steps: (1, steps)
MATCHING = [MATCH | {"outer_steps": 1}, MATCH, MATCH | {"inner_epochs": 1}], _matches
LOOPS = {
    "random": ([{}], lambda: (1,)),
    "herding": SELECTION,
    "k_center": SELECTION,
    "kernel_herding": SELECTION,
    "k_means": ([{}], lambda: (1,)),
    "nearest_to_centroid": SELECTION,
    "dm": ([{"iterations": 1}, {"iterations": 3}], lambda iterations: (1, iterations)),
    "dc": MATCHING,
    "dsa": MATCHING,
    "mtt": (
        [EXPERT | {"student_steps": n} for n in (1, 4)],
        lambda iterations, student_steps: (1, iterations * student_steps),
    ),
    "datm": (
        [EXPERT | {"min_start": 0, "label_snapshot": 1, "student_steps": n} for n in (1, 4)],
        lambda iterations, student_steps: (1, iterations * student_steps),
    ),
    "rded": ([{}], lambda: (1,)),
    "sre2l": ([{"iterations": n} for n in (1, 3)], lambda iterations: (1, iterations)),
    "ncfm": (
        [{"iterations": n, "networks": 1} for n in (1, 3)],
        lambda iterations: (1, iterations),
    ),
    "mgd3": ([{"steps": n, "stop": 0} for n in (1, 4)], lambda steps: (1, steps)),
    "imported": ([{}], lambda: (1,)),
}
"""By method: the changes of parameters that make short runs, and how often each loop runs."""


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
        share = total / self.workers / size
        end = (
            f"{share:,.1f} {unit} on {self.workers} workers, {self.megabytes:,.0f} MB each at most"
        )
        unknown = listed(self.parts.index[self.parts.isna()], "and")
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
    ipcs, classes, earlier = sorted(plan.ipcs), plan.dataset.class_count, _earlier(plan)
    new = [trial.method for trial in sets if ("set", trial.method, trial.ipc) not in earlier]
    ks = ipcs[0] * classes, ipcs[-1] * classes, len(plan.dataset.train.labels)
    (plan.folder / store.LOCK).touch()  # workers look for it
    with connect(plan.settings, plan.context) as client:
        runs, trainings, teachers = [], {}, {}
        for method in dict.fromkeys(new):
            base, parameters = plan.methods[method]
            files = [plain for plain, path in plan.preparations(method) if not path.exists()]
            for sizes in [ipcs] if METHODS[base].shares else [ipcs[:1], ipcs[-1:]]:
                call = run_shortly, plan.context, method, base, parameters, sizes, files
                runs += [client.submit(*call, pure=False)] if base in LOOPS else []
        for name, configuration in plan.configurations.items():
            call = train_shortly, plan.context, configuration, ks
            trainings[name] = client.submit(*call, pure=False)
            path = plan.teacher_path(name)
            if path and not path.exists() and path not in teachers:
                call = train_shortly, plan.context, configuration.teacher, ks
                teachers[path] = client.submit(*call, pure=False)
        runs, trainings, teachers = client.gather([runs, trainings, teachers])
        workers = len(client.ncores())

    def evaluation(trial: Trial) -> float:
        batches, spent, _ = trainings[trial.configuration]
        return plan.settings.evaluations * np.interp(trial.ipc * classes, batches, spent)

    costs = pd.DataFrame(runs, columns=["method", "ipc", "set", "files", "megabytes"])
    parts = costs.groupby("method")["files"].max().to_dict()
    for trial in sets:
        rows = costs[costs["method"] == trial.method]
        timed = np.interp(trial.ipc, rows["ipc"], rows["set"]) if len(rows) else math.nan
        spent = earlier.get(("set", trial.method, trial.ipc), timed)
        parts[trial.method] = parts.get(trial.method, 0) + spent
    parts["evaluation"] = sum(
        earlier.get(("evaluation", trial.configuration, trial.ipc), evaluation(trial))
        for trial in trials
    )
    parts["networks on all data"] = sum(
        spent[-1] * _relative_length(plan, name, references)
        for name, (_, spent, _) in trainings.items()
    )
    if teachers:
        parts["teachers"] = sum(spent[-1] for _, spent, _ in teachers.values())
    trained = [*trainings.values(), *teachers.values()]
    megabytes = max([*costs["megabytes"], *(peak for *_, peak in trained)])
    return Forecast(pd.Series(parts), workers, megabytes)


def _earlier(plan: Plan) -> dict[tuple[str, str, int], float]:
    """Return the mean seconds of finished sets and evaluations, by kind, name and size."""
    rows = []
    for trial in plan.trials:
        if store.stands(trial.path):
            spent = store.read_seconds(trial.set_path), store.read_record(trial.path)["seconds"]
            rows.append(("set", trial.method, trial.ipc, spent[0]))
            rows.append(("evaluation", trial.configuration, trial.ipc, spent[1]))
    table = pd.DataFrame(rows, columns=["kind", "name", "ipc", "seconds"]).dropna()
    means = table.astype({"seconds": float}).groupby(["kind", "name", "ipc"])["seconds"].mean()
    return means.to_dict()


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

    files: the jobs of its preparation that are to be done.
    """
    dataset, network = open_data(context)
    entry, (changes, loops) = METHODS[base], LOOPS[base]
    shorts = [parameters.replace(**change) for change in changes]
    names = inspect.signature(loops).parameters
    counted = [
        loops(**{name: at_ipc(getattr(chosen, name), ipcs[-1]) for name in names})
        for chosen in [*shorts, parameters]
    ]
    make, preparation = [], entry.preparation
    with TemporaryDirectory() as folder:
        path = Path(folder) / "prepared"
        first = preparation.jobs(shorts[0], ipcs)[:1] if preparation else []
        plain = [_shortened(p, count) for p in first for count in (1, 4)]
        make = [lambda p=p: path.write_bytes(preparation.make(dataset, network, p)) for p in plain]
        more = [[path] if plain else []] if preparation else []
        call = partial(entry.distil, dataset, network, ipcs, 0)
        spent = _fastest(context, [*make, *(partial(call, short, *more) for short in shorts)])
    a_set = _extrapolated(counted[:-1], spent[len(make) :], counted[-1]) / len(ipcs)
    steps = [(1, _steps(p, len(dataset.train.labels))) for p in [*plain, *files]]
    of_files = [
        _extrapolated(steps[: len(make)], spent[: len(make)], n) for n in steps[len(make) :]
    ]
    return method, ipcs[-1], a_set, sum(of_files), _peak(context)


def _shortened(plain: dict[str, Any], count: int) -> dict[str, Any]:
    """Return a job of a preparation that takes `count` SGD steps."""
    return plain | ({"epochs": 1, "epoch_steps": count} if "epochs" in plain else {"steps": count})


def _steps(plain: dict[str, Any], count: int) -> int:
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

    def timed(call: Callable[[], object]) -> float:
        start = seconds(context)
        call()
        return seconds(context) - start

    calls[0]()
    end, rounds = time.monotonic() + PATIENCE, []
    while not rounds or time.monotonic() < end:
        rounds.append([timed(call) for call in calls])
    return np.min(rounds, axis=0)


def _extrapolated(counted: Sequence, spent: Sequence[float], wanted: Sequence[float]) -> float:
    """Return the seconds of `wanted` loops, from the loops of short runs and their seconds."""
    return float(nnls(np.array(counted, float), np.array(spent))[0] @ wanted)


def _peak(context: Context) -> float:
    """Return the most memory that this worker has held, in MB: the GPU's, if it computes there."""
    if context.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
