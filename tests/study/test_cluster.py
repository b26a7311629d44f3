"""A study on a Dask cluster: real processes, which share a folder, die, or run other code."""

import json
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from clusters import Cluster, held, in_process, write_holding
from distributed import Client
from mounts import needs_mounts

import ddlib
from ddlib.study.cluster import processes
from ddlib.study.run import run
from ddlib.study.settings import Settings, read_settings

# Needs all that a job can be given: what a method prepares, and a pretrained body.
GRID = {
    "data": {"name": "digits", "classes": [0, 1, 2], "per_class": 20},
    "network": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 20, "batch_size": 16, "learning_rate": 0.05},
    "methods": {
        "mtt": {
            **{"iterations": 3, "student_steps": 2, "max_start": 1, "augmentation": "none"},
            **{"experts": 2, "expert_steps": 5, "expert_epochs": 2},
            "expert_augmentation": "none",
        },
        "holding": {},
    },
    "configurations": {
        "own": {},
        "rotation": {"initialisation": "rotation", "pretraining": {"steps": 5}},
    },
    "k": [6, 3],
    "seeds": 2,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with the method `holding`, and the study where nothing happens."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_holding(root / "holding.py", root / "hold")
    with in_process() as address:
        run(settings(root, root, address))
    return root


def settings(root: Path, folder: Path, address: str, **changes) -> Settings:
    places = {"results": str(folder / "results"), "cache": str(folder / "cache")}
    extensions = {"extensions": [str(root / "holding.py")]}
    return read_settings(GRID | places | extensions | {"scheduler_address": address} | changes)


def tables(folder: Path) -> list[bytes]:
    names = ("trials", "references")
    return [(folder / "results" / f"{name}.parquet").read_bytes() for name in names]


def meanwhile(
    root: Path, folder: Path, cluster: Cluster, act: Callable[[int], None], until: bool = False
) -> Future:
    """Run the study; `act` while a worker, whose process it is told, is in the midst of a trial.

    until: whether that trial does not end before the study has.
    """
    (root / "hold").mkdir()
    try:
        with ThreadPoolExecutor() as beside:
            study = beside.submit(run, settings(root, folder, cluster.address))
            try:
                act(held(root / "hold"))
                if until:
                    study.exception(timeout=120)
            finally:
                shutil.rmtree(root / "hold")
            return study
    finally:
        shutil.rmtree(root / "hold", ignore_errors=True)


@pytest.mark.slow
def test_workers_one_of_them_killed_mid_trial_give_the_same_tables(tmp_path, root, cluster):
    def kill(pid: int) -> None:
        [worker] = [one for one in cluster.workers if one.pid == pid]
        worker.kill()
        assert worker.wait(timeout=10) == -signal.SIGKILL

    for _ in range(2):
        cluster.add()
    assert meanwhile(root, tmp_path, cluster, kill).result().failures.empty
    assert tables(tmp_path) == tables(root)


@pytest.mark.slow
def test_a_scheduler_that_dies_is_named_and_what_is_done_is_kept(tmp_path, root, cluster):
    cluster.add()
    study = meanwhile(root, tmp_path, cluster, lambda _: cluster.scheduler.kill(), until=True)
    with pytest.raises(ConnectionError, match="scheduler went away; what is finished is kept"):
        study.result()
    files = [*tmp_path.glob("cache/prepared/*"), *tmp_path.glob("results/*/*.*")]
    kept = {path: path.stat().st_mtime_ns for path in files}
    with in_process() as address:
        run(settings(root, tmp_path, address))
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert tables(tmp_path) == tables(root)


def other_code(folder: Path) -> Path:
    """Return a folder with another ddlib."""
    other = shutil.copytree(Path(ddlib.__file__).parent, folder / "other" / "ddlib")
    with (other / "methods" / "gradient.py").open("a") as file:
        file.write("more = 1\n")
    return other.parent


