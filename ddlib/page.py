"""Turn an executed notebook into one HTML page that needs no network: `python -m ddlib.page`."""

import base64
import html
import json
import os
import re
import sys
from pathlib import Path

import jinja2
import nbformat
import vl_convert
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

VEGALITE = re.compile(r"application/vnd\.vegalite\.v\d[.+]json")
WIDGET = "application/vnd.jupyter.widget-view+json"

TEMPLATE = """{% extends "base.html.j2" %}
{% block header %}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ resources.page.title | e }}</title>
<style>{{ resources.page.style }}</style></head>{% endblock %}
{% block body_header %}<body><main>{{ resources.page.banner }}{% endblock %}
{% block input_group %}<details class="code">
<summary>code [{{ cell.execution_count or " " }}]</summary>
{{ cell.source | highlight_code(metadata=cell.metadata) }}</details>{% endblock %}
{% block output_area_prompt %}{% endblock %}
{% block empty_in_prompt %}{% endblock %}
{% block body_footer %}</main>{{ resources.page.script }}</body></html>{% endblock %}
{% block footer %}{% endblock %}"""

STYLE = """
body { margin: 0; background: #fff; color: #222; font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1000px; margin: 2rem auto 4rem; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.25; margin: 1.6em 0 .5em; }
p, li { max-width: 46rem; }
pre { overflow-x: auto; margin: .4rem 0; font: 13px/1.45 ui-monospace, Consolas, monospace; }
code { font: .9em ui-monospace, Consolas, monospace; background: #f4f4f4; padding: 0 .2em; }
pre code { background: none; padding: 0; }
details.code { margin: .5rem 0; border-left: 3px solid #ddd; padding-left: .7rem; }
.code summary { cursor: pointer; color: #666; font-size: 13px; }
.jp-OutputArea-output { margin: .6rem 0; overflow-x: auto; }
[data-mime-type$=stderr] { color: #666; }
.stopped { background: #fdecea; border: 1px solid #b3261e; padding: .6rem 1rem; }
table { border-collapse: collapse; border: 0; font-size: 14px; margin: .6rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border: 0; border-bottom: 1px solid #e4e4e4; }
thead th { border-bottom: 2px solid #888; }
figure.chart { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
math[display="block"] { margin: .8rem 0; font-size: 1.1em; }
"""

# Each figure holds its specification and its picture; the picture stays where no script runs.
DRAW = """
for (const figure of document.querySelectorAll("figure.chart")) {
  const box = document.createElement("div");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const actions = {export: true, source: false, compiled: false, editor: false};
  figure.append(box);
  vegaEmbed(box, spec, {mode: "vega-lite", actions})
    .then(() => figure.querySelector("img").remove())
    .catch((problem) => { console.error(problem); box.remove(); });
}
"""


def write_page(notebook_path: str | Path, html_path: str | Path) -> None:
    """Write an executed notebook as a page with live charts, MathML and nothing to download.

    The page appears whole or not at all: it is written beside its place and moved there. Raises
    FileNotFoundError where there is no notebook, ValueError where the file is not one.
    """
    notebook_path, html_path = Path(notebook_path), Path(html_path)
    page = _render(_read(notebook_path), notebook_path)
    html_path.parent.mkdir(parents=True, exist_ok=True)
    draft = html_path.with_name(f".{html_path.name}.{os.getpid()}.part")
    try:
        draft.write_text(page, encoding="utf-8")
        os.replace(draft, html_path)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> nbformat.NotebookNode:
    if not path.is_file():
        raise FileNotFoundError(f"no notebook at {path}; give the path of an executed .ipynb file")
    content = path.read_bytes()
    try:
        notebook = nbformat.reads(content.decode("utf-8"), as_version=4)
        nbformat.validate(notebook)
    except Exception as problem:  # nbformat trips over other files in many ways
        raise ValueError(f"{path} is not a Jupyter notebook; give an executed .ipynb") from problem
    return notebook


