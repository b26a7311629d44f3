"""Run a notebook with a file of parameters: `python -m ddlib.execute NOTEBOOK PARAMETERS`.

The executed notebook and its page go where its tables go, the `results` folder of the parameters.
"""

import logging
import sys
from pathlib import Path

import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from ddlib.files import check_writable, from_root
from ddlib.page import write_page
from ddlib.settings import read_parameters


def execute(notebook: Path, parameters: Path) -> Path:
    """Run `notebook` with the YAML file `parameters`; return the executed notebook.

    Its page, a file beside it, is written also where a cell fails: it then says which and why.
    Raises FileNotFoundError for a missing file, ValueError for parameters that name no study,
    OSError for a results folder that cannot be written, PapermillExecutionError for a failed cell.
    """
    for path in (notebook, parameters):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}; check the path")
    try:
        given = yaml.safe_load(parameters.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{parameters} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{parameters} must hold a table of names and values, got {given!r}")
    settings = read_parameters(given)
    executed = from_root(settings.results) / notebook.name
    if executed.resolve() == notebook.resolve():
        raise ValueError(f"results={settings.results!r} is the notebook's own folder; name another")
    check_writable(executed.parent)
    try:
        papermill.execute_notebook(
            *(notebook, executed, given), log_output=True, progress_bar=False
        )
    finally:
        if executed.exists():
            write_page(executed, executed.with_suffix(".html"))
    return executed


def main(arguments: list[str]) -> None:
    """Run from a shell; one sentence and exit code 1 where it cannot."""
    if len(arguments) != 2:
        sys.exit("usage: python -m ddlib.execute NOTEBOOK.ipynb PARAMETERS.yaml")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        executed = execute(*map(Path, arguments))
    except PapermillExecutionError as stopped:
        sys.exit(f"{arguments[0]} stopped in cell {stopped.exec_count}: {stopped.evalue}")
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    print(f"read {executed.with_suffix('.html')}")


if __name__ == "__main__":
    main(sys.argv[1:])
