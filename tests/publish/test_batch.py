"""A batch: what runs, what fails, and what survives a kill; real processes."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import ANY

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from clusters import held, in_process, write_holding
from mounts import needs_mounts, run_with
from PIL import Image

from ddlib.publish import batch, execute
from ddlib.study import study
from ddlib.study.settings import read_settings

ROOT = Path(__file__).parents[2]
GIVEN = {
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
from ddlib.study import study
from ddlib.study.settings import notebook_parameters, read_settings
result = study.run(read_settings(notebook_parameters(globals())))
print("trials:", len(result.trials))
"""

FULL = r"the disk that holds \S*results/\S* is full; make room and run again: what is finished is"
READS = "# as notebook 04 does: read_theory(settings)"
PARTLY = """
# in the place of study.run(...)
import pandas as pd
from pathlib import Path
for name, statuses in {"trials": ["ok", "failed", "failed"], "references": ["diverged"]}.items():
    pd.DataFrame({"status": statuses}).to_parquet(Path(results) / f"{name}.parquet")
"""


class Project:
    """A project of one's own in a folder: notebooks, and files of parameters for them."""

    def __init__(self, root: Path):
        self.root = root
        (root / "pyproject.toml").touch()
        (root / "notebooks").mkdir()

    def notebook(self, name: str, *sources: str) -> Path:
        cells = [nbformat.v4.new_code_cell("k = None", metadata={"tags": ["parameters"]})]
        cells[0].source = "# Parameters\nk = None"
        cells += [nbformat.v4.new_code_cell(source) for source in sources]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        path = self.root / "notebooks" / f"{name}.ipynb"
        nbformat.write(notebook, path)
        return path

    def parameters(self, name: str, **changes) -> Path:
        path = self.root / "parameters" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(GIVEN | {"results": f"results/{name}"} | changes))
        return path

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "ddlib.publish.batch", *options, "parameters"]

    def start(self, *options: str, before: str = "", after: str = "true") -> subprocess.Popen:
        command = self.command(*options)
        if before:
            then = ["sh", "-c", f'"$@"; code=$?; {after}; exit $code', "sh"]
            command = run_with(before, then + command)
        return subprocess.Popen(
            command,
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def results(self, name: str) -> Path:
        return self.root / "results" / name


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def run(capsys):
    """Run a batch in this process; return its exit code or sentence, and what it printed."""

    def call(*arguments: str) -> tuple[object, str]:
        try:
            batch.main([*arguments])
            code = 0
        except SystemExit as left:
            code = left.code
        return code, capsys.readouterr().out

    return call


def statuses(printed: str) -> dict[str, str]:
    """The status of every run, from the table at the end."""
    table = re.split(r"\brun +status +seconds.*\n", printed)[-1].splitlines()
    words = "done|failed|incomplete|refused|not run"
    return dict(re.match(rf"\s*(\S+)\s+({words})\b", line).groups() for line in table)


@pytest.mark.slow
def test_one_failure_takes_no_other_with_it(project, run):
    project.notebook("01_fine", "print('sizes', k)")
    project.notebook("02_broken", "print('so far')", "raise ValueError('no such luck,\\nat all')")
    for name in ("fine/one", "broken/one"):
        project.parameters(name)
    project.parameters("fine/wrong", seeds=0)
    code, printed = run("parameters", "--workers", "2")
    assert code == "2 of 3 runs did not end well"
    assert statuses(printed) == {
        "fine/one": "done",
        "broken/one": "failed",
        "fine/wrong": "refused",
    }
    assert "02_broken.ipynb stopped in cell 4: no such luck, at all" in printed
    assert re.search(r"fine/wrong: refused: this study: seeds=0 must be ", printed)
    assert "100%" in printed
    partial = nbformat.read(project.results("broken/one") / "02_broken.ipynb", 4)
    assert [o.text for c in partial.cells for o in c.get("outputs", []) if "text" in o] == [
        "so far\n"
    ]
    assert "This run stopped" in (project.results("broken/one") / "02_broken.html").read_text()


@pytest.mark.slow
def test_a_run_comes_after_those_whose_tables_it_reads_or_not_at_all(project, run):
    project.notebook("01_reads", READS)
    project.notebook("02_broken", "raise ValueError('no')")
    project.parameters("reads/wrong", theory={"noise": "no"})
    project.notebook("03_fine", "from pathlib import Path; Path('done').touch()")
    project.parameters("reads/broken", theory={"coverage": "results/broken/x"})
    project.parameters("reads/fine", theory={"coverage": "results/fine/x"})
    project.parameters("reads/refused", theory={"coverage": "results/fine/wrong"})
    project.parameters("broken/x")
    project.parameters("fine/x")
    project.parameters("fine/wrong", seeds=0)
    code, printed = run("parameters/reads", "parameters/broken", "parameters/fine")
    assert code == "5 of 7 runs did not end well"
    assert statuses(printed) == {
        **{"reads/broken": "not run", "reads/fine": "done", "reads/refused": "not run"},
        **{"broken/x": "failed", "fine/x": "done", "fine/wrong": "refused"},
        "reads/wrong": "refused",
    }
    assert "it reads what fine/wrong should have left" in printed
    assert "it reads what broken/x should have left" in printed
    assert printed.index("fine/x: done") < printed.index("reads/fine: done")


def undisturbed(project: Project, name: str) -> list[bytes]:
    """The tables of the study of a file of parameters, where nothing happens to it."""
    given = yaml.safe_load((project.root / "parameters" / f"{name}.yaml").read_text())
    elsewhere = project.root / "elsewhere"
    places = {"results": str(elsewhere / "results"), "cache": str(elsewhere / "cache")}
    study.run(read_settings(given | places | {"workers": 1}))
    return tables(elsewhere / "results")


def tables(folder: Path) -> list[bytes]:
    return [(folder / f"{name}.parquet").read_bytes() for name in ("trials", "references")]


def processes(root: Path) -> list[str]:
    """The commands of all processes that work below `root`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")).is_relative_to(root):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [command for command in found if "multiprocessing.resource_tracker" not in command]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
def test_killed_and_gone_on_with_by_two_at_once_it_gives_the_same_tables(project, monkeypatch):
    project.notebook("01_study", RUN)
    for name in ("study/one", "study/two"):  # which share the networks trained on all data
        project.parameters(name)
    first = project.start("--workers", "2")
    trials = project.results("study/one") / "trials"
    wait_until(lambda: trials.exists() and len(list(trials.iterdir())) >= 3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    monkeypatch.chdir("/")
    wait_until(lambda: not processes(project.root))
    kept = {path: path.stat().st_mtime_ns for path in trials.iterdir() if path.suffix == ".json"}
    assert len(kept) >= 3
    both = [project.start("--workers", "2") for _ in range(2)]
    printed = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], printed
    ended = [statuses(text) for text in printed]
    for name in ("study/one", "study/two"):
        assert [each[name] for each in ended] == ["done", "done"]  # one after the other
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    expected = undisturbed(project, "study/one")
    for name in ("study/one", "study/two"):
        assert tables(project.results(name)) == expected
        assert len(list(project.results(name).glob("trials/*.json"))) == TRIALS
    assert len(list(project.root.glob("results/cache/references/*.json"))) == REFERENCES
    assert len(pd.read_parquet(project.results("study/two") / "trials.parquet")) == TRIALS


@pytest.mark.slow
def test_trials_of_a_batch_on_a_cluster_give_the_same_tables(project, run):
    project.notebook("01_study", RUN)
    project.parameters("study/one")
    with in_process(2) as address:
        code, printed = run("parameters", "--scheduler-address", address)
    assert (code, statuses(printed)) == (0, {"study/one": "done"})
    assert tables(project.results("study/one")) == undisturbed(project, "study/one")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
def test_killed_in_the_midst_of_a_trial_on_a_cluster_it_goes_on_to_the_same_tables(
    project, cluster, monkeypatch
):
    hold = project.root / "hold"
    write_holding(project.root / "holding.py", hold)
    project.notebook("01_study", RUN)
    methods = {**GIVEN["methods"], "holding": {}}
    project.parameters("study/one", extensions=["holding.py"], methods=methods)
    expected = undisturbed(project, "study/one")
    hold.mkdir()
    for _ in range(2):
        cluster.add()
    first = project.start("--scheduler-address", cluster.address)
    assert held(hold) in {worker.pid for worker in cluster.workers}
    trials = project.results("study/one") / "trials"
    wait_until(lambda: trials.exists() and len(list(trials.glob("*.json"))) >= 3)
    first.send_signal(signal.SIGKILL)
    first.wait()
    monkeypatch.chdir("/")
    wait_until(lambda: not processes(project.root))
    kept = {path: path.stat().st_mtime_ns for path in trials.glob("*.json")}
    assert 3 <= len(kept) < TRIALS * 3 // 2
    shutil.rmtree(hold)
    second = project.start("--scheduler-address", cluster.address)
    printed = second.communicate(timeout=300)[0]
    assert second.returncode == 0, printed
    assert statuses(printed) == {"study/one": "done"}
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert tables(project.results("study/one")) == expected


def wait_until(true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
@needs_mounts
@pytest.mark.parametrize(
    ("options", "then", "sentence"),
    [
        ("size=40k", "true", f"(failed|refused) .*{FULL}"),
        ("size=64k", "{ cat /dev/zero >results/full 2>/dev/null || true; }", f"refused .*{FULL}"),
        (
            "ro",
            "true",
            r"refused .*cannot write to \S* \S* \S*results/\S* \(Read-only file system\);",
        ),
    ],
)
def test_a_disk_that_takes_nothing_more_is_said_in_one_sentence(project, options, then, sentence):
    project.notebook("01_study", RUN)
    project.parameters("study/one")
    (project.root / "results").mkdir()
    hides = f"mount -t tmpfs -o {options} none results && {then}"
    process = project.start("--workers", "1", before=hides)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    last = printed.strip().splitlines()[-2]
    assert re.search(rf"study/one +{sentence}", last), printed
    assert "Traceback" not in printed


FILL = """
from contextlib import suppress
from pathlib import Path
with suppress(OSError), open(Path(results) / "full", "wb", buffering=0) as file:
    while True:
        file.write(bytes(4096))
"""


@pytest.mark.slow
@needs_mounts
def test_a_disk_that_fills_up_takes_neither_the_sentence_nor_the_notebook(project):
    project.notebook("01_fill", "print('so far')", FILL, "print('after')")
    project.parameters("fill/one")
    (project.root / "results").mkdir()
    process = project.start(
        before="mount -t tmpfs -o size=1m none results", after="cp -r results kept"
    )
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert re.search(rf"fill/one +failed .*{FULL}", printed.strip().splitlines()[-2]), printed
    kept = nbformat.read(project.root / "kept" / "fill" / "one" / "01_fill.ipynb", 4)
    assert [o.text for c in kept.cells for o in c.get("outputs", [])] == ["so far\n"]


@pytest.mark.slow
def test_a_folder_that_is_lost_on_the_way_ends_its_own_run_alone(project, run):
    lost = "import shutil; from pathlib import Path; shutil.rmtree('results/two/x')"
    project.notebook("01_one", f"{lost}; Path('results/two/x').touch()")
    for name in ("02_two", "03_three"):
        project.notebook(name, "print(1)")
    for name in ("one/x", "two/x", "three/x"):
        project.parameters(name)
    files = [f"parameters/{name}" for name in ("one", "two", "three")]
    code, printed = run(*files, "--workers", "1")
    assert code == "1 of 3 runs did not end well"
    assert statuses(printed) == {"one/x": "done", "two/x": "failed", "three/x": "done"}
    assert re.search(r"two/x +failed .*cannot write to the folder \S*two/x \(.*; choose", printed)


def test_what_cannot_be_a_batch_is_refused(project, run):
    project.notebook("01_study", RUN)
    assert run("nowhere")[0] == "there is no file or folder nowhere; check the path"
    (project.root / "empty").mkdir()
    assert run("empty")[0].startswith("no .yaml file in what was given; name files")
    project.parameters("other/one")
    code, printed = run("parameters")
    assert code == "1 of 1 runs did not end well"
    assert "no notebook takes other/one; put the file in a folder with the name of one: study" in (
        printed
    )
    (project.root / "notebooks" / "02_torn.ipynb").write_text("{")
    project.parameters("torn/one")
    assert "torn/one: refused: " in run("parameters/torn")[1]
    shutil.rmtree(project.root / "parameters")
    for name in ("study/one", "study/two"):
        project.parameters(name, results="results/same")
    _, refused = batch.read_all(batch.find([project.root / "parameters"]))
    assert [ending.message for ending in refused] == [
        "its results folder is that of study/one; name another"
    ]
    assert run("parameters", "--workers", "0")[0] == 2


def test_runs_that_read_each_other_are_refused(project, run):
    project.notebook("01_study", READS)
    for name, other in {"one": "two", "two": "three", "three": "one", "four": "one"}.items():
        project.parameters(f"study/{name}", theory={"coverage": f"results/study/{other}"})
    sentence, printed = run("parameters")
    assert re.fullmatch(
        r"(study/\w+ reads ){3}study/\w+: none can go first; change what one reads", sentence
    )
    for name, other in {"one": "two", "two": "three", "three": "one"}.items():
        assert f"study/{name} reads study/{other}" in f"{sentence} {sentence}"
    assert printed == ""


@pytest.mark.slow
def test_two_files_of_one_name_are_two_runs(project, run):
    project.notebook("01_fine", "print(k)")
    for folder in ("a", "b"):
        path = project.parameters("fine/one", results=f"results/{folder}")
        shutil.move(path.parent, project.root / folder / "fine")
    code, printed = run("a", "b")
    assert code == 0
    assert re.search(r"fine/one +done.*\n *fine/one +done", printed)


@pytest.mark.slow
def test_a_picture_that_moves_to_another_class_is_seen_below_linked_folders(project, run):
    """Sizes and dates, in the order of the paths, are what they were."""
    counts = "result.plan.dataset.train.labels.bincount().tolist()"
    project.notebook("01_study", RUN + f"print('counts:', {counts})")
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    for part, label in itertools.product(("train", "test"), ("cat", "dog")):
        folder, link = project.root / "linked" / part / label, project.root / "mine" / part / label
        folder.mkdir(parents=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{number}.png")
    changes = {"methods": {"random": {}}, "k": [4], "seeds": 1, "data": {"name": "mine"}}
    project.parameters("study/one", **changes)

    def counted() -> str:
        assert run("parameters") == (0, ANY)
        cells = nbformat.read(project.results("study/one") / "01_study.ipynb", 4).cells
        return re.search(r"counts: (.*)", cells[-1].outputs[-1].text)[1]

    assert counted() == "[8, 8]"
    train = project.root / "linked" / "train"
    (train / "cat" / "7.png").rename(train / "dog" / "8.png")
    assert counted() == "[7, 9]"


@pytest.mark.slow
def test_a_run_with_failed_trials_is_incomplete(project, run):
    project.notebook("01_study", PARTLY)
    project.parameters("study/one")
    code, printed = run("parameters")
    assert (code, statuses(printed)) == (
        "1 of 1 runs did not end well",
        {"study/one": "incomplete"},
    )
    assert "2 trials failed; the page lists them" in printed  # one that diverged did not fail


@pytest.mark.slow
def test_a_second_batch_keeps_what_is_finished_and_tries_again_what_failed(project, run):
    project.notebook("01_study", RUN)
    project.parameters("study/one")
    assert run("parameters") == (0, ANY)
    records = sorted(project.results("study/one").glob("trials/*.json"))
    before = {path: path.stat().st_mtime_ns for path in records}
    failed = json.loads(records[0].read_text()) | {"status": "failed", "message": "no luck"}
    records[0].write_text(json.dumps(failed))
    expected = tables(project.results("study/one"))
    assert statuses(run("parameters")[1]) == {"study/one": "done"}
    after = {path: path.stat().st_mtime_ns for path in records}
    assert [path for path in records if after[path] != before[path]] == records[:1]
    assert tables(project.results("study/one")) == expected


def test_the_bar_counts_every_trial_and_network(project):
    project.notebook("01_study", RUN)
    one = batch.read(project.parameters("study/one"))
    assert one.size == 1 + TRIALS + REFERENCES
    plan = study.prepare(one.settings)
    assert one.size == 1 + len(plan.trials) + len(plan.references)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b'{"done": "no number"}'])
def test_progress_that_cannot_be_read_ends_no_batch(project, run, content):
    """The bar counts it as nothing done; the run itself has ended well, or not."""
    write = f"(Path(results) / 'progress.json').write_bytes({content!r}); time.sleep(1)"
    ending = "# study.run(...)"
    project.notebook("01_study", "import time; from pathlib import Path", write, ending, PARTLY)
    project.parameters("study/one")
    code, printed = run("parameters")
    assert code == "1 of 1 runs did not end well"
    assert statuses(printed) == {"study/one": "incomplete"}
    assert (project.results("study/one") / "progress.json").read_bytes() == content


@pytest.fixture
def accelerator(monkeypatch):
    """A machine with a card, as the batch sees it."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))


@pytest.mark.usefixtures("accelerator")
def test_the_cores_are_shared_by_files_that_leave_workers_open(project, run, monkeypatch):
    project.notebook("01_study", RUN)
    card = {"device": "cuda"}
    for name, changes in {
        **{"open": {"device": "cpu"}, "own": {"device": "cpu", "workers": 7}},
        **{"card": card, "auto": {}, "one": card | {"workers": 1}},
        "cluster": {"device": "cpu", "scheduler_address": "tcp://127.0.0.1:1"},
    }.items():
        project.parameters(f"study/{name}", **changes)
    started, places, kept = {}, {}, []

    def start(command, env, **_):
        started[command[6].stem] = [word for word in command if "=" in str(word)]
        places[command[6].stem] = env.get("DASK_SCHEDULER_ADDRESS")
        assert env.get("OMP_NUM_THREADS") != "of workers"
        raise OSError("not now")

    @contextmanager
    def processes(count):
        kept.append(count)
        monkeypatch.setenv("OMP_NUM_THREADS", "of workers")  # as Dask does
        yield "tcp://127.0.0.1:3"
        monkeypatch.delenv("OMP_NUM_THREADS")
        kept.append("closed")

    monkeypatch.setattr(batch.subprocess, "Popen", start)
    monkeypatch.setattr("ddlib.study.cluster.processes", processes)
    run("parameters", "--workers", "6", "--at-once", "2")
    assert kept == [6, "closed"]
    assert len(started) == 6
    assert not any(started.values())
    there = {name: place for name, place in places.items() if place}
    assert there == {"open": "tcp://127.0.0.1:3"}
    run("parameters", "--scheduler-address", "tcp://127.0.0.1:2")
    assert set(map(tuple, started.values())) == {("scheduler_address=tcp://127.0.0.1:2",)}
    assert kept == [6, "closed"]
    with monkeypatch.context() as shell:
        shell.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:4")
        run("parameters")
    assert not any(started.values())
    # of which a file that decides takes no note
    assert set(places.values()) == {"tcp://127.0.0.1:4"}
    assert kept == [6, "closed"]
    for workers, share in ((6, 3), (1, 1)):
        digests = itertools.chain(["as it was"], itertools.repeat("changed"))
        monkeypatch.setattr(batch, "library_digest", partial(next, digests))
        run("parameters", "--workers", str(workers), "--at-once", "2")
        given = {name: words for name, words in started.items() if words}
        assert given == {"open": [f"workers={share}"]}
    assert kept == [6, "closed"]


def test_a_device_of_the_cluster_need_not_be_on_this_machine(project, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    project.notebook("01_study", RUN)
    path = project.parameters("study/one", device="cuda", workers=2)
    [run], refused = batch.read_all([path], "tcp://127.0.0.1:2")
    assert (refused, run.on_card) == ([], False)
    [refusal] = batch.read_all([path])[1]
    assert refusal.message == "'cuda' is not a device of this machine; allowed: auto, cpu"


@pytest.mark.slow
@pytest.mark.usefixtures("accelerator")
def test_runs_on_an_accelerator_take_turns_and_others_do_not_wait(project, run):
    project.notebook(
        "01_timed",
        "import time; start = time.monotonic(); time.sleep(2)",
        "from pathlib import Path",
        "(Path(results) / 'times').write_text(f'{start} {time.monotonic()}')",
    )
    devices = {"one": "cuda", "two": "cuda", "three": "cpu"}
    for name, device in devices.items():
        project.parameters(f"timed/{name}", device=device)
    files = [f"parameters/timed/{name}.yaml" for name in devices]
    assert run(*files, "--workers", "3")[0] == 0
    times = [project.results(f"timed/{name}") / "times" for name in devices]
    one, two, three = [[float(t) for t in path.read_text().split()] for path in times]
    assert one[1] < two[0]
    assert three[0] < two[0]


def test_a_process_ends_with_its_parent():
    code = (
        "import time; from ddlib.publish import execute; execute.end_with_parent(); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True
    )
    time.sleep(0.1)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert execute.WITH_PARENT.startswith("--")