def _render(notebook: nbformat.NotebookNode, path: Path) -> str:
    # papermill's own error notes would say what the banner says.
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])
    ]
    kinds = {
        kind for c in notebook.cells for o in c.get("outputs", []) for kind in o.get("data", {})
    }
    bundle = vl_convert.javascript_bundle() if any(map(VEGALITE.fullmatch, kinds)) else ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_plain(output) for output in _merge_streams(cell.outputs)]
    title = re.search(r"^# +([^$\n]+)$", "\n".join(c.source for c in notebook.cells), re.MULTILINE)
    page = {
        "title": title[1] if title else path.stem,
        "style": STYLE + HtmlFormatter().get_style_defs(".highlight"),
        "banner": _banner(notebook),
        "script": f"<script>{bundle}</script><script>{DRAW}</script>" if bundle else "",
    }
    exporter = HTMLExporter(
        raw_template=TEMPLATE, filters={"markdown2html": _markdown_filter(path.parent)}
    )
    return exporter.from_notebook_node(notebook, {"page": page})[0]


def _banner(notebook: nbformat.NotebookNode) -> str:
    """Return a warning that links to the first cell that raised, or nothing."""
    for i, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                number = cell.execution_count or i
                what = html.escape(f"{output.ename}: {output.evalue}")
                link = f'<a href="#cell-id={cell.get("id", "")}">cell {number}</a>'
                return f'<p class="stopped">This run stopped with an error in {link}: {what}</p>'
    return ""


def _merge_streams(outputs: list) -> list:
    """Join the pieces of a text stream and keep of each line what a terminal would still show."""
    merged, run = [], {}
    for output in outputs:
        if output.output_type != "stream":
            run = {}
        elif output.name in run:
            run[output.name]["text"] += output.text
            continue
        else:
            run[output.name] = output
        merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            lines = output.text.replace("\r\n", "\n").split("\n")
            output.text = "\n".join(line.rstrip("\r").split("\r")[-1] for line in lines)
    return merged


def _plain(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Replace what needs a server or a download: charts by figures, widgets by a remark."""
    data = output.get("data", {})
    vegalite = next(filter(VEGALITE.fullmatch, data), None)
    if vegalite:
        output.data = {"text/html": _figure(data[vegalite], data.get("image/png"))}
    elif WIDGET in data:
        output.data = {"text/markdown": "*An interactive control: run the notebook to use it.*"}
    elif "text/latex" in data and "text/html" not in data:
        output.data = {"text/markdown": data["text/latex"]}
    return output


def _figure(spec: dict, png: str | None) -> str:
    if png is None:
        png = base64.b64encode(vl_convert.vegalite_to_png(spec, scale=2)).decode()
    width = int.from_bytes(base64.b64decode(png)[16:20], "big") // 2  # PNG header; scale 2
    title = spec.get("title", "chart")
    title = title.get("text", "chart") if isinstance(title, dict) else title
    # "$schema" would only make vega-embed compare version numbers; "</" would end the script.
    text = json.dumps({key: spec[key] for key in spec if key != "$schema"}).replace("</", "<\\/")
    image = (
        f'<img alt="{html.escape(str(title))}" width="{width}" src="data:image/png;base64,{png}">'
    )
    script = f'<script type="application/json">{text}</script>'
    return f'<figure class="chart">{image}{script}</figure>'


class _MathRenderer(IPythonRenderer):
    """Markdown to HTML with formulas as MathML, which browsers draw by themselves."""

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


def _markdown_filter(folder: Path):
    @jinja2.pass_context
    def markdown_to_html(context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _MathRenderer(
            escape=False,
            embed_images=True,
            exclude_anchor_links=True,  # adding one drops the formulas of a heading
            path=str(folder),
            attachments=attachments,
        )
        return MarkdownWithMath(renderer=renderer).render(source)

    return markdown_to_html


def main(arguments: list[str]) -> None:
    """Run `python -m ddlib.page EXECUTED.ipynb [OUT.html]`; OUT defaults to the notebook's name."""
    if len(arguments) not in (1, 2):
        sys.exit("usage: python -m ddlib.page EXECUTED.ipynb [OUT.html]")
    notebook = Path(arguments[0])
    try:
        write_page(notebook, arguments[1] if len(arguments) == 2 else notebook.with_suffix(".html"))
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
