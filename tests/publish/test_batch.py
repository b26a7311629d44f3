"""A batch: what runs, what fails, and what survives a kill; real processes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Lock

import nbformat
import pytest
import torch
import yaml
from clusters import heed_interrupts, in_process
from mounts import needs_mounts, run_with

from ddlib.publish import batch
from ddlib.study import run as study
from ddlib.study.settings import Settings

ROOT = Path(__file__).parents[2]
STUDY = {
    "data": {"name": "digits", "classes": [0, 1, 2], "per_class": 20},
    "network": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 20, "batch_size": 16, "learning_rate": 0.05},
    "methods": {"random": {}, "dm": {"iterations": 3, "real_batch": 8, "augmentation": "none"}},
    "k": [3, 6, 9],
    "seeds": 3,
    "cache": "results/cache",
}
TRIALS, REFERENCES = 2 * 3 * 3, 2 * 3
RUN = """
from ddlib.study.run import run
from ddlib.study.settings import Settings
result = run(Settings.of_notebook(globals()))
"""
PARTLY = """
# in the place of run(...)
import pandas as pd
from pathlib import Path
for name, statuses in {"trials": ["ok", "failed", "failed"], "references": ["diverged"]}.items():
    pd.DataFrame({"status": statuses}).to_parquet(Path(results) / f"{name}.parquet")
"""
LINK = "from IPython.display import Markdown; Markdown('[next](04_reads.ipynb)')"


class Project:
    """A project in a folder: notebooks, and files of parameters for them."""

    def __init__(self, root: Path):
        self.root = root
        (root / "pyproject.toml").touch()
        (root / "notebooks").mkdir()

    def notebook(self, name: str, *sources: str) -> None:
        cells = [nbformat.v4.new_code_cell("k = None", metadata={"tags": ["parameters"]})]
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, self.root / "notebooks" / f"{name}.ipynb")

    def parameters(self, name: str, reads: str = "", **changes) -> Path:
        """Write the parameters of a study, or of a notebook that reads one."""
        path = self.root / "parameters" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"studies": [reads]} if reads else STUDY | changes
        path.write_text(yaml.safe_dump({"results": f"results/{name}"} | values))
        return path

    def start(self, before: str = "", **variables: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "ddlib.publish.batch", "--workers", "1", "parameters"]
        if before:
            command = run_with(before, command)
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heed_interrupts,
        )

    def results(self, name: str) -> Path:
        return self.root / "results" / name


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a batch in this process; return its exit code or sentence, and what it printed.

    It starts no workers: its notebooks are told of a scheduler, and run no study.
    """

    def call(*arguments: str) -> tuple[object, str]:
        with monkeypatch.context() as patch:
            patch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
            try:
                batch.main([*arguments])
                code = 0
            except SystemExit as left:
                code = left.code
        return code, capsys.readouterr().out

    return call


def statuses(printed: str) -> dict[str, str]:
    """The status of every run, from the table at the end."""
    rows = re.split(r"\bname +status +seconds.*\n", printed)[-1].splitlines()
    words = "done|failed|incomplete|refused|not run"
    return dict(re.match(rf"\s*(\S+)\s+({words})\b", row).groups() for row in rows)


def tables(folder: Path) -> list[bytes]:
    return [(folder / f"{name}.parquet").read_bytes() for name in ("trials", "references")]


def wait_until(true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_each_run_stands_or_falls_alone_and_comes_after_what_it_reads(project, run):
    """The page of a run links to that of a later one."""
    project.notebook("01_partly", PARTLY)
    project.notebook("02_broken", "print('so far')", "raise ValueError('no such luck,\\nat all')")
    project.notebook("03_fine", f"print('sizes', k)\n{LINK}")
    project.notebook("04_reads")
    (project.root / "notebooks" / "04_reads.py").touch()  # exported from it
    project.parameters("partly/one")
    for name in ("broken", "fine"):
        project.parameters(f"{name}/{name}")
        project.parameters(f"reads/{name}", reads=f"results/{name}/{name}")
    project.parameters("fine/wrong", seeds=0)
    project.parameters("reads/refused", reads="results/fine/wrong")
    code, printed = run("parameters", "--workers", "2")
    assert code == "5 of 7 runs did not end well"
    assert statuses(printed) == {
        **{"reads/broken": "not run", "reads/fine": "done", "reads/refused": "not run"},
        **{"broken/broken": "failed", "fine/fine": "done", "fine/wrong": "refused"},
        "partly/one": "incomplete",
    }
    assert "2 trials failed; the page lists them" in printed  # one that diverged did not fail
    assert "it needs the results of broken/broken" in printed
    assert printed.index("fine/fine: done") < printed.index("reads/fine: done")
    assert "02_broken.ipynb stopped in cell 4: no such luck, at all" in printed
    assert re.search(r"fine/wrong: refused\. .*seeds", printed)
    partial = nbformat.read(project.results("broken/broken") / "02_broken.ipynb", 4)
    outputs = [output for cell in partial.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if "text" in output] == ["so far\n"]
    page = (project.results("broken/broken") / "02_broken.html").read_text()
    assert "This run stopped" in page
    page = (project.results("fine/fine") / "03_fine.html").read_text()
    assert '<a href="../../reads/fine/04_reads.html">next</a>' in page


def processes(root: Path) -> list[str]:
    """The commands of all processes that work below `root`."""
    commands = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")).is_relative_to(root):
                commands.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in commands if "multiprocessing.resource_tracker" not in command]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
