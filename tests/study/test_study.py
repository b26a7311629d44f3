"""A study: what is in its tables, what a rerun does, and what happens when something goes wrong.

Worker processes take seconds to start, so two tests only use them; the rest run on a Dask
scheduler inside the test process, which is also what `scheduler_address` is for.
"""

import asyncio
import itertools
import json
import math
import os
import shutil
import signal
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import distributed
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from clusters import in_process
from distributed import Client
from filelock import FileLock
from papermill.parameterize import parameterize_notebook
from safetensors.torch import load as parse
from torch.utils._python_dispatch import TorchDispatchMode

from ddlib import fingerprints
from ddlib.configurations.probing import train_and_observe
from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.data.normalise import Normalisation
from ddlib.explore import tables
from ddlib.files import from_root
from ddlib.methods import METHODS, Method, Preparation, selection
from ddlib.networks import functional as networks
from ddlib.networks.initial import initial_parameters
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.study import jobs as work
from ddlib.study import running, study
from ddlib.study.settings import (
    Settings,
    check_coverage,
    notebook_parameters,
    read_methods,
    read_settings,
)
from ddlib.training import together
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import train, train_and_score, training_steps
from ddlib.training.recipe import Converged, Recipe, hold_out

DIGITS = {"name": "digits", "classes": [0, 1, 2], "per_class": 20}
DM = {"iterations": 3, "real_batch": 8, "augmentation": "none"}
DC = {"iterations": 2, "outer_steps": 2, "inner_epochs": 1, "real_batch": 8}
GRID = {
    "data": DIGITS,
    "network": {"name": "mlp", "width": 16, "depth": 2},
    "training": {"steps": 20, "batch_size": 16, "learning_rate": 0.05},
    "methods": {"random": None, "dm": DM, "dc": DC},
    "k": [6, 3],
    "seeds": 2,
    "evaluations": 2,
    "converged": {"held_out": 0.5},
}
TRIALS = 3 * 2 * 2
GROUP = running.Running._group
COLUMNS = ("configuration", "method", "k", "seed", "status", "message")  # of failures


def settings(folder: Path, **changes) -> Settings:
    places = {"results": str(folder), "cache": str(folder.parent / "cache")}
    return read_settings(GRID | places | changes)


def forget_code() -> None:
    """Have the code read anew, as a new process would."""
    fingerprints.code_digest.cache_clear()
    fingerprints._source.cache_clear()


def stamps(folder: Path) -> dict[str, int]:
    """When each result of a study was last written: trials, distilled sets, references."""
    files = [path for path in folder.parent.rglob("*") if path.suffix in (".json", ".safetensors")]
    return {
        path.name: path.stat().st_mtime_ns
        for path in files
        if path.name not in ("settings.json", "progress.json")
    }


@dataclass(frozen=True)
class Finished:
    settings: Settings
    result: study.Result
    folder: Path

    def table(self, name: str) -> bytes:
        return (self.folder / f"{name}.parquet").read_bytes()

    def copy(self, root: Path) -> Path:
        """Copy the study and its references below `root`; return the study's folder there."""
        return shutil.copytree(self.folder.parent, root / "copy") / self.folder.name


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("finished") / "grid"
    chosen = settings(folder, workers=2)
    return Finished(chosen, study.run(chosen), folder)


@pytest.fixture(scope="module")
def scheduler():
    """The address of a scheduler that runs already, with one worker."""
    with in_process() as address:
        yield address


@pytest.fixture
def no_workers(monkeypatch):
    monkeypatch.setattr(study, "connect", lambda *_: pytest.fail("workers were started"))


# The tables.


def test_the_table_has_one_row_per_trial_and_evaluation(finished):
    table = finished.result.trials
    assert list(table.columns) == [
        *("data", "configuration", "network", "method", "base", "ipc", "k", "seed", "evaluation"),
        *("accuracy", "balanced_accuracy", "error", "cross_entropy"),
        *("gap_error", "gap_cross_entropy"),
        *("gap_error_same_steps", "gap_cross_entropy_same_steps", "status", "message"),
    ]
    grid = list(itertools.product(["random", "dm", "dc"], [1, 2], [0, 1], [0, 1]))
    rows = table[["method", "ipc", "seed", "evaluation"]].itertuples(index=False)
    assert [tuple(row) for row in rows] == grid
    assert list(table["k"]) == [3 * ipc for _, ipc, _, _ in grid]
    assert set(table["data"]) == {"digits"}
    assert set(table["network"]) == {"mlp"}
    assert set(table["status"]) == {"ok"}
    assert set(table["message"]) == {""}
    assert finished.result.failures.empty


def test_accuracies_are_fractions_of_the_whole_test_set(finished):
    count = len(load(**DIGITS).test.labels)
    for table in (finished.result.trials, finished.result.references):
        right = table["accuracy"] * count
        assert np.allclose(right, right.round(), atol=1e-9)
        assert table["accuracy"].between(0, 1).all()
        assert np.allclose(table["error"], 1 - table["accuracy"])
        assert (table["cross_entropy"] > 0).all()
    assert (finished.result.trials["accuracy"] < 1).any()


@pytest.mark.parametrize("measure", ["error", "cross_entropy"])
def test_a_gap_is_measured_from_the_seeds_own_network_on_all_data(finished, measure):
    references = pd.read_parquet(finished.folder / "references.parquet")
    assert list(references["seed"]) == [0, 0, 1, 1]
    assert list(references["reference"]) == ["converged", "same_steps"] * 2
    full = references.set_index(["seed", "reference"])[measure]
    assert full.nunique() == 4 or measure == "error"
    for row in finished.result.trials.to_dict("records"):
        for name, kind in (("", "converged"), ("_same_steps", "same_steps")):
            assert row[f"gap_{measure}{name}"] == row[measure] - full[row["seed"], kind]


