"""Run many parameter files, several at once: `python -m ddlib.publish.batch FILES`.

The folder of a file names its notebook: parameters/methods/mnist.yaml is for 02_methods. Runs start
in the order of their notebooks' numbers. If one run fails, the others go on. Finished trials are
kept, so the same command continues a batch that was stopped.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import pandas as pd
from filelock import FileLock

from ddlib.files import STOPPED, exit_with_sentence, from_root
from ddlib.parameters import check_names, read_file
from ddlib.publish.execute import check, execute, notebooks, run_name, sentence
from ddlib.publish.page import rewrite_pages
from ddlib.study import cluster
from ddlib.study.exploration import Exploration


@dataclass
class Run:
    """A notebook, its parameter file, and how the run ended.

    folder: its results; inputs: the results folders that it reads; on_gpu: whether it uses a GPU of
    this machine; status: done, incomplete (some trials failed), failed, refused, or not run.
    """

    name: str
    parameters: Path
    notebook: Path | None = None
    folder: Path | None = None
    inputs: list[Path] = field(default_factory=list)
    on_gpu: bool = False
    status: str = ""
    seconds: float | None = None
    message: str = ""


def find(paths: Iterable[Path]) -> list[Path]:
    """Return the YAML files among `paths` and in folders among them that are not hidden, each once.

    Raises FileNotFoundError for a missing path, ValueError if there is no YAML file.
    """
    files = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}; check the path")
        if path.is_dir():
            below = sorted(path.rglob("*.yaml"))
            files += [file for file in below if "/." not in f"/{file.relative_to(path).as_posix()}"]
        else:
            files.append(path)
    if not files:
        raise ValueError("no .yaml file in what was given; name files of parameters, or folders")
    return list(dict.fromkeys(file.resolve() for file in files))


def read(path: Path) -> Run:
    """Return the run of a file. If its parameters are bad, it is `refused`, with the reason."""
    run = Run(run_name(path), path)
    try:
        values = read_file(path)
        if isinstance(values.get("results"), str):
            run.folder = from_root(values["results"]).resolve()
        names = notebooks()
        check_names([path.parent.name], names, "folder with the name of a notebook")
        run.notebook = names[path.parent.name]
        settings = check(run.notebook, path)[2]
        if isinstance(settings, Exploration):
            run.inputs = [from_root(name).resolve() for name in settings.studies]
        else:
            run.on_gpu = not settings.scheduler_address and cluster.device(settings) != "cpu"
    except (OSError, ValueError) as error:
        run.status, run.message = "refused", str(error)
    return run


def read_all(paths: Iterable[Path]) -> list[Run]:
    """Return the runs of these files, in the order of their notebooks' numbers.

    A second run with the same results folder is refused.
    """
    runs = [read(path) for path in paths]
    first_of: dict[Path | None, Run] = {}
    for run in [run for run in runs if not run.status]:
        first = first_of.setdefault(run.folder, run)
        if first is not run:
            run.status, run.folder = "refused", None
            run.message = f"its results folder is that of {first.name}; name another"
    return sorted(runs, key=lambda run: str(run.notebook or ""))


def work(runs: list[Run], at_once: int) -> None:
    """Execute runs in their order, `at_once` at a time. Only one at a time uses the GPU.

    A run waits for earlier runs whose results it reads.
    """
    gpu, pool = Lock(), ThreadPoolExecutor(at_once)
    futures: list[Future] = []

    def execute_after(sources: list[Future], run: Run) -> Run:
        ended = [source.result() for source in sources]
        missing = [source.name for source in ended if source.status not in ("done", "incomplete")]
        if missing and not run.status:
            run.status, run.message = "not run", f"it needs the results of {', '.join(missing)}"
        if not run.status:
            with gpu if run.on_gpu else nullcontext():
                print(f"{run.name}: starts", flush=True)
                _execute(run)
        print(f"{run.name}: {run.status}. {run.message}", flush=True)
        return run

    for run in runs:
        earlier = zip(runs, futures, strict=False)
        sources = [future for other, future in earlier if other.folder in run.inputs]
        futures.append(pool.submit(execute_after, sources, run))
    for future in futures:
        future.result()


def _execute(run: Run) -> None:
    """Execute one run and set its status. It waits while another batch uses its folder."""
    start = time.monotonic()
    try:
        with FileLock(run.folder / ".batch.lock"):
            execute(run.notebook, run.parameters, log=False)
        failed = _failed_trials(run.folder)
        run.status = "incomplete" if failed else "done"
        if failed:
            run.message = f"{failed} trials failed; the page lists them, and they are tried again"
    except Exception as error:  # a run that fails must not end the others
        run.status, run.message = "failed", sentence(error, run.notebook)
    run.seconds = time.monotonic() - start


def _failed_trials(folder: Path) -> int:
    """Return how many trials and networks on all data failed; divergence does not count."""
    tables = [folder / f"{name}.parquet" for name in ("trials", "references")]
    records = [pd.read_parquet(path, columns=["status"]) for path in tables if path.exists()]
    return sum(int((table["status"] == "failed").sum()) for table in records)


def table(runs: list[Run]) -> str:
    """Return a table to print: name, status, seconds, message."""
    rows = pd.DataFrame(map(vars, runs), columns=["name", "status", "seconds", "message"])
    rows["message"] = rows["message"].str.ljust(rows["message"].str.len().max())
    rows["seconds"] = rows["seconds"].astype(float)
    return rows.to_string(index=False, na_rep="", float_format="{:.0f}".format, max_colwidth=None)


@exit_with_sentence()
def main(arguments: list[str]) -> None:
    """Run a batch from a shell; exit code 1 if any run is not done."""
    parser = argparse.ArgumentParser(prog="python -m ddlib.publish.batch", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="YAML files, or folders of them")
    about = "notebooks at once, and worker processes that they share; default: one a core"
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help=about)
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers {options.workers} starts no process; choose 1 or more")
    logging.getLogger("papermill").setLevel(logging.ERROR)  # the notebook refuses unknown names
    runs = read_all(find(options.paths))
    with ExitStack() as shared:
        if not os.environ.get(cluster.ADDRESS):
            workers = cluster.processes(options.workers)
            os.environ[cluster.ADDRESS] = shared.enter_context(workers)
        try:
            work(runs, options.workers)
        except KeyboardInterrupt:
            print(STOPPED)
            sys.stdout.flush()
            os._exit(1)  # kernels and workers end with this process; closing them may hang
    rewrite_pages(run.folder for run in runs if run.seconds is not None)
    print(table(runs))
    bad = [run for run in runs if run.status != "done"]
    if bad:
        sys.exit(f"{len(bad)} of {len(runs)} runs did not end well")


if __name__ == "__main__":
    main(sys.argv[1:])
