"""A study on a Dask cluster: real processes, which share no folder, die, or run other code."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from distributed import LocalCluster
from mounts import needs_mounts, run_with

import ddlib
from ddlib import running, study, work
from ddlib.fingerprints import code_digest
from ddlib.settings import Settings, read_settings

ROOT = Path(ddlib.__file__).parents[1]
# Needs all that a job can be given: what a method prepares, and a pretrained body.
GRID = {
    "data": {"name": "digits", "classes": [0, 1, 2], "per_class": 20},
    "network": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 20, "batch_size": 16, "learning_rate": 0.05},
    "methods": {
        "random": {},
        "mtt": {
            **{"iterations": 3, "student_steps": 2, "max_start": 1, "augmentation": "none"},
            **{"experts": 2, "expert_steps": 5, "expert_epochs": 2},
            "expert_augmentation": "none",
        },
    },
    "configurations": {
        "own": {},
        "rotation": {"initialisation": "rotation", "pretraining": {"steps": 5}},
    },
    "k": [6, 3],
    "seeds": 2,
}
TRIALS = 2 * 2 * 2 * 2
DASK = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker"]


def settings(root: Path, **changes) -> Settings:
    places = {"results": str(root / "results"), "cache": str(root / "cache")}
    return read_settings(GRID | places | changes)


def tables(root: Path) -> list[bytes]:
    return [
        (root / "results" / f"{name}.parquet").read_bytes() for name in ("trials", "references")
    ]


@dataclass
class Cluster:
    """A scheduler on loopback, and its workers: processes that know nothing of each other."""

    address: str
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen] = field(default_factory=list)

    def add(self, hidden: Path | None = None, library: Path = ROOT) -> None:
        """Start a worker with the ddlib of `library`, to whom `hidden` is an empty folder."""
        command = [*WORKER, self.address, "--nthreads=1", "--no-nanny", "--no-dashboard"]
        if hidden:
            hidden.mkdir(parents=True, exist_ok=True)
            command = run_with(f"mount -t tmpfs none {hidden}", command)
        process = subprocess.Popen(
            [*command, "--host=127.0.0.1"],
            cwd=library,  # goes before what is installed
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.workers.append(process)


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    told = tmp_path / "scheduler.json"
    scheduler = subprocess.Popen(
        [*DASK, "--host=127.0.0.1", "--port=0", f"--scheduler-file={told}", "--no-dashboard"],
        stderr=subprocess.DEVNULL,
    )
    started = Cluster("", scheduler)
    try:
        while not (told.exists() and told.read_text().strip().endswith("}")):
            assert scheduler.poll() is None
            time.sleep(0.05)
        started.address = json.loads(told.read_text())["address"]
        yield started
    finally:
        for process in [*started.workers, scheduler]:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[bytes]:
    """The tables of the study where nothing happens."""
    root = tmp_path_factory.mktemp("undisturbed")
    with in_process() as address:
        study.run(settings(root, scheduler_address=address))
    return tables(root)


@contextmanager
def in_process() -> Iterator[str]:
    given = {"processes": False, "protocol": "tcp", "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=1, threads_per_worker=1, **given) as local:
        yield local.scheduler_address


def after(count: int, act: Callable[[], None], monkeypatch) -> None:
    """Call `act` once `count` trials are saved."""
    save, saved = running.Running._save, []

    def save_and_act(self, trial, record):
        save(self, trial, record)
        saved.append(trial)
        if len(saved) == count:
            act()

    monkeypatch.setattr(running.Running, "_save", save_and_act)


@pytest.mark.slow
@needs_mounts
def test_workers_without_our_folders_one_of_them_killed_give_the_same_tables(
    tmp_path, cluster, undisturbed, monkeypatch
):
    for _ in range(2):
        cluster.add(hidden=tmp_path / "cache")
    after(3, cluster.workers[0].kill, monkeypatch)
    result = study.run(settings(tmp_path, scheduler_address=cluster.address))
    assert cluster.workers[0].wait(timeout=10) == -signal.SIGKILL
    assert result.failures.empty
    assert len(result.trials) == TRIALS
    assert tables(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_scheduler_that_dies_is_named_and_what_is_done_is_kept(
    tmp_path, cluster, undisturbed, monkeypatch
):
    cluster.add()
    with monkeypatch.context() as patched:
        after(3, cluster.scheduler.kill, patched)
        with pytest.raises(ConnectionError, match="scheduler went away; what is finished is kept"):
            study.run(settings(tmp_path, scheduler_address=cluster.address))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "results/trials").iterdir()}
    assert len(kept) >= 3
    with in_process() as address:
        study.run(settings(tmp_path, scheduler_address=address))
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert tables(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused_before_anything_runs(tmp_path, cluster):
    other = shutil.copytree(Path(ddlib.__file__).parent, tmp_path / "other" / "ddlib")
    training = other / "training.py"
    training.write_text(training.read_text().replace("MIXES = ", "MIXES = BLENDS = "))
    cluster.add(library=other.parent)
    message = (
        r"^the Dask workers tcp://127\.0\.0\.1:\d+ run other code than this study \(\w{12}\); "
    )
    with pytest.raises(ValueError, match=message + "install the same ddlib"):
        study.run(settings(tmp_path, scheduler_address=cluster.address))
    assert not (tmp_path / "results" / "trials").exists()


def test_a_worker_that_cannot_tell_its_code_is_refused(tmp_path, monkeypatch):
    def fail(token):
        raise ModuleNotFoundError("No module named 'ddlib'")

    monkeypatch.setattr(work, "describe", fail)
    sentence = r"cannot run this study \(ModuleNotFoundError: No module named 'ddlib'\); install"
    with in_process() as address, pytest.raises(ValueError, match=sentence):
        study.run(settings(tmp_path, scheduler_address=address))


def test_a_worker_that_joins_later_with_other_code_does_no_job(tmp_path):
    plan = study.prepare(settings(tmp_path))
    assert plan.context.code == code_digest("ddlib.work")
    stranger = work.Context(**{**vars(plan.context), "code": "0123456789ab"})
    with pytest.raises(ValueError, match=r"runs other code \(\w{12}\) than .* \(0123456789ab\);"):
        work.distil(stranger, "random", {}, [1], 0, [])


def test_content_without_a_folder_becomes_a_file_of_the_worker():
    path = work.as_file(b"experts")
    assert path.read_bytes() == b"experts"
    assert work.as_file(b"experts") == path
    assert work.as_file(path) is path
    assert work.as_file(b"others") != path
