"""The explorers in a real browser: the app and JupyterLab, moved by the keyboard."""

import re
import shutil
import sys
import time
from collections.abc import Sequence
from xml.etree import ElementTree

import ipywidgets as widgets
import pytest
import vl_convert
from servers import MAKE, ROOT, serving

from ddlib.explore import tables
from ddlib.explore.controls import Ticks
from ddlib.explore.coverage import CoverageExplorer
from ddlib.explore.ipc import SHOW, IpcExplorer
from ddlib.explore.planner import Planner
from ddlib.figures.style import FORMULAS

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
SCREENS = ROOT / "results" / "screens"
PATIENCE = 180_000  # milliseconds: a machine may be busy with much else


@pytest.fixture
def page(browser):
    """Return a page of 1280 pixels, with all its errors, and all hosts that it asks."""
    playwright.expect.set_options(timeout=PATIENCE)
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(PATIENCE)
    page.errors, page.hosts = [], set()
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on(
        "console",
        lambda line: (
            (line.type == "error" or line.text.startswith("WARN"))  # the latter: Vega's
            and page.errors.append(line.text)
        ),
    )
    page.on("request", lambda request: page.hosts.add(re.split(r"[:/]+", request.url)[1]))
    yield page
    assert page.errors == []
    page.close()


class Driven:
    """An explorer on a page, beside a twin in this process that gets the same choices."""

    def __init__(self, page, place: int, twin: IpcExplorer) -> None:
        self.page, self.twin = page, twin
        self.box = page.locator(".ddlib-explorer").nth(place)
        self.check()

    def move(self, name: str, label: str = "", to_end: bool = False) -> None:
        """Move a control one step on, or a menu to its end, by the keyboard, or tick `label`."""
        control = self.twin.controls[name]
        before = self.marks
        if isinstance(control, Ticks):
            self.box.get_by_role("checkbox", name=label, exact=True).press("Space")
            [box] = [box for box in control.children[1:] if box.description == label]
            box.value = not box.value
        else:
            menu = isinstance(control, widgets.Dropdown)
            role, key = ("combobox", "ArrowDown") if menu else ("slider", "ArrowRight")
            handle = self.box.get_by_role(role, name=control.description, exact=True)
            handle.press("End" if to_end else key)
            control.index = len(control.options) - 1 if to_end else control.index + 1
            if not menu:
                playwright.expect(handle).to_have_attribute("aria-valuetext", control.label)
        self.check()
        assert self.marks != before

    def tick(self, name: str, labels: Sequence[str]) -> None:
        """Tick these boxes of a control and no others, by the keyboard."""
        control = self.twin.controls[name]
        names = [box.description for box in control.children[1:]]
        for box in control.children[1:]:
            if box.value != (box.description in labels):
                self.box.get_by_role("checkbox", name=box.description, exact=True).press("Space")
        control.offer(names, labels)
        self.check()

    def check(self) -> None:
        """Wait until picture and numbers are those that the library computes, and in view."""
        texts = re.findall(r"<t[hd]>([^<]+)</t[hd]>", self.twin.numbers.value)
        numbers = re.compile(r"\s*".join(re.escape(text) for text in texts))
        playwright.expect(self.box.locator("table")).to_contain_text(numbers)
        svg = ElementTree.fromstring(vl_convert.vegalite_to_svg(self.twin.spec))
        marks = [
            (mark.get("aria-roledescription") or "", mark.get("aria-label")) for mark in svg.iter()
        ]
        self.marks = [label for kind, label in marks if kind.endswith(("mark", "point"))]
        end = time.monotonic() + PATIENCE / 1000
        while (shown := self.box.evaluate(MARKS)) != self.marks:
            assert time.monotonic() < end, (shown, self.marks)
            time.sleep(0.05)
        self.page.wait_for_function(FITS, arg=self.box.element_handle())

    def screenshot(self, name: str) -> None:
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.box.screenshot(path=SCREENS / f"{name}.png")


MARKS = """
box => [...box.querySelectorAll(".vega-embed [role=graphics-symbol]")]
  .filter(mark => /(mark|point)$/.test(mark.getAttribute("aria-roledescription")))
  .map(mark => mark.getAttribute("aria-label"))
"""
FITS = """explorer => {  // on a phone, images and tables scroll in their boxes
  const right = (part) => part.getBoundingClientRect().right, edge = right(explorer) + 1;
  const parts = innerWidth > 600 ? ".vega-embed svg.marks, table" : ".vega-embed";
  const charts = [...explorer.querySelectorAll(".vega-embed")];
  const growing = charts.filter((box) => box.spec.width === "container");
  const wide = (box) => box.querySelector("svg")?.getBoundingClientRect().width || 0;
  return [...explorer.querySelectorAll(parts)].every((part) => right(part) <= edge)
    && charts.every((box) => wide(box) > 0)
    && growing.every((box) => Math.abs(wide(box) - box.clientWidth) < 2)
    && (!growing.length || charts.some((box) => right(box) > right(box.parentElement) - 9));
}"""
TOP = "document.querySelector('.vega-embed').getBoundingClientRect().top"
LOCAL = {"127.0.0.1", "image", "application", "http", "text"}  # the last four: of data and blobs


