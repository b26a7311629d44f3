"""Provenance: with which code, on which machines and in how many hours a study ran."""

import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from dask.system import CPU_COUNT
from distributed.system import MEMORY_LIMIT

from ddlib.files import PROVENANCE, write_atomically
from ddlib.fingerprints import PACKAGE, plain_text
from ddlib.study.results import Result
from ddlib.study.store import read_seconds

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "ddlib")


def versions() -> dict[str, str]:
    """Return the versions of Python and of LIBRARIES."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def machine() -> dict[str, Any]:
    """Return what computes here: no names of hosts or users.

    instructions: those that PyTorch uses on this CPU, which decide how it rounds; cores and
    memory_gb: what this process may use; gpu: None if there is none.
    """
    return {
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": CPU_COUNT,
        "memory_gb": round(MEMORY_LIMIT / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu() -> str:
    table = Path("/proc/cpuinfo")  # of Linux
    models = re.findall(r"^model name\s*: (.+)", table.read_text() if table.exists() else "", re.M)
    return models[0] if models else platform.processor() or platform.machine()


def commit() -> dict[str, Any]:
    """Return the commit of the library, and whether its files have changes that are in no commit.

    Both are None where the library is not part of a git repository.
    """
    if not _git("ls-files", "__init__.py"):
        return {"commit": None, "changed": None}
    return {"commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--short", "."))}


def _git(*words: str) -> str:
    """Return what git prints in the library's folder; nothing if it fails or is not installed."""
    try:
        run = subprocess.run(["git", *words], cwd=PACKAGE, capture_output=True, text=True)
    except OSError:
        return ""
    return run.stdout.strip()


def seconds(costs: pd.DataFrame) -> dict[str, float]:
    """Return the seconds of a core for sets, what methods prepare, and evaluations.

    costs: as in `Result`.
    """
    return {
        "sets": costs.drop_duplicates("set")["distil_seconds"].sum(),
        "preparations": costs.drop_duplicates("method")["prepare_seconds"].sum(),
        "evaluations": costs["evaluate_seconds"].sum(),
    }


def write_provenance(result: Result, machines: Sequence[dict[str, Any]]) -> None:
    """Write the provenance of a study that has just ended into its results folder.

    machines: what `machine` returned on each worker at the start; [] if they are not known.
    core_hours also count searches: those for the length of converged trainings, teachers and
    pretrained bodies. Networks on all data are not timed. A study that took several runs tells of
    the last one. No result depends on this file.
    """
    plan = result.plan
    places = (plan.length_path, plan.teacher_path, plan.pretrained_path)
    files = {
        "preparations": {path for name in plan.methods for _, path in plan.preparations(name)},
        "searches": {place(name) for place in places for name in plan.configurations} - {None},
    }
    shared = {part: np.nansum([*map(read_seconds, paths)]) for part, paths in files.items()}
    spent = seconds(result.costs) | shared  # methods share files, which count once
    table = {
        **commit(),
        "versions": versions(),
        "machines": list({plain_text(machine): machine for machine in machines}.values()),
        "workers": len(machines) or None,
        "core_hours": {name: round(float(value) / 3600, 3) for name, value in spent.items()},
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomically(plan.folder / PROVENANCE, plain_text(table).encode())
