"""Where DDLIB_NO_SKIPS is set, no proof is passed over for want of what it needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
from mounts import needs_mounts

@pytest.mark.skipif(True, reason="no Chromium here: install Debian's package chromium")
def test_browser(): pass

@needs_mounts
def test_mounts(): pass

@pytest.mark.skipif(True, reason="DDLIB_DATA names no folder of real data")
def test_data(): pass

def test_within():
    pytest.skip("no Chromium here")

@pytest.mark.skipif(True, reason="another machine is asked for")
def test_other(): pass
"""


@pytest.mark.parametrize(
    ("given", "ended"),
    [("1", {"failed": 1, "skipped": 1, "errors": 4}), ("", {"skipped": 6})],
)
def test_what_is_needed_fails_what_is_not_is_skipped(tmp_path, given, ended):
    (tmp_path / "test_needs.py").write_text(TESTS)
    missing = (
        'import pytest\npytest.importorskip("nowhere", reason="Playwright is not installed")\n'
    )
    (tmp_path / "test_module.py").write_text(missing)
    tools = tmp_path / "bin"  # with no unshare among them
    tools.mkdir()
    (tools / "unshare").symlink_to("/bin/false")
    environment = {**os.environ, "DDLIB_NO_SKIPS": given, "PYTHONPATH": str(Path(__file__).parent)}
    printed = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "--continue-on-collection-errors", "."],
        cwd=tmp_path,
        env=environment | {"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    ).stdout
    last = printed.strip().splitlines()[-1]
    assert {what: int(count) for count, what in re.findall(r"(\d+) ([a-z]+)", last)} == ended, (
        printed
    )
