"""Where DDLIB_NO_SKIPS is set, no proof is passed over for want of what it needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
from mounts import needs_mounts

@pytest.mark.skipif(True, reason="no Chromium here: install Debian's package chromium")
def test_browser(): pass
@needs_mounts
def test_mounts(): pass
def test_within(): pytest.skip("DDLIB_DATA names no folder of real data")
@pytest.mark.skipif(True, reason="another machine is asked for")
def test_other(): pass
"""


def test_what_is_needed_fails_what_is_not_is_skipped(tmp_path):
    (tmp_path / "test_needs.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(
        'import pytest\npytest.importorskip("nowhere", reason="Playwright is not installed")\n'
    )
    (tmp_path / "unshare").symlink_to("/bin/false")
    path, modules = f"{tmp_path}:{os.environ['PATH']}", str(Path(__file__).parent)
    words = ["-m", "pytest", "-p", "conftest", "--continue-on-collection-errors", "."]
    environment = os.environ | {"DDLIB_NO_SKIPS": "1", "PYTHONPATH": modules, "PATH": path}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    printed = subprocess.run([sys.executable, *words], **run).stdout
    counts = re.findall(r"(\d+) ([a-z]+)", printed.strip().splitlines()[-1])
    ended = {("1", "failed"), ("1", "skipped"), ("3", "errors")}
    assert ended == set(counts), printed
