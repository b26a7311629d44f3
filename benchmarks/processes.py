"""Two worker processes of one thread against one process of two threads, on the same two jobs."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import torch

from benchmarks import machine
from benchmarks.cases import (
    Case,
    Scale,
    Setting,
    difference,
    distribution_matching,
    evaluation,
    gradient_matching,
    make_setting,
)

JOBS: dict[str, Callable[[Setting], Case]] = {
    "DM iteration": lambda setting: distribution_matching(setting, [setting.scale.ipc], ""),
    "DC outer step": lambda setting: gradient_matching(setting, "dc", "none"),
    "evaluation": evaluation,
}
WORKERS = 2


def measure(scale: Scale, only: str) -> Iterator[dict[str, Any]]:
    """Yield a record a job: WORKERS of them, one after another or at once, in turn."""
    names = [f"{name}, a process a core" for name in JOBS]
    if not any(only in name for name in names):
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=spawn, initializer=_start) as pool:
        for job, name in zip(JOBS, names, strict=True):
            if only in name:
                yield _measured(pool, scale, job, name)


def _start() -> None:
    torch.set_num_threads(1)
    machine.keep_memory()


def _measured(pool: ProcessPoolExecutor, scale: Scale, job: str, name: str) -> dict[str, Any]:
    machine.keep_memory()

    def together() -> torch.Tensor:
        return torch.stack(list(pool.map(_work, [scale] * WORKERS, [job] * WORKERS)))

    def one_after_another() -> torch.Tensor:
        return torch.stack([_work(scale, job) for _ in range(WORKERS)])

    taken: dict[str, list[float]] = {"reference": [], "reference_kept": [], "ours": []}
    for _ in range(3):
        ours = together()  # every worker has made the setting, and has its memory
    apart = difference(one_after_another(), ours, name)
    for _ in range(scale.repeats):
        taken["reference_kept"].append(machine.seconds(one_after_another))
        taken["ours"].append(machine.seconds(together))
    known = {"case": name, "data": "mnist", "difference": apart}
    return {**known, "seconds": taken, "least_seconds": None}


def _work(scale: Scale, job: str) -> torch.Tensor:
    return _ours(scale, job)()


@cache
def _ours(scale: Scale, job: str) -> Callable[[], torch.Tensor]:
    return JOBS[job](make_setting(scale, "mnist")).ours
