"""Every command of README and docs is one that works."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line]
MAKE = ["make", "-o", ".venv/installed", f"BIN={Path(sys.executable).parent}"]


def test_the_readme_has_its_two_commands_first():
    assert COMMANDS[:2] == ["make study", "make test"]


@pytest.mark.parametrize("command", COMMANDS)
def test_files_and_targets_of_a_command_exist(command):
    words = shlex.split(command)
    if words[0] == "dask":
        return
    if words[0] == "make":
        run = subprocess.run(
            [*MAKE, "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True
        )
        words = shlex.split(run.stdout.replace("\\\n", " "), comments=True)
    inputs = [word for word in words if re.match(r"(notebooks|parameters|examples)/", word)]
    assert all((ROOT / word).exists() for word in inputs)
    assert inputs or command in ("make test", "make lab", "make report", "make bench")


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("dask ")])
def test_dask_knows_the_options_of_a_command(command):
    _, part, *words = shlex.split(command)
    call = [sys.executable, "-m", f"distributed.cli.dask_{part}", "--help"]
    told = subprocess.run(call, capture_output=True, text=True, check=True).stdout
    options = [word for word in words if word.startswith("--")]
    assert options
    assert all(re.search(rf"{option}\b", told) for option in options)


def wait_for(host: str) -> None:
    """Wait until a server that has printed its address also listens there."""
    name, port = host.split(":")
    for _ in range(100):
        try:
            socket.create_connection((name, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)


def test_lab_listens_on_this_machine_only_and_asks_for_its_token(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    server = subprocess.Popen(
        [*MAKE, "lab", f"LAB=--no-browser --allow-root --port={port}"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        address = next(
            found[0] for line in server.stderr if (found := re.search(r"http://\S+token=\S+", line))
        )
        host, token = re.fullmatch(r"http://([^/]+)/\S*\?token=(\S+)", address).groups()
        assert host.startswith(("127.0.0.1:", "localhost:"))
        assert len(token) >= 40
        wait_for(host)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://{host}/api/sessions")
        with urllib.request.urlopen(f"http://{host}/api/sessions?token={token}") as answer:
            assert json.load(answer) == []
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
