"""A study on a Dask cluster: real processes, which share a folder, die, or run other code."""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from clusters import Cluster, held, in_process, write_holding
from distributed import Client
from mounts import needs_mounts

import ddlib
from ddlib.study import jobs as work
from ddlib.study import running, study
from ddlib.study.cluster import connect, event_loop, processes
from ddlib.study.settings import Settings, read_settings

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
TRIALS, REFERENCES = 2 * 2 * 2 * 2, 2 * 2 * 2


def settings(root: Path, **changes) -> Settings:
    places = {"results": str(root / "results"), "cache": str(root / "cache")}
    return read_settings(GRID | places | changes)


def tables(root: Path) -> list[bytes]:
    return [
        (root / "results" / f"{name}.parquet").read_bytes() for name in ("trials", "references")
    ]


@contextmanager
def connected(root: Path, device: str = "cpu", **changes) -> Iterator[Client]:
    """Give the client of a study's workers, as if it computed on `device`."""
    chosen = settings(root, **changes)
    with connect(chosen, replace(study.prepare(chosen).context, device=device)) as client:
        yield client


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
def test_workers_one_of_them_killed_mid_trial_give_the_same_tables(tmp_path, cluster):
    hold = tmp_path / "hold"
    given = {
        "extensions": [str(write_holding(tmp_path / "holding.py", hold))],
        "methods": {**GRID["methods"], "holding": {}},
    }
    with in_process() as address:
        study.run(settings(tmp_path / "undisturbed", scheduler_address=address, **given))
    hold.mkdir()
    for _ in range(2):
        cluster.add()
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
    with (other / "methods" / "gradient.py").open("a") as file:
        file.write("more = 1\n")
    return other.parent


@pytest.mark.slow
def test_a_worker_with_other_code_is_refused_before_anything_runs(tmp_path, cluster, other_code):
    cluster.add(library=other_code)
    message = (
        r"^the Dask worker tcp://127\.0\.0\.1:\d+ runs other code \(\w{12}\) than this study "
        r"\(\w{12}\); install the same ddlib"
    )
    with pytest.raises(ValueError, match=message):
        study.run(settings(tmp_path, scheduler_address=cluster.address))
    assert not (tmp_path / "results" / "trials").exists()


@pytest.mark.slow
@pytest.mark.parametrize("unfit", ["code", "folder", "threads"])
@needs_mounts
def test_a_worker_that_joins_later_and_is_unfit_fails_no_trial(
    tmp_path, cluster, undisturbed, other_code, monkeypatch, unfit
):
    """It would be given all that it is quick to fail."""
    cluster.add()
    which = {
        "code": {"library": other_code},
        "folder": {"hidden": tmp_path / "cache"},
        "threads": {"threads": 2},
    }
    sentence = {
        "code": r"runs other code \(",
        "folder": r"does not see /\S+; give every worker the folders",
        "threads": "has 2 threads, which would share PyTorch's settings; start it with --nthreads",
    }
    connect = study.connect

    @contextmanager
    def connect_and_join(*given):
        with connect(*given) as client:
            cluster.add(**which[unfit])
            client.wait_for_workers(2, timeout=60)
            cluster.workers[0].kill()  # or it might be quick enough to do all
            yield client

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
    def fail(*given):
        raise ModuleNotFoundError("No module named 'ddlib'")

    monkeypatch.setattr(work, "objection", fail)
    sentence = r"cannot run this study \(ModuleNotFoundError: No module named 'ddlib'\); install"
    with in_process() as address, pytest.raises(ValueError, match=sentence):
        study.run(settings(tmp_path, scheduler_address=address))


@pytest.mark.parametrize(
    ("threads", "changes", "sentence"),
    [
        (2, {}, "has 2 threads, which would share PyTorch's settings; start it with --nthreads 1"),
        (1, {"device": "xpu"}, "lacks the study's device: 'xpu' is not a device of this machine; "),
    ],
)
def test_a_worker_that_is_unfit_is_refused(tmp_path, threads, changes, sentence):
    with in_process(threads=threads) as address:
        chosen = settings(tmp_path, scheduler_address=address, **changes)
        with pytest.raises(ValueError, match=rf"^the Dask worker tcp://\S+ {sentence}"):
            study.run(chosen)
    assert not (tmp_path / "results" / "trials").exists()


def test_workers_with_another_device_than_this_machines_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("ddlib.study.cluster.read_device", lambda name: "cpu")
    chosen = settings(tmp_path)
    context = study.prepare(chosen).context
    monkeypatch.setattr("ddlib.study.cluster.read_device", as_if_cuda)
    with in_process() as address:
        chosen = chosen.replace(scheduler_address=address)
        sentence = "^device: auto is cpu on this machine, but cuda on the Dask workers at .*; name"
        with pytest.raises(ValueError, match=sentence), connect(chosen, context):
            pass


def as_if_cuda(name: str) -> str:
    return "cuda"


def test_workers_of_a_study_take_a_cuda_device_each():
    assert [work.card(number, 3) for number in range(5)] == [0, 1, 2, 0, 1]
    assert work.card(1, 1) is None
    assert work.card("tcp://10.0.0.2:4000", 3) is None  # it sees what CUDA_VISIBLE_DEVICES says


SCRIPT = """
from ddlib.study import study
from ddlib.study.settings import read_settings

def main():
    study.run(read_settings({given!r}))

{call}
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_refused_and_one_with_it_runs(tmp_path):
    def ran(call: str) -> subprocess.CompletedProcess:
        given = GRID | {"methods": {"random": {}}, "configurations": None, "seeds": 1, "workers": 1}
        given |= {"results": str(tmp_path / "results"), "cache": str(tmp_path / "cache")}
        (tmp_path / "script.py").write_text(SCRIPT.format(given=given, call=call))
        command = [sys.executable, str(tmp_path / "script.py")]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    without = ran("main()")
    assert without.returncode == 1
    assert without.stderr.splitlines()[-1] == (
        f"RuntimeError: {tmp_path}/script.py, line 8: worker processes run this script again when "
        'they start; put what runs a study under `if __name__ == "__main__":`'
    )
    guarded = ran('if __name__ == "__main__":\n    main()')
    assert guarded.returncode == 0, guarded.stderr
    assert (tmp_path / "results" / "trials.parquet").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
def test_workers_here_are_forks_of_a_loaded_process_unless_they_share_an_accelerator(
    tmp_path, monkeypatch
):
    def is_loaded() -> bool:
        knows_its_code = work.code_digest.cache_info().currsize > 0
        heeds_no_key = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return "torch._dynamo" in sys.modules and knows_its_code and heeds_no_key

    def told(device: str = "cpu", **changes) -> tuple[int, bool, str | None]:
        with connected(tmp_path, device, **changes) as client:
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
    assert told("cuda") == (os.getpid(), False, "too")


def test_workers_say_nothing_of_their_own(tmp_path):
    """Such as Dask's traceback of a heartbeat while all come to their end."""

    def speaks() -> bool:
        return logging.getLogger("distributed.worker").isEnabledFor(logging.ERROR)

    with connected(tmp_path, workers=1) as client:
        assert list(client.run(speaks).values()) == [False]


def test_a_study_that_leaves_it_open_goes_where_dasks_variable_says(tmp_path, monkeypatch):
    def names(**changes) -> set[str]:
        with connected(tmp_path, **changes) as client:
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
    with in_process() as address, connected(tmp_path, workers=1) as own:
        assert len(own.run(work.code)) == 1
        assert own.run_on_scheduler(lambda dask_scheduler: dask_scheduler.worker_ttl) is None
        with connected(tmp_path, scheduler_address=address) as named:
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
