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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import vl_convert
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from ddlib.files import write_atomically

VEGALITE = re.compile(r"application/vnd\.vegalite\.v\d[.+]json")
WIDGET = "application/vnd.jupyter.widget-view+json"
NUMBERS = "application/vnd.ddlib.numbers+html"
"""The MIME type of HTML that a page shows below a chart. Other viewers ignore it."""
LEFT_OUT = {"papermill-error-cell-tag", "not-run"}
"""Tags of cells that a page leaves out: papermill's notes of an error, which the banner repeats,
and cells for notebooks that have not run."""
OVERWRITTEN = re.compile(r"(?m)^.*\r(?=[^\r\n])")  # text that a terminal would overwrite
NO_END = "it has no end; its process died, or is still running"
TEMPLATE = Path(__file__).with_suffix(".html.j2")


class PageExporter(HTMLExporter):
    """The nbconvert exporter of pages.

    A link to another notebook becomes a link to its page if that exists (see `page_of`), and plain
    text otherwise.
    """

    export_from_notebook = "Page that needs no network"

    def __init__(self, **options: Any):
        super().__init__(raw_template=TEMPLATE.read_text(encoding="utf-8"), **options)

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict | None = None, **options: Any
    ) -> tuple[str, dict]:
        notebook, resources = copy.deepcopy(nb), resources or {}
        notebook.cells = [
            cell for cell in notebook.cells if not LEFT_OUT & set(cell.metadata.get("tags", []))
        ]
        kinds = {kind for data in displayed(notebook.cells) for kind in data}
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [_static(output) for output in _merge_streams(cell.outputs)]
        name = resources.get("metadata", {}).get("name", "notebook")
        resources["page"] = {
            "title": title(notebook) or name,
            "code_style": HtmlFormatter().get_style_defs(".highlight"),
            "banner": _banner(notebook),
            "bundle": vl_convert.javascript_bundle() if any(map(VEGALITE.match, kinds)) else "",
        }
        return super().from_notebook_node(notebook, resources, **options)

    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Return Markdown as HTML, with formulas as MathML and links to pages."""
        metadata = context.get("resources", {}).get("metadata", {})
        folder = Path(metadata.get("path") or ".")
        attachments = context.get("cell", {}).get("attachments", {})
        return markdown_to_html(source, folder, metadata.get("name", ""), attachments)


def write_page(notebook_path: Path, html_path: Path) -> None:
    """Write an executed notebook as a page, atomically.

    Raises FileNotFoundError for a missing file, ValueError if it is not a notebook.
    """
    folder = str(html_path.absolute().parent)
    resources = {"metadata": {"path": folder, "name": notebook_path.stem}}
    page, _ = PageExporter().from_notebook_node(read_notebook(notebook_path), resources)
    write_atomically(html_path, page.encode())


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
    """Return the first heading without a formula, or ""."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +([^$\n]+)$", text, re.MULTILINE)
    return heading[1] if heading else ""


def displayed(cells: Iterable[NotebookNode]) -> Iterator[dict]:
    """Yield the data of each output of cells, {MIME type: content}."""
    return (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def failure(notebook: NotebookNode) -> tuple[int, str, str] | None:
    """Return the number, id and error of the first cell that failed or did not end, if any.

    A cell without an end has no error: its kernel died, or the run was killed or still goes on.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for place, cell in enumerate(cells, 1):
        error = next((o for o in cell.outputs if o.output_type == "error"), None)
        if error or not _ended(cell):
            what = f"{error.ename}: {error.evalue}" if error else NO_END
            return cell.execution_count or place, cell.get("id", ""), what
    return None


def _ended(cell: NotebookNode) -> bool:
    """Return whether a cell ended. papermill notes the kernel's reply, other programs a count."""
    times = cell.metadata.get("execution")
    return bool(cell.execution_count) and (times is None or "shell.execute_reply" in times)


def _banner(notebook: NotebookNode) -> str:
    stopped = failure(notebook)
    if stopped is None:
        return ""
    number, name, error = stopped
    link = f'<a href="#cell-id={name}">cell {number}</a>'
    return f'<p class="stopped">This run stopped in {link}: {html.escape(error)}</p>'


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join the pieces of each text stream, and drop text that a terminal would overwrite."""
    merged, streams = [], {}
    for output in outputs:
        if output.output_type != "stream":
            streams = {}
        elif output.name in streams:
            streams[output.name].text += output.text
            continue
        else:
            streams[output.name] = output
        merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.text = OVERWRITTEN.sub("", output.text).replace("\r", "")
    return merged


def _static(output: NotebookNode) -> NotebookNode:
    """Replace outputs that need a server or a download: charts by figures, widgets by a remark."""
    data = output.get("data", {})
    vegalite = next(filter(VEGALITE.fullmatch, data), None)
    if vegalite:
        figure = _figure(data[vegalite], data.get("image/png"))
        output.data = {"text/html": figure + data.get(NUMBERS, "")}
    elif WIDGET in data:
        output.data = {"text/markdown": "*An interactive control: run the notebook to use it.*"}
    elif "text/latex" in data and "text/html" not in data:
        output.data = {"text/markdown": data["text/latex"]}
    return output


def _figure(spec: dict, png: str | None) -> str:
    """Return a chart as HTML: its picture, and its specification for the page's script."""
    png = png or base64.b64encode(vl_convert.vegalite_to_png(spec, scale=2)).decode()
    width = int.from_bytes(base64.b64decode(png)[16:20], "big") // 2  # PNG header; scale 2
    name = spec.get("title", "chart")
    name = name.get("text", "chart") if isinstance(name, dict) else name
    # "</" would end the script; "$schema" would only make vega-embed compare version numbers.
    text = json.dumps({key: spec[key] for key in spec if key != "$schema"}).replace("</", "<\\/")
    image = (
        f'<img alt="{html.escape(str(name))}" width="{width}" src="data:image/png;base64,{png}">'
    )
    script = f'<script type="application/json">{text}</script>'
    return f'<figure class="chart">{image}{script}</figure>'


class _Renderer(IPythonRenderer):
    """Renders Markdown as HTML, with formulas as MathML, which browsers draw without a library."""

    folder: Path
    notebook: str

    def link(self, text: str, url: str, title: str | None = None) -> str:
        name = url.partition("#")[0]
        if "://" in name or not name.endswith(".ipynb"):
            return super().link(text, url, title)
        address = page_of(name, self.folder) if Path(name).stem != self.notebook else None
        return super().link(text, address, title) if address else text

    def block_html(self, html: str) -> str:
        # nbconvert parses blocks to embed images, and would close <details> before its content.
        return super().block_html(html) if "<img" in html else f"{html}\n"

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
    source: str, folder: Path = Path(), notebook: str = "", attachments: dict | None = None
) -> str:
    """Return Markdown of a notebook in `folder` as HTML; a link to itself becomes plain text."""
    # No anchors: nbconvert's anchors drop formulas from headings.
    renderer = _Renderer(
        escape=False,
        embed_images=True,
        exclude_anchor_links=True,
        path=str(folder),
        attachments=attachments or {},
    )
    renderer.folder, renderer.notebook = folder, notebook
    return MarkdownWithMath(renderer=renderer).render(source)
