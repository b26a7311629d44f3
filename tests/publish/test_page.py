"""A page holds everything it shows: no downloads, one copy of Vega, formulas as MathML."""

import json
import subprocess
import sys

import nbformat
import pytest
import vl_convert
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ddlib.publish import page

SPEC = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "title": {"text": "A & B </script>"},
    "data": {"values": [{"x": 1, "y": 2}]},
    "mark": "point",
    "encoding": {"x": {"field": "x", "type": "quantitative"}},
}
PROSE = r"""# Does the gap fall like $a/\sqrt{k}$?

For $k \ge 1$ and a price of \$5, `$x$` is code, $x_1_2$ has no MathML:

$$G(k) \le \frac{a}{\sqrt{k}} + c$$

\begin{equation} a = b \end{equation}
"""


def display(**data) -> nbformat.NotebookNode:
    names = {"vegalite": "application/vnd.vegalite.v5+json", "png": "image/png"}
    names |= {"latex": "text/latex", "markdown": "text/markdown", "html": "text/html"}
    names |= {"widget": "application/vnd.jupyter.widget-view+json", "plain": "text/plain"}
    return new_output("display_data", {names[kind]: value for kind, value in data.items()})


@pytest.fixture
def convert(tmp_path):
    def convert(*cells) -> BeautifulSoup:
        nbformat.write(new_notebook(cells=list(cells)), tmp_path / "run.ipynb")
        page.write_page(tmp_path / "run.ipynb")
        return BeautifulSoup((tmp_path / "run.html").read_text("utf-8"), "html.parser")

    return convert


def code(*outputs) -> nbformat.NotebookNode:
    return new_code_cell("run()", outputs=list(outputs), execution_count=1)


def test_nothing_is_loaded_from_anywhere_and_all_charts_share_one_copy_of_vega(convert):
    before_a_run = new_markdown_cell("![a picture](a.png)", metadata={"tags": ["not-run"]})
    explorer = display(vegalite=SPEC, widget={"model_id": "0"})
    explorer.data[page.NUMBERS] = "<table><tr><td>42</td></tr></table>"
    charts = code(display(vegalite=SPEC), explorer), code(display(vegalite=SPEC))
    soup = convert(before_a_run, *charts, code(display(html="<b>bold</b>")))
    assert str(soup).count(vl_convert.javascript_bundle()) == 1
    assert len(soup("figure")) == len(soup("img")) == 3
    assert soup("figure")[1].find_next("table").text == "42"
    assert all(tag["src"].startswith("data:") for tag in soup(src=True))
    assert not soup("link")
    assert "@import" not in soup.style.text
    assert "url(" not in soup.style.text
    assert soup.find("b").text == "bold"


def test_a_chart_is_there_live_and_as_a_picture(convert):
    picture = "iVBORw0KGgoAAAANSUhEUgAAACAAAAAI"  # the header of a PNG of 32 by 8 pixels
    charts = display(vegalite=SPEC, png=picture), display(vegalite=SPEC)
    given, made = figures = convert(code(*charts))("figure")
    for figure in figures:
        spec = json.loads(figure.script.text)
        assert spec == {key: value for key, value in SPEC.items() if key != "$schema"}
        assert figure.img["alt"] == "A & B </script>"
    assert given.img["src"] == f"data:image/png;base64,{picture}"
    assert given.img["width"] == "16"
    assert made.img["src"].startswith("data:image/png;base64,iVBOR")
    lines = ["A", "B"]
    charts = (display(vegalite=SPEC | {"title": title}) for title in (lines, {"text": lines}))
    assert [figure.img["alt"] for figure in convert(code(*charts))("figure")] == ["A B", "A B"]


def test_formulas_become_mathml_in_prose_and_outputs(convert):
    outputs = display(markdown="b is $0.31$"), display(latex="$$c^2$$")
    soup = convert(new_markdown_cell(PROSE), code(*outputs))
    assert [formula["display"] for formula in soup("math")] == [
        "inline", "inline", "block", "block", "inline", "block",
    ]  # fmt: skip
    assert not soup("script")
    assert soup.h1.math.msqrt.text == "k"
    assert soup("math")[-1].msup.text == "c2"
    assert [text.text for text in soup("code")] == ["$x$", "x_1_2"]
    prose = " ".join(soup.text.split())
    assert "a price of $5" in prose
    assert "$$" not in prose


def test_indices_and_exponents_stay_below_and_above_the_line(convert):
    soup = convert(new_markdown_cell("The set S<sub>k</sub> and a/k<sup>b</sup>."))
    assert (soup.p.sub.text, soup.p.sup.text) == ("k", "b")


