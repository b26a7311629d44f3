"""The report: what its index says of every run, and where its links lead, also in a browser."""

import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ddlib.figures import render
from ddlib.publish import report
from ddlib.publish.page import NO_END, write_page

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
SPEC = {"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {"x": {"field": "x"}}}
READING = """**dm.** The exponent is b = 0.5 (0.4 to 0.6), so the law survives. More follows here.

**random.** It falls faster: b = 0.8. The rest is left out."""
BAR = "[One](01_one.ipynb) · [Two](02_two.ipynb) · [Far](09_far.ipynb) · [site](http://a.b/c.ipynb)"


def write(results, folder: str, name: str, *outputs, data="digits", run: bool = True):
    """Write an executed notebook as papermill leaves it."""
    cells = [
        *(new_markdown_cell(f"# Is {name} a question?"), new_markdown_cell(BAR)),
        new_code_cell("draw()", execution_count=1 if run else None, outputs=list(outputs)),
        new_markdown_cell("## Reading\n\nComputed."),
        new_code_cell(
            "read()",
            execution_count=2 if run else None,
            outputs=[new_output("display_data", {"text/markdown": READING})],
        ),
    ]
    parameters = {"data": {"name": data} if data == "digits" else data}  # or text alone
    made = {"parameters": parameters, "duration": 61.7}
    path = results / folder / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"papermill": made}), path)
    return path


@pytest.fixture
def results(tmp_path):
    """Two notebooks under two profiles, one run of which failed."""
    folder = tmp_path / "results"
    chart = new_output("display_data", {render.LIVE: SPEC, "image/png": PNG})
    error = new_output("error", ename="ValueError", evalue="k = 7 & no more", traceback=[])
    write(folder, "one/quick", "01_one", chart)
    write(folder, "one/night", "01_one", data="mnist")
    write(folder, "two/quick", "02_two", error)
    write(folder, "three", "03_three")
    write(folder, "four/quick", "04_four", run=False)
    write(folder, "one/.ipynb_checkpoints", "01_one")
    (folder / "broken.ipynb").write_text("{}")
    return folder


def soup(path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def test_the_index_tells_every_run(results):
    rows = soup(report.write_report(results)).tbody("tr")
    assert [row.a["href"] for row in rows] == [
        *("one/night/01_one.html", "one/quick/01_one.html"),
        *("two/quick/02_two.html", "three/03_three.html"),
    ]
    assert rows[0].th.text == "Is 01_one a question?01_one, one/night"
    assert [row("td")[0].text for row in rows] == ["mnist", "digits", "digits", "digits"]
    assert rows[0]("td")[1].get_text(" ").split() == ["ok", "62", "s"]
    assert "stopped in cell 1: ValueError: k = 7 & no more" in rows[2]("td")[1].text
    assert [p.text for p in rows[0]("p")] == [
        "dm. The exponent is b = 0.5 (0.4 to 0.6), so the law survives.",
        "random. It falls faster: b = 0.8.",
    ]
    assert [row.img and row.img["src"] for row in rows] == [
        None,
        "one/quick/01_one.png",
        None,
        None,
    ]


def test_every_link_leads_somewhere(results):
    index = report.write_report(results)
    pages = [index, *index.parent.rglob("*/*.html")]
    for page in pages:
        for link in soup(page)("a"):
            target, _, place = link["href"].partition("#")
            if "://" not in target:
                there = (page.parent / target).resolve() if target else page
                assert there.is_file()
                assert not place or soup(there).find(id=place)
    assert len(pages) == 5


def test_links_choose_the_same_profile_then_the_first_or_are_plain(results):
    site = report.write_report(results).parent
    to = {
        page: {link.text: link["href"] for link in soup(site / page).main("a")}
        for page in ("one/night/01_one.html", "two/quick/02_two.html")
    }
    away = {"All runs": "../../index.html", "site": "http://a.b/c.ipynb"}
    assert to["one/night/01_one.html"] == {**away, "Two": "../../two/quick/02_two.html"}
    two = to["two/quick/02_two.html"]
    assert {key: two[key] for key in ("One", *away)} == {
        **away,
        "One": "../../one/quick/01_one.html",
    }
    assert "One · Two · Far · site" in " ".join(soup(site / "two/quick/02_two.html").text.split())


def test_a_page_alone_links_to_those_of_its_profile(results):
    for folder, name in (("one/quick", "01_one"), ("two/quick", "02_two"), ("one/night", "01_one")):
        path = results / folder / f"{name}.ipynb"
        write_page(path, path.with_suffix(".html"))
    links = soup(results / "two" / "quick" / "02_two.html")("a")
    assert {"One": "../../one/quick/01_one.html"}.items() <= {
        a.text: a["href"] for a in links
    }.items()
    assert [a.text for a in soup(results / "one" / "night" / "01_one.html")("a")] == ["site"]


def test_a_second_report_takes_the_place_of_the_first(results):
    index = report.write_report(results)
    before = {path: path.read_bytes() for path in index.parent.rglob("*.*")}
    report.write_report(results)
    assert {path: path.read_bytes() for path in index.parent.rglob("*.*")} == before
    shutil.rmtree(results / "three")
    report.write_report(results)
    assert not (index.parent / "three").exists()
    assert sorted(path.name for path in results.glob(".*")) == []


def test_a_report_that_fails_leaves_the_last_one(results, monkeypatch):
    index = report.write_report(results)
    before = index.read_bytes()
    write(results, "five/quick", "05_five")
    monkeypatch.setattr(report, "_index", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write_report(results)
    assert index.read_bytes() == before
    assert not (index.parent / "five").exists()


@pytest.mark.slow
def test_a_run_under_way_or_killed_is_not_called_ok(tmp_path):
    results = tmp_path / "results"
    cells = [
        new_code_cell("k = None", metadata={"tags": ["parameters"]}),
        new_code_cell("import time; time.sleep(600)"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = tmp_path / "01_long.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), notebook)
    (tmp_path / "mine.yaml").write_text(f"studies: []\nresults: {results}/long/one\n")

    def told() -> str:
        try:
            [row] = soup(report.write_report(results)).tbody("tr")
        except FileNotFoundError:
            return ""
        return row("td")[1].text.strip()

    command = [sys.executable, "-m", "ddlib.publish.execute", notebook, tmp_path / "mine.yaml"]
    results.mkdir()
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 60
            while not told().startswith("stopped in cell 3") and time.monotonic() < end:
                time.sleep(0.2)
            under_way, running = told(), process.poll() is None
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert running
    assert under_way == told() == f"stopped in cell 3: {NO_END}"


def test_nothing_to_show_is_said(tmp_path):
    with pytest.raises(SystemExit, match=r"no executed notebook lies below .*; run one first"):
        report.main([str(tmp_path)])
    with pytest.raises(SystemExit, match="usage"):
        report.main(["one", "two"])


def test_a_browser_follows_the_links_from_disk(results, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium here: install Debian's package chromium")
    index, asked, complaints = report.write_report(results), [], []
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(index.as_uri())
        page.locator("a[href='one/quick/01_one.html']").first.click()
        playwright.expect(page.locator("figure.chart svg.marks")).to_be_visible()
        page.get_by_role("link", name="Two").click()
        playwright.expect(page.locator(".stopped")).to_contain_text("k = 7 & no more")
        page.get_by_role("link", name="All runs").click()
        playwright.expect(page.locator("tbody tr")).to_have_count(4)
        browser.close()
    assert complaints == []
    assert all(url.startswith(("file://", "data:", "blob:")) for url in asked)
