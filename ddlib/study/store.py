"""The files of a study: records of trials, seconds of files, and locks."""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ddlib.files import read_json, write_atomically
from ddlib.fingerprints import plain_text
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import Score

LOCK = ".lock"
"""The lock file in a results folder."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a results folder. A second process prints that it waits until the first has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is at work in {folder}; waiting for it to end", flush=True)
        held = lock.acquire()
    with held:
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a file of the cache, so that two workers do not make it at the same time."""
    folder = path.parent.with_name("locks")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{path.name}.lock") as lock:
        yield
        if path.exists():  # safe to delete: whoever gets the lock next sees that `path` exists
            Path(lock.lock_file).unlink(missing_ok=True)


def success(scores: Iterable[Score]) -> dict[str, Any]:
    """Return the record of a trial, or of a network on all data, without an error."""
    return {"status": "ok", "message": "", "scores": [asdict(score) for score in scores]}


def failure(error: BaseException) -> dict[str, Any]:
    """Return the record of an error: "diverged" is final, "failed" is tried again."""
    diverged = isinstance(error, DivergedError)
    message = str(error) if diverged else f"{type(error).__name__}: {error}"
    record = {"status": "diverged" if diverged else "failed", "message": message, "scores": []}
    return record | {"seconds": None, "steps": None, "capped": False}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON, atomically."""
    write_atomically(path, plain_text(record).encode())


def read_record(path: Path) -> dict[str, Any]:
    """Return the record at `path`; ValueError, with the path, if the file is damaged."""
    return read_json(path, names=("status", "message", "scores"))


def stands(path: Path, observed: Path | None = None) -> bool:
    """Return whether a trial or network is done: it diverged, or ended well.

    observed: a file that must exist, too, if it ended well.
    """
    status = read_record(path)["status"] if path.exists() else "failed"
    return status == "diverged" or (status == "ok" and (observed is None or observed.exists()))


def write_seconds(path: Path, seconds: float) -> None:
    """Write the seconds that a file took to a second file: the bytes of the file must not vary."""
    write_atomically(path.with_name(f"{path.name}.seconds"), json.dumps(seconds).encode())


def read_seconds(path: Path) -> float:
    """Return the seconds that the file `path` took; NaN if they were never written."""
    beside = path.with_name(f"{path.name}.seconds")
    return read_json(beside, float) if beside.exists() else math.nan
