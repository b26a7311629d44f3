"""Worker processes of one thread, a core each, that do one case's job each at the same time."""

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache

import torch

from benchmarks import machine
from benchmarks.cases import Case, Parts, Scale, all_cases

PATIENCE = 600.0  # seconds to wait for a worker that may have failed


class Workers(ProcessPoolExecutor):
    """A process for each thread that the obvious way has, of one thread, as a study has them."""

    def __init__(self, scale: Scale, count: int):
        self.scale, self.count = scale, count
        spawn = multiprocessing.get_context("spawn")
        super().__init__(count, spawn, _start, [spawn.Barrier(count, timeout=PATIENCE)])

    def run(self, case: Case, way: str = "ours") -> list[Parts]:
        """Return what every worker found, each of which has done a case: its `way`."""
        asked = [[each] * self.count for each in (self.scale, case.name, case.data, way)]
        return list(self.map(_work, *asked))


_every: threading.Barrier


def _start(every: threading.Barrier) -> None:
    global _every
    _every = every
    torch.set_num_threads(1)
    machine.keep_memory()


def _work(scale: Scale, name: str, data: str, way: str) -> Parts:
    case = _case(scale, name, data)
    _every.wait()  # or one worker could take the jobs of all
    return getattr(case, way)()


@lru_cache(maxsize=1)
def _case(scale: Scale, name: str, data: str) -> Case:
    [found] = [case for case in all_cases(scale) if (case.name, case.data) == (name, data)]
    return found
