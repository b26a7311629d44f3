"""Slides of an executed notebook: one section a screen, figures whole, nothing loaded."""

import nbformat
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_page import SPEC, code, display

from ddlib.publish.slides import SlidesExporter

LONG = "word " * 40


def slides(tmp_path, *cells) -> BeautifulSoup:
    """Return the slides of a notebook, written as nbconvert writes them."""
    nbformat.write(new_notebook(cells=list(cells)), tmp_path / "run.ipynb")
    text, resources = SlidesExporter().from_filename(str(tmp_path / "run.ipynb"))
    (tmp_path / f"run{resources['output_extension']}").write_text(text, encoding="utf-8")
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
    assert "This run stopped in cell 1" in soup.main.text
    assert soup.find(id=soup.main.a["href"].removeprefix("#"))
    died = new_code_cell("run()"), new_markdown_cell("## The end")
    soup = slides(tmp_path, new_markdown_cell("# T"), code(display(markdown="first")), *died)
    assert "This run is not past cell 2: its process died" in soup.main.text


def test_keys_move_from_slide_to_slide_and_a_link_leads_to_its_heading(tmp_path, browser):
    links = new_markdown_cell("# One\n\n[last](run.ipynb#The-last)")
    slides(
        tmp_path, links, new_markdown_cell("## Two"), new_markdown_cell(f"## The last\n\n{LONG}")
    )
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.goto((tmp_path / "run.slides.html").as_uri())

    def shown() -> list[str]:
        heads = page.locator("section h1, section h2").all()
        return [head.inner_text() for head in heads if head.is_visible()]

    assert shown() == ["One"]
    page.keyboard.press("ArrowRight")
    assert shown() == ["Two"]
    page.keyboard.press("PageUp")
    page.click("text=last")
    page.wait_for_function("document.querySelector('output').textContent === '3 / 3'")
    assert shown() == ["The last"]
    page.keyboard.press("ArrowRight")
    assert shown() == ["The last"]