def test_the_tables_are_on_disk_and_nothing_else_is_left(finished):
    for name in ("trials", "references", "costs"):
        written = pd.read_parquet(finished.folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(written, getattr(finished.result, name), check_exact=True)
    assert json.loads((finished.folder / "settings.json").read_text()) == (
        finished.settings.replace(workers=None).model_dump()
    )
    files = [path for path in finished.folder.parent.rglob("*") if path.is_file()]
    kinds = pd.Series([f"{path.parent.name}/*{path.suffix}" for path in files]).value_counts()
    assert kinds.to_dict() == {
        "trials/*.json": TRIALS,
        "distilled/*.safetensors": TRIALS,
        "distilled/*.seconds": TRIALS,
        "references/*.json": 4,
        "observed/*.safetensors": 2,
        "lengths/*.json": 1,
        "lengths/*.seconds": 1,
        "data/*.safetensors": 1,
        "grid/*.parquet": 3,
        "grid/*.json": 2,  # settings, progress
        "grid/*": 1,
    }
    assert [path.name for path in files if path.name.startswith(".")] == [".lock"]
    progress = json.loads((finished.folder / "progress.json").read_text())
    assert progress == {"done": TRIALS + 4, "total": TRIALS + 4}


def test_costs_are_seconds_of_every_trial(finished):
    costs = finished.result.costs
    assert list(costs.columns) == [
        *("configuration", "method", "ipc", "seed", "set"),
        *("prepare_seconds", "distil_seconds", "evaluate_seconds"),
    ]
    assert len(costs) == TRIALS
    assert (costs[["distil_seconds", "evaluate_seconds"]] > 0).all(axis=None)
    assert (costs["prepare_seconds"] == 0).all()
    there = {path.name for path in (finished.folder / "distilled").glob("*.safetensors")}
    assert set(costs["set"]) == there
    rows = costs[["method", "ipc", "seed", "set"]].itertuples(index=False)
    assert all(
        name.startswith(f"{method}-ipc{ipc}-seed{seed}-") for method, ipc, seed, name in rows
    )


def test_sizes_that_share_a_call_share_its_cost(tmp_path, scheduler, monkeypatch):
    distil = work.distil
    monkeypatch.setattr(work, "distil", lambda *call: (distil(*call)[0], 12.0))
    methods = {"random": None, "dc": DC}
    result = study.run(settings(tmp_path, methods=methods, scheduler_address=scheduler))
    seconds = result.costs.groupby("method")["distil_seconds"].unique().to_dict()
    assert seconds == {"random": [6.0], "dc": [12.0]}


@pytest.mark.parametrize("method", ["random", "dm", "dc"])
def test_a_trial_is_what_its_own_call_gives(finished, method):
    """Distilled alone, in this process, a set of the sweep is the same to the last bit."""
    dataset = load(**DIGITS)
    network = networks.build("mlp", dataset.image_shape, 3, width=16, depth=2)
    parameters = METHODS[method].parameters(**(GRID["methods"][method] or {}))
    synthetic = METHODS[method].distil(dataset, network, [2], 1, parameters)[2]
    [kept] = [one for one in finished.result.distilled(1) if (one.method, one.k) == (method, 6)]
    assert torch.equal(kept.images, synthetic.images)
    assert torch.equal(kept.labels, torch.tensor([0, 0, 1, 1, 2, 2]))
    rows = finished.result.trials.query("method == @method and k == 6 and seed == 1")
    for row in rows.itertuples():
        score = train_and_score(
            *(network, synthetic.images, synthetic.labels, dataset.test),
            *(Recipe(steps=20, batch_size=16, learning_rate=0.05), (1, row.evaluation)),
        )
        assert (score.accuracy, score.cross_entropy) == (row.accuracy, row.cross_entropy)
    assert rows["cross_entropy"].nunique() == 2


def test_a_reference_is_the_same_training_on_all_data(finished):
    """The converged one takes the steps at which the risk on images held out is least."""
    dataset = load(**DIGITS)
    network = networks.build("mlp", dataset.image_shape, 3, width=16, depth=2)
    recipe = Recipe(steps=20, batch_size=16, learning_rate=0.05)
    real, held = dataset.train, hold_out(dataset.train.labels, 0.5)
    assert real.labels[held].bincount().tolist() == [10, 10, 10]
    rest, tested = (Split(real.images[at], real.labels[at]) for at in (~held, held))
    risks = [
        train_and_score(
            network, rest.images, rest.labels, tested, recipe.replace(steps=steps), (0, 0)
        ).cross_entropy
        for steps in (20, 40, 80)
    ]
    assert risks[1] == min(risks)
    references = finished.result.references
    assert list(references["steps"]) == [40, 20] * 2
    assert not references["capped"].any()
    assert list(references["passes"]) == [40 * 16 / 60, 20 * 16 / 60] * 2
    for row in references.itertuples():
        given = real.images, real.labels, dataset.test, recipe.replace(steps=int(row.steps))
        score = train_and_score(network, *given, (row.seed, 0))
        assert (score.accuracy, score.cross_entropy) == (row.accuracy, row.cross_entropy)
        assert score.balanced_accuracy == row.balanced_accuracy


class Taken(TorchDispatchMode):
    """While it is on, `most` is how many values were taken out of a tensor at once."""

    most = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        if "aten.index.Tensor" in str(operation):
            self.most = max(self.most, made.numel())
        return made


def test_the_length_of_a_reference_is_found_without_a_copy_of_the_training_set(tmp_path):
    plan = study.prepare(settings(tmp_path / "study"))
    assert plan.dataset.train.images.shape == (60, 1, 8, 8)  # 6 of them are held out
    with Taken() as taken:
        work.find_length(plan.context, plan.first, None, Converged(held_out=0.1))
    assert taken.most == plan.first.recipe.batch_size * 64 == 16 * 64


def test_a_seed_whose_network_on_all_data_diverged_has_no_gap(tmp_path, scheduler, monkeypatch):
    """Its accuracy stays, its gap is missing, and the other seed's gaps are what they were."""
    reference, message = (
        work.reference,
        "no gap to the network on all data (converged), which diverged: ",
    )

    def fragile(context, configuration, seed, *rest):
        if seed == 1:
            raise DivergedError(3, "the training loss")
        return reference(context, configuration, seed, *rest)

    monkeypatch.setattr(work, "reference", fragile)
    given = {"methods": {"random": None}, "scheduler_address": scheduler}
    result = study.run(settings(tmp_path / "study", **given))
    kept, lost = (result.trials.query(f"seed == {seed}") for seed in (0, 1))
    gaps = [name for name in result.trials if name.startswith("gap")]
    assert len(gaps) == 4
    assert lost[gaps].isna().all(axis=None)
    assert lost[["accuracy", "error"]].notna().all(axis=None)
    assert set(lost["status"]) == {"ok"}
    assert set(lost["message"]) == {message + str(DivergedError(3, "the training loss"))}
    full = result.references.set_index(["seed", "reference"])["error"]
    assert np.array_equal(kept["gap_error"], kept["error"] - full[0, "converged"])
    assert set(kept["message"]) == {""}
    tabled = tables.read(tmp_path / "study")
    assert tabled.configurations == ["own"]
    assert tabled.gaps["gap_error"].isna().sum() == len(lost)


def test_gaps_of_the_same_steps_ask_for_no_other_network(tmp_path, scheduler):
    given = {"methods": {"random": None}, "seeds": 1, "reference": "same_steps"}
    result = study.run(settings(tmp_path / "study", scheduler_address=scheduler, **given))
    assert list(result.references["reference"]) == ["same_steps"]
    assert not (tmp_path / "cache" / "lengths").exists()
    trials = result.trials
    assert np.array_equal(trials["gap_error"], trials["error"] - result.references["error"][0])
    for measure in ("gap_error", "gap_cross_entropy"):
        assert np.array_equal(trials[measure], trials[f"{measure}_same_steps"])


def test_networks_are_compared_over_the_seeds_that_all_have(tmp_path, scheduler):
    """With too few of those, configurations that lack one are left out instead."""
    given = {**SEVERAL, "methods": {"random": None}, "reference": "same_steps"}
    given["configurations"] = {"own": {}, "adam": SEVERAL["configurations"]["adam"]}
    given |= {"families": None, "seeds": 5, "scheduler_address": scheduler}
    result = study.run(settings(tmp_path / "study", **given))
    result.plan.observed_path("adam", 0).unlink()
    shown = result.observed_together(["own", "adam"])
    assert [len(each["features"]) for each in shown.values()] == [4, 4]
    own = result.observed("own")["features"]
    assert np.array_equal(shown["own"]["features"], own[1:])
    result.plan.observed_path("adam", 1).unlink()
    shown = result.observed_together(["own", "adam"])
    assert list(shown) == ["own"]
    assert np.array_equal(shown["own"]["features"], own)


def test_distilled_sets_of_one_seed_can_be_looked_at(finished):
    sets = finished.result.distilled(seed=1)
    names = [(one.method, one.ipc, one.seed, one.data) for one in sets]
    grid = itertools.product(["random", "dm", "dc"], [1, 2], [1], ["digits"])
    assert names == list(grid)
    assert finished.result.distilled(seed=2) == []


# Running again.


@pytest.mark.usefixtures("no_workers")
def test_a_rerun_does_nothing_and_gives_the_same_tables(finished):
    before = stamps(finished.folder)
    tables = {name: finished.table(name) for name in ("trials", "references", "costs")}
    again = study.run(finished.settings)
    assert stamps(finished.folder) == before
    assert len(before) == 2 * TRIALS + 7 + 1  # references, and the copy of the data
    assert {name: finished.table(name) for name in tables} == tables
    pd.testing.assert_frame_equal(again.trials, finished.result.trials, check_exact=True)


@pytest.mark.slow
def test_another_process_count_and_a_killed_worker_give_the_same_bytes(
    finished, tmp_path, monkeypatch
):
    """Elsewhere, with one worker instead of two, which is killed with most trials still to do."""
    save, saved, connect, processes = running.Running._save, [], study.connect, []

    @contextmanager
    def connect_and_tell(*given):
        with connect(*given) as client:
            processes.extend(client.run(os.getpid).values())
            yield client

    def save_and_kill(run, trial, record):
        save(run, trial, record)
        saved.append(trial)
        if len(saved) == 2:
            [process] = processes
            assert process != os.getpid()
            os.kill(process, signal.SIGKILL)

    monkeypatch.setattr(study, "connect", connect_and_tell)
    monkeypatch.setattr(running.Running, "_save", save_and_kill)
    result = study.run(settings(tmp_path / "elsewhere" / "other", workers=1))
    assert len(saved) == TRIALS
    assert result.failures.empty
    for name in ("trials", "references"):
        assert (tmp_path / f"elsewhere/other/{name}.parquet").read_bytes() == finished.table(name)


def test_only_what_is_missing_is_done_again_on_the_scheduler_that_is_named(
    finished, tmp_path, scheduler, monkeypatch
):
    monkeypatch.setattr(
        distributed, "LocalCluster", lambda **_: pytest.fail("a cluster was started")
    )
    folder = finished.copy(tmp_path)
    before = stamps(folder)
    [trial] = folder.glob("trials/dm-ipc2-seed1-*")
    [other] = folder.glob("trials/dc-ipc1-seed0-*")
    [distilled] = folder.glob("distilled/dc-ipc1-seed0-*.safetensors")
    [reference] = folder.parent.glob("cache/references/digits-seed1-same_steps-*")
    [observed] = folder.parent.glob("cache/observed/digits-seed1-*")
    lost = {path.name for path in (trial, other, distilled, reference, observed)}
    contents = distilled.read_bytes()
    for path in (trial, other, distilled, reference):
        path.unlink()
    study.run(settings(folder, scheduler_address=scheduler))
    after = stamps(folder)
    assert {name for name in before if after[name] != before[name]} == lost
    assert after.keys() == before.keys()
    assert distilled.read_bytes() == contents
    for name in ("trials", "references"):
        assert (folder / f"{name}.parquet").read_bytes() == finished.table(name)


def test_an_interrupted_study_keeps_what_is_done_and_goes_on(
    finished, tmp_path, scheduler, monkeypatch
):
    chosen = settings(tmp_path / "study", scheduler_address=scheduler)
    save, saved = running.Running._save, []

    def save_and_interrupt(run, trial, record):
        save(run, trial, record)
        saved.append(trial.path)
        if len(saved) == 5:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(running.Running, "_save", save_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            study.run(chosen)
    assert set((tmp_path / "study/trials").iterdir()) == set(saved)
    before = stamps(tmp_path / "study")
    study.run(chosen)
    assert (tmp_path / "study/trials.parquet").read_bytes() == finished.table("trials")
    after = stamps(tmp_path / "study")
    assert before.items() <= after.items()
    assert len(after) == 2 * TRIALS + 7 + 1


def names(tmp_path: Path, **changes) -> tuple[set[str], set[str], set[str]]:
    """The file names of the trials, distilled sets and references of a changed study."""
    plan = study.prepare(settings(tmp_path / "names", **changes))
    return (
        {trial.path.name for trial in plan.trials},
        {trial.set_path.name for trial in plan.trials},
        {plan.reference_path(*each).name for each in plan.references},
    )


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("change", "trials", "sets", "references"),
    [
        ({"data": DIGITS | {"per_class": 19}}, 0, 0, 0),
        ({"network": {"name": "mlp", "width": 17, "depth": 2}}, 0, 0, 0),
        ({"training": GRID["training"] | {"momentum": 0.8}}, 0, TRIALS, 0),
        ({"evaluations": 3}, 0, TRIALS, 4),
        ({"methods": GRID["methods"] | {"dm": DM | {"momentum": 0.4}}}, 8, 8, 4),
        ({"methods": {"dc": DC, "random": {}, "herding": {}}}, 8, 8, 4),
        ({"k": [3, 9]}, 6, 6, 4),
        ({"seeds": 1}, 6, 6, 2),
        ({"seeds": 3, "workers": 1, "draws": 7, "floor_share": 0.3}, TRIALS, TRIALS, 4),
        ({"scheduler_address": "tcp://127.0.0.1:1"}, TRIALS, TRIALS, 4),
        ({"converged": {"passes": 31}}, TRIALS, TRIALS, 2),
        ({"reference": "same_steps"}, TRIALS, TRIALS, 2),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_is_kept_depends_on_all_that_decides_it(tmp_path, change, trials, sets, references):
    """How many of the grid's files a changed study takes over: no stale one, none in vain."""
    before, after = names(tmp_path), names(tmp_path, **change)
    kept = [len(old & new) for old, new in zip(before, after, strict=True)]
    assert kept == [trials, sets, references]


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("work.py", {"random", "dc", "mgd3", "prepared", "references"}),
        ("methods/__init__.py", {"random", "dc", "mgd3", "prepared", "references"}),
        ("methods/common.py", {"random", "dc", "mgd3", "prepared", "references"}),
        ("augment.py", {"random", "dc", "mgd3", "prepared", "references"}),
        ("methods/gradient.py", {"dc"}),
        ("methods/diffusion.py", {"mgd3", "prepared"}),
        ("generators.py", {"mgd3", "prepared"}),
        ("charts.py", set()),
    ],
)
def test_an_edit_renames_what_the_code_can_decide(tmp_path, monkeypatch, file, changed):
    package = shutil.copytree(fingerprints.PACKAGE, tmp_path / "ddlib")

    def named() -> dict[str, list[Path]]:
        forget_code()
        methods = {"random": None, "dc": DC, "mgd3": {"unet_steps": 3}}
        plan = study.prepare(settings(tmp_path / "names", methods=methods, k=[3], seeds=1))
        found = {trial.method: [trial.set_path, trial.path] for trial in plan.trials}
        prepared = [path for _, path in plan.preparations("mgd3")]
        references = [plan.reference_path("own", 0, kind) for kind in ("converged", "same_steps")]
        references.append(plan.length_path("own"))
        return {**found, "prepared": prepared, "references": references}

    with monkeypatch.context() as patched:
        patched.setattr(fingerprints, "PACKAGE", package)
        before, code = named(), work.code()
        source = (package / file).read_text()
        (package / file).write_text(f"# more\n{source}")
        assert named() == before
        (package / file).write_text(f"{source}\nmore = 1\n")
        after = named()
        assert (work.code() != code) == bool(changed)
    forget_code()
    assert {name for name in before if not set(before[name]) & set(after[name])} == changed


# What fails is shown as failed.


def test_a_diverged_size_is_recorded_and_the_others_go_on(finished, tmp_path, scheduler):
    """The first step is taken from finite images; its huge rate is what breaks the next one."""
    folder = finished.copy(tmp_path)
    methods = {"dm": DM | {"learning_rate": {1: 1e30, 2: 1.0}}, "dc": DC}
    chosen = settings(folder, methods=methods, seeds=1, scheduler_address=scheduler)
    result = study.run(chosen)
    bad = result.trials[result.trials["status"] != "ok"]
    [row] = bad.to_dict("records")
    assert (row["method"], row["k"], row["seed"], row["status"]) == ("dm", 3, 0, "diverged")
    assert row["message"] == (
        "the matching loss stopped being a finite number at step 1; choose a smaller learning rate"
    )
    for measure in ("accuracy", "error", "cross_entropy", "gap_error", "gap_cross_entropy"):
        assert math.isnan(row[measure])
    [failure] = result.failures.to_dict("records")
    assert failure == {name: row[name] for name in COLUMNS}
    fine = result.trials[result.trials["status"] == "ok"]
    before = finished.result.trials.query(
        "seed == 0 and (method == 'dc' or method == 'dm' and k == 6)"
    )
    columns = ["k", "evaluation", "accuracy", "cross_entropy"]
    in_the_grid = before.sort_values("method", ascending=False)[columns]
    assert np.array_equal(fine[columns], in_the_grid)
    floor = finished.result.references["error"][0]
    assert np.allclose(fine["gap_error"], fine["error"] - floor, rtol=0, atol=1e-15)


def divergence(learning_rate: float) -> DivergedError:
    """What training on all data for the study's seed 0 ends in."""
    dataset = load(**DIGITS)
    network = networks.build("mlp", dataset.image_shape, 3, width=16, depth=2)
    theta = initial_parameters(network, generator("evaluation weights", (0, 0)))
    recipe = Recipe(steps=20, batch_size=16, learning_rate=learning_rate)
    stream = generator("evaluation batches", (0, 0))
    with pytest.raises(DivergedError) as error:
        train(network, theta, dataset.train.images, dataset.train.labels, recipe, stream)
    return error.value


def test_a_training_that_diverges_is_recorded_with_its_step_and_kept(
    tmp_path, scheduler, monkeypatch
):
    chosen = settings(
        tmp_path / "study",
        training={"steps": 20, "batch_size": 16, "learning_rate": 1e12},
        methods={"random": None},
        seeds=1,
        scheduler_address=scheduler,
    )
    result = study.run(chosen)
    failures = result.failures
    full = ["all data, converged", "all data, same_steps"]
    assert list(failures["method"]) == [*full, "random", "random"]
    assert list(failures["k"])[2:] == [3, 6]
    assert failures["k"][:2].isna().all()
    assert set(failures["status"]) == {"diverged"}
    step = divergence(1e12).step
    assert 0 < step < 20
    assert f"at step {step};" in failures["message"][0]
    assert failures["message"].str.match(r"the training loss .* at step \d+; choose").all()
    assert result.trials[["error", "gap_error", "gap_cross_entropy"]].isna().all(axis=None)
    assert len(result.trials) == 2
    monkeypatch.setattr(study, "connect", lambda *_: pytest.fail("what diverged is tried again"))
    assert study.run(chosen).failures.equals(failures)


@dataclass(frozen=True)
class Nothing(Parameters):
    """A method without parameters."""


def test_a_crash_is_recorded_and_tried_again(finished, tmp_path, scheduler, monkeypatch):
    broken = True

    def fragile(dataset, network, ipcs, seed, parameters):
        if broken and ipcs == [2] and seed == 0:
            raise MemoryError("no room for 6 images")
        return selection.random(dataset, network, ipcs, seed, parameters)

    folder = finished.copy(tmp_path).with_name("sibling")
    references = stamps(folder).keys() & {
        path.name for path in folder.parent.glob("cache/references/*")
    }
    assert len(references) == 4
    before = stamps(folder)
    monkeypatch.setitem(METHODS, "fragile", Method(fragile, Nothing, shares=False))
    methods = {"fragile": {}, "random": {}}
    chosen = settings(folder, methods=methods, scheduler_address=scheduler)
    result = study.run(chosen)
    assert result.failures.to_dict("records") == [
        {
            **{"configuration": "own", "method": "fragile", "k": 6, "seed": 0},
            "status": "failed",
            "message": "MemoryError: no room for 6 images",
        }
    ]
    assert len(result.trials) == 2 * TRIALS // 3 * 2 - 1
    assert {name: stamps(folder)[name] for name in references} == {
        name: before[name] for name in references
    }
    before = stamps(folder)
    broken = False
    again = study.run(chosen)
    assert again.failures.empty
    written = {name for name, time in stamps(folder).items() if before.get(name) != time}
    assert {name.rsplit("-", 1)[0] for name in written} == {"fragile-ipc2-seed0"}
    measures = ["k", "seed", "evaluation", "accuracy", "cross_entropy", "gap_error"]
    ours, theirs = (again.trials.query("method == @name")[measures] for name in methods)
    assert np.array_equal(ours, theirs)


def write_own_data(folder: Path, seed: int) -> None:
    """Two classes of 4x4 noise, one dark and one bright."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    labels = np.arange(12) % 2
    for split in ("train", "test"):
        images = (random.integers(0, 120, (12, 4, 4)) + 120 * labels[:, None, None]).astype("uint8")
        np.savez(folder / f"{split}.npz", images=images, labels=labels, class_names=["dark", "lit"])


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "does not see {}; give every worker the folders of this study"),
        (shorten, r"cannot open the data: {} is not whole \(.*\); delete it, and run again"),
    ],
)
def test_a_worker_without_the_data_ends_the_study_and_fails_no_trial(
    tmp_path, scheduler, monkeypatch, spoil, message
):
    connect = study.connect
    chosen = settings(tmp_path / "study", methods={"random": None}, scheduler_address=scheduler)
    copy = study.prepare(chosen).context.copy

    @contextmanager
    def spoilt(*given):
        with connect(*given) as client:
            spoil(Path(copy))
            yield client

    with monkeypatch.context() as patched:
        patched.setattr(study, "connect", spoilt)
        with pytest.raises(ValueError, match=f"a worker on .* {message.format(copy)}"):
            study.run(chosen)
    assert not (tmp_path / "study" / "trials").exists()


# What is no set, or no record, of its name.


def random_with(change):
    """A method that changes the random set of the one size it is asked for."""

    def distil(dataset, network, ipcs, seed, parameters):
        [(ipc, made)] = selection.random(dataset, network, ipcs, seed, parameters).items()
        return change(ipc, made)

    return Method(distil, Nothing, shares=False)


def test_a_method_that_returns_what_is_no_set_of_its_trial_fails_that_trial(
    tmp_path, scheduler, monkeypatch
):
    def of(images=lambda images: images, **others):
        return lambda ipc, made: {ipc: replace(made, images=images(made.images), **others)}

    def five_times(ipc, made):
        parts = {name: getattr(made, name).repeat_interleave(5, 0) for name in ("images", "labels")}
        return {ipc: replace(made, **parts)}

    plain = Normalisation((0.0,), (1.0,))
    methods = {
        "nothing": (lambda ipc, made: {}, "a DistilledSet of ipc=1, not NoneType"),
        "list": (lambda ipc, made: [made], "a DistilledSet of ipc=1, not NoneType"),
        "five": (five_times, "images of shape (3, 1, 8, 8), not (15, 1, 8, 8)"),
        "flat": (of(lambda images: images.flatten(1)), "(3, 1, 8, 8), not (3, 64)"),
        "bytes": (of(lambda images: images.byte()), "of type torch.float32, not torch.uint8"),
        "raw": (of(normalisation=plain), "be normalised as the data set is"),
        "class": (of(labels=torch.tensor([0, 1, 1])), "1 images of every class, in ascending"),
        "order": (of(labels=torch.tensor([2, 1, 0])), "1 images of every class, in ascending"),
        "names": (of(classes=("0", "2", "1")), "the classes of the data set, in their order"),
        "infinite": (of(lambda images: images / 0), "some of its pixels are NaN or infinite"),
        "pixels": (of(lambda images: images.abs() * 127), "normalised images, and its values of"),
        "data": (of(data="mnist"), "hold data 'digits', not 'mnist'"),
        "seed": (of(seed=1), "hold seed 0, not 1"),
    }
    for name, (change, _) in methods.items():
        monkeypatch.setitem(METHODS, name, random_with(change))
    given = {"methods": dict.fromkeys([*methods, "random"]), "k": [3], "seeds": 1}
    result = study.run(settings(tmp_path / "study", **given, scheduler_address=scheduler))
    assert list(result.failures["method"]) == list(methods)
    assert set(result.failures["status"]) == {"failed"}
    for row in result.failures.itertuples():
        beginning = f"ValueError: the method {row.method!r} returned no valid set: it should "
        assert row.message.startswith(beginning)
        assert methods[row.method][1] in row.message
    assert len(list(tmp_path.glob("study/distilled/*.safetensors"))) == 1


def test_exchanged_files_are_scored_as_nothing(tmp_path, scheduler):
    given = {"methods": {"random": None, "herding": None}, "k": [3], "seeds": 1}
    chosen = settings(tmp_path / "study", **given, scheduler_address=scheduler)
    study.run(chosen)
    shutil.rmtree(tmp_path / "study/trials")
    [ours] = tmp_path.glob("study/distilled/random-*.safetensors")
    [theirs] = tmp_path.glob("study/distilled/herding-*.safetensors")
    ours.rename(tmp_path / "kept")
    theirs.rename(ours)
    (tmp_path / "kept").rename(theirs)
    failures = study.run(chosen).failures
    assert list(failures["message"]) == [
        f"ValueError: {path} is not the set of its name: it should hold method {method!r}, not "
        f"{other!r}; delete it, and run again"
        for path, method, other in ((ours, "random", "herding"), (theirs, "herding", "random"))
    ]
    ours.write_bytes(b"")  # as a loss of power left it
    message = study.run(chosen).failures["message"][0]
    assert message.startswith(f"ValueError: {ours} is not a whole distilled set (")
    for path in (ours, theirs):
        path.unlink()
    assert study.run(chosen).failures.empty


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize("content", [b"", b'{"status": "ok", "mess', b"null", b'{"status": "ok"}'])
@pytest.mark.parametrize(
    "pattern",
    [
        *("grid/trials/dc-ipc1-*.json", "grid/distilled/dc-ipc1-*.seconds"),
        *("cache/references/*.json", "cache/observed/*.safetensors"),
        "cache/data/*.safetensors",
    ],
)
def test_an_unreadable_record_is_named_and_left_as_it_is(finished, tmp_path, pattern, content):
    folder = finished.copy(tmp_path)
    path = next(folder.parent.glob(pattern))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is not whole \(.*\); delete it, and run again"):
        study.run(settings(folder)).observed("own")
    assert path.read_bytes() == content


def test_an_unreadable_file_that_a_job_starts_from_is_named(tmp_path, scheduler):
    mtt = {"iterations": 1, "student_steps": 1, "expert_epochs": 1, "max_start": 1, "experts": 1}
    mgd3 = {"unet_steps": 1, "unet_channels": [8], "steps": 1, "stop": 0}
    taught = {"initialisation": "rotation", "pretraining": {"steps": 2}}
    chosen = settings(
        tmp_path / "study",
        methods={"mtt": mtt, "mgd3": mgd3, "random": None},
        configurations={"taught": taught},
        **{"k": [3], "seeds": 1, "reference": "same_steps", "scheduler_address": scheduler},
    )
    assert study.run(chosen).failures.empty
    shutil.rmtree(tmp_path / "study")
    shutil.rmtree(tmp_path / "cache" / "references")
    files = {
        "mtt": next(tmp_path.glob("cache/prepared/mtt-*[0-9]")),
        "mgd3": next(path for path in tmp_path.glob("cache/prepared/mgd3-*") if not path.suffix),
        "random": next(tmp_path.glob("cache/pretrained/*.safetensors")),
    }
    for path in files.values():
        path.write_bytes(b"")  # as a loss of power left it
    failures = study.run(chosen).failures
    assert set(failures["method"]) == {*files, "all data, same_steps"}
    for row in failures.itertuples():
        path = files.get(row.method, files["random"])
        assert row.message.startswith(f"ValueError: {path} is not whole (")
        assert "); delete it, and run again" in row.message


def test_a_file_that_a_parameter_names_is_known_by_its_content(tmp_path, monkeypatch):
    def distil(dataset, network, ipcs, seed, parameters):
        return {}  # names alone are asked for

    made = Preparation(lambda parameters, ipcs: [{}], distil)
    monkeypatch.setitem(METHODS, "reader", Method(distil, Reader, shares=False, preparation=made))
    path, long = str(tmp_path / "images.pt"), "a text of more letters than a file's name " * 10
    readers = {
        "alone": {"path": path},
        "listed": {"files": ["no file", path]},
        "deep": {"files": [{"of": {"cat": [long, path]}}]},
        "none": {"path": long},
    }
    readers = {name: {"method": "reader", **given} for name, given in readers.items()}
    given = {"methods": {**readers, "random": None}, "k": [3], "seeds": 1}

    def sets() -> dict[str, Path]:
        plan = study.prepare(settings(tmp_path / "study", **given))
        found = {trial.method: trial.set_path for trial in plan.trials}
        prepared = {name: plan.preparations(name)[0][1] for name in readers}
        return {**found, **{f"prepared for {name}": path for name, path in prepared.items()}}

    (tmp_path / "images.pt").write_bytes(b"ours")
    before = sets()
    (tmp_path / "images.pt").write_bytes(b"theirs")
    after = sets()
    changed = {name for name in before if before[name] != after[name]}
    read = {"alone", "listed", "deep"}
    assert changed == read | {f"prepared for {name}" for name in read}


class Reader(Parameters):
    """A method that reads files."""

    path: str = "no file"
    files: list = []


# Two processes at once.


def between_looks(monkeypatch, act) -> None:
    """Call `act` in the place of a wait for what another process is making."""

    async def sleep(seconds):
        act()
        await asyncio.sleep(0.01)

    monkeypatch.setattr(running, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))


def test_what_another_process_is_making_is_waited_for_and_taken(
    finished, tmp_path, scheduler, monkeypatch
):
    """The lock of one network trained on all data is another's, who ends; its file is taken."""
    chosen = settings(tmp_path / "grid", methods={"random": None}, scheduler_address=scheduler)
    theirs = study.prepare(chosen).reference_path("own", 1, "same_steps")
    (tmp_path / "cache" / "locks").mkdir()
    lock = FileLock(tmp_path / "cache" / "locks" / f"{theirs.name}.lock", thread_local=False)
    lock.acquire()
    looked = []

    def end_meanwhile():
        looked.append(theirs)
        if len(looked) == 2:
            for folder in ("references", "observed"):
                source = finished.folder.parent / "cache" / folder
                shutil.copytree(source, tmp_path / "cache" / folder, dirs_exist_ok=True)
            os.utime(theirs, (1, 1))
            lock.release()

    between_looks(monkeypatch, end_meanwhile)
    result = study.run(chosen)
    assert theirs.stat().st_mtime == 1
    assert len(looked) >= 2
    assert result.failures.empty
    assert (tmp_path / "grid/references.parquet").read_bytes() == finished.table("references")


def test_what_another_process_left_undone_is_done_here(finished, tmp_path, scheduler, monkeypatch):
    chosen = settings(tmp_path / "grid", methods={"random": None}, scheduler_address=scheduler)
    theirs = study.prepare(chosen).reference_path("own", 1, "same_steps")
    (tmp_path / "cache" / "locks").mkdir()
    lock = FileLock(tmp_path / "cache" / "locks" / f"{theirs.name}.lock", thread_local=False)
    lock.acquire()
    between_looks(monkeypatch, lock.release)
    study.run(chosen)
    assert (tmp_path / "grid/references.parquet").read_bytes() == finished.table("references")
    assert not list((tmp_path / "cache" / "locks").iterdir())


def test_who_comes_second_to_a_results_folder_says_so_and_waits(tmp_path, capsys):
    order = []

    def second():
        with running.alone(tmp_path):
            order.append("second")

    with running.alone(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.3)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    said = f"another process is at work in {tmp_path}; waiting for it to end\n"
    assert capsys.readouterr().out == said


# What an accelerator evaluates at once.


def as_on_a_card(self, trial):
    """Return the group of a trial on an accelerator, with the study's own settings."""
    plan = replace(self.plan, context=replace(self.plan.context, device="cuda"))
    card = SimpleNamespace(plan=plan, seeds_at_once={})
    card._seeds_at_once = partial(running.Running._seeds_at_once, card)
    return GROUP(card, trial)


def on_a_card(monkeypatch) -> list[list[int]]:
    """Have trials grouped as on an accelerator; return the list that seeds of jobs come to."""
    jobs, train_on = [], running.Running._train_on

    def recorded(self, trials, sets):
        jobs.append([trial.seed for trial in trials])
        return train_on(self, trials, sets)

    monkeypatch.setattr(running.Running, "_train_on", recorded)
    monkeypatch.setattr(running.Running, "_group", as_on_a_card)
    return jobs


def test_as_many_seeds_are_a_job_as_are_trained_at_once(tmp_path, monkeypatch):
    plan = study.prepare(settings(tmp_path / "study", methods={"random": {}}, seeds=7, k=[3]))
    card = SimpleNamespace(plan=plan)

    def groups(**changes) -> list[list[int]]:
        card.plan = replace(plan, **changes)
        found: dict[object, list[int]] = {}
        for trial in card.plan.trials:
            found.setdefault(as_on_a_card(card, trial), []).append(trial.seed)
        return list(found.values())

    assert groups() == [[0, 1, 2, 3, 4, 5, 6]]
    monkeypatch.setattr(together, "ACCELERATOR_PIXELS", 3 * 64 * 6)  # of six networks, two a set
    assert groups() == [[0, 1, 2], [3, 4, 5], [6]]
    few = plan.settings.replace(evaluations=20)  # more than one pass, of each set
    assert groups(settings=few) == [[seed] for seed in range(7)]
    monkeypatch.undo()
    monkeypatch.setattr(together, "ACCELERATOR_WEIGHTS", 4 * (64 * 16 + 16 + 16 * 3 + 3))
    assert groups() == [[0, 1], [2, 3], [4, 5], [6]]
    monkeypatch.undo()
    normed = {"name": "convnet", "width": 4, "depth": 1, "norm": "batch"}
    own = {name: one.replace(network=normed) for name, one in plan.configurations.items()}
    assert groups(configurations=own) == [[seed] for seed in range(7)]


def test_every_set_of_a_job_has_its_own_networks_scores(tmp_path):
    plan = study.prepare(settings(tmp_path / "study", methods={"random": {}}))
    trials = [trial for trial in plan.trials if trial.ipc == 1]
    sets = [one_set(plan, trial) for trial in trials]
    chosen = plan.configurations["own"]
    outcomes, _ = work.evaluate(plan.context, sets, chosen, [0, 1], [0, 1, 2], None)
    alone = [
        [work.evaluate(plan.context, [own], chosen, [seed], [n], None)[0][0][0] for n in range(3)]
        for seed, own in enumerate(sets)
    ]
    assert outcomes == alone
    assert len({score.cross_entropy for own in outcomes for score in own}) == 6
    lost = replace(sets[0], images=1e30 * sets[0].images)
    outcomes, _ = work.evaluate(plan.context, [lost, sets[1]], chosen, [0, 1], [0, 1, 2], None)
    assert isinstance(outcomes[0], DivergedError)
    assert outcomes[1] == alone[1]


def one_set(plan, trial):
    parameters = METHODS["random"].parameters()
    network = networks.build("mlp", plan.dataset.image_shape, 3, width=16, depth=2)
    return selection.random(plan.dataset, network, [1], trial.seed, parameters)[1]


def test_seeds_of_one_job_are_in_the_tables_as_if_alone(tmp_path, scheduler, monkeypatch):
    """As an accelerator evaluates them: all seeds of a method and size that have a set."""

    def fragile(dataset, network, ipcs, seed, parameters):
        if ipcs == [2] and seed == 1:
            raise MemoryError("no room for 6 images")
        [(ipc, made)] = selection.random(dataset, network, ipcs, seed, parameters).items()
        huge = 1e30 if (ipc, seed) == (1, 2) else 1  # on which training diverges
        return {ipc: replace(made, images=huge * made.images)}

    def broken(*given):
        raise MemoryError("no room at all")

    monkeypatch.setitem(METHODS, "fragile", Method(fragile, Nothing, shares=False))
    monkeypatch.setitem(METHODS, "broken", Method(broken, Nothing, shares=False))
    given = {"methods": {"fragile": {}, "broken": {}, "random": {}}, "seeds": 3}
    given |= {"scheduler_address": scheduler}
    alone = study.run(settings(tmp_path / "alone", **given))
    jobs = on_a_card(monkeypatch)
    result = study.run(settings(tmp_path / "together", **given))
    assert result.trials.equals(alone.trials)
    assert result.failures.equals(alone.failures)
    assert list(result.failures["status"]) == ["diverged"] + ["failed"] * 7
    assert sorted(jobs) == [[0, 1, 2]] * 3 + [[0, 2]]


# What a method makes once.


class Shifted(Parameters):
    """Random images, each moved by a number that took effort to make."""

    shifts: int = 2


def make_shift(dataset, network, job):
    return str(job["shift"]).encode()


def shifted(dataset, network, ipcs, seed, parameters, prepared):
    total = sum(int(path.read_text()) for path in prepared) / 100
    sets = selection.random(dataset, network, ipcs, seed, parameters)
    return {ipc: replace(one, images=one.images + total) for ipc, one in sets.items()}


def shift_jobs(parameters, ipcs):
    return [{"shift": 10**number} for number in range(parameters.shifts)]


def test_what_a_method_prepares_is_made_once_and_shared(tmp_path, scheduler, monkeypatch):
    """By all seeds and sizes, and by a second study beside the first."""
    made = []

    def make(dataset, network, job):
        made.append(job["shift"])
        return make_shift(dataset, network, job)

    entry = Method(shifted, Shifted, shares=False, preparation=Preparation(shift_jobs, make))
    monkeypatch.setitem(METHODS, "shifted", entry)
    methods = {"shifted": {}, "random": {}, "same": {"method": "shifted"}}
    result = study.run(settings(tmp_path / "one", methods=methods, scheduler_address=scheduler))
    assert sorted(made) == [1, 10]  # a variant that asks for the same takes it, too
    assert set(result.trials.query("method == 'same'")["base"]) == {"shifted"}
    sets = result.distilled()
    assert [one.method for one in sets] == ["shifted"] * 2 + ["random"] * 2 + ["same"] * 2
    for moved, plain in zip(sets[:2], sets[2:4], strict=True):
        assert torch.equal(moved.images, plain.images + 0.11)
        assert moved.network == {"name": "mlp", "width": 16, "depth": 2}
    seconds = result.costs.groupby("method")["prepare_seconds"].unique()
    assert seconds["random"] == [0]
    assert len(seconds["shifted"]) == 1
    assert seconds["shifted"][0] > 0
    more = {"methods": {"shifted": {"shifts": 3}}, "scheduler_address": scheduler}
    study.run(settings(tmp_path / "two", **more))
    assert sorted(made) == [1, 10, 100]


def test_experts_that_are_long_enough_are_taken(tmp_path):
    def files(*ks: int) -> list[Path]:
        methods = {"mtt": {"experts": 2, "max_start": {1: 2, 10: 20}}}
        plan = study.prepare(settings(tmp_path / "study", methods=methods, k=list(ks)))
        return [path for _, path in plan.preparations("mtt")]

    short, long = files(3), files(3, 30)
    assert [path.name.rsplit("-", 1)[1] for path in short + long] == ["3", "3", "21", "21"]
    assert len(set(short + long)) == 4
    long[0].parent.mkdir(parents=True)
    long[0].touch()
    long[0].with_name(f"{long[0].name}.seconds").touch()
    assert files(3) == [long[0], short[1]]
    short[0].touch()
    assert files(3) == short
    assert files(3, 30) == long


def test_what_does_not_depend_on_the_network_is_shared_by_networks(tmp_path):
    methods = {"mgd3": {"unet_steps": 3}, "mtt": {"experts": 2}}
    wide, narrow = (
        study.prepare(settings(tmp_path / str(width), methods=methods, network=network))
        for width, network in ((16, GRID["network"]), (8, {"name": "mlp", "width": 8}))
    )
    assert wide.preparations("mgd3") == narrow.preparations("mgd3")
    for (job, path), (again, other) in zip(
        wide.preparations("mtt"), narrow.preparations("mtt"), strict=True
    ):
        assert job == again
        assert path != other
    [(_, unet)] = wide.preparations("mgd3")
    others = {
        "data": {"data": DIGITS | {"per_class": 19}},
        "job": {"methods": {"mgd3": {"unet_steps": 4}}},
    }
    for name, changes in others.items():
        chosen = settings(tmp_path / name, **{"methods": methods, **changes})
        [(_, path)] = study.prepare(chosen).preparations("mgd3")
        assert path != unet


def test_other_weights_in_the_same_folder_are_another_trial(tmp_path):
    weights = tmp_path / "dit" / "weights.bin"
    weights.parent.mkdir()
    methods = {"mgd3": {"generator": str(weights.parent)}, "random": None}
    names = []
    for content in (b"1", b"12", b"1"):
        weights.write_bytes(content)
        trials = study.prepare(settings(tmp_path / "one", methods=methods)).trials
        names.append({trial.method: (trial.set_path, trial.path) for trial in trials})
    first, changed, back = names
    assert first == back
    assert first["random"] == changed["random"]
    assert not set(first["mgd3"]) & set(changed["mgd3"])


def test_a_preparation_that_fails_fails_what_waits_for_it_and_is_tried_again(
    tmp_path, scheduler, monkeypatch
):
    def fail(dataset, network, job):
        raise MemoryError("no room for experts")

    methods = {"methods": {"shifted": {}, "random": {}}, "seeds": 1}
    chosen = settings(tmp_path / "one", **methods, scheduler_address=scheduler)
    for make, failures in ((fail, 2), (make_shift, 0)):
        entry = Method(shifted, Shifted, shares=False, preparation=Preparation(shift_jobs, make))
        monkeypatch.setitem(METHODS, "shifted", entry)
        result = study.run(chosen)
        assert list(result.failures["method"]) == ["shifted"] * failures
        assert set(result.failures["message"]) <= {"MemoryError: no room for experts"}


def test_what_is_under_way_when_another_fails_is_kept(tmp_path, scheduler, monkeypatch):
    begun = []

    def make(dataset, network, job):
        begun.append(job["shift"])
        if len(begun) == 1:
            raise MemoryError("no room for experts")
        time.sleep(1)
        return make_shift(dataset, network, job)

    entry = Method(shifted, Shifted, shares=False, preparation=Preparation(shift_jobs, make))
    monkeypatch.setitem(METHODS, "shifted", entry)
    others = settings(tmp_path / "one", methods={"random": {}}, scheduler_address=scheduler)
    study.run(others)  # so that no network on all data is left to be waited for
    chosen = others.replace(methods={"shifted": {}})
    assert not study.run(chosen).failures.empty
    prepared = study.prepare(chosen).preparations("shifted")
    assert sorted(begun) == [1, 10]
    assert {job["shift"] for job, path in prepared if path.exists()} == {begun[1]}


def test_large_sets_come_first_whatever_is_prepared(tmp_path, scheduler, monkeypatch):
    """A method whose files are there is not put behind those that need none."""
    entry = Method(shifted, Shifted, shares=False, preparation=Preparation(shift_jobs, make_shift))
    monkeypatch.setitem(METHODS, "shifted", entry)
    plain = Method(selection.random, selection.RandomSelection, shares=False)
    monkeypatch.setitem(METHODS, "plain", plain)
    first = settings(tmp_path / "one", methods={"shifted": {}}, scheduler_address=scheduler)
    study.run(first)
    asked, submit = [], running.Running._submit

    async def recorded(self, *call, priority=0):
        if call[0] is work.distil:
            asked.append((call[2], *call[4]))
        return await submit(self, *call, priority=priority)

    monkeypatch.setattr(running.Running, "_submit", recorded)
    methods = {"plain": {}, "shifted": {}}
    chosen = settings(tmp_path / "two", methods=methods, scheduler_address=scheduler, seeds=1)
    ks = [3, 6, 15]
    study.run(chosen.replace(k=ks))
    assert [ipc for _, ipc in asked] == [5, 5, 2, 2, 1, 1]


# Bad input: one clear sentence before anything runs.


def with_method(name: str, **parameters) -> dict:
    return {"methods": {"random": None, name: parameters}}


BAD = {
    "data set": (
        {"data": {"name": "digit"}},
        "'digit' is not a data set, nor the path of a folder of your own data; did you mean "
        "'digits'? allowed: digits, mnist",
    ),
    "data is a name": ({"data": "digits"}, "data must be a table with a name"),
    "data option": (
        {"data": {"name": "digits", "perclass": 3}},
        "'perclass' is not a parameter; did you mean 'per_class'? allowed: ",
    ),
    "class": (
        {"data": {"name": "digits", "classes": [10]}},
        "'10' is not a class of this data set; did you mean '1'? allowed: 0, 1, 2",
    ),
    "per_class": (
        {"data": {"name": "digits", "per_class": "3"}},
        "per_class='3' must be a whole number of at least 1",
    ),
    "zca": (
        {"data": {"name": "digits", "zca": "yes"}},
        "zca='yes' must be true or false",
    ),
    "network": (
        {"network": {"name": "mpl"}},
        "'mpl' is not a network; did you mean 'mlp'? allowed: mlp, convnet",
    ),
    "network is a name": ({"network": "mlp"}, "network must be a table with a name"),
    "network without a name": ({"network": {"width": 3}}, "network must be a table with a name"),
    "network option": (
        {"network": {"name": "mlp", "widht": 3}},
        "the network 'mlp': 'widht' is not a parameter; did you mean 'width'? allowed: width, ",
    ),
    "network argument that is the data's": (
        {"network": {"name": "mlp", "class_count": 3}},
        "'class_count' is not a parameter; allowed: width, depth",
    ),
    "network width in words": (
        {"network": {"name": "mlp", "width": "16"}},
        "the network 'mlp': width='16' must be a whole number of at least 1",
    ),
    "network norm": (
        {"network": {"name": "convnet", "norm": "bacth"}},
        "'bacth' is not a norm; did you mean 'batch'? allowed: instance, ",
    ),
    "network of no depth": (
        {"network": {"name": "convnet", "depth": 0}},
        "the network 'convnet': depth=0 must be a whole number of at least 1",
    ),
    "network too deep": (
        {"network": {"name": "convnet", "depth": 4}},
        "needs images of at least 16 pixels, got 8x8; choose a smaller depth",
    ),
    "training": (
        {"training": {"stpes": 3}},
        "training: 'stpes' is not a parameter; did you mean 'steps'? allowed: steps, batch_size",
    ),
    "training is a list": (
        {"training": [300]},
        "training: this must be a table of names and values",
    ),
    "steps": ({"training": {"steps": 0}}, "training: steps=0 must be a whole number of at least 1"),
    "rate in words": (
        {"training": {"learning_rate": "1e-2"}},
        "training: learning_rate='1e-2' must be a number of at least 0",
    ),
    "schedule": (
        {"training": {"schedule": "cosin"}},
        "training: 'cosin' is not a schedule; did you mean 'cosine'? allowed: constant, cosine",
    ),
    "method": (with_method("dmm"), "'dmm' is not a method; did you mean 'dm'? allowed: random, "),
    "variant of nothing": (with_method("mine", method="dmm"), "'dmm' is not a method; did you"),
    "variant under another method's name": (
        with_method("dc", method="dm"),
        "'dc' cannot name a variant of the method 'dm'; choose a name of letters, digits, _, - and",
    ),
    "variant outside the folder": (
        with_method("../mine", method="dm"),
        "'../mine' cannot name a variant of the method 'dm'",
    ),
    "methods is a list": ({"methods": ["dm"]}, "methods must be a table {name: parameters}"),
    "no methods": ({"methods": {}}, "methods must be a table {name: parameters}, got {}"),
    "method parameter": (
        with_method("dm", iteration=3),
        "'iteration' is not a parameter; did you mean 'iterations'? allowed: ",
    ),
    "method parameter's value": (
        with_method("dc", learning_rate={"one": 0.1}),
        "the method 'dc': learning_rate has 'one' for an ipc; give whole numbers from 1",
    ),
    "ipc": (
        {"k": [3, 63]},
        "ipc=21 is more than the 20 images of class 0; choose ipc <= 20",
    ),
    "k between two sizes": (
        {"k": [3, 7]},
        "k=7 is not a multiple of the 3 classes of digits; choose 6 or 9",
    ),
    "k below the smallest": (
        {"k": [2]},
        "k=2 is not a multiple of the 3 classes of digits; choose 3",
    ),
    "k is one number": (
        {"k": 30},
        "k=30 must be a list of one or more whole numbers of at least 1, such as [10, 50, ",
    ),
    "k is empty": ({"k": []}, "k=[] must be a list of one or more whole numbers"),
    "k in words": ({"k": ["3"]}, "k[0]='3' must be a whole number of at least 1"),
    "k of nothing": ({"k": [3, 0]}, "k[1]=0 must be a whole number of at least 1"),
    "no seeds": ({"seeds": 0}, "seeds=0 must be a whole number of at least 1"),
    "list of seeds": ({"seeds": [0, 1]}, "seeds=[0, 1] must be a whole number of at least 1"),
    "seeds is a truth": ({"seeds": True}, "seeds=True must be a whole number of at least 1"),
    "half an evaluation": ({"evaluations": 0.5}, "evaluations=0.5 must be a whole number"),
    "no workers": ({"workers": 0}, "workers=0 must be a whole number of at least 1"),
    "workers in words": ({"workers": "two"}, "workers='two' must be a whole number of at least 1"),
    "draws": ({"draws": "many"}, "draws='many' must be a whole number of at least 1"),
    "floor_share in words": (
        {"floor_share": "small"},
        "floor_share='small' must be a number above 0",
    ),
    "no floor_share": ({"floor_share": 0}, "floor_share=0 must be a number above 0"),
    "floor_share is a truth": ({"floor_share": True}, "floor_share=True must be a number above 0"),
    "one gap": (
        {"epsilons": 0.05},
        "epsilons=0.05 must be a list of numbers above 0, such as [0.05]",
    ),
    "spread of one number": (
        {"spread": 4},
        "spread: this must be a table of names and values, got 4",
    ),
    "pilot of one number": ({"pilot": 4}, "pilot=4 must be a table, such as {k: [10, 50], ...}"),
    "device": ({"device": "gpu"}, "'gpu' is not a device of this machine; "),
    "precision": (
        {"precision": "fp16"},
        "'fp16' is not a precision; did you mean 'bf16'? allowed: float32, tf32, bf16",
    ),
    "a GPU's precision": (
        {"device": "cpu", "precision": "tf32"},
        "precision='tf32' is a mode of CUDA's units, and the device is 'cpu'; choose",
    ),
    "results is a number": ({"results": 5}, "results=5 must be text, such as results/mine"),
    "results is empty": ({"results": ""}, "results='' must be text"),
    "cache is a number": ({"cache": 5}, "cache=5 must be text"),
    "port for an address": (
        {"scheduler_address": 8786},
        "scheduler_address=8786 must be text, such as tcp://host:8786",
    ),
    "misspelt parameter": (
        {"sedes": 3},
        "'sedes' is not a parameter; did you mean 'seeds'? allowed: data, network",
    ),
    "unknown parameter": (
        {"xyzzy": 3},
        "'xyzzy' is not a parameter; allowed: data, network, training, methods, k,",
    ),
}


def refusal(folder: Path, error: type[Exception], **changes) -> str:
    """The sentence with which a study is refused."""
    with pytest.raises(error) as refused:
        study.run(settings(folder, **changes))
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(("changes", "sentence"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_anything_runs(tmp_path, changes, sentence):
    message = refusal(tmp_path / "study", ValueError, **changes)
    assert sentence in message
    assert list(tmp_path.iterdir()) == []


ANYTHING = [4, 0.5, "", "x", True, None, [], [1], ["x"], [[1]], {}, {"x": 1}, {1: 2}, math.nan]


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_whatever_stands_for_a_parameter_ends_in_a_sentence_at_worst(tmp_path, name):
    family = {
        "configurations": {"a": {}, "b": {"momentum": 0}, "c": {"learning_rate": 1}},
        "families": {"all": ["a", "b"]},
        **{"seeds": 4, "k": [3, 6, 9, 12, 15]},
    }
    check_coverage(settings(tmp_path, **family))
    for value, base in itertools.product(ANYTHING, ({}, family)):
        try:
            chosen = settings(tmp_path, **base | {name: value})
            study.check(chosen)
            check_coverage(chosen)
        except (ValueError, OSError) as refused:
            assert "\n" not in str(refused)  # noqa: PT017


def test_a_size_below_the_smallest_names_one_neighbour_only(tmp_path):
    assert refusal(tmp_path, ValueError, k=[2]).endswith("choose 3")


@pytest.mark.parametrize("name", ["data", "network", "training", "methods", "k", "results"])
def test_a_missing_parameter_is_named(name):
    given = {key: value for key, value in {**GRID, "results": "results/x"}.items() if key != name}
    sentence = f"^this study: the parameter '{name}' is missing; add it to the YAML file"
    with pytest.raises(ValueError, match=sentence):
        read_settings(given)


@pytest.mark.usefixtures("no_workers")
def test_missing_and_truncated_data_are_refused(tmp_path):
    own = tmp_path / "own"
    message = refusal(tmp_path / "study", FileNotFoundError, data={"name": str(own)}, k=[2])
    assert message == f"data folder {own} does not exist; give an existing folder"
    write_own_data(own, seed=0)
    whole = (own / "train.npz").read_bytes()
    (own / "train.npz").write_bytes(whole[: len(whole) // 2])
    message = refusal(tmp_path / "study", ValueError, data={"name": str(own)}, k=[2])
    assert message.startswith(f"{own / 'train.npz'} cannot be read")


@pytest.mark.usefixtures("no_workers")
def test_a_refused_change_leaves_the_settings_of_the_last_run(finished):
    before = (finished.folder / "settings.json").read_bytes()
    refusal(finished.folder, ValueError, k=[3, 7])
    assert (finished.folder / "settings.json").read_bytes() == before


@pytest.mark.parametrize("name", ["alone", "connect"])
def test_settings_are_replaced_with_the_tables_they_belong_to(
    finished, tmp_path, monkeypatch, name
):
    """Here another study waits for its folder in vain, or for workers."""

    def give_up(*_):
        raise KeyboardInterrupt

    folder = finished.copy(tmp_path)
    before = [(folder / name).read_bytes() for name in ("settings.json", "trials.parquet")]
    with monkeypatch.context() as patched:
        patched.setattr(study, name, give_up)
        with pytest.raises(KeyboardInterrupt):
            study.run(settings(folder, seeds=1, k=[9]))
    assert [(folder / n).read_bytes() for n in ("settings.json", "trials.parquet")] == before
    study.run(settings(folder, seeds=1, workers=1))
    assert json.loads((folder / "settings.json").read_text())["seeds"] == 1
    assert set(pd.read_parquet(folder / "trials.parquet")["seed"]) == {0}


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize("name", ["results", "cache"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("a file, so no folder can be below it")
    folder = tmp_path / "file" / "study"
    message = refusal(tmp_path / "fine" / "study", OSError, **{name: str(folder)})
    assert message.startswith(f"cannot write to the folder {folder} (")
    assert "choose another folder" in message
    assert not (tmp_path / "fine" / "study").exists()


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def hasty(given, **others):
        return Client(given, **others | {"timeout": "0.5s"})

    monkeypatch.setattr(distributed, "Client", hasty)
    message = refusal(tmp_path / "study", ValueError, scheduler_address=address)
    assert message.startswith(f"no Dask workers answer at scheduler_address={address!r}; ")
    message = refusal(tmp_path / "study", ValueError, scheduler_address="no://address")
    assert message.startswith("no Dask workers answer at scheduler_address='no://address'; ")


# Notebooks.

DEFAULTS = """# Parameters
data = {"name": "digits"}
network, training = {"name": "mlp"}, {}
methods = {"random": {}}
k = [10, 20]
results = "results/x"
seeds = 5
"""


def executed(*sources: str) -> dict:
    """The namespace of a notebook whose cells have run."""
    namespace = {"In": [""]}
    for source in sources:
        namespace["In"].append(source)
        exec(source, namespace)
    return namespace


def injected(**parameters) -> str:
    """The cell that papermill puts below the parameters cell."""
    cells = [nbformat.v4.new_code_cell(DEFAULTS, metadata={"tags": ["parameters"]})]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": kernel, "papermill": {}}
    )
    [_, cell] = parameterize_notebook(notebook, parameters).cells
    return cell.source


def test_the_parameters_cell_gives_the_settings():
    namespace = executed(DEFAULTS, "import pandas as pd\nanswer = 42")
    given = notebook_parameters(namespace)
    assert given == {
        **{"data": {"name": "digits"}, "network": {"name": "mlp"}, "training": {}},
        **{"methods": {"random": {}}, "k": [10, 20], "results": "results/x", "seeds": 5},
    }
    assert read_settings(given).evaluations == 1


def test_papermill_overrides_the_parameters_cell():
    """Papermill writes the keys of a table as text, which must not change what a table means."""
    rates = {1: 1, 100: 50.5}
    defaults = notebook_parameters(executed(DEFAULTS))
    changed = defaults | {"seeds": 2, "methods": {"dm": {"learning_rate": rates}}}
    injection = injected(**changed, workers=None)
    given = notebook_parameters(executed(DEFAULTS, injection, "seedz = 7"))
    assert given.keys() == defaults.keys() | {"workers"}
    unchanged = defaults.keys() - {"seeds", "methods"}
    assert {name: given[name] for name in unchanged} == {name: defaults[name] for name in unchanged}
    read = read_settings(given)
    assert (read.seeds, read.workers) == (2, None)
    assert read_methods(read)["dm"][1].learning_rate == rates


def test_a_file_that_is_no_study_of_its_own_changes_the_notebooks_example():
    given = notebook_parameters(executed(DEFAULTS, injected(seeds=2)))
    assert given == notebook_parameters(executed(DEFAULTS)) | {"seeds": 2}


def test_a_study_of_its_own_must_give_all_that_has_no_default():
    given = notebook_parameters(executed(DEFAULTS, injected(data={"name": "mnist"}, k=[10])))
    assert given == {"data": {"name": "mnist"}, "k": [10]}
    sentence = "the parameter 'network' is missing; add it to the YAML file"
    with pytest.raises(ValueError, match=sentence):
        read_settings(given)


def test_papermill_cannot_inject_a_name_the_study_does_not_know():
    namespace = executed(DEFAULTS, injected(sedes=2))
    with pytest.raises(ValueError, match="'sedes' is not a parameter; did you mean"):
        read_settings(notebook_parameters(namespace))


def test_a_misspelling_that_is_put_right_is_forgotten():
    """In JupyterLab the cell is edited and run again; the old name is still in the namespace."""
    namespace = executed(DEFAULTS + "sedes = 2\n", DEFAULTS.replace("seeds = 5", "seeds = 2"))
    assert namespace["sedes"] == 2
    assert read_settings(notebook_parameters(namespace)).seeds == 2


def test_results_lie_in_the_project_wherever_the_notebook_runs(tmp_path, monkeypatch):
    (tmp_path / "project" / "notebooks" / "deep").mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").touch()
    (tmp_path / "pyproject.toml").touch()  # of another project, which holds this one
    expected = tmp_path / "project" / "results" / "x"
    for where in ("project", "project/notebooks", "project/notebooks/deep"):
        monkeypatch.chdir(tmp_path / where)
        assert from_root("results/x") == expected
    assert from_root(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    assert from_root("results/x") == tmp_path / "results" / "x"
    (tmp_path / "pyproject.toml").unlink()
    assert from_root("results/x") == tmp_path / "results" / "x"


# Several configurations.

SEVERAL = {
    "configurations": {
        "own": {},
        "adam": {"optimizer": "adam", "learning_rate": 0.01},
        "lenet": {"network": {"name": "lenet"}},
        "taught": {"initialisation": "contrastive", "pretraining": {"steps": 2}},
    },
    "families": {"all": ["own", "adam", "lenet", "taught"], "own alone": ["own"]},
    "methods": {"random": None, "dm": DM},
    "k": [3],
    "seeds": 2,
    "evaluations": 1,
    "probe": 7,
    "converged": {"passes": 6},
}


def test_every_set_is_distilled_once_and_evaluated_under_every_configuration(tmp_path, scheduler):
    chosen = settings(tmp_path / "several", scheduler_address=scheduler, **SEVERAL)
    result = study.run(chosen)
    assert result.failures.empty
    names = list(SEVERAL["configurations"])
    rows = result.trials[["configuration", "method", "seed"]].itertuples(index=False)
    assert [tuple(row) for row in rows] == list(itertools.product(names, ["random", "dm"], [0, 1]))
    assert list(result.trials["network"].iloc[[0, 4, 8, 12]]) == ["mlp", "mlp", "lenet", "mlp"]
    assert len(list((tmp_path / "several/distilled").glob("*.safetensors"))) == 4
    assert len(result.distilled(seed=0)) == 2
    assert result.plan.families["all"].members == tuple(names)
    full = result.references.query("reference == 'converged'")
    full = full.set_index(["configuration", "seed"])["error"]
    for row in result.trials.to_dict("records"):
        assert row["gap_error"] == row["error"] - full[row["configuration"], row["seed"]]
    assert result.trials["cross_entropy"].nunique() == len(result.trials)
    assert set(result.under().trials["configuration"]) == {"own"}
    part = result.under("lenet")
    assert len(part.trials) == len(part.costs) == 4
    assert list(part.references["seed"]) == [0, 0, 1, 1]


def test_a_set_under_another_configuration_is_what_a_plain_training_gives(tmp_path, scheduler):
    chosen = settings(tmp_path / "several", scheduler_address=scheduler, **SEVERAL)
    result = study.run(chosen)
    dataset = load(**DIGITS)
    network = networks.build("lenet", dataset.image_shape, 3)
    [synthetic] = [one for one in result.distilled(1) if one.method == "dm"]
    recipe = Recipe(steps=20, batch_size=16, learning_rate=0.05)
    score = train_and_score(
        network, synthetic.images, synthetic.labels, dataset.test, recipe, (1, 0)
    )
    [row] = result.trials.query(
        "configuration == 'lenet' and method == 'dm' and seed == 1"
    ).itertuples()
    assert (row.accuracy, row.cross_entropy) == (score.accuracy, score.cross_entropy)


def test_what_trained_networks_showed_on_the_probe_images(tmp_path, scheduler):
    """Probabilities and features at the end; logits' changes over four quarters of the training."""
    chosen = settings(tmp_path / "several", scheduler_address=scheduler, **SEVERAL)
    shown = study.run(chosen).observed("adam")
    dataset = load(**DIGITS)
    count = len(dataset.test.labels)
    seen = dataset.test.images[[i * count // 7 for i in range(7)]]
    network = networks.build("mlp", dataset.image_shape, 3, width=16, depth=2)
    recipe = Recipe(steps=20, batch_size=16, learning_rate=0.01, optimizer="adam")
    for seed in (0, 1):
        theta = initial_parameters(network, generator("evaluation weights", (seed, 0)))
        stream = generator("evaluation batches", (seed, 0))
        real, scores = dataset.train, [networks.logits(network, theta, seen)]
        steps = training_steps(network, theta, real.images, real.labels, recipe, stream)
        for number, theta in enumerate(steps, 1):
            if number in (5, 10, 15, 20):
                scores.append(networks.logits(network, theta, seen))
        scores = [each - each.mean(1, keepdim=True) for each in scores]
        moved = torch.stack([b - a for a, b in itertools.pairwise(scores)]).flatten(1)
        assert np.allclose(shown["probabilities"][seed], scores[-1].softmax(1), atol=1e-6)
        assert np.allclose(shown["increments"][seed], moved, rtol=2e-3, atol=1e-4)
        features = networks.embed(network, theta, seen)
        assert np.allclose(shown["features"][seed], features, rtol=2e-3, atol=1e-4)


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"configurations": {}}, "configurations must be a table"),
        (
            {"configurations": {"small": {"network": {"name": "vit", "patch": 9}}}},
            "the configuration 'small' does not fit digits: patch=9 is larger",
        ),
        ({"configurations": {"a": {"optimizer": "adan"}}}, "did you mean 'adam'"),
        ({"families": {"f": ["own", "b"]}}, "'b' is not a configuration of 'f'"),
        ({"probe": 0}, "probe=0 must be a whole number of at least 1"),
    ],
)
def test_bad_configurations_are_refused_before_anything_runs(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        study.run(settings(tmp_path / "study", **change))


def test_a_configuration_without_a_reference_is_left_out_of_families(tmp_path, scheduler):
    """One network on all data that diverges takes its configuration, and no other with it."""
    wild = {"wild": {"learning_rate": 1e30}}
    changes = {
        "configurations": SEVERAL["configurations"] | wild,
        "families": {"all": ["own", "wild", "lenet"], "wild alone": ["wild"]},
    }
    chosen = settings(tmp_path / "wild", scheduler_address=scheduler, **SEVERAL | changes)
    result = study.run(chosen)
    tabled = tables.read(tmp_path / "wild")
    assert tabled.configurations == ["own", "adam", "lenet", "taught"]
    assert tabled.families == {
        "all configurations": ("own", "adam", "lenet", "taught"),
        "all": ("own", "lenet"),
    }
    assert result.observed("wild") == {}
    assert set(result.failures["configuration"]) == {"wild"}
    assert result.failures["method"].str.startswith("all data").sum() == 4


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ({"faster": {"learning_rate": 0.1}, "seen": {"augmentation": "dsa"}}, "seen"),
        ({"both": {"learning_rate": 0.1, "augmentation": "dsa"}}, None),
        ({}, None),
    ],
)
def test_the_augmented_part_differs_in_augmenting_alone(tmp_path, scheduler, others, found):
    configurations = {"own": {}, **others}
    changes = {**SEVERAL, "configurations": configurations, "families": None, "seeds": 1}
    result = study.run(settings(tmp_path / "x", scheduler_address=scheduler, **changes))
    part = result.augmented
    assert (part and part.trials["configuration"].unique().tolist()) == (found and [found])


def test_a_training_shorter_than_its_parts_is_observed_too(tiny):
    network = networks.build("mlp", tiny.image_shape, 3, width=4, depth=1)
    theta = initial_parameters(network, generator("few"))
    recipe = Recipe(steps=2, batch_size=8)
    _, content = train_and_observe(network, theta, tiny.train, tiny.test, recipe, 0, 5)
    moved = parse(content)["increments"]
    assert moved.shape == (4, 15)
    still = [bool((part == 0).all()) for part in moved]
    assert still == [True, False, True, False]  # the steps end the second and the last part


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("pilot", "message"),
    [
        ({"k": [3]}, "pilot needs configurations, a list of some of this study's, got None"),
        ({"configurations": ["own"]}, "pilot needs k"),
        ({"k": [30], "configurations": ["own"]}, "'30' is not a k of this study; did you mean '3'"),
        ({"k": [3], "configurations": ["grid"]}, "'grid' is not a configurations of this study"),
        ({"ks": [3]}, "'ks' is not a parameter of pilot"),
    ],
)
def test_a_bad_pilot_is_refused_before_anything_runs(tmp_path, pilot, message):
    configurations = {"own": {}, "grid": {"product": {"optimizer": ["adam", "rmsprop"]}}}
    with pytest.raises(ValueError, match=message):
        study.run(settings(tmp_path / "x", configurations=configurations, pilot=pilot))
    fine = {"k": [3], "configurations": ["own", "grid-adam"]}
    study.prepare(settings(tmp_path / "x", configurations=configurations, pilot=fine))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"configurations": {"own": {}, "adam": {"optimizer": "adam"}}}, "2 configurations make"),
        ({"families": None}, "families is missing"),
        ({"seeds": 3}, "seeds=3 are too few to measure distances; choose >= 4"),
        ({"probe": 19}, "probe=19 are too few"),
        ({"spread": {"size": 4, "count": 2}}, "size=4 gives no choice among 4 configurations"),
        ({"k": [3, 6, 9]}, r"the pilot's k=\[3, 6\] are too few to fit a law; give at least 3"),
        ({"pilot": {"k": [3, 6], "configurations": ["own"]}}, "too few to fit a law; give at lea"),
        ({"pilot": {"k": [3]}}, "pilot needs configurations"),
    ],
)
def test_a_study_too_small_for_coverage_is_refused(tmp_path, changes, message):
    enough = {**SEVERAL, "seeds": 4, "probe": 20, "spread": {"size": 3, "count": 2}}
    enough["k"] = [3, 6, 9, 12, 15]
    check_coverage(settings(tmp_path, **enough))
    part = {"k": [3, 6, 9, 12], "pilot": {"k": [3, 6, 9], "configurations": ["own"]}}
    check_coverage(settings(tmp_path, **enough | part))
    with pytest.raises(ValueError, match=message):
        check_coverage(settings(tmp_path, **enough | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"spread": {"size": 1, "count": 2}},
            "spread: size=1 must be a whole number of at least 2",
        ),
        ({"spread": {"size": 2}}, "spread: the parameter 'count' is missing; add it"),
        ({"spread": {"sizes": 2}}, "spread: 'sizes' is not a parameter"),
        ({"epsilons": [0.1, 0]}, r"epsilons\[1\]=0 must be a number above 0"),
        ({"configurations": ["own"]}, "configurations must be a table"),
    ],
)
def test_bad_settings_of_coverage_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        study.prepare(settings(tmp_path / "x", **changes))
