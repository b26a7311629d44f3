"""The explorers in a real browser: the app and JupyterLab, every slider, with the keyboard."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import vl_convert

from ddlib.explore import explorers as explore
from ddlib.explore import tables

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
ROOT = Path(__file__).parents[2]
SCREENS = ROOT / "results" / "screens"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
MAKE = ["make", "-o", ".venv/installed", f"BIN={Path(sys.executable).parent}"]
PATIENCE = 60_000  # milliseconds: a machine may be busy with much else

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install Debian's package chromium"
)


@contextmanager
def serving(words: list[str], folder: Path, log: Path):
    """Run a server of the Makefile on a free port of this machine; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "JUPYTER_RUNTIME_DIR": str(folder),
        "JUPYTER_CONFIG_DIR": str(folder),
    }
    environment["JUPYTER_RUNTIME_DIR"] = str(folder)
    command = [word.format(port=port) for word in words]
    with log.open("w") as out:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        for _ in range(150):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu"]
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def watched(browser):
    """Return a page of 1280 pixels, with all it complains of, and all hosts that it asks."""
    playwright.expect.set_options(timeout=PATIENCE)
    page = browser.new_page(viewport={"width": 1280, "height": 1100})
    page.set_default_timeout(PATIENCE)
    page.complaints, page.hosts = [], set()
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: said.type == "error" and page.complaints.append(said.text))
    page.on("request", lambda asked: page.hosts.add(re.sub(r"^\w+://([^/:]*).*", r"\1", asked.url)))
    yield page
    page.close()


class Driven:
    """An explorer on a page, moved by the keyboard, beside one of the same choices here."""

    def __init__(self, page, place: int, twin: explore.Explorer) -> None:
        self.page, self.twin, self.moved = page, twin, set()
        self.box = page.locator(".widget-vbox", has=page.locator("[role=img]")).nth(place)
        self.picture = self.box.locator("[role=img]")
        self.check()

    def slide(self, name: str, *keys: str) -> None:
        """Press keys on the handle of a slider; the twin takes the value that stands beside it."""
        control = self.twin.controls[name]
        handle = self.box.get_by_role("slider", name=control.description, exact=True)
        handle.focus()
        for key in keys:
            self.page.keyboard.press(key)
        if hasattr(control, "options"):
            known = [each if isinstance(each, tuple) else (each, each) for each in control.options]
            values, now = [value for _, value in known], control.value
            steps = sum({"ArrowRight": 1, "ArrowLeft": -1}[key] for key in keys)
            value = values[values.index(now) + steps]
        else:
            value = control.value + control.step * len(keys)
        self.follow(name, value)
        readout = self.box.get_by_role("textbox", name=control.description, exact=True)
        playwright.expect(handle).to_have_attribute("aria-valuetext", readout.inner_text())

    def tick(self, name: str, label: str) -> None:
        ticks = self.twin.controls[name]
        box = self.box.get_by_role("checkbox", name=label, exact=True)
        box.focus()
        self.page.keyboard.press("Space")
        with self.followed(name):
            ticks.boxes[label].value = not ticks.boxes[label].value
        assert box.is_checked() == ticks.boxes[label].value

    def select(self, name: str, value) -> None:
        """Walk down a list, or up, to a value, by the keyboard alone."""
        control = self.twin.controls[name]
        known = [each[1] if isinstance(each, tuple) else each for each in control.options]
        steps = known.index(value) - known.index(control.value)
        box = self.box.get_by_role("combobox", name=control.description, exact=True)
        box.focus()
        for _ in range(abs(steps)):
            self.page.keyboard.press("ArrowDown" if steps > 0 else "ArrowUp")
        self.follow(name, value)

    def follow(self, name: str, value) -> None:
        with self.followed(name):
            self.twin.controls[name].value = value

    @contextmanager
    def followed(self, name: str):
        """Check that a change of a control of the twin changes the picture, and the page's too."""
        before = self.marks
        yield
        self.moved.add(name)
        self.check()
        assert not _alike(self.marks, before)

    def check(self) -> None:
        """Wait until picture and numbers are those that the library computes."""
        playwright.expect(self.box.locator("table")).to_contain_text(_cells(self.twin))
        self.marks, end = _marks(self.twin), time.monotonic() + PATIENCE / 1000
        while not _alike(shown := self.picture.evaluate(MARKS), self.marks):
            assert time.monotonic() < end, (shown, self.marks)
            time.sleep(0.05)
        title = self.twin.view.chart["title"]["text"]
        playwright.expect(self.picture).to_contain_text(title)

    def reach_all(self) -> None:
        """Check that the Tab key stops at every control, and that each says its name."""
        self.box.get_by_role("combobox").first.focus()
        names = [self.page.evaluate(NAME)]
        for _ in range(2 * self.box.locator("select, input, [role=slider]").count()):
            self.page.keyboard.press("Tab")
            names.append(self.page.evaluate(NAME))
        for name, control in self.twin.controls.items():
            wanted = control.boxes if name in TICKS else [control.description]
            assert set(wanted) <= set(names), (name, names)
        assert self.moved == set(self.twin.controls)


