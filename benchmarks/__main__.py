"""Measure the library against the obvious implementations: `make bench`; see README.md here."""

import argparse
import json
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, processes
from benchmarks.cases import QUICK, Case, Scale, all_cases, difference
from ddlib.files import from_root, write_atomically

LINE = "{:34} {:8} {:>9} {:>8} {:>19} {:>19} {:>6} {:>8}"
HEAD = ("case", "data", "theirs s", "ours s", "ratio", "memory kept", "limit", "at most")


def measure(case: Case, repeats: int, memory: int = 0) -> dict[str, Any]:
    """Return the seconds of a case, the obvious way and the library's, in turn.

    The obvious way runs twice: as a process does by default, which gives large tensors back to the
    system, and with memory kept, as in the library's workers. Raises AssertionError if the results
    are further apart than the case allows. memory: the bytes to fetch before memory is kept.
    """
    machine.keep_memory()
    what = f"{case.name} on {case.data}"
    apart = difference(case.reference(), case.ours(), what, case.tolerance)
    taken: dict[str, list[float]] = {"reference": [], "reference_kept": [], "ours": []}
    for _ in range(repeats):
        machine.give_memory_back()
        taken["reference"].append(machine.seconds(case.reference))
        machine.keep_memory(memory)
        taken["reference_kept"].append(machine.seconds(case.reference))
        taken["ours"].append(machine.seconds(case.ours))
    least = case.least() if case.least else None
    name = {"case": case.name, "data": case.data, "difference": apart}
    return {**name, "seconds": taken, "least_seconds": least}


def line(record: dict[str, Any]) -> str:
    """Return a row of the printed table; ratios are medians with their range.

    The last column is the ratio that a library at the machine's limit would have.
    """
    taken, least = record["seconds"], record["least_seconds"]
    ours = statistics.median(taken["ours"])
    share = f"{least / min(taken['ours']):.0%}" if least else ""  # both are bests
    ratios = [_ratio(taken[name], taken["ours"]) for name in ("reference", "reference_kept")]
    theirs = statistics.median(taken["reference"] or taken["reference_kept"])
    most = f"{theirs / least:.2f}" if least else ""
    return LINE.format(
        *(record["case"], record["data"], f"{theirs:.3f}", f"{ours:.3f}"), *ratios, share, most
    )


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    if not theirs:
        return ""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def run(scale: Scale, only: str = "") -> Iterator[dict[str, Any]]:
    """Yield the record of every case whose name holds `only`."""
    for case in all_cases(scale):
        if only in case.name:
            yield measure(case, scale.repeats, scale.memory)
    yield from processes.measure(scale, only)


def identity(scale: Scale) -> dict[str, Any]:
    """Return what a run has to say of itself to stand beside others: code, machine and scale."""
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "commits": int(_git("rev-list", "--count", "HEAD") or 0),  # orders runs
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "scale": asdict(scale),
    }


def _git(*arguments: str) -> str:
    try:
        asked = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return asked.stdout.strip()


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line a case, and leave the file of the run in the folder of results."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, help="runs of every case; 3, or 1 with --quick")
    parser.add_argument("--results", default="results/bench")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    scale = QUICK if asked.quick else Scale()
    scale = replace(scale, repeats=asked.repeats or scale.repeats)
    print(LINE.format(*HEAD), flush=True)
    records = []
    for record in run(scale, asked.only):
        print(line(record), flush=True)
        records.append(record)
    about = identity(scale)
    kind = "quick" if asked.quick else "full"
    path = from_root(asked.results) / f"{about['commit']}-{kind}-{asked.threads}threads.json"
    write_atomically(path, json.dumps({**about, "cases": records}, indent=1).encode())
    print(f"kept in {path}")


if __name__ == "__main__":
    main()
