"""Time the library's kernels against the obvious implementations: `make bench`.

Both ways run in turn in one process, keep freed memory, and must give the same results.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks import machine
from benchmarks.cases import QUICK, Case, Scale, all_cases, difference

LINE = "{:26} {:8} {:>9} {:>9} {:>18} {:>10}"
HEAD = ("case", "data", "obvious s", "library s", "ratio", "difference")


def measure(case: Case, repeats: int) -> str:
    """Return a row of the table: median seconds both ways, and the median ratio with its range.

    Raises AssertionError if the results are further apart than they may be.
    """
    apart = difference(case.reference(), case.ours(), f"{case.name} on {case.data}")
    theirs, ours = [], []
    for _ in range(repeats):
        theirs.append(machine.seconds(case.reference))
        ours.append(machine.seconds(case.ours))
    medians = [f"{statistics.median(taken):.3f}" for taken in (theirs, ours)]
    return LINE.format(case.name, case.data, *medians, machine.ratio(theirs, ours), f"{apart:.0e}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every case and print a row for each."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; workers have one")
    parser.add_argument("--repeats", type=int, help="runs of every case; 3, or 1 with --quick")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    scale = QUICK if options.quick else Scale()
    scale = replace(scale, repeats=options.repeats or scale.repeats)
    names = sorted({case.name for case in all_cases(scale)})
    if not any(options.only in name for name in names):
        parser.error(f"--only {options.only!r} is no part of a case's name: {', '.join(names)}")
    machine.keep_memory(scale.memory)
    print(LINE.format(*HEAD), flush=True)
    for case in all_cases(scale):
        if options.only in case.name:
            print(measure(case, scale.repeats), flush=True)


if __name__ == "__main__":
    main()
