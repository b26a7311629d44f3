"""Run many parameter files, several at once: `python -m ddlib.publish.batch FILES`.

The folder of a file names its notebook: parameters/methods/mnist.yaml is for 02_methods. If one run
fails, the others go on. Finished trials are kept, so the same command continues a batch that was
stopped.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from threading import Lock, Semaphore, Thread
from typing import Any

import pandas as pd
from filelock import FileLock

from ddlib.devices import check_precision
from ddlib.files import check_writable, from_root
from ddlib.parameters import read_file
from ddlib.publish.execute import execute, read_source, sentence
from ddlib.study import cluster
from ddlib.study.settings import Exploration, Settings, read_parameters

TABLES = ("trials.parquet", "references.parquet")


@dataclass
class Run:
    """A notebook, its parameter file, and how the run ended.

    folder: its results; inputs: the results folders that it reads; options: parameters that replace
    those of the file; on_gpu: whether it uses a GPU of this machine; status: done, incomplete (some
    trials failed), failed, refused, or not run.
    """

    name: str
    parameters: Path
    notebook: Path | None = None
    folder: Path | None = None
    inputs: list[Path] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    on_gpu: bool = False
    status: str = ""
    seconds: float | None = None
    message: str = ""


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the YAML files among `paths` and in folders among them, each once.

    Raises FileNotFoundError for a missing path, ValueError if there is no YAML file.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}; check the path")
        below = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
        files |= dict.fromkeys(file.resolve() for file in below)
    if not files:
        raise ValueError("no .yaml file in what was given; name files of parameters, or folders")
    return list(files)


def read(path: Path, scheduler_address: str | None = None) -> Run:
    """Return the run of a file. If its parameters are bad, it is `refused`, with the reason."""
    run = Run(f"{path.parent.name}/{path.stem}", path)
    try:
        values = read_file(path)
        if isinstance(values.get("results"), str):
            run.folder = from_root(values["results"])
        run.notebook = _notebook(path)
        source = read_source(run.notebook)
        if scheduler_address and "studies" not in values:
            run.options = {"scheduler_address": scheduler_address}
        settings = read_parameters(values | run.options)
        check_writable(run.folder)
        if isinstance(settings, Exploration):
            run.inputs = [from_root(name) for name in settings.studies]
        elif any("settings.theory" in cell.source for cell in source.cells):
            run.inputs = [from_root(settings.theory.coverage)]
        if isinstance(settings, Settings):
            device = cluster.device(settings)
            check_precision(settings.precision, device)
            run.on_gpu = not settings.scheduler_address and device != "cpu"
    except (OSError, ValueError) as error:
        run.status, run.message = "refused", str(error)
    return run


def _notebook(path: Path) -> Path:
    """Return the notebook that the folder of a parameter file names; ValueError if none."""
    files = sorted(from_root("notebooks").glob("[0-9][0-9]_*"))
    notebooks = {file.stem[3:]: file for file in files}
    if path.parent.name not in notebooks:
        raise ValueError(
            f"no notebook takes {path.parent.name}/{path.stem}; put the file in a folder with the "
            f"name of one: {', '.join(notebooks)}"
        )
    return notebooks[path.parent.name]


def read_all(paths: Iterable[Path], scheduler_address: str | None = None) -> list[Run]:
    """Return the runs of these files.

    A second run with the same results folder is refused. Raises ValueError if runs read each
    other's tables.
    """
    runs = [read(path, scheduler_address) for path in paths]
    by_folder: dict[Path | None, Run] = {}
    for run in runs:
        first = by_folder.setdefault(run.folder, run)
        if first is not run and run.status != "refused":
            message = f"its results folder is that of {first.name}; name another"
            run.status, run.message, run.inputs = "refused", message, []
    try:
        TopologicalSorter({run.folder: run.inputs for run in runs if run.folder}).prepare()
    except CycleError as error:
        names = " reads ".join(by_folder[folder].name for folder in error.args[1][::-1])
        raise ValueError(f"{names}: none can go first; change what one reads") from None
    return runs


def work(runs: list[Run], at_once: int) -> None:
    """Execute all runs, `at_once` at a time, each in a thread. Only one run uses the GPU."""
    slots, gpu = Semaphore(at_once), Lock()
    threads: dict[Path | None, Thread] = {}

    def do(run: Run) -> None:
        sources = [other for other in runs if other.folder in run.inputs]
        for source in sources:
            if source.folder in threads:
                threads[source.folder].join()
        failed = [s.name for s in sources if s.status in ("failed", "refused", "not run")]
        if failed:
            run.status = "not run"
            run.message = f"it needs the results of {', '.join(failed)}"
            return
        with ExitStack() as turn:
            turn.enter_context(slots)
            if run.on_gpu:
                turn.enter_context(gpu)
            _execute(run)
        print(f"{run.name}: {run.status} after {run.seconds:.0f} s. {run.message}", flush=True)

    for run in runs:
        if run.status == "refused":
            print(f"{run.name}: refused: {run.message}", flush=True)
        else:
            threads[run.folder] = Thread(target=do, args=(run,), daemon=True)
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join()


def _execute(run: Run) -> None:
    """Execute one run and set its status. It waits while another batch uses its folder."""
    start = time.monotonic()
    try:
        with FileLock(run.folder / ".batch.lock"):
            start = time.monotonic()
            execute(run.notebook, run.parameters, log=False, **run.options)
        failed = _failed_trials(run.folder)
        run.status = "incomplete" if failed else "done"
        if failed:
            run.message = f"{failed} trials failed; the page lists them, and they are tried again"
    except Exception as error:  # a run that fails must not end the others
        run.status, run.message = "failed", sentence(error, run.notebook)
    run.seconds = time.monotonic() - start


def _failed_trials(folder: Path) -> int:
    """Return how many trials and networks on all data failed; divergence does not count."""
    tables = [folder / name for name in TABLES if (folder / name).exists()]
    statuses = [pd.read_parquet(path, columns=["status"])["status"] for path in tables]
    return sum(int((status == "failed").sum()) for status in statuses)


def table(runs: list[Run]) -> str:
    """Return a table to print: run, status, seconds, message."""
    rows = pd.DataFrame(
        {
            "run": [run.name for run in runs],
            "status": [run.status for run in runs],
            "seconds": ["" if run.seconds is None else f"{run.seconds:.0f}" for run in runs],
            "message": [" ".join(run.message.split()) for run in runs],
        }
    )
    width = max(map(len, rows["message"]))
    left = {"message": f"{{:<{width}}}".format}
    return rows.to_string(index=False, max_colwidth=None, formatters=left)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Return the arguments of the command line; exit with the usage if they are invalid."""
    parser = argparse.ArgumentParser(prog="python -m ddlib.publish.batch", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="YAML files, or folders of them")
    parser.add_argument(
        "--workers",
        type=_count,
        help="worker processes in all, for files that leave it open; default: one a core",
    )
    parser.add_argument("--at-once", type=_count, help="notebooks at once; default: one a worker")
    parser.add_argument("--scheduler-address", help="a Dask cluster to use: tcp://host:8786")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes; choose 1 or more")
    return int(text)


def main(arguments: list[str]) -> None:
    """Run a batch from a shell; exit code 1 if any run is not done."""
    options = read_arguments(arguments)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # the notebook refuses unknown names
    address = options.scheduler_address
    workers = options.workers or os.cpu_count() or 1
    try:
        runs = read_all(find(options.paths), address)
        with ExitStack() as shared:
            if not (address or os.environ.get(cluster.ADDRESS)):
                os.environ[cluster.ADDRESS] = shared.enter_context(cluster.processes(workers))
            try:
                work(runs, options.at_once or workers)
            except KeyboardInterrupt:
                print("stopped; what is finished is kept: the same command goes on from there")
                sys.stdout.flush()
                os._exit(1)  # kernels and workers end with this process; closing them may hang
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    print(table(runs))
    bad = [run for run in runs if run.status != "done"]
    if bad:
        sys.exit(f"{len(bad)} of {len(runs)} runs did not end well")


if __name__ == "__main__":
    main(sys.argv[1:])
