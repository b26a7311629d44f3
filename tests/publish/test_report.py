"""The report: what its index says of every run, and where links lead, also in a browser."""

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ddlib.publish import report

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
SPEC = {"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {"x": {"field": "x"}}}
BOX = """> - **dm: survives.** The gaps lie on a/√k + c.
> - **random: fails.** The gap falls faster than 1/√k."""
READING = "**random.** Left free, the exponent is b = 0.8."
BAR = "[One](01_one.ipynb) · [Two](02_two.ipynb) · [Far](09_far.ipynb) · [site](http://a.b/c.ipynb)"


def write(results, folder: str, name: str, *outputs, data="digits", run=True, box=True) -> None:
    """Write an executed notebook as papermill leaves it, with a reading and a box of verdicts."""
    texts = [READING, BOX] if box else [READING]
    cells = [
        *(new_markdown_cell(f"# Is {name} a question?"), new_markdown_cell(BAR)),
        new_code_cell("draw()", execution_count=1 if run else None, outputs=list(outputs)),
        new_code_cell(
            "read()",
            execution_count=2 if run else None,
            outputs=[new_output("display_data", {"text/markdown": text}) for text in texts],
        ),
    ]
    parameters = {"data": {"name": data} if data == "digits" else data}  # or text alone
    parameters["results"] = f"results/{folder}"
    dates = {"duration": 61.7, "end_time": "2026-11-29T13:10:05.350232+00:00"}
    metadata = {"papermill": {"parameters": parameters, **dates}}
    path = results / folder / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture
def results(tmp_path):
    """Two notebooks under two profiles, one run of which failed."""
    folder = tmp_path / "results"
    chart = new_output("display_data", {"application/vnd.vegalite.v5+json": SPEC, "image/png": PNG})
    error = new_output("error", ename="ValueError", evalue="k = 7 & no more", traceback=[])
    write(folder, "one/quick", "01_one", chart)
    write(folder, "one/night", "01_one", data="mnist")
    write(folder, "two/quick", "02_two", error)
    write(folder, "three #1", "03_three", data=None, box=False)
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
        *("two/quick/02_two.html", "three%20%231/03_three.html"),
    ]
    assert [row.a.text for row in rows] == [
        *("Is 01_one a question? (mnist, night)", "Is 01_one a question? (digits, quick)"),
        *("Is 02_two a question? (digits, quick)", "Is 03_three a question? (three #1)"),
    ]
    assert rows[0].small.text == "01_one, one/night"
    found, run = rows[0]("td")
    assert [line.text for line in found("li")] == [
        "dm: survives. The gaps lie on a/√k + c.",
        "random: fails. The gap falls faster than 1/√k.",
    ]
    assert rows[3].td.text == ""  # no box, and no other sentence in its place
    assert run.get_text(" ").split() == ["ok", "2026-11-29", "13:10", "UTC", "62", "s"]
    assert "stopped in cell 1: ValueError: k = 7 & no more" in rows[2]("td")[1].text
    assert [bool(row.img) for row in rows] == [False, True, False, False]
    assert rows[1].img["src"] == f"data:image/png;base64,{PNG}"


def test_links_lead_to_the_page_of_the_same_profile_or_are_plain(results):
    index = report.write_report(results)
    for page in (index, *index.parent.rglob("*/*.html")):
        for link in soup(page)("a"):
            target, _, place = link["href"].partition("#")
            if "://" not in target:
                there = (page.parent / target).resolve() if target else page
                assert not place or soup(there).find(id=place)
    links = {
        page: {link.text: link["href"] for link in soup(results / page).main("a")}
        for page in ("one/quick/01_one.html", "one/night/01_one.html")
    }
    site = {"site": "http://a.b/c.ipynb"}
    one = {**site, "One": "01_one.html"}
    assert links["one/quick/01_one.html"] == {**one, "Two": "../../two/quick/02_two.html"}
    assert links["one/night/01_one.html"] == one
    text = soup(results / "one/quick/01_one.html").text
    assert "One · Two · Far · site" in " ".join(text.split())


def test_nothing_to_show_is_said(tmp_path):
    with pytest.raises(SystemExit, match=r"no executed notebook lies below .*; run one first"):
        report.main([str(tmp_path)])
    with pytest.raises(SystemExit, match="usage"):
        report.main(["one", "two"])


def test_a_browser_follows_the_links_from_disk(results, browser):
    from playwright.sync_api import expect

    index, requests, complaints = report.write_report(results), [], []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda said: said.type == "error" and complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(index.as_uri())
    page.locator("a[href='one/quick/01_one.html']").first.click()
    expect(page.locator("figure.chart svg.marks")).to_be_visible()
    page.get_by_role("link", name="Two").click()
    expect(page.locator(".stopped")).to_contain_text("k = 7 & no more")
    assert complaints == []
    assert all(url.startswith(("file://", "data:", "blob:")) for url in requests)
