"""Turn an executed notebook into one HTML page that needs no network.

`jupyter nbconvert --to ddlib_page NOTEBOOK.ipynb` does the same. Charts stay interactive, formulas
become MathML, code is folded, and a remark replaces each widget.
"""

import base64
import copy
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import vl_convert
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, TagRemovePreprocessor
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from ddlib.files import write_atomically

VEGALITE = re.compile(r"application/vnd\.vegalite\.v\d[.+]json")
MARKDOWN, WIDGET = "text/markdown", "application/vnd.jupyter.widget-view+json"
NUMBERS = "application/vnd.ddlib.numbers+html"
"""The MIME type of HTML that a page shows below a chart. Other viewers ignore it."""
LEFT_OUT = ["papermill-error-cell-tag", "not-run"]
"""Tags of cells that a page leaves out: papermill's notes of an error, which the banner repeats,
and cells for notebooks that have not run."""
NO_END = "its process died, or still runs"
TEMPLATE = Path(__file__).with_suffix(".html.j2")


class PageExporter(HTMLExporter):
    """The nbconvert exporter of pages.

    A link to another notebook becomes a link to its page if that exists (see `page_of`), and plain
    text otherwise.
    """

    export_from_notebook = "Page that needs no network"
    page_template = TEMPLATE
    lifts_box = True  # the box of verdicts, to below the title

    def __init__(self, **options: Any):
        options |= {"raw_template": self.page_template.read_text(encoding="utf-8")}
        options |= {"extra_template_paths": [str(TEMPLATE.parent)]}
        super().__init__(**options)
        self.register_preprocessor(TagRemovePreprocessor(remove_cell_tags=LEFT_OUT), enabled=True)
        self.register_preprocessor(CoalesceStreamsPreprocessor, enabled=True)

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict | None = None, **options: Any
    ) -> tuple[str, dict]:
        notebook, resources = copy.deepcopy(nb), resources or {}
        notebook.cells = self.chosen(notebook.cells)
        text = box(notebook.cells) if self.lifts_box else ""
        lifted = f'<div class="box">{markdown_to_html(text)}</div>'
        for data in displayed(notebook.cells) if text else []:
            data.update({"text/html": lifted} if data.get(MARKDOWN) == text else {})
        has_charts = [_make_static(data) for data in displayed(notebook.cells)]
        resources["page"] = {
            "title": title(nb) or resources.get("metadata", {}).get("name", "notebook"),
            "code_style": HtmlFormatter().get_style_defs(".highlight"),
            "failure": failure(nb),
            "no_end": NO_END,
            "bundle": vl_convert.javascript_bundle() if any(has_charts) else "",
        }
        page, resources = super().from_notebook_node(notebook, resources, **options)
        if text and "</h1>" in page:
            page = page.replace(lifted, "").replace("</h1>", f"</h1>\n{lifted}", 1)
        return page, resources

    def chosen(self, cells: list[NotebookNode]) -> list[NotebookNode]:
        """Return the cells that a page shows."""
        return cells

    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Return Markdown as HTML, with formulas as MathML and links to pages."""
        notebook = context.get("resources", {}).get("metadata", {})
        folder, name = notebook.get("path", ""), notebook.get("name", "")
        return markdown_to_html(source, folder, context.get("cell", {}).get("attachments"), name)


def write_page(path: Path) -> None:
    """Write an executed notebook as a page beside it, atomically; errors as `read_notebook`."""
    resources = {"metadata": {"path": str(path.absolute().parent), "name": path.stem}}
    page, _ = PageExporter().from_notebook_node(read_notebook(path), resources)
    write_atomically(path.with_suffix(".html"), page.encode())


def rewrite_pages(folders: Iterable[Path]) -> None:
    """Write the pages again whose links may lead to results in `folders`; see `page_of`."""
    places = {
        path
        for folder in folders
        for path in folder.absolute().parent.parent.glob(f"*/{folder.name}/*.ipynb")
        if path.with_suffix(".html").is_file()
    }
    for path in sorted(places):
        write_page(path)


def page_of(notebook: str, folder: Path) -> str | None:
    """Return the link from a page in `folder` to the page of another notebook; None if missing.

    Results are in `results/<study>/<profile>/`. The page is searched in `folder`, then in the
    folders of other studies with the same profile.
    """
    name, folder = Path(notebook).with_suffix(".html").name, folder.absolute()
    places = [folder / name, *sorted(folder.parent.parent.glob(f"*/{folder.name}/{name}"))]
    return next((os.path.relpath(place, folder) for place in places if place.is_file()), None)


def read_notebook(path: Path) -> NotebookNode:
    """Return the notebook at `path`; FileNotFoundError or ValueError if there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"no notebook at {path}; give the path of an .ipynb file")
    try:
        notebook = nbformat.reads(path.read_bytes().decode("utf-8"), as_version=4)
        nbformat.validate(notebook)
    except Exception as problem:  # nbformat raises many kinds of errors for other files
        raise ValueError(f"{path} is not a Jupyter notebook; give an .ipynb file") from problem
    return notebook