def test_links_lead_to_headings_of_this_page_and_of_others(convert, tmp_path):
    (tmp_path / "other.html").touch()
    text = (
        "# Part 1. One *step*, & more\n\n[here](#Part-1.-One-step,-&-more) [there](other.ipynb#A)"
    )
    soup = convert(new_markdown_cell(text))
    here, there = (link["href"] for link in soup("a"))
    assert here == f"#{soup.h1['id']}"
    assert there == "other.html#A"


def test_progress_bars_show_their_last_state_only(convert):
    texts = "first\n\r  0%|    | 0/2", "\r 50%|##  | 1/2\r100%|####| 2/2\n", "second\n"
    soup = convert(code(*[new_output("stream", name="stdout", text=text) for text in texts]))
    assert [block.text for block in soup("pre")[1:]] == ["first\n100%|####| 2/2\nsecond\n"]


def test_controls_leave_a_remark_and_code_is_folded(convert):
    soup = convert(code(display(widget={"model_id": "0"}, plain="HBox(children=(...))")))
    assert "HBox" not in soup.text
    assert "run the notebook to use it" in soup.text
    assert soup.details.find("pre").text.strip() == "run()"
    assert "open" not in soup.details.attrs


def test_a_stopped_run_says_so_at_the_top(convert):
    error = new_output("error", ename="ValueError", evalue="ipc <= 500", traceback=["Traceback"])
    note = new_markdown_cell("An Exception", metadata={"tags": ["papermill-error-cell-tag"]})
    failed = new_code_cell("run()", outputs=[error], execution_count=7, id="failed")
    soup = convert(note, new_markdown_cell("# Question"), failed, new_code_cell("never()"))
    banner = soup.main.find(True)
    assert banner.text == "This run stopped in cell 7: ValueError: ipc <= 500"
    assert soup.find(id=banner.a["href"].removeprefix("#")).find("pre").text.strip() == "run()"
    assert "An Exception" not in soup.text
    assert soup.title.text == "Question"


def test_the_box_stands_below_the_title(convert):
    text = "> - **dm: survives.** The gaps lie on it."
    reading = code(display(markdown="before"), display(markdown=text))
    quote = new_markdown_cell("# Question\n\n> The hypothesis")
    soup = convert(quote, reading)
    assert soup.h1.find_next_sibling(True)["class"] == ["box"]
    assert [quote.text.strip() for quote in soup("blockquote")] == [
        "dm: survives. The gaps lie on it.",
        "The hypothesis",
    ]
    soup = convert(reading)  # without a title, it stays where it is
    assert soup.h1 is None
    assert soup.blockquote.text.strip() == "dm: survives. The gaps lie on it."
    assert soup.blockquote.find_previous("p").text == "before"


BEGUN = {"execution": {"iopub.execute_input": "2026-01-01T00:00:00Z"}}


@pytest.mark.parametrize(
    ("count", "metadata"),
    [(2, BEGUN), (None, {"execution": {}}), (None, {})],
    ids=["the kernel died, or is at work", "it died at once", "never begun"],
)
def test_a_cell_without_an_answer_has_no_end(convert, count, metadata):
    answered = {"execution": {"shell.execute_reply": "2026-01-01T00:00:00Z"}}
    first = new_code_cell("one()", execution_count=1, metadata=answered)
    last = new_code_cell("two()", execution_count=count, id="last", metadata=metadata)
    banner = convert(first, new_code_cell(" \n"), new_markdown_cell("text"), last).main.find(True)
    assert banner.text == f"This run is not past cell 2: {page.NO_END}"
    assert banner.a["href"] == "#cell-id=last"


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"nbformat": 4, "cells": 3}', "\xff"])
def test_what_is_no_notebook_is_refused(tmp_path, text):
    (tmp_path / "run.ipynb").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"run\.ipynb is not a Jupyter notebook"):
        page.write_page(tmp_path / "run.ipynb")
    assert not (tmp_path / "run.html").exists()


def test_nbconvert_writes_the_same_page(convert, tmp_path):
    convert(new_markdown_cell(PROSE), code(display(vegalite=SPEC)))
    ours = (tmp_path / "run.html").read_text("utf-8")
    command = [sys.executable, "-m", "nbconvert", "--to", "ddlib_page", tmp_path / "run.ipynb"]
    subprocess.run([*command, "--output", "theirs"], check=True, capture_output=True)
    assert (tmp_path / "theirs.html").read_text("utf-8") == ours
