"""Run a notebook with a file of parameters: `python -m ddlib.publish.execute NOTEBOOK PARAMETERS`.

The executed notebook and its page go where its tables go, the `results` folder of the parameters.
More arguments, `workers=1` say, are parameters that go before those of the file.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import papermill
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import LocalHandler, papermill_io

from ddlib.files import check_writable, from_root, write_atomically
from ddlib.parameters import read_file, read_yaml
from ddlib.publish.page import failure, read_notebook, write_last_states, write_page

WITH_PARENT = "--with-parent"
"""The first argument of a process that is to end with its parent, which has checked the parameters;
their results folder follows."""


class QuietKernels(AsyncKernelManager):
    """Starts kernels without a standard output of their own.

    What their workers print is an output of the notebook, which papermill logs; ipykernel would
    write each line to the kernel's own standard output, too.
    """

    async def start_kernel(self, **options: Any) -> None:
        await super().start_kernel(**options, stdout=subprocess.DEVNULL)


class WholeFiles(LocalHandler):
    """Writes for papermill, which saves a notebook after every cell: whole, or not at all."""

    def write(self, text: str, path: str) -> None:
        write_atomically(Path(path), text.encode())


def read_source(path: Path) -> NotebookNode:
    """Return the notebook at `path`, which is to run with a file of parameters.

    papermill puts the file's values after the first cell tagged `parameters`, or at the top, where
    the notebook's own values replace them. Raises FileNotFoundError where there is no notebook,
    ValueError for another file, and unless exactly one cell is so tagged, a code cell.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check the path")
    notebook = read_notebook(path)
    tagged = [c.cell_type for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if tagged != ["code"]:
        raise ValueError(
            f"{path} must have one cell tagged 'parameters', a code cell, but has "
            f"{' and '.join(f'a {kind} cell' for kind in tagged) or 'none'} so tagged; give the "
            "tag to the cell that sets the parameters, alone (JupyterLab: Property Inspector)"
        )
    return notebook


def execute(notebook: Path, parameters: Path, checked: str | None = None, **others: Any) -> Path:
    """Run `notebook` with the YAML file `parameters`; return the executed notebook.

    checked: the results folder, where the caller has checked the parameters; others: parameters
    that go before those of the file. The page, a file beside the executed notebook, is written also
    where a cell fails: it then says which and why. Raises FileNotFoundError for a missing file,
    ValueError for a notebook without its one parameters cell and for parameters that name no study,
    OSError for a results folder that cannot be written, PapermillExecutionError for a failed cell,
    ChildProcessError where the notebook's own process died.
    """
    read_source(notebook)
    given = read_file(parameters) | others
    if checked is None:
        # In a process of its own: torch, which it loads, would stay here as long as the run takes.
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as checking:
            checked = checking.submit(_check, given).result()
    executed = from_root(checked) / notebook.name
    if executed.resolve() == notebook.resolve():
        raise ValueError(f"results={checked!r} is the notebook's own folder; name another")
    check_writable(executed.parent)
    page = executed.with_suffix(".html")
    page.unlink(missing_ok=True)  # of another run than this
    papermill_io.register(str(executed), WholeFiles())
    try:
        papermill.execute_notebook(
            notebook,
            executed,
            given,
            log_output=True,
            progress_bar=False,
            kernel_manager_class=QuietKernels,
        )
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
    return executed


def _check(given: dict[str, Any]) -> str:
    """Return the results folder of parameters, which pass every check that needs no data."""
    from ddlib.study.settings import read_parameters

    return read_parameters(given).results


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
        checked, arguments = arguments[1], arguments[2:]
    others = dict(argument.split("=", 1) for argument in arguments[2:] if "=" in argument)
    if len(arguments) < 2 or len(arguments) != 2 + len(others):
        sys.exit(
            "usage: python -m ddlib.publish.execute NOTEBOOK.ipynb PARAMETERS.yaml [NAME=VALUE ...]"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        values = {name: read_yaml(value, name) for name, value in others.items()}
        executed = execute(*map(Path, arguments[:2]), checked, **values)
    except PapermillExecutionError as stopped:
        what = " ".join(stopped.evalue.split()) or stopped.ename
        sys.exit(f"{arguments[0]} stopped in cell {stopped.exec_count}: {what}")
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    print(f"read {executed.with_suffix('.html')}")


if __name__ == "__main__":
    main(sys.argv[1:])
