"""Every command of README and docs is one that works."""

import importlib
import json
import re
import shlex
import subprocess
import urllib.error
import urllib.request

import pytest
from servers import MAKE, ROOT, serving

from ddlib.study import check

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_files_and_targets_of_a_command_exist(command):
    words = shlex.split(command)
    if words[0] == "dask":
        return
    if words[:3] == ["python", "-m", "ddlib.study.check"]:
        assert check.folders(words[3])
        return
    if words[0] == "make":
        words = shlex.split(planned(*words[1:]).replace("\\\n", " "), comments=True)
    inputs = [word for word in words if re.match(r"(notebooks|parameters|examples)/", word)]
    assert all((ROOT / word).exists() for word in inputs)
    assert inputs or command in ("make test", "make lab", "make report", "make bench")


def planned(*words: str) -> str:
    """Return the commands that make would run."""
    command = [*MAKE, "--dry-run", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_batch_is_of_every_quick_profile_and_slides_of_the_first_lesson_and_the_findings():
    profiles = {str(path.relative_to(ROOT)) for path in ROOT.glob("parameters/*/quick.yaml")}
    assert len(profiles) == 7
    assert profiles <= set(planned("batch").split())
    for study in ("start_here", "findings"):
        assert f"parameters/{study}/quick.yaml" in planned("slides")
        assert f"results/{study}/quick/*.ipynb" in planned("slides")


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("dask ")])
def test_dask_knows_the_options_of_a_command(command):
    _, part, *words = shlex.split(command)
    module = importlib.import_module(f"distributed.cli.dask_{part}")
    known = {name for parameter in module.main.params for name in parameter.opts}
    options = {word for word in words if word.startswith("--")}
    assert options
    assert options <= known


def test_lab_listens_on_this_machine_only_and_asks_for_its_token(tmp_path):
    words = [*MAKE, "lab", "LAB=--no-browser --allow-root --port={port}"]
    with serving(words, tmp_path, "?token=") as port:
        addresses = re.findall(r"http://([^/\s]+)/\S*\?token=(\S+)", (tmp_path / "log").read_text())
        assert {host for host, _ in addresses} <= {f"127.0.0.1:{port}", f"localhost:{port}"}
        host, token = addresses[0]
        assert len(token) >= 40
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://{host}/api/sessions")
        with urllib.request.urlopen(f"http://{host}/api/sessions?token={token}") as answer:
            assert json.load(answer) == []
        with urllib.request.urlopen(f"http://{host}/api/contents?token={token}") as answer:
            names = {entry["name"] for entry in json.load(answer)["content"]}
        assert {"notebooks", "parameters", "examples"} <= names
        assert f"{host}/lab/tree/notebooks/00_start_here.ipynb" in (tmp_path / "log").read_text()