def no_code(folder: Path) -> Path:
    """Return a folder with a ddlib that does not load."""
    (folder / "no" / "ddlib").mkdir(parents=True)
    (folder / "no" / "ddlib" / "__init__.py").write_text("raise ImportError('no ddlib')")
    return folder / "no"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "sentence"),
    [
        (other_code, r"^a worker on \S+ runs other code \(\w+\) than this study \(\w+\); install"),
        (no_code, r"cannot run this study \(.*no ddlib.*\); install this version of ddlib on"),
    ],
)
def test_a_worker_with_other_code_is_refused_before_anything_runs(
    tmp_path, root, cluster, library, sentence
):
    cluster.add(library=library(tmp_path))
    with pytest.raises(ValueError, match=sentence):
        run(settings(root, tmp_path, cluster.address))
    assert not (tmp_path / "results" / "trials").exists()


@pytest.mark.parametrize(
    ("threads", "changes", "sentence"),
    [
        (2, {}, "has 2 threads, which would share PyTorch's settings; start it with --nthreads 1"),
        (1, {"device": "xpu"}, "lacks the study's device: 'xpu' is not a device of this machine; "),
    ],
)
def test_a_worker_that_is_unfit_is_refused(tmp_path, root, threads, changes, sentence):
    with in_process(threads=threads) as address:
        chosen = settings(root, tmp_path, address, **changes)
        with pytest.raises(ValueError, match=rf"^a worker on \S+ {sentence}"):
            run(chosen)
    assert not (tmp_path / "results" / "trials").exists()


@pytest.mark.slow
@pytest.mark.parametrize("unfit", ["code", "results"])
@needs_mounts
def test_a_worker_that_joins_later_and_is_unfit_fails_no_trial(tmp_path, root, cluster, unfit):
    """It would be given all that it is quick to fail."""
    which, sentence = {
        "code": (lambda: {"library": other_code(tmp_path)}, r"runs other code \("),
        "results": (lambda: {"hidden": tmp_path / "results"}, r"does not see /\S+; give every"),
    }[unfit]
    cluster.add()
    study = meanwhile(root, tmp_path, cluster, lambda _: cluster.add(**which()), until=True)
    with pytest.raises(ValueError, match=rf"^a worker on \S+ {sentence}.*, or stop it; what is"):
        study.result()
    records = [json.loads(path.read_text()) for path in tmp_path.glob("results/trials/*.json")]
    assert all(record["status"] == "ok" for record in records)
    with in_process() as address:
        run(settings(root, tmp_path, address))
    assert tables(tmp_path) == tables(root)


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, root, monkeypatch):
    """Also one that Dask's variable names, where the parameters leave it open."""
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    for given, named in ((None, "tcp://127.0.0.1:1"), ("no://address", "no://address")):
        sentence = f"^no Dask workers answer at scheduler_address='{named}'; start one, or"
        with pytest.raises(ValueError, match=sentence):
            run(settings(root, tmp_path, given))


def test_a_gpu_of_the_workers_is_asked_for_by_name(tmp_path, root, monkeypatch):
    with in_process() as address:
        chosen = settings(root, tmp_path, address)
        devices = iter([False, False])  # of this machine, asked for twice
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: next(devices, True))
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
        with pytest.raises(ValueError, match=r"^device: auto is cpu on this machine, but cuda on"):
            run(chosen)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_here_keep_their_memory_and_have_one_thread(tmp_path):
    """glibc reads its settings when a process starts, so they must be there by then."""

    def started_with(dask_worker) -> tuple[int, str]:
        return dask_worker.state.nthreads, Path("/proc/self/environ").read_text()

    with processes(2) as address, Client(address) as client:
        for threads, environment in client.run(started_with).values():
            assert threads == 1
            assert f"MALLOC_TRIM_THRESHOLD_={2**32}" in environment.split("\0")


def test_workers_that_do_not_start_are_said_in_one_sentence(monkeypatch):
    def stopped(**_):
        raise RuntimeError("no room")

    monkeypatch.setattr("distributed.LocalCluster", stopped)
    sentence = "worker processes do not start on this machine: no room"
    with pytest.raises(OSError, match=sentence), processes(1):
        pass
