"""One table of all executed notebooks: `python -m ddlib.publish.report [RESULTS]`.

It is `RESULTS/index.html` (default: the project's `results`), with a link to the page of every
executed notebook below RESULTS, its first figure and the start of its verdict.
"""

import re
import sys
from collections.abc import Iterable
from itertools import dropwhile
from pathlib import Path
from typing import Any

import jinja2
from nbformat import NotebookNode

from ddlib.files import from_root, write_atomically
from ddlib.publish.page import (
    displayed,
    failure,
    markdown_to_html,
    read_notebook,
    title,
    write_page,
)

TEMPLATE = Path(__file__).with_suffix(".html.j2")
HEADINGS = ("## Verdict", "## Reading")
PARAGRAPHS = 4  # of a verdict, at most


def write_report(results: Path) -> Path:
    """Write the index of all executed notebooks below `results`, and return it.

    Every page is written again, so that links between pages that came later work. Raises
    FileNotFoundError where no notebook has been executed, OSError where nothing can be written.
    """
    runs = dict(find_runs(results))
    if not runs:
        raise FileNotFoundError(
            f"no executed notebook lies below {results}; run one first, such as by make study"
        )
    for path in runs:
        path.with_suffix(".html").touch()  # so that pages find each other
    for path in runs:
        write_page(path, path.with_suffix(".html"))
    rows = [_row(path.relative_to(results), notebook) for path, notebook in runs.items()]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_atomically(results / "index.html", template.render(rows=rows).encode())
    return results / "index.html"


def find_runs(results: Path) -> Iterable[tuple[Path, NotebookNode]]:
    """Yield the executed notebooks below `results` in the order of their names.

    Hidden folders, files that are no notebooks and notebooks that never ran are left out.
    """
    for path in sorted(results.rglob("*.ipynb"), key=lambda path: (path.name, path)):
        if any(part.startswith(".") for part in path.relative_to(results).parts):
            continue
        try:
            notebook = read_notebook(path)
        except ValueError:
            continue
        if any(cell.get("execution_count") for cell in notebook.cells):
            yield path, notebook


def _row(place: Path, notebook: NotebookNode) -> dict[str, Any]:
    """Return what the index says of one executed notebook; place: its path below the results."""
    papermill = notebook.metadata.get("papermill", {})
    data = papermill.get("parameters", {}).get("data", "")
    verdict = dropwhile(lambda cell: not cell.source.startswith(HEADINGS), notebook.cells)
    return {
        "question": title(notebook) or place.stem,
        "notebook": place.stem,
        "folder": place.parent.as_posix(),
        "page": place.with_suffix(".html").as_posix(),
        "picture": _first(notebook.cells, "image/png"),
        "data": data.get("name", "") if isinstance(data, dict) else data or "",
        "seconds": papermill.get("duration"),
        "failure": failure(notebook),
        "verdict": markdown_to_html(_starts(_first(verdict, "text/markdown"))),
    }


def _first(cells: Iterable[NotebookNode], kind: str) -> str:
    """Return the first output of one MIME type, or nothing."""
    return next(filter(None, (data.get(kind) for data in displayed(cells))), "")


def _starts(text: str) -> str:
    """Return how every paragraph or item begins: a bold word, if any, and one sentence."""
    starts = []
    for block in re.split(r"\n\s*\n|\n(?=- )", text.strip())[:PARAGRAPHS]:
        start = re.match(r"(- )?(\*\*.+?\*\*\s*)?(.+?[.:](?=\s+[A-Z]|$))?", block, re.DOTALL)
        starts.append(start[0].strip() if start[3] else block)
    return "\n\n".join(starts)


def main(arguments: list[str]) -> None:
    """Run from a shell; one sentence and exit code 1 where it cannot."""
    if len(arguments) > 1:
        sys.exit("usage: python -m ddlib.publish.report [RESULTS]")
    try:
        print(f"open {write_report(from_root(arguments[0] if arguments else 'results'))}")
    except OSError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
