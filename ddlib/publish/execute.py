"""Run a notebook with a parameter file: `python -m ddlib.publish.execute NOTEBOOK PARAMETERS`.

It writes the executed notebook and its page to the `results` folder of the parameters. Further
arguments, such as `workers=1`, replace parameters of the file. With `--dry-run`, it only says how
many trials there are, how many are cached, and how long the rest will take.
"""

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import papermill
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from ddlib.files import check_writable, explained, from_root
from ddlib.parameters import read_file, read_yaml
from ddlib.publish.page import read_notebook, write_page
from ddlib.study.forecast import forecast
from ddlib.study.plan import make_plan
from ddlib.study.run import counts
from ddlib.study.settings import (
    Exploration,
    Settings,
    check_coverage,
    read_parameters,
    read_settings,
)


class QuietKernels(AsyncKernelManager):
    """Starts kernels without a standard output. papermill already logs what workers print."""

    async def start_kernel(self, **options: Any) -> None:
        await super().start_kernel(**options, stdout=subprocess.DEVNULL)


def read_source(path: Path) -> NotebookNode:
    """Return the notebook at `path`. Raises FileNotFoundError or ValueError.

    It must have exactly one code cell tagged `parameters`, after which papermill puts the
    parameters. Without that cell the notebook's own values would replace them.
    """
    notebook = read_notebook(path)
    tagged = [c.cell_type for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if tagged != ["code"]:
        raise ValueError(
            f"{path} must have one code cell tagged 'parameters', but has "
            f"{' and '.join(f'a {kind} cell' for kind in tagged) or 'none'}; give the tag only to "
            "the cell that sets the parameters (JupyterLab: Property Inspector)"
        )
    return notebook


def read_for(notebook: NotebookNode, values: Mapping[str, Any]) -> Settings | Exploration:
    """Return the checked parameters, as this notebook reads them.

    Raises ValueError for parameters of another kind of notebook, before a kernel starts.
    """
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    if "Exploration.read(" in code:
        return Exploration.read(values, "the explorers")
    settings = read_settings(values) if "read_settings(" in code else read_parameters(values)
    if "check_coverage(" in code:
        check_coverage(settings)
    return settings


def execute(notebook: Path, parameters: Path, log: bool = True, **others: Any) -> Path:
    """Run `notebook` with the YAML file `parameters`; return the path of the executed notebook.

    log: whether to log the notebook's output; others: parameters that replace those of the file.
    The page is written even if a cell fails, and then says which one and why. Raises
    FileNotFoundError for a missing file, ValueError for bad parameters, OSError for a results
    folder that cannot be written, PapermillExecutionError for a failed cell, DeadKernelError if the
    kernel died.
    """
    source, values = read_source(notebook), read_file(parameters) | others
    executed = from_root(read_for(source, values).results) / notebook.name
    if executed.resolve() == notebook.resolve():
        raise ValueError(f"{values['results']!r} is the notebook's own folder; name another")
    check_writable(executed.parent)
    page = executed.with_suffix(".html")
    page.unlink(missing_ok=True)  # left by an earlier run
    stopped = None
    try:
        papermill.execute_notebook(
            notebook,
            executed,
            values,
            log_output=log,
            progress_bar=False,
            kernel_manager_class=QuietKernels,
        )
    except (PapermillExecutionError, DeadKernelError) as error:
        stopped = error
    except OSError as error:
        raise explained(error, executed.parent) from error
    write_page(executed, page)
    if stopped:
        raise stopped
    return executed


def foresee(notebook: Path, parameters: Path, **others: Any) -> str:
    """Return the trials, hours and memory of a run, from a few timed steps; errors as `execute`."""
    settings = read_for(read_source(notebook), read_file(parameters) | others)
    if isinstance(settings, Exploration):
        return "nothing to compute: this notebook reads the tables of other studies"
    plan = make_plan(settings)
    return f"{counts(plan)}\n{forecast(plan)}"


def sentence(error: Exception, notebook: Path) -> str:
    """Return the error that stopped a run, in one sentence."""
    text = str(error)
    if isinstance(error, DeadKernelError):
        text = (
            f"the kernel of {notebook} died, perhaps for want of memory; its page says in which "
            "cell; run again: what is finished is kept"
        )
    if isinstance(error, PapermillExecutionError):
        text = f"{notebook} stopped in cell {error.exec_count}: {error.evalue or error.ename}"
    return " ".join(text.split())


def main(arguments: list[str]) -> None:
    """Run from a shell; on an error, print one sentence and exit with code 1."""
    dry = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    others = dict(argument.split("=", 1) for argument in arguments[2:] if "=" in argument)
    if len(arguments) < 2 or len(arguments) != 2 + len(others):
        sys.exit(
            "usage: python -m ddlib.publish.execute NOTEBOOK.ipynb PARAMETERS.yaml [--dry-run] "
            "[NAME=VALUE ...]"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # papermill warns of names that the parameters cell lacks; the notebook refuses unknown ones
    logging.getLogger("papermill").addFilter(lambda record: "unknown" not in record.getMessage())
    notebook, parameters = map(Path, arguments[:2])
    try:
        values = {name: read_yaml(value, name) for name, value in others.items()}
        if dry:
            print(foresee(notebook, parameters, **values))
            return
        executed = execute(notebook, parameters, **values)
    except (PapermillExecutionError, DeadKernelError, OSError, ValueError) as problem:
        sys.exit(sentence(problem, notebook))
    print(f"read {executed.with_suffix('.html')}")


if __name__ == "__main__":
    main(sys.argv[1:])
