"""A study on a Dask cluster: real processes, which share no folder, die, or run other code."""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from clusters import Cluster, held, in_process, write_holding
from mounts import needs_mounts

import ddlib
from ddlib import running, study, work
from ddlib.cluster import connect, event_loop, processes
from ddlib.settings import Settings, read_settings

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
TRIALS, REFERENCES = 2 * 2 * 2 * 2, 2 * 2


def settings(root: Path, **changes) -> Settings:
    places = {"results": str(root / "results"), "cache": str(root / "cache")}
    return read_settings(GRID | places | changes)


def tables(root: Path) -> list[bytes]:
    return [
        (root / "results" / f"{name}.parquet").read_bytes() for name in ("trials", "references")
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[bytes]:
    """The tables of the study where nothing happens."""
    root = tmp_path_factory.mktemp("undisturbed")
    with in_process() as address:
        study.run(settings(root, scheduler_address=address))
    return tables(root)


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
def test_workers_without_our_folders_one_of_them_killed_mid_trial_give_the_same_tables(
    tmp_path, cluster
):
    hold = tmp_path / "hold"
    given = {
        "extensions": [str(write_holding(tmp_path / "holding.py", hold))],
        "methods": {**GRID["methods"], "holding": {}},
    }
    with in_process() as address:
        study.run(settings(tmp_path / "undisturbed", scheduler_address=address, **given))
    hold.mkdir()
    for _ in range(2):
        cluster.add(hidden=tmp_path / "cache")
    with ThreadPoolExecutor() as beside:
        killed = beside.submit(kill_who_holds, hold, cluster)
        result = study.run(settings(tmp_path, scheduler_address=cluster.address, **given))
        assert killed.result().wait(timeout=10) == -signal.SIGKILL
    assert result.failures.empty
    count = TRIALS * 3 // 2  # three methods, not two
    assert len(result.trials) == count
    assert tables(tmp_path) == tables(tmp_path / "undisturbed")
    progress = json.loads((tmp_path / "results" / "progress.json").read_text())
    assert progress == {"done": count + REFERENCES, "total": count + REFERENCES}


def kill_who_holds(hold: Path, cluster: Cluster) -> subprocess.Popen:
    """Kill the worker that holds a trial, then let the trial go; return its process."""
    try:
        chosen = next(one for one in cluster.workers if one.pid == held(hold))
        assert chosen.poll() is None
        chosen.kill()
        return chosen
    finally:
        shutil.rmtree(hold)


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


@pytest.fixture
def other_code(tmp_path) -> Path:
    """A folder with another ddlib."""
    other = shutil.copytree(Path(ddlib.__file__).parent, tmp_path / "other" / "ddlib")
    training = other / "training.py"
    training.write_text(training.read_text().replace("MIXES = ", "MIXES = BLENDS = "))
    return other.parent


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused_before_anything_runs(tmp_path, cluster, other_code):
    cluster.add(library=other_code)
    message = (
        r"^the Dask workers tcp://127\.0\.0\.1:\d+ run other code than this study \(\w{12}\); "
    )
    with pytest.raises(ValueError, match=message + "install the same ddlib"):
        study.run(settings(tmp_path, scheduler_address=cluster.address))
    assert not (tmp_path / "results" / "trials").exists()


@pytest.mark.slow
@pytest.mark.parametrize("unfit", ["code", "folder"])
@needs_mounts
def test_a_worker_that_joins_later_and_is_unfit_fails_no_trial(
    tmp_path, cluster, undisturbed, other_code, monkeypatch, unfit
):
    """It would be given all that it is quick to fail."""
    cluster.add()
    which = {"code": {"library": other_code}, "folder": {"hidden": tmp_path / "cache"}}
    sentence = {"code": r"runs other code \(", "folder": r"does not see /\S+, as others do"}
    connect = study.connect

    @contextmanager
    def connect_and_join(*given):
        with connect(*given) as (client, sees_cache):
            cluster.add(**which[unfit])
            client.wait_for_workers(2, timeout=60)
            cluster.workers[0].kill()  # or it might be quick enough to do all
            yield client, sees_cache

    with monkeypatch.context() as patched:
        patched.setattr(study, "connect", connect_and_join)
        with pytest.raises(ValueError, match=f"^a worker on .* {sentence[unfit]}"):
            study.run(settings(tmp_path, scheduler_address=cluster.address))
    records = [json.loads(path.read_text()) for path in tmp_path.glob("results/trials/*.json")]
    assert all(record["status"] == "ok" for record in records)
    with in_process() as address:
        study.run(settings(tmp_path, scheduler_address=address))
    assert tables(tmp_path) == undisturbed


def test_a_worker_that_cannot_tell_its_code_is_refused(tmp_path, monkeypatch):
    def fail(token):
        raise ModuleNotFoundError("No module named 'ddlib'")

    monkeypatch.setattr(work, "describe", fail)
    sentence = r"cannot run this study \(ModuleNotFoundError: No module named 'ddlib'\); install"
    with in_process() as address, pytest.raises(ValueError, match=sentence):
        study.run(settings(tmp_path, scheduler_address=address))


def test_content_without_a_folder_becomes_a_file_of_the_worker():
    path = work.as_file(b"experts")
    assert path.read_bytes() == b"experts"
    assert work.as_file(b"experts") == path
    assert work.as_file(path) is path
    assert work.as_file(b"others") != path


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
def test_workers_here_are_forks_of_a_loaded_process_unless_they_share_an_accelerator(
    tmp_path, monkeypatch
):
    def is_loaded() -> bool:
        knows_its_code = work.code_digest.cache_info().currsize > 0
        heeds_no_key = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return "torch._dynamo" in sys.modules and knows_its_code and heeds_no_key

    def told(**changes) -> tuple[int, bool, str | None]:
        with connect(settings(tmp_path, **changes), tmp_path) as (client, _):
            ask = client.run
            asked = os.getppid, is_loaded, partial(os.getenv, "LATER")
            answers = [ask(each).values() for each in asked]
        [same] = set(zip(*answers, strict=True))
        return same

    server, loaded, _ = told(workers=2)
    assert server != os.getpid()
    assert loaded
    given = Path(f"/proc/{server}/environ").read_text().split("\0")
    assert f"MALLOC_TRIM_THRESHOLD_={2**32}" in given
    monkeypatch.setenv("LATER", "too")
    assert told(workers=1) == (server, True, "too")
    monkeypatch.setattr("ddlib.cluster.read_device", lambda device: "cuda")
    assert told() == (os.getpid(), False, "too")


def test_workers_say_nothing_of_their_own(tmp_path):
    """Such as Dask's traceback of a heartbeat while all come to their end."""

    def speaks() -> bool:
        return logging.getLogger("distributed.worker").isEnabledFor(logging.ERROR)

    with connect(settings(tmp_path, workers=1), tmp_path) as (client, _):
        assert list(client.run(speaks).values()) == [False]


def test_a_study_that_leaves_it_open_goes_where_dasks_variable_says(tmp_path, monkeypatch):
    def names(**changes) -> set[str]:
        with connect(settings(tmp_path, **changes), tmp_path) as (client, _):
            return set(client.scheduler_info()["workers"])

    with in_process() as address:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        there = names(scheduler_address=address)
        assert names() == there
        assert not names(workers=1) & there


def test_an_event_loop_may_be_late_and_dask_starts_none_of_its_own(tmp_path, monkeypatch):
    """Its own ends with an assertion when a machine sleeps for ten seconds while it starts."""
    monkeypatch.setattr(
        "distributed.utils._CollectErrorThread", lambda **_: pytest.fail("Dask started a loop")
    )

    class Late(asyncio.SelectorEventLoop):
        def run_forever(self):
            time.sleep(0.3)
            super().run_forever()

    monkeypatch.setattr(asyncio, "new_event_loop", Late)
    event_loop.cache_clear()
    with in_process() as address, connect(settings(tmp_path, workers=1), tmp_path) as (own, _):
        assert len(own.run(work.code)) == 1
        assert own.run_on_scheduler(lambda dask_scheduler: dask_scheduler.worker_ttl) is None
        with connect(settings(tmp_path, scheduler_address=address), tmp_path) as (named, _):
            assert list(named.scheduler_info()["workers"]) != list(own.run(str))


def test_an_event_loop_that_cannot_start_says_why(monkeypatch):
    def failing():
        raise OSError("too many open files")

    monkeypatch.setattr(asyncio, "new_event_loop", failing)
    event_loop.cache_clear()
    with pytest.raises(OSError, match="too many open files"):
        event_loop()
    monkeypatch.undo()
    assert event_loop().asyncio_loop.is_running()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_has_an_event_loop_of_its_own():
    ours = event_loop()
    child = os.fork()
    if not child:
        os._exit(event_loop() is ours)
    assert os.waitpid(child, 0)[1] == 0
    assert event_loop() is ours


def test_workers_that_do_not_start_are_said_in_one_sentence(monkeypatch):
    def stopped(**_):
        raise RuntimeError("no room")

    monkeypatch.setattr("distributed.LocalCluster", stopped)
    sentence = "worker processes do not start on this machine: no room"
    with pytest.raises(OSError, match=sentence), processes(1):
        pass
