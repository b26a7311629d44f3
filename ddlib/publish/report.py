"""Write an index of all executed notebooks: `python -m ddlib.publish.report [RESULTS]`.

`RESULTS/index.html` (default: the project's `results`) has a row per executed notebook below
RESULTS: a link to its page, its verdicts (its first output that is a quote), its first figure, and
when and how it ran.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from nbformat import NotebookNode

from ddlib.files import exit_with_sentence, from_root, write_atomically
from ddlib.publish import page

TEMPLATE = Path(__file__).with_suffix(".html.j2")


def write_report(results: Path) -> Path:
    """Write the index of all executed notebooks below `results`; return its path.

    All pages are written again, so that they link to pages that were made later. Raises
    FileNotFoundError if no notebook has been executed, OSError if a file cannot be written.
    """
    runs = dict(find_runs(results))
    if not runs:
        raise FileNotFoundError(
            f"no executed notebook lies below {results}; run one first, such as by make study"
        )
    for path in runs:
        path.with_suffix(".html").touch()  # pages link only to pages that exist
    for path in runs:
        page.write_page(path)
    rows = [_row(path.relative_to(results), notebook) for path, notebook in runs.items()]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_atomically(
        results / "index.html", template.render(rows=rows, no_end=page.NO_END).encode()
    )
    return results / "index.html"


def find_runs(results: Path) -> Iterable[tuple[Path, NotebookNode]]:
    """Yield the executed notebooks below `results`, ordered by name.

    Hidden folders, invalid files and notebooks that never ran are left out.
    """
    for path in sorted(results.rglob("*.ipynb"), key=lambda path: (path.name, path)):
        with suppress(ValueError):
            notebook = page.read_notebook(path)
            hidden = any(part.startswith(".") for part in path.relative_to(results).parts)
            if not hidden and any(cell.get("execution_count") for cell in notebook.cells):
                yield path, notebook


def _row(place: Path, notebook: NotebookNode) -> dict[str, Any]:
    papermill = notebook.metadata.get("papermill", {})
    pictures = (data.get("image/png") for data in page.displayed(notebook.cells))
    picture = next(filter(None, pictures), "")
    return {
        "title": page.title(notebook) or place.stem,
        "notebook": place.stem,
        "folder": place.parent.as_posix(),
        "page": quote(place.with_suffix(".html").as_posix()),
        "picture": picture,
        "width": page.width(picture) if picture else 0,
        "date": (papermill.get("end_time") or "")[:16].replace("T", " "),
        "seconds": papermill.get("duration"),
        "failure": page.failure(notebook),
        "verdicts": page.markdown_to_html(page.box(notebook.cells)),
    }


@exit_with_sentence()
def main(arguments: list[str]) -> None:
    """Write the index from a shell."""
    if len(arguments) > 1:
        sys.exit("usage: python -m ddlib.publish.report [RESULTS]")
    print(f"open {write_report(from_root(arguments[0] if arguments else 'results'))}")


if __name__ == "__main__":
    main(sys.argv[1:])
