"""What the tests share: one thread, and a data set small enough to check by hand."""

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy loads; processes of tests inherit it

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from clusters import Cluster, in_process, started

from ddlib.data.base import DataSet, Split
from ddlib.data.normalise import Normalisation

torch.set_num_threads(1)

NEEDED = ("Chromium", "Playwright", "mounts of one's own", "DDLIB_DATA")
"""What some tests cannot do without: where DDLIB_NO_SKIPS is set, its absence fails them."""


def _fail_if_needed(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = str(report.longrepr)
    if report.skipped and os.environ.get("DDLIB_NO_SKIPS") and any(n in reason for n in NEEDED):
        report.outcome, report.longrepr = "failed", f"DDLIB_NO_SKIPS is set, but {reason}"


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch):
    """Let no variable of the shell's send a study elsewhere."""
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    _fail_if_needed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _fail_if_needed(report)
    return report


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler and a worker in this process, for all tests of a file."""
    with in_process() as address:
        yield address


@pytest.fixture
def in_this_process(address: str, no_scheduler, monkeypatch) -> None:
    """Send studies that name no scheduler to the one in this process."""
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it, or without Playwright, a test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    names = ("chromium", "chromium-browser", "chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("no Chromium here: install Debian's package chromium")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu"]
        browser = driver.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler of one's own, without workers yet."""
    with started(tmp_path) as running:
        yield running


def _split(prototypes: torch.Tensor, per_class: int, stream: torch.Generator) -> Split:
    """Noisy copies of each class's prototype, in shuffled order."""
    labels = torch.arange(len(prototypes)).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=stream)]
    noise = torch.randn(len(labels), *prototypes.shape[1:], generator=stream)
    return Split(prototypes[labels] + 0.7 * noise, labels)


@pytest.fixture(scope="session")
def tiny() -> DataSet:
    """Three classes of 1x8x8 images, noise about a prototype: 40 to train on, 20 to test, each."""
    stream = torch.Generator().manual_seed(5)
    prototypes = torch.randn(3, 1, 8, 8, generator=stream)
    splits = _split(prototypes, 40, stream), _split(prototypes, 20, stream)
    return DataSet("tiny", *splits, Normalisation((0.5,), (0.25,)), ("ant", "bee", "cat"))
