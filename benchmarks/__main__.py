"""Measure the library against the obvious implementations: `make bench`; see README.md here."""

import argparse
import json
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.cases import QUICK, Case, Scale, all_cases, difference
from benchmarks.processes import Workers
from ddlib.files import from_root, write_atomically

LINE = "{:26} {:8} {:>8} {:>7} {:>19} {:>19} {:>19} {:>19} {:>6} {:>7}"
HEAD = ("case", "data", "theirs s", "ours s", "ratio", "both keep memory", "ours a process/core")
HEAD += ("both a process/core", "limit", "at best")


def measure(case: Case, workers: Workers, repeats: int, memory: int = 0) -> dict[str, Any]:
    """Return the seconds of a case, the obvious way and the library's, in turn.

    The obvious way runs as a process does by default, which gives large tensors back to the system,
    with memory kept, and in every worker at once, which keep theirs; their seconds are shared out
    over their jobs. The library's runs in this process, with memory kept, and in every worker.
    Raises AssertionError if results are further apart than they may be. memory: the bytes to fetch
    before memory is kept.
    """
    machine.keep_memory()
    what, theirs = f"{case.name} on {case.data}", case.reference()
    for _ in range(2):  # the second finds the workers' memory fetched
        results = [case.ours(), *workers.run(case), *workers.run(case, "reference")]
    apart = max(difference(theirs, each, what) for each in results)
    kinds = ("reference", "reference_kept", "reference_workers", "ours", "workers")
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(repeats):
        machine.give_memory_back()
        taken["reference"].append(machine.seconds(case.reference))
        machine.keep_memory(memory)
        taken["reference_kept"].append(machine.seconds(case.reference))
        taken["ours"].append(machine.seconds(case.ours))
        for kind, way in {"reference_workers": "reference", "workers": "ours"}.items():
            together = machine.seconds(partial(workers.run, case, way))
            taken[kind].append(together / workers.count)
    least = case.least() if case.least else None
    name = {"case": case.name, "data": case.data, "difference": apart}
    return {**name, "seconds": taken, "least_seconds": least}


def line(record: dict[str, Any]) -> str:
    """Return a row of the printed table; ratios are medians with their range.

    The third is that of the obvious way to the library's as a study runs it, a job a core, and the
    fourth where the obvious way is run so, too; the last column is the ratio that a library at the
    machine's limit would have.
    """
    taken, least = record["seconds"], record["least_seconds"]
    ours = statistics.median(taken["ours"])
    share = f"{least / min(taken['ours']):.0%}" if least else ""  # both are bests
    pairs = ("reference", "ours"), ("reference_kept", "ours"), ("reference", "workers")
    pairs += (("reference_workers", "workers"),)
    ratios = [machine.ratio(taken[theirs], taken[own]) for theirs, own in pairs]
    theirs = statistics.median(taken["reference"])
    most = f"{theirs / least:.2f}" if least else ""
    return LINE.format(
        *(record["case"], record["data"], f"{theirs:.3f}", f"{ours:.3f}"), *ratios, share, most
    )


def run(scale: Scale, only: str = "") -> Iterator[dict[str, Any]]:
    """Yield the record of every case whose name holds `only`."""
    with Workers(scale, torch.get_num_threads()) as workers:
        for case in all_cases(scale):
            if only in case.name:
                yield measure(case, workers, scale.repeats, scale.memory)


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
    names = sorted({case.name for case in all_cases(scale)})
    if not any(asked.only in name for name in names):
        parser.error(f"--only {asked.only!r} is no part of a case's name: {', '.join(names)}")
    about, records = identity(scale), []
    kind = "quick" if asked.quick else "full"
    name = f"{about['commit']}-{kind}-{asked.threads}threads"
    folder, only = from_root(asked.results), asked.only.replace(" ", "_")
    path = folder / f"{name}{f'-{only}' if only else ''}.json"
    so_far = path.with_suffix(".partial")
    print(LINE.format(*HEAD), flush=True)
    for record in run(scale, asked.only):
        print(line(record), flush=True)
        records.append(record)
        write_atomically(so_far, json.dumps({**about, "cases": records}, indent=1).encode())
    so_far.replace(path)
    print(f"kept in {path}")


if __name__ == "__main__":
    main()
