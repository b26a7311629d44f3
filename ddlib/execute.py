"""Run a notebook with a file of parameters: `python -m ddlib.execute NOTEBOOK PARAMETERS`.

The executed notebook and its page go where its tables go, the `results` folder of the parameters.
More arguments, `workers=1` say, are parameters that go before those of the file.
"""

import logging
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from ddlib.files import NOTE, check_writable, from_root, write_atomically, write_note
from ddlib.page import failure, read_notebook, write_last_states, write_page

WITH_PARENT = "--with-parent"
"""The first argument of a process that is to end with its parent, which has checked the parameters;
their results folder and what decides the run follow."""

Checked = tuple[str, str | None]
"""The results folder, and what decides the run: None where what does is missing or wrong."""


class WholeFiles(LocalHandler):
    """Writes for papermill, which saves a notebook after every cell: whole, or not at all."""

    def write(self, text: str, path: str) -> None:
        write_atomically(Path(path), text.encode())


def read_file(parameters: Path) -> dict[str, Any]:
    """Return the table in a YAML file of parameters.

    Raises FileNotFoundError for a missing file, ValueError for one that holds something else.
    """
    if not parameters.is_file():
        raise FileNotFoundError(f"there is no file {parameters}; check the path")
    try:
        given = yaml.safe_load(parameters.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{parameters} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{parameters} must hold a table of names and values, got {given!r}")
    return given


def execute(
    notebook: Path, parameters: Path, checked: Checked | None = None, **others: Any
) -> Path:
    """Run `notebook` with the YAML file `parameters`; return the executed notebook.

    checked: what is known of them, by who has checked them; others: parameters that go before those
    of the file. The page, a file beside the executed notebook, is written also where a cell fails:
    it then says which and why. Where none does, a note of what decided the run tells a batch that
    nothing is left to do. Raises FileNotFoundError for a missing file, ValueError for parameters
    that name no study, OSError for a results folder that cannot be written, PapermillExecutionError
    for a failed cell, ChildProcessError where the notebook's own process died.
    """
    if not notebook.is_file():
        raise FileNotFoundError(f"there is no file {notebook}; check the path")
    given = read_file(parameters) | others
    if checked is None:
        # In a process of its own: torch, which it loads, would stay here as long as the run takes.
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as checking:
            checked = checking.submit(_check, notebook, parameters, given).result()
    results, identity = checked
    executed = from_root(results) / notebook.name
    if executed.resolve() == notebook.resolve():
        raise ValueError(f"results={results!r} is the notebook's own folder; name another")
    check_writable(executed.parent)
    page = executed.with_suffix(".html")
    for last in (page, executed.parent / NOTE):
        last.unlink(missing_ok=True)  # of another run than this
    papermill_io.register(str(executed), WholeFiles())
    try:
        papermill.execute_notebook(notebook, executed, given, log_output=True, progress_bar=False)
    except (PapermillExecutionError, DeadKernelError) as error:
        write_page(executed, page)
        if isinstance(error, DeadKernelError):
            stopped = failure(read_notebook(executed))
            where = f"in cell {stopped[0]}" if stopped else "after its last cell"
            raise ChildProcessError(
                f"the notebook's process died {where}, perhaps for want of memory; what is "
                "finished is kept: run again"
            ) from error
        raise
    write_last_states(executed)
    write_page(executed, page)
    if identity:
        write_note(executed.parent, identity)
    return executed


def _check(notebook: Path, parameters: Path, given: dict[str, Any]) -> Checked:
    """Return what is known of parameters, which have to pass every check made without data."""
    from ddlib.runs import Run
    from ddlib.settings import read_parameters

    settings = read_parameters(given)
    try:
        identity = Run(parameters.stem, notebook, parameters, settings).identity()
    except Exception:  # whatever it is, a cell says it better, and in its place
        identity = None
    return settings.results, identity


def end_with_parent() -> None:
    """End this process and its children when its standard input ends, so when its parent dies."""

    def watch() -> None:
        while os.read(0, 1024):  # sys.stdin has a lock, which is missed at the end
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    """Run from a shell; one sentence and exit code 1 where it cannot."""
    checked = None
    if arguments[:1] == [WITH_PARENT]:
        end_with_parent()
        checked, arguments = (arguments[1], arguments[2]), arguments[3:]
    others = dict(argument.split("=", 1) for argument in arguments[2:] if "=" in argument)
    if len(arguments) < 2 or len(arguments) != 2 + len(others):
        sys.exit("usage: python -m ddlib.execute NOTEBOOK.ipynb PARAMETERS.yaml [NAME=VALUE ...]")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    values = {name: yaml.safe_load(value) for name, value in others.items()}
    try:
        executed = execute(*map(Path, arguments[:2]), checked, **values)
    except PapermillExecutionError as stopped:
        what = " ".join(stopped.evalue.split()) or stopped.ename
        sys.exit(f"{arguments[0]} stopped in cell {stopped.exec_count}: {what}")
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    print(f"read {executed.with_suffix('.html')}")


if __name__ == "__main__":
    main(sys.argv[1:])