def title(notebook: NotebookNode) -> str:
    """Return the first heading without a formula, with the run's data and profile; "" if none."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +([^$\n]+)$", text, re.MULTILINE)
    if not heading:
        return ""
    parameters = notebook.metadata.get("papermill", {}).get("parameters", {})
    data = parameters.get("data") or ""
    names = data.get("name", "") if isinstance(data, dict) else data
    names = ", ".join(filter(None, [names, Path(parameters.get("results", "")).name]))
    return f"{heading[1]} ({names})" if names else heading[1]


def displayed(cells: Iterable[NotebookNode]) -> Iterator[dict]:
    """Yield the data of each output of cells, {MIME type: content}."""
    return (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def box(cells: Iterable[NotebookNode]) -> str:
    """Return the box of verdicts, the first output that is a quote, as Markdown; "" if none."""
    texts = (data.get(MARKDOWN, "") for data in displayed(cells))
    return next((text for text in texts if text.startswith(">")), "")


def code_cells(cells: Sequence[NotebookNode]) -> list[int]:
    """Return the places of the cells that a kernel runs: code that is not blank."""
    return [n for n, cell in enumerate(cells) if cell.cell_type == "code" and cell.source.strip()]


def failure(notebook: NotebookNode) -> tuple[int, str, str] | None:
    """Return the number, id and error of the first cell that failed or did not end, if any.

    A cell without an end has no error: its kernel died, or the run was killed or still goes on.
    """
    cells = [notebook.cells[place] for place in code_cells(notebook.cells)]
    for place, cell in enumerate(cells, 1):
        error = next((o for o in cell.outputs if o.output_type == "error"), None)
        # papermill notes when the kernel replied; other programs note only a count.
        replied = "shell.execute_reply" in cell.metadata.get("execution", ["shell.execute_reply"])
        if error or not (cell.execution_count and replied):
            what = f"{error.ename}: {error.evalue}" if error else NO_END
            return cell.execution_count or place, cell.get("id", ""), what
    return None


def is_chart(data: dict) -> str | None:
    """Return the MIME type of a chart in an output's data {MIME type: content}, if any."""
    return next(filter(VEGALITE.fullmatch, data), None)


def _make_static(data: dict) -> bool:
    """Replace an output that needs a server or a download; return whether it is a chart.

    A chart becomes a figure, with its numbers if it has any. A widget becomes a remark.
    """
    chart, widget = is_chart(data), data.pop(WIDGET, None)
    if chart:
        data["text/html"] = _figure(data[chart], data.get("image/png")) + data.get(NUMBERS, "")
    elif widget:
        data[MARKDOWN] = "*An interactive control: run the notebook to use it.*"
    return bool(chart)


def width(png: str) -> int:
    """Return the pixels that a picture (base64) takes on a page: half its own, as scale is 2."""
    return int.from_bytes(base64.b64decode(png)[16:20], "big") // 2  # from its header


def _figure(spec: dict, png: str | None) -> str:
    """Return a chart as HTML: its picture, and its specification for the page's script."""
    png = png or base64.b64encode(vl_convert.vegalite_to_png(spec, scale=2)).decode()
    name = spec.get("title", "chart")
    name = name.get("text", "chart") if isinstance(name, dict) else name
    name = html.escape(" ".join(name) if isinstance(name, list) else name)
    # "</" would end the script; "$schema" would only make vega-embed compare version numbers.
    text = json.dumps({key: spec[key] for key in spec if key != "$schema"}).replace("</", "<\\/")
    image = f'<img alt="{name}" width="{width(png)}" src="data:image/png;base64,{png}">'
    script = f'<script type="application/json">{text}</script>'
    return f'<figure class="chart">{image}{script}</figure>'


class _Renderer(IPythonRenderer):
    """Renders Markdown as HTML, with formulas as MathML, which browsers draw without a library."""

    name = ""  # of the notebook: JupyterLab follows links to its headings only by its name

    def link(self, text: str, url: str, title: str | None = None) -> str:
        name, mark, place = url.partition("#")
        if "://" in name or not name.endswith(".ipynb"):
            return super().link(text, url, title)
        if mark and name == f"{self.name}.ipynb":
            return super().link(text, mark + place, title)
        address = page_of(name, Path(self.path))
        return super().link(text, f"{address}{mark}{place}", title) if address else text

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        # JupyterLab names headings so too: links to them work in both
        name = html.escape(html.unescape(re.sub(r"<[^>]*>", "", text)).replace(" ", "-"))
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def block_html(self, html: str) -> str:
        # nbconvert parses blocks to embed images, and would close <details> before its content.
        return super().block_html(html) if "<img" in html else f"{html}\n"

    def inline_html(self, html: str) -> str:
        # each tag of k<sub>sat</sub> comes alone
        return super().inline_html(html) if "<img" in html else html

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        return _mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


def _mathml(formula: str, display: str) -> str:
    try:
        return to_mathml(formula, display=display)
    except Exception:  # latex2mathml's errors share no base class; show the source instead
        return f"<code>{html.escape(formula)}</code>"


def markdown_to_html(
    source: str, folder: str = "", attachments: dict | None = None, name: str = ""
) -> str:
    """Return Markdown of the notebook `name`.ipynb in `folder` as HTML."""
    renderer = _Renderer(
        escape=False,
        embed_images=True,
        exclude_anchor_links=True,  # nbconvert's anchors drop formulas from headings
        path=folder,
        attachments=attachments,
    )
    renderer.name = name
    return MarkdownWithMath(renderer=renderer).render(source)