def test_the_app_follows_every_control(page, tmp_path):
    studies = tables.findings()
    with serving([*MAKE, "app", "APP=--no-browser --port={port}"], tmp_path) as port:
        page.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
        playwright.expect(page.locator(".ddlib-explorer", has=page.locator("svg"))).to_have_count(3)
        playwright.expect(page.get_by_text("Parameters")).to_have_count(0)
        playwright.expect(page.locator(".still")).to_have_count(0)
        for width, height in ((1280, 800), (1600, 900), (390, 844), (1280, 800)):
            page.set_viewport_size({"width": width, "height": height})
            for explorer in page.locator(".ddlib-explorer").all():
                page.wait_for_function(FITS, arg=explorer.element_handle())
            page.locator(".ddlib-explorer").first.scroll_into_view_if_needed()
            assert page.evaluate(TOP) <= height - 300
        ipc = Driven(page, 0, IpcExplorer(studies))
        ipc.move("fits", "a/k^b")  # it describes dc on CIFAR-10, so there is a k_sat
        for name in ("ipc", "least_gain", "measure"):
            ipc.move(name)
        ipc.move("methods", "mtt")
        ipc.box.locator(".mark-symbol path[aria-label*=seed]").first.hover(force=True)
        playwright.expect(page.locator("#vg-tooltip-element")).to_contain_text("seed")
        page.mouse.move(0, 0)
        ipc.screenshot("app_ipc")
        ipc.move("beyond")
        ipc.tick("show", SHOW)
        ipc.tick("fits", FORMULAS.values())
        ipc.screenshot("app_ipc_all")
        ipc.tick("fits", ())
        ipc.tick("methods", studies[0].methods)
        ipc.move("study", to_end=True)  # studies of several configurations come last
        ipc.move("configuration")
        for box in ipc.twin.controls["methods"].children[1:]:
            ipc.box.get_by_role("checkbox", name=box.description, exact=True).uncheck()
        playwright.expect(ipc.box.get_by_role("status")).to_contain_text(
            "no method is ticked; tick at least one"
        )
        family = Driven(page, 1, CoverageExplorer(studies))
        for name in ("radius", "epsilon", "preset"):
            family.move(name)
        family.move("members", family.twin.controls["members"].children[-1].description)
        family.screenshot("app_family")
        plans = Driven(page, 2, Planner(studies))
        for name in ("epsilon", "budget"):
            plans.move(name)
        plans.move("study", to_end=True)
        plans.move("family")
        plans.screenshot("app_planner")
    assert page.hosts <= LOCAL


def test_jupyterlab_follows_the_keyboard(page, tmp_path):
    # A copy, in a folder of its own: JupyterLab saves what it runs.
    shutil.copy(ROOT / "notebooks" / "05_explore.ipynb", tmp_path)
    shutil.copytree(ROOT / "notebooks" / "images", tmp_path / "images")
    words = [sys.executable, "-m", "jupyter", "lab", "--ip=127.0.0.1", "--port={port}"]
    words += ["--no-browser", "--allow-root", "--IdentityProvider.token=only-here"]
    words += [f"--ServerApp.root_dir={tmp_path}", f"--LabApp.workspaces_dir={tmp_path}"]
    words += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    words += ["--LabApp.news_url=", "--LabApp.expose_app_in_browser=True"]
    with serving(words, tmp_path) as port:
        address = f"http://127.0.0.1:{port}/lab/tree/05_explore.ipynb?token=only-here"
        page.goto(address, wait_until="domcontentloaded")
        page.locator(".jp-CodeCell").first.wait_for()
        session = "jupyterapp.shell.currentWidget?.sessionContext?.session"
        page.wait_for_function(f"() => {session}?.kernel?.status === 'idle'")
        # Not awaited: the command ends with the last cell, or never where the kernel is lost.
        page.evaluate("() => void jupyterapp.commands.execute('notebook:run-all-cells')")
        ipc = Driven(page, 0, IpcExplorer(tables.findings()))
        ipc.move("ipc")
        ipc.move("methods", "mtt")
        ipc.screenshot("lab_ipc")
        playwright.expect(page.locator(".still")).to_be_hidden()