TICKS = ("methods", "laws", "members")
KEPT = ("aria-label", "d", "transform", "x2", "y2")  # what a mark says and where it is
NUMBERS = re.compile(r"\d+\.?\d*(?:e-?\d+)?")
MARKS = f"""
box => [...box.querySelectorAll("[role=graphics-symbol]")]
  .filter(mark => /(mark|point)$/.test(mark.getAttribute("aria-roledescription")))
  .map(mark => {list(KEPT)}.map(name => mark.getAttribute(name)))
"""
NAME = """
() => {
  const here = document.activeElement;
  return here.getAttribute("aria-label") ?? here.labels?.[0]?.innerText ?? "";
}
"""


def _alike(some: list, others: list) -> bool:
    """Return whether marks say the same, and their numbers are the same but for rounding."""
    words = [NUMBERS.sub("#", str(marks)) for marks in (some, others)]
    values = [np.array(NUMBERS.findall(str(marks)), float) for marks in (some, others)]
    return words[0] == words[1] and np.allclose(*values, rtol=1e-6, atol=1e-6)


def _marks(explorer) -> list[list[str | None]]:
    """Return what the marks of an explorer's picture say and where they are, drawn anew here."""
    drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg(explorer.view.chart))
    marks = [mark for mark in drawn.iter() if mark.get("role") == "graphics-symbol"]
    kinds = re.compile("(mark|point)$")
    marks = [mark for mark in marks if kinds.search(mark.get("aria-roledescription"))]
    return [[mark.get(name) for name in KEPT] for mark in marks]


def _cells(explorer) -> re.Pattern:
    """Return what the cells of the numbers say, with any space between."""
    texts = re.findall(r">([^<>]+)<", re.sub(r"<caption.*", "", explorer.numbers.value))
    plain = [text.replace("&#x27;", "'").strip() for text in texts if text.strip()]
    table = [text for text in plain if "<p>" not in text]
    if "<p>" in explorer.numbers.value:
        start = explorer.numbers.value.index("<table")
        table = re.findall(r">([^<>]+)<", explorer.numbers.value[start:].split("<caption")[0])
    return re.compile(r"\s*".join(re.escape(text.replace("&#x27;", "'")) for text in table))


def open_app(page, port: int) -> None:
    page.goto(f"http://127.0.0.1:{port}/", wait_until="domcontentloaded")
    playwright.expect(page.locator("[role=img] svg")).to_have_count(3)


def test_the_app_follows_every_control(watched, tmp_path):
    found = tables.example()
    words = [*MAKE, "app", "APP=--no-browser --port={port}"]
    with serving(words, tmp_path, tmp_path / "log") as port:
        open_app(watched, port)
        assert watched.evaluate("document.documentElement.scrollWidth") <= 1280
        _drive_ipc(Driven(watched, 0, explore.IpcExplorer(found)))
        _drive_family(Driven(watched, 1, explore.CoverageExplorer(found)))
        _drive_planner(Driven(watched, 2, explore.Planner(found)))
        assert watched.evaluate("document.documentElement.scrollWidth") <= 1280
        assert watched.complaints == []
        assert watched.hosts <= {"127.0.0.1", "", "data:image/png;base64,"} | {
            host for host in watched.hosts if host.startswith(("data:", "blob:"))
        }


def _drive_ipc(ipc: Driven) -> None:
    ipc.slide("ipc", "ArrowRight")
    ipc.slide("least_gain", "ArrowLeft", "ArrowLeft")
    ipc.tick("methods", "mtt")
    ipc.tick("laws", "a/k^b + c")
    ipc.tick("methods", "random")
    ipc.select("measure", "gap_cross_entropy")
    ipc.select("configuration", "augmented")
    _hover_a_seed(ipc)
    ipc.box.screenshot(path=_screen("app_ipc.png"))
    ipc.select("study", "digits: coverage_law/digits")
    ipc.reach_all()
    ipc.box.get_by_role("checkbox", name="dm", exact=True).uncheck()
    playwright.expect(ipc.picture).to_contain_text("no method is ticked; tick at least one")
    ipc.box.screenshot(path=_screen("app_nothing.png"))