def test_killed_and_continued_by_two_at_once_it_gives_the_same_tables(project, monkeypatch):
    project.notebook("01_study", RUN)
    parameters = project.parameters("study/one")
    first = project.start()
    trials = project.results("study/one") / "trials"
    wait_until(lambda: trials.exists() and len(list(trials.iterdir())) >= 3)
    first.kill()
    first.wait()
    monkeypatch.chdir("/")
    wait_until(lambda: not processes(project.root))
    kept = {path: path.stat().st_mtime_ns for path in trials.iterdir() if path.suffix == ".json"}
    assert len(kept) >= 3
    places = {"results": f"{project.root}/alone/one", "cache": f"{project.root}/alone/cache"}
    with in_process() as address:
        both = [project.start(DASK_SCHEDULER_ADDRESS=address) for _ in range(2)]
        printed = [one.communicate(timeout=300)[0] for one in both]
        places["scheduler_address"] = address
        study.run(Settings.read(yaml.safe_load(parameters.read_text()) | places))
    assert [one.returncode for one in both] == [0, 0], printed
    for text in printed:
        assert statuses(text) == {"study/one": "done"}
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert tables(project.results("study/one")) == tables(project.root / "alone" / "one")
    assert len(list(trials.glob("*.json"))) == TRIALS
    assert len(list(project.root.glob("results/cache/references/*.json"))) == REFERENCES


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
def test_ctrl_c_ends_a_batch_and_all_that_it_started(project, monkeypatch):
    project.notebook("01_wait", "import time; open('started', 'w').close(); time.sleep(600)")
    project.parameters("wait/one")
    process = project.start()
    wait_until((project.root / "started").exists)
    process.send_signal(signal.SIGINT)
    assert "stopped; what is finished is kept" in process.communicate(timeout=300)[0]
    assert process.returncode == 1
    monkeypatch.chdir("/")
    wait_until(lambda: not processes(project.root))


@pytest.mark.slow
@needs_mounts
def test_a_full_disk_is_said_in_one_sentence(project):
    project.notebook("01_study", RUN)
    project.parameters("study/one")
    (project.root / "results").mkdir()
    process = project.start(before="mount -t tmpfs -o size=40k none results")
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    sentence = (
        r"study/one +(failed|refused) .*the disk that holds \S*results/\S* is full; make room"
    )
    assert re.search(sentence, printed.splitlines()[-2]), printed
    assert "Traceback" not in printed


def test_what_cannot_be_a_batch_is_refused(project, run):
    project.notebook("01_study", RUN)
    assert run("nowhere")[0] == "there is no file or folder nowhere; check the path"
    (project.root / "empty").mkdir()
    assert run("empty")[0].startswith("no .yaml file in what was given; name files")
    (project.root / "notebooks" / "03_torn.ipynb").write_text("{")
    (project.root / "empty" / ".ipynb_checkpoints").mkdir()
    copy = project.root / "empty" / ".ipynb_checkpoints" / "one-checkpoint.yaml"
    copy.touch()
    assert run("empty")[0].startswith("no .yaml file in what was given; name files")
    assert batch.find([copy]) == [copy.resolve()]
    paths = [
        project.parameters("other/one"),
        project.parameters("torn/one", results="results/study/one"),  # refused, so it holds none
        project.parameters("study/one"),
        project.parameters("study/a", results="results/study/one"),
        project.parameters("study/b", results="results/../results/study/one"),
    ]
    runs = batch.read_all(paths)
    messages = {run.name: run.message for run in runs}
    holders = [run.name for run in runs if run.folder == project.results("study/one")]
    assert sorted(holders) == ["study/one", "torn/one"]  # a reader of the folder waits for these
    sentence = "'other' is not a folder with the name of a notebook; allowed: study, torn"
    assert messages["other/one"] == sentence
    assert "03_torn.ipynb is not a Jupyter notebook" in messages["torn/one"]
    assert messages["study/one"] == ""
    for name in ("study/a", "study/b"):
        assert messages[name] == "its results folder is that of study/one; name another"
    assert run("parameters", "--workers", "0")[0] == 2


def test_a_device_of_the_cluster_need_not_be_on_this_machine(project, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    project.notebook("01_study", RUN)
    cluster = {"device": "cuda", "scheduler_address": "tcp://127.0.0.1:2"}
    run = batch.read(project.parameters("study/one", **cluster))
    assert (run.status, run.on_gpu) == ("", False)
    refused = batch.read(project.parameters("study/two", device="cuda"))
    assert refused.message == "'cuda' is not a device of this machine; allowed: auto, cpu"


def test_runs_on_an_accelerator_take_turns_and_others_do_not_wait(project, run, monkeypatch):
    """The first run on the GPU goes on until that on the CPU has begun."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    gpu, begun = Lock(), Event()

    def execute(notebook, parameters, log):
        if parameters.stem == "three":
            time.sleep(0.5)  # both others could begin
            begun.set()
            return
        assert gpu.acquire(blocking=False), "two runs are on the GPU"
        assert begun.wait(60), "the run on the CPU waits"
        gpu.release()

    monkeypatch.setattr(batch, "execute", execute)
    project.notebook("01_timed")
    for name, device in {"one": "cuda", "two": "cuda", "three": "cpu"}.items():
        project.parameters(f"timed/{name}", device=device)
    code, printed = run("parameters", "--workers", "3")
    assert code == 0, printed
