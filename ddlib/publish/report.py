"""A site of all executed notebooks, to open from disk: `python -m ddlib.publish.report [RESULTS]`.

It is made of every executed notebook below RESULTS (default: the project's `results`), and goes to
`RESULTS/report`: a page each, in folders like those of the results, and `index.html`, a table of
them. Nothing in it asks a network for anything.
"""

import base64
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

import jinja2
import nbformat

from ddlib.files import check_writable, from_root
from ddlib.publish.page import Links, failure, markdown_to_html, read_notebook, render, shown, title

TEMPLATE = Path(__file__).with_suffix(".html.j2")
SHOWN = 4  # paragraphs of a reading, at most


@dataclass(frozen=True)
class Run:
    """An executed notebook; place: its path below the results."""

    place: Path
    notebook: nbformat.NotebookNode

    @property
    def page(self) -> Path:
        return self.place.with_suffix(".html")

    @property
    def picture(self) -> bytes:
        """The first figure, PNG; empty where there is none."""
        return base64.b64decode(_first(self.notebook.cells, "image/png"))

    @property
    def finding(self) -> str:
        """The start of every paragraph of the first reading, Markdown; nothing if there is none."""
        cells = self.notebook.cells
        after = dropwhile(lambda cell: not cell.source.startswith("## Reading"), cells)
        return _starts(_first(after, "text/markdown"))

    def row(self) -> dict[str, Any]:
        """What the index says of this run."""
        made = self.notebook.metadata.get("papermill", {})
        data = made.get("parameters", {}).get("data", "")
        return {
            "question": title(self.notebook) or self.place.stem,
            "notebook": self.place.stem,
            "folder": self.place.parent.as_posix(),
            "page": self.page.as_posix(),
            "picture": self.place.with_suffix(".png").as_posix() if self.picture else None,
            "data": data.get("name", "") if isinstance(data, dict) else data or "",
            "seconds": made.get("duration"),
            "failure": failure(self.notebook),
            "finding": markdown_to_html(self.finding),
        }


def find_runs(results: Path) -> list[Run]:
    """Return the executed notebooks below `results`, in reading order.

    Left out are those in the report's own and in hidden folders, and what was never run or is no
    notebook.
    """
    runs = []
    for path in sorted(results.rglob("*.ipynb"), key=lambda path: (path.name, path)):
        place = path.relative_to(results)
        if place.parts[0] == "report" or any(part.startswith(".") for part in place.parts):
            continue
        try:
            notebook = read_notebook(path)
        except ValueError:
            continue
        if any(cell.get("execution_count") for cell in notebook.cells):
            runs.append(Run(place, notebook))
    return runs


def write_report(results: Path) -> Path:
    """Make the site of all executed notebooks below `results`, and return its index.

    It takes the place of the last one as a whole. Raises FileNotFoundError where no notebook has
    been executed, OSError where the folder cannot be written.
    """
    runs = find_runs(results)
    if not runs:
        raise FileNotFoundError(
            f"no executed notebook lies below {results}; run one first, such as by make study"
        )
    check_writable(results)
    site, rows = results / "report", [run.row() for run in runs]  # a page takes figures out
    with tempfile.TemporaryDirectory(dir=results, prefix=".report-") as temporary:
        made, old = Path(temporary, "site"), Path(temporary, "old")
        for run in runs:
            _write_page(run, runs, results, made)
        (made / "index.html").write_text(_index(rows), encoding="utf-8")
        if site.exists():
            os.replace(site, old)
        os.replace(made, site)
    return site / "index.html"


def links(run: Run, runs: Sequence[Run]) -> Links:
    """Return links from the page of `run` to those of other notebooks: of its own folder first.

    Then come those of a profile of the same name, then the first there is.
    """

    def address(notebook: str) -> str | None:
        there = [other.page for other in runs if other.place.name == Path(notebook).name]
        own = run.place.parent
        there.sort(key=lambda page: (page.parent != own, page.parent.name != own.name))
        return os.path.relpath(there[0], own) if there else None

    return address


def _write_page(run: Run, runs: Sequence[Run], results: Path, site: Path) -> None:
    page, picture = site / run.page, run.picture
    page.parent.mkdir(parents=True, exist_ok=True)
    home = os.path.relpath("index.html", run.place.parent)
    if picture:
        page.with_suffix(".png").write_bytes(picture)
    above = f'<p><a href="{home}">All runs</a></p>'
    html = render(run.notebook, results / run.place, links(run, runs), above)
    page.write_text(html, encoding="utf-8")


def _index(rows: Sequence[dict[str, Any]]) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(rows=rows)


def _first(cells: Iterable[nbformat.NotebookNode], kind: str) -> str:
    """Return the first that cells show of one MIME type, or nothing."""
    return next(filter(None, (data.get(kind) for data in shown(cells))), "")


def _starts(text: str) -> str:
    """Return what every paragraph or item begins with: a bold word, if any, and one sentence."""
    starts = []
    for block in re.split(r"\n\s*\n|\n(?=- )", text.strip())[:SHOWN]:
        begun = re.match(r"(- )?(\*\*.+?\*\*\s*)?(.+?[.:](?=\s+[A-Z]|$))?", block, re.DOTALL)
        starts.append(begun[0].strip() if begun[3] else block)
    return "\n\n".join(starts)


def main(arguments: Sequence[str]) -> None:
    """Run from a shell; one sentence and exit code 1 where it cannot."""
    if len(arguments) > 1:
        sys.exit("usage: python -m ddlib.publish.report [RESULTS]")
    try:
        print(f"open {write_report(from_root(arguments[0] if arguments else 'results'))}")
    except OSError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
