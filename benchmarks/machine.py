"""How long calls take, and how glibc keeps memory."""

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence

import torch

TRIM, TOP_PAD, MMAP = -1, -2, -3  # glibc's numbers of these parameters


def keep_memory(fetched: int = 0) -> None:
    """Let glibc keep freed memory, as the workers of a study do; fetch some bytes beforehand."""
    for name, value in {MMAP: 2**31 - 1, TRIM: 2**31 - 1, TOP_PAD: 2**28}.items():
        if not ctypes.CDLL(None).mallopt(name, value):
            raise OSError("this C library takes no mallopt; run the benchmarks on Linux with glibc")
    torch.ones(fetched, dtype=torch.uint8)


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long a call took."""
    start = clock()
    run()
    return clock() - start


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Return the median of the ratios of runs side by side, and their range."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
