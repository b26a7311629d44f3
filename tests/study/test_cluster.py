"""A study on a Dask cluster: real processes, which share a folder, die, or run other code."""

import json
import platform
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grids
import pytest
from clusters import Cluster, held, in_process, write_holding
from distributed import Client
from mounts import needs_mounts

import ddlib
from ddlib.study.cluster import processes
from ddlib.study.run import run
from ddlib.study.settings import Settings

MTT = {"iterations": 3, "student_steps": 2, "max_start": 1, "augmentation": "none"}
EXPERTS = {"experts": 2, "expert_steps": 5, "expert_epochs": 2, "expert_augmentation": "none"}
TAUGHT = {"initialisation": "rotation", "pretraining": {"steps": 5}}
# Needs all that a job can be given: what a method prepares, and a pretrained body.
GRID = grids.GRID | {
    "methods": {"mtt": MTT | EXPERTS, "holding": {}},
    "configurations": {"own": {}, "rotation": TAUGHT},
    "evaluations": 1,
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
    options = {"extensions": [str(root / "holding.py")], "scheduler_address": address}
    return grids.settings(folder / "results", **GRID | options | changes)


def tables(folder: Path) -> list[bytes]:
    names = ("trials", "references")
    return [(folder / "results" / f"{name}.parquet").read_bytes() for name in names]


def meanwhile(root: Path, folder: Path, cluster: Cluster, act: Callable, until=False) -> Future:
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


def other_code(folder: Path) -> None:
    shutil.copytree(Path(ddlib.__file__).parent, folder / "ddlib")
    with (folder / "ddlib" / "methods" / "gradient.py").open("a") as file:
        file.write("more = 1\n")


def no_code(folder: Path) -> None:
    (folder / "ddlib").mkdir()
    (folder / "ddlib" / "__init__.py").write_text("raise ImportError('no ddlib')")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (other_code, r"^a worker on \S+ runs other code \(\w+\) than this study \(\w+\); install"),
        (no_code, r"cannot run this study \(.*no ddlib.*\); install this version of ddlib on"),
    ],
)
def test_a_worker_with_other_code_is_refused(tmp_path, root, cluster, write, sentence):
    write(tmp_path)
    cluster.add(library=tmp_path)
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
@needs_mounts
def test_a_worker_that_joins_later_and_is_unfit_fails_no_trial(tmp_path, root, cluster):
    """Otherwise it would get all trials, as it is quick to fail them."""
    cluster.add()
    hidden = tmp_path / "results"
    study = meanwhile(root, tmp_path, cluster, lambda _: cluster.add(hidden=hidden), until=True)
    sentence = r"^a worker on \S+ does not see /\S+; give every worker the"
    with pytest.raises(ValueError, match=sentence):
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks for glibc's memory")
def test_a_worker_keeps_the_memory_of_a_large_tensor():
    """Else the system clears its 25,000 pages anew at every step of a training."""

    def faults(values: int, repeats: int) -> int:
        from resource import RUSAGE_SELF, getrusage

        import torch

        before = getrusage(RUSAGE_SELF).ru_minflt
        for _ in range(repeats):
            torch.ones(values)
        return getrusage(RUSAGE_SELF).ru_minflt - before

    with processes(1) as address, Client(address) as client:
        first, _, later = (client.submit(faults, 25_000_000, n).result() for n in (1, 40, 20))
    assert first > 20_000
    assert later < 5_000
