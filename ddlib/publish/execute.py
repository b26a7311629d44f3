"""Run a notebook with a parameter file: `python -m ddlib.publish.execute NOTEBOOK PARAMETERS`.

It writes the executed notebook and its page to the `results` folder of the parameters. The file is
the whole study: a parameter that it does not name has its default, also where the notebook's own
cell sets it. Further arguments, such as `workers=1`, replace parameters of the file. With
`--dry-run`, it only says how many trials there are, how many are cached, and how long the rest will
take.
"""

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from ddlib.files import STOPPED, check_writable, explained, from_root, write_atomically
from ddlib.parameters import Parameters, assigned, read_file, read_yaml
from ddlib.publish.page import code_cells, read_notebook, write_page
from ddlib.study.exploration import Exploration
from ddlib.study.forecast import forecast
from ddlib.study.plan import Plan, make_plan
from ddlib.study.run import counts
from ddlib.study.settings import Settings, check_coverage, read_parameters


class QuietKernels(AsyncKernelManager):
    """Starts kernels without a standard output. papermill already logs what workers print."""

    async def start_kernel(self, **options: Any) -> None:
        await super().start_kernel(**options, stdout=subprocess.DEVNULL)


def cell_names(run: str, notebook: NotebookNode) -> Callable[[logging.LogRecord], bool]:
    """Return a filter of papermill's log: a line at the start of each code cell names the run.

    Cells have the numbers of pages and errors; papermill counts cells of text, too. notebook: that
    to run, without the cell that papermill adds.
    """
    cells, cell = list(notebook.cells), parameters_cell(notebook)
    cells.insert(cells.index(cell), cell)  # papermill adds one
    numbers = {place: number for number, place in enumerate(code_cells(cells), 1)}

    def rewrite(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        cell = re.fullmatch(r"(Executing|Ending) Cell (\d+)-+", text)
        if not cell:
            return not text.startswith("Passed unknown")  # the notebook refuses unknown names
        number = numbers.get(int(cell[2]) - 1)
        record.msg, record.args = f"{run}: cell {number} of {len(numbers)}", ()
        return cell[1] == "Executing" and number is not None

    return rewrite


def notebooks() -> dict[str, Path]:
    """Return the project's notebooks by the names of their parameters' folders."""
    paths = sorted(from_root("notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.stem[3:]: path for path in paths}


def run_name(parameters: Path) -> str:
    """Return the name of a run: the folder and the name of its parameter file."""
    return f"{parameters.resolve().parent.name}/{parameters.stem}"


def check_pair(notebook: Path, parameters: Path) -> None:
    """Raise ValueError if the folder of a parameter file names another notebook."""
    names = notebooks()
    right = names.get(parameters.resolve().parent.name)
    if right and notebook.stem[3:] in names and notebook.stem != right.stem:
        raise ValueError(
            f"{parameters} is for {right.name}, not for {notebook.name}; run it with that "
            "notebook, or move the file to another folder"
        )


def check(
    notebook: Path, parameters: Path, **others: Any
) -> tuple[NotebookNode, dict[str, Any], Settings | Exploration, Plan | None]:
    """Read a notebook and its parameter file; check them, the data and the results folder.

    Returns the notebook, the values of the file and of `others`, these as settings, and the plan of
    the study; None for a notebook that runs no study. Raises ValueError or OSError, in one
    sentence.
    """
    source = read_source(notebook)
    check_pair(notebook, parameters)
    values = read_file(parameters) | others
    settings, plan = read_parameters(values), None
    folder, code = from_root(settings.results), "\n".join(cell.source for cell in source.cells)
    if folder.resolve() == notebook.resolve().parent:
        raise ValueError(f"{settings.results!r} is the notebook's own folder; name another")
    check_writable(folder)
    if isinstance(settings, Settings) and "settings.theory" not in code:
        plan = make_plan(settings)
        if "check_coverage" in code:
            check_coverage(plan.settings)
    if not re.search(r"\brun\(", code):  # it only reads the settings
        plan = None
    return source, values, settings, plan


def completed(source: NotebookNode, values: dict[str, Any], kind: type[Parameters]) -> dict:
    """Return a study's values with the defaults of what only the notebook's own cell sets."""
    names = assigned(parameters_cell(source).source) & set(kind.model_fields)
    defaults = {name: kind.model_fields[name].default for name in sorted(names - set(values))}
    plain = {n: v.model_dump() if isinstance(v, Parameters) else v for n, v in defaults.items()}
    return {**values, **plain}


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


def parameters_cell(notebook: NotebookNode) -> NotebookNode:
    """Return the cell that is tagged `parameters`; see `read_source`."""
    return next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))


def execute(notebook: Path, parameters: Path, log: bool = True, **others: Any) -> Path:
    """Run `notebook` with the YAML file `parameters`; return the path of the executed notebook.

    log: whether to log the notebook's output; others: parameters that replace those of the file.
    The page is written even if a cell fails, and then says which one and why. Raises the errors of
    `check`, PapermillExecutionError for a failed cell, DeadKernelError if the kernel died.
    """
    source, values, settings, _ = check(notebook, parameters, **others)
    executed = from_root(settings.results) / notebook.name
    executed.with_suffix(".html").unlink(missing_ok=True)  # left by an earlier run
    logger, names = logging.getLogger("papermill"), cell_names(run_name(parameters), source)
    logger.addFilter(names)
    try:
        papermill.execute_notebook(
            notebook,
            executed,
            completed(source, values, type(settings)),
            log_output=log,
            progress_bar=False,
            kernel_manager_class=QuietKernels,
            extra_arguments=["--log-level=CRITICAL"],  # a kernel warns of TCP, and of its own end
        )
    except (PapermillExecutionError, DeadKernelError):
        _finish(executed)
        raise
    except OSError as error:
        raise explained(error, executed.parent) from error
    finally:
        logger.removeFilter(names)
    _finish(executed)
    return executed


def _finish(path: Path) -> None:
    """Write the page of an executed notebook; its progress bars keep their last states only."""
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(read_notebook(path), {})
    write_atomically(path, nbformat.writes(notebook).encode())
    write_page(path)


def foresee(notebook: Path, parameters: Path, **others: Any) -> str:
    """Return the trials, hours and memory of a run, from a few timed steps; errors as `execute`."""
    plan = check(notebook, parameters, **others)[-1]
    if plan is None:
        return "nothing to compute: this notebook runs no study"
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
    notebook, parameters = map(Path, arguments[:2])
    try:
        values = {name: read_yaml(value, name) for name, value in others.items()}
        if dry:
            print(foresee(notebook, parameters, **values))
            return
        executed = execute(notebook, parameters, **values)
    except (PapermillExecutionError, DeadKernelError, OSError, ValueError) as problem:
        sys.exit(sentence(problem, notebook))
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    print(f"read {executed.with_suffix('.html')}")


if __name__ == "__main__":
    main(sys.argv[1:])
