"""A lecture's slides of an executed notebook: one HTML file that needs no network.

`jupyter nbconvert --to ddlib.publish.slides.SlidesExporter NOTEBOOK.ipynb` writes them beside it,
NOTEBOOK.slides.html. Arrow keys move; charts stay interactive; code is left out.
"""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from traitlets import default

from ddlib.publish.page import PageExporter, displayed, is_chart

TEMPLATE = Path(__file__).with_suffix(".html.j2")
HEADING = re.compile(r"^(?=##? )", re.MULTILINE)
FEW = 30  # words above a figure on its slide, at most


class SlidesExporter(PageExporter):
    """The nbconvert exporter of slides. A slide begins at a heading, and at a figure below text."""

    page_template = TEMPLATE
    lifts_box = False  # it has a slide

    @default("file_extension")
    def _file_extension_default(self) -> str:
        return ".slides.html"

    def chosen(self, cells: list[NotebookNode]) -> list[NotebookNode]:
        return slide_cells(cells)


def slide_cells(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Return what slides show of cells; the metadata `slide` marks where a slide begins.

    Left out are code cells without an output, and the links between notebooks.
    """
    slides, full = [], False  # whether the slide has text or an output that a figure would crowd
    for cell in cells:
        is_code = cell.cell_type == "code"
        if (is_code and not cell.outputs) or cell.get("id") == "navigation":
            continue
        for source in [cell.source] if is_code else filter(None, HEADING.split(cell.source)):
            if is_code:
                starts, full = full and any(map(is_chart, displayed([cell]))), True
            else:
                starts = source.startswith(("# ", "## "))
                full = len(source.split()) > FEW or (full and not starts)
            name = f"slide-{len(slides)}"  # code keeps its own: the banner links to it
            changes = {"source": source, "id": cell.get("id", name) if is_code else name}
            changes["metadata"] = cell.metadata | {"slide": starts and bool(slides)}
            slides.append(nbformat.from_dict({**cell, **changes}))
    return slides