def _hover_a_seed(ipc: Driven) -> None:
    ipc.picture.locator(".mark-symbol path[aria-label*=seed]").first.hover(force=True)
    playwright.expect(ipc.page.locator("#vg-tooltip-element")).to_contain_text("seed")
    ipc.page.mouse.move(0, 0)


def _drive_family(family: Driven) -> None:
    family.slide("radius", "ArrowRight", "ArrowRight")
    family.slide("epsilon", "ArrowRight")
    family.tick("members", "vit")
    preset = family.box.get_by_label("Preset", exact=True)
    assert preset.evaluate("box => box.selectedOptions[0].text").split() == explore.OWN.split()
    family.select("preset", "optimisation-4")
    assert not family.box.get_by_label("mlp", exact=True).is_checked()
    assert family.box.get_by_label("rmsprop", exact=True).is_checked()
    family.select("method", "dm_for_all")
    # The sizes at hand change no mark, only the row of the worst member.
    family.twin.controls["k"].value = 20
    handle = family.box.get_by_role("slider", name="k now", exact=True)
    handle.press("ArrowRight")
    family.check()
    family.moved |= {"k", "study"}  # one study alone has distances
    family.reach_all()
    family.box.screenshot(path=_screen("app_family.png"))


def _drive_planner(planner: Driven) -> None:
    planner.slide("epsilon", "ArrowLeft")
    planner.slide("budget", "ArrowLeft", "ArrowLeft")
    planner.select("family", "augmented alone")
    advice = re.sub(r"<[^>]+>", "", planner.twin.view.label)
    playwright.expect(planner.box.locator("p")).to_have_text(advice)
    planner.box.screenshot(path=_screen("app_planner.png"))
    planner.select("study", "digits: coverage_law/digits")
    planner.reach_all()


def _screen(name: str) -> Path:
    SCREENS.mkdir(parents=True, exist_ok=True)
    return SCREENS / name


def test_jupyterlab_follows_the_keyboard(watched, tmp_path):
    # A copy, in a folder of its own: JupyterLab saves what it runs.
    shutil.copy(ROOT / "notebooks" / "05_explore.ipynb", tmp_path)
    shutil.copytree(ROOT / "notebooks" / "images", tmp_path / "images")
    words = [sys.executable, "-m", "jupyter", "lab", "--ip=127.0.0.1", "--port={port}"]
    words += ["--no-browser", "--allow-root", "--IdentityProvider.token=only-here"]
    words += [f"--ServerApp.root_dir={tmp_path}", f"--LabApp.workspaces_dir={tmp_path}"]
    words += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    words += ["--LabApp.news_url=", "--LabApp.expose_app_in_browser=True"]
    with serving(words, tmp_path / "runtime", tmp_path / "log") as port:
        address = f"http://127.0.0.1:{port}/lab/tree/05_explore.ipynb?token=only-here"
        watched.goto(address, wait_until="domcontentloaded")
        watched.locator(".jp-CodeCell").first.wait_for()
        session = "jupyterapp.shell.currentWidget?.sessionContext?.session"
        watched.wait_for_function(f"() => {session}?.kernel?.status === 'idle'")
        # Not awaited: the command ends with the last cell, or never where the kernel is lost.
        watched.evaluate("() => void jupyterapp.commands.execute('notebook:run-all-cells')")
        found = tables.example()
        ipc = Driven(watched, 0, explore.IpcExplorer(found))
        playwright.expect(ipc.picture.locator("svg")).to_be_visible()
        ipc.slide("ipc", "ArrowLeft", "ArrowLeft")
        ipc.slide("least_gain", "ArrowLeft")
        ipc.tick("methods", "mtt")
        ipc.tick("laws", "a/k + c")
        watched.screenshot(path=_screen("lab_ipc.png"))
        family = Driven(watched, 1, explore.CoverageExplorer(found))
        family.slide("radius", "ArrowRight")
        family.slide("epsilon", "ArrowRight")
        family.tick("members", "mlp")
        watched.screenshot(path=_screen("lab_family.png"))
        planner = Driven(watched, 2, explore.Planner(found))
        planner.slide("epsilon", "ArrowRight")
        planner.slide("budget", "ArrowLeft")
        watched.screenshot(path=_screen("lab_planner.png"))
        for driven in (ipc, family, planner):
            assert driven.box.evaluate("box => box.scrollWidth <= box.clientWidth")
        assert watched.evaluate("document.documentElement.scrollWidth") <= 1280
        assert watched.complaints == []
