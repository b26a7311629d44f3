"""Slides of an executed notebook: one section a screen, figures whole, nothing loaded."""

import subprocess
import sys

import nbformat
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_page import SPEC, code, display

LONG = "word " * 40


def slides(tmp_path, *cells) -> BeautifulSoup:
    """Return the slides that nbconvert writes of a notebook."""
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "run.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "ddlib.publish.slides.SlidesExporter"]
    subprocess.run([*command, tmp_path / "run.ipynb"], check=True, capture_output=True)
    return BeautifulSoup((tmp_path / "run.slides.html").read_text("utf-8"), "html.parser")


def test_a_slide_begins_at_a_heading_and_at_a_figure_below_text(tmp_path):
    charts = [code(display(vegalite=SPEC)) for _ in range(3)]
    said = code(display(markdown="What it says."))
    links = new_markdown_cell("[00](00.ipynb)", id="navigation")
    soup = slides(
        *(tmp_path, new_markdown_cell("# A title"), links, new_code_cell("import this")),
        *(new_markdown_cell("## Short\n\nFew words."), charts[0], said, charts[1]),
        *(new_markdown_cell(f"## First\n\n{LONG}\n\n## Second\n\n### Part\n\n{LONG}"), charts[2]),
    )
    found = soup("section")
    heads = [section.find(["h1", "h2"]) for section in found]
    titles = [head.text if head else None for head in heads]
    assert titles == ["A title", "Short", None, "First", "Second", None]
    assert [len(section("figure")) for section in found] == [0, 1, 1, 0, 0, 1]
    assert "What it says." in found[1].text
    assert "import this" not in soup.main.text
    assert "run()" not in soup.main.text
    assert "00" not in soup.main.text


def test_they_need_no_network_and_code_that_failed_is_said(tmp_path):
    error = new_output("error", ename="ValueError", evalue="no", traceback=["Traceback"])
    failed = new_code_cell("run()", outputs=[error], execution_count=1)
    soup = slides(tmp_path, new_markdown_cell("# T"), code(display(vegalite=SPEC)), failed)
    assert all(tag["src"].startswith("data:") for tag in soup(src=True))
    assert not soup("link")
    assert "This run stopped in cell" in soup.main.text
