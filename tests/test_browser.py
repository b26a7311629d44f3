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

import pytest

from ddlib import explore, tables

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
ROOT = Path(__file__).parents[1]
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
    """An explorer on a page, beside one of the same choices in this process."""

    def __init__(self, page, place: int, twin: explore.Explorer) -> None:
        self.page, self.twin = page, twin
        self.box = page.locator(".widget-vbox", has=page.locator("[role=img]")).nth(place)
        self.picture = self.box.locator("[role=img]")

    def control(self, label: str, kind: str):
        """Return the control whose visible label is `label`."""
        exact = self.page.get_by_text(label, exact=True)
        return self.box.locator(f".{kind}", has=exact)

    def slide(self, label: str, name: str, keys: str, value) -> None:
        handle = self.control(label, "widget-hslider").get_by_role("slider")
        handle.focus()
        for key in keys.split():
            self.page.keyboard.press(key)
        self.twin.controls[name].value = value
        self.check()

    def tick(self, label: str, ticks: explore.Ticks) -> None:
        box = self.box.get_by_label(label, exact=True)
        box.focus()
        self.page.keyboard.press("Space")
        ticks.boxes[label].value = not ticks.boxes[label].value
        assert box.is_checked() == ticks.boxes[label].value
        self.check()

    def select(self, label: str, name: str, value: str) -> None:
        self.box.get_by_label(label, exact=True).select_option(label=value)
        self.twin.controls[name].value = value
        self.check()

    def check(self) -> None:
        """Wait until picture and numbers are those that the library computes."""
        title = self.twin.view.chart["title"]["text"]
        playwright.expect(self.picture).to_contain_text(title)
        playwright.expect(self.box.locator("table")).to_contain_text(_cells(self.twin))

    def shape(self) -> str:
        """Return the lines of the picture, to see whether they move."""
        return self.picture.locator("svg").inner_html()


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
        _drive_ipc(Driven(watched, 0, explore.IpcExplorer(found)))
        _drive_family(Driven(watched, 1, explore.CoverageExplorer(found)))
        _drive_planner(Driven(watched, 2, explore.Planner(found)))
        assert watched.complaints == []
        assert watched.hosts <= {"127.0.0.1", "", "data:image/png;base64,"} | {
            host for host in watched.hosts if host.startswith(("data:", "blob:"))
        }


def _drive_ipc(ipc: Driven) -> None:
    before = ipc.shape()
    start = time.perf_counter()
    ipc.slide("IPC", "ipc", "ArrowRight", 12)
    answered = time.perf_counter() - start
    assert ipc.shape() != before
    assert answered < 5  # from key to picture and numbers; a fraction of a second where it is quiet
    ipc.slide("Tolerance", "tolerance", "ArrowLeft ArrowLeft", 5e-4)
    ipc.tick("mtt", ipc.twin.methods)
    ipc.tick("a k^-b + c", ipc.twin.laws)
    ipc.tick("random", ipc.twin.methods)
    ipc.box.get_by_label("Measure", exact=True).select_option(label="test cross-entropy")
    ipc.twin.controls["measure"].value = "gap_cross_entropy"
    ipc.check()
    _hover_a_seed(ipc)
    ipc.box.screenshot(path=_screen("app_ipc.png"))
    for name in ("dm", "dc", "mtt"):
        ipc.box.get_by_label(name, exact=True).uncheck()
    playwright.expect(ipc.picture).to_contain_text("no method is ticked; tick at least one")
    ipc.box.screenshot(path=_screen("app_nothing.png"))


def _hover_a_seed(ipc: Driven) -> None:
    ipc.picture.locator(".mark-symbol path[aria-label*=seed]").first.hover(force=True)
    playwright.expect(ipc.page.locator("#vg-tooltip-element")).to_contain_text("seed")
    ipc.page.mouse.move(0, 0)


def _drive_family(family: Driven) -> None:
    radius = family.twin.controls["radius"]
    before = family.shape()
    family.slide("Radius r", "radius", "ArrowRight ArrowRight", radius.value + 2 * radius.step)
    assert family.shape() != before
    family.slide("Gap ε", "epsilon", "ArrowRight", 0.06)
    family.slide("k now", "k", "ArrowRight ArrowRight", 50)
    family.tick("vit", family.twin.members)
    preset = family.box.get_by_label("Preset", exact=True)
    assert preset.evaluate("box => box.selectedOptions[0].text").split() == explore.OWN.split()
    family.select("Preset", "preset", "optimisation-4")
    assert not family.box.get_by_label("mlp", exact=True).is_checked()
    assert family.box.get_by_label("rmsprop", exact=True).is_checked()
    family.select("Preset", "preset", "spread 5")
    family.box.screenshot(path=_screen("app_family.png"))


def _drive_planner(planner: Driven) -> None:
    planner.slide("Target gap", "epsilon", "ArrowLeft", 0.04)
    planner.slide("Budget, IPC", "budget", "ArrowLeft ArrowLeft", 30)
    planner.select("Used as", "family", "plain alone")
    advice = re.sub(r"<[^>]+>", "", planner.twin.view.label)
    playwright.expect(planner.box.locator("p")).to_have_text(advice)
    planner.box.screenshot(path=_screen("app_planner.png"))


def _screen(name: str) -> Path:
    SCREENS.mkdir(parents=True, exist_ok=True)
    return SCREENS / name


def test_jupyterlab_follows_the_keyboard(watched, tmp_path):
    # A copy, in a folder of its own: JupyterLab saves what it runs.
    shutil.copy(ROOT / "notebooks" / "05_explore.ipynb", tmp_path)
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
        ipc = Driven(watched, 0, explore.IpcExplorer(tables.example()))
        playwright.expect(ipc.picture.locator("svg")).to_be_visible()
        ipc.slide("IPC", "ipc", "ArrowLeft ArrowLeft", 6)
        ipc.tick("mtt", ipc.twin.methods)
        watched.screenshot(path=_screen("lab_ipc.png"))
        assert watched.complaints == []
