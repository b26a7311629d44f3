"""Turn an executed notebook into one HTML page that needs no network."""

import base64
import html
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jinja2
import nbformat
import vl_convert
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from ddlib.files import write_atomically

VEGALITE = re.compile(r"application/vnd\.vegalite\.v\d[.+]json")
WIDGET = "application/vnd.jupyter.widget-view+json"
NUMBERS = "application/vnd.ddlib.numbers+html"
"""What stands below a chart where no kernel runs; viewers that do not know it pass over it."""
LEFT_OUT = {"papermill-error-cell-tag", "not-run"}
"""Tags of cells that a page does without: papermill's notes of an error, which the banner tells,
and what a notebook shows only as long as it has not been run."""
OVERWRITTEN = re.compile(r"(?m)^.*\r(?=[^\r\n])")  # the start of a line that was written anew
NO_END = "it has no end; its process died, or is still at work"

Links = Callable[[str], str | None]
"""From the file name of a notebook to the address of its page, or None where there is none."""

TEMPLATE = Path(__file__).with_suffix(".html.j2")


def write_page(notebook_path: Path, html_path: Path) -> None:
    """Write an executed notebook as a page with live charts, MathML and nothing to download.

    A link to another notebook leads to that one's page of the same profile, if it is there by now
    (see `pages_beside`). The page appears whole or not at all. Raises FileNotFoundError where there
    is no notebook, ValueError where the file is not one.
    """
    page = render(read_notebook(notebook_path), notebook_path, pages_beside(html_path))
    write_atomically(html_path, page.encode())


def write_last_states(notebook_path: Path) -> None:
    """Write an executed notebook anew, with the last state of each of its progress bars alone."""
    notebook = read_notebook(notebook_path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _merge_streams(cell.outputs)
    write_atomically(notebook_path, nbformat.writes(notebook).encode())


def pages_beside(html_path: Path) -> Links:
    """Return links from a page in `results/<study>/<profile>/` to those there of other notebooks.

    They are looked for in the page's own folder and in every `results/*/<profile>/`.
    """
    folder = html_path.absolute().parent

    def address(notebook: str) -> str | None:
        name = Path(notebook).with_suffix(".html").name
        places = [folder / name, *sorted(folder.parent.parent.glob(f"*/{folder.name}/{name}"))]
        there = next((place for place in places if place.is_file()), None)
        return there and os.path.relpath(there, folder)

    return address


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """Return the notebook at `path`; FileNotFoundError or ValueError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"no notebook at {path}; give the path of an executed .ipynb file")
    content = path.read_bytes()
    try:
        notebook = nbformat.reads(content.decode("utf-8"), as_version=4)
        nbformat.validate(notebook)
    except Exception as problem:  # nbformat trips over other files in many ways
        raise ValueError(f"{path} is not a Jupyter notebook; give an executed .ipynb") from problem
    return notebook


def render(notebook: nbformat.NotebookNode, path: Path, links: Links, above: str = "") -> str:
    """Return the page of a notebook; path: where it lies; above: HTML to stand at the top.

    A link to a notebook goes where `links` says, and is plain text where that says None, or where
    it would lead to this very page.
    """
    notebook.cells = [
        cell for cell in notebook.cells if not LEFT_OUT & set(cell.metadata.get("tags", []))
    ]
    kinds = {kind for data in shown(notebook.cells) for kind in data}
    bundle = vl_convert.javascript_bundle() if any(map(VEGALITE.fullmatch, kinds)) else ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_plain(output) for output in _merge_streams(cell.outputs)]
    page = {
        "title": title(notebook) or path.stem,
        "code_style": HtmlFormatter().get_style_defs(".highlight"),
        "banner": above + _banner(notebook),
        "bundle": bundle,
    }
    filters = {"markdown2html": _markdown_filter(path, links)}
    exporter = HTMLExporter(raw_template=TEMPLATE.read_text(encoding="utf-8"), filters=filters)
    return exporter.from_notebook_node(notebook, {"page": page})[0]


def title(notebook: nbformat.NotebookNode) -> str:
    """Return the first heading of a notebook that holds no formula, or nothing."""
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.search(r"^# +([^$\n]+)$", text, re.MULTILINE)
    return found[1] if found else ""


def shown(cells: Iterable[nbformat.NotebookNode]) -> Iterator[dict]:
    """Yield what each output of cells shows, by MIME type."""
    return (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def failure(notebook: nbformat.NotebookNode) -> tuple[int, str, str] | None:
    """Return number and id of the first cell that raised or did not end, and what; None for none.

    A kernel that dies, or a run that is killed or under way, leaves no error behind.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for place, cell in enumerate(cells, 1):
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors or not _ended(cell):
            what = f"{errors[0].ename}: {errors[0].evalue}" if errors else NO_END
            return cell.execution_count or place, cell.get("id", ""), what
    return None


def _ended(cell: nbformat.NotebookNode) -> bool:
    """Whether the kernel has answered, which papermill notes; others may note a count alone."""
    answers = cell.metadata.get("execution")
    return bool(cell.execution_count) and (answers is None or "shell.execute_reply" in answers)


def _banner(notebook: nbformat.NotebookNode) -> str:
    """Return a warning that links to the first cell that raised or did not end, or nothing."""
    stopped = failure(notebook)
    if stopped is None:
        return ""
    number, name, what = stopped
    link = f'<a href="#cell-id={name}">cell {number}</a>'
    return f'<p class="stopped">This run stopped in {link}: {html.escape(what)}</p>'


def _merge_streams(outputs: list) -> list:
    """Join the pieces of a text stream and keep of each line what a terminal would still show."""
    merged, run = [], {}
    for output in outputs:
        if output.output_type != "stream":
            run = {}
        elif output.name in run:
            run[output.name].text += output.text
            continue
        else:
            run[output.name] = output
        merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.text = OVERWRITTEN.sub("", output.text).replace("\r", "")
    return merged


def _plain(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Replace what needs a server or a download: charts by figures, widgets by a remark."""
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
    if png is None:
        png = base64.b64encode(vl_convert.vegalite_to_png(spec, scale=2)).decode()
    width = int.from_bytes(base64.b64decode(png)[16:20], "big") // 2  # PNG header; scale 2
    named = spec.get("title", "chart")
    named = named.get("text", "chart") if isinstance(named, dict) else named
    # "$schema" would only make vega-embed compare version numbers; "</" would end the script.
    text = json.dumps({key: spec[key] for key in spec if key != "$schema"}).replace("</", "<\\/")
    source = f"data:image/png;base64,{png}"
    image = f'<img alt="{html.escape(str(named))}" width="{width}" src="{source}">'
    script = f'<script type="application/json">{text}</script>'
    return f'<figure class="chart">{image}{script}</figure>'


class _MathRenderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML, which browsers draw by themselves."""

    links: Links

    def link(self, text: str, url: str, title: str | None = None) -> str:
        name = url.partition("#")[0]
        if "://" in name or not name.endswith(".ipynb"):
            return super().link(text, url, title)
        address = self.links(name)
        return super().link(text, address, title) if address else text

    def block_html(self, html: str) -> str:
        # To embed images it is parsed, which closes a <details> before what it is to hide.
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
    except Exception:  # latex2mathml's errors share no base class; the source is still readable
        return f"<code>{html.escape(formula)}</code>"


def markdown_to_html(
    source: str, path: Path = Path(), links: Links = lambda name: None, **more: dict
) -> str:
    """Return Markdown as HTML; path: the notebook that it stands in; more: its attachments."""
    # Without anchors: adding one drops the formulas of a heading.
    looks = {"escape": False, "embed_images": True, "exclude_anchor_links": True}
    renderer = _MathRenderer(path=str(path.parent), **looks, **more)
    renderer.links = lambda name: None if Path(name).name == path.name else links(name)
    return MarkdownWithMath(renderer=renderer).render(source)


def _markdown_filter(path: Path, links: Links):
    @jinja2.pass_context
    def convert(context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        return markdown_to_html(source, path, links, attachments=attachments)

    return convert
