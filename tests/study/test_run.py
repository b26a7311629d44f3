"""A study: what is in its tables, what a rerun does, and what happens when something goes wrong.

Worker processes take seconds to start, so most tests run on a scheduler inside the test process.
"""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from clusters import heed_interrupts, held, in_process, write_holding
from grids import DC, DIGITS, DM, GRID, settings

from ddlib.data.base import Split
from ddlib.data.load import load
from ddlib.devices import precision
from ddlib.explore import tables
from ddlib.methods import METHODS, Method, Preparation, selection
from ddlib.networks import functional as networks
from ddlib.networks.initial import initial_parameters
from ddlib.parameters import Parameters
from ddlib.seeds import generator
from ddlib.study import jobs, provenance, store
from ddlib.study.results import Result, collect
from ddlib.study.run import run
from ddlib.study.settings import Settings
from ddlib.training.divergence import DivergedError
from ddlib.training.loop import train_and_score, training_steps
from ddlib.training.recipe import Recipe, hold_out

SMALL = {"methods": {"random": None}, "seeds": 1, "reference": "same_steps"}
LAST = ("settings.json", "provenance.json")  # written at the end of every run
TABLES = ("trials", "references", "costs")


def mlp() -> networks.Network:
    return networks.build("mlp", (1, 8, 8), 3, width=16, depth=2)


def recipe(steps: int, **changes) -> Recipe:
    return Recipe(**{"steps": int(steps), "batch_size": 16, "learning_rate": 0.05} | changes)


def stamps(root: Path) -> dict[str, int]:
    """When each result below `root` was last written: trials, sets, references."""
    files = [path for path in root.rglob("*") if path.suffix in (".json", ".safetensors")]
    return {path.name: path.stat().st_mtime_ns for path in files if path.name not in LAST}


@dataclass(frozen=True)
class Finished:
    result: Result
    folder: Path

    def table(self, name: str) -> bytes:
        return (self.folder / f"{name}.parquet").read_bytes()

    def copy(self, root: Path) -> Path:
        """Copy the study and its cache below `root`; return the study's folder there."""
        return shutil.copytree(self.folder.parent, root / "copy") / self.folder.name


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("finished") / "grid"
    return Finished(run(settings(folder, workers=2)), folder)


NOBODY = {"scheduler_address": "tcp://127.0.0.1:1"}  # a study that asks for workers is refused


def test_the_tables_have_a_row_for_every_trial_and_evaluation(finished):
    trials, costs = finished.result.trials, finished.result.costs
    grid = list(itertools.product(["random", "dm", "dc"], [1, 2], [0, 1], [0, 1]))
    rows = trials[["method", "ipc", "seed", "evaluation"]].itertuples(index=False)
    assert [tuple(row) for row in rows] == grid
    assert list(trials["k"]) == [3 * ipc for _, ipc, _, _ in grid]
    assert set(trials["status"]) == {"ok"}
    assert finished.result.failures.empty
    assert len(costs) == 12
    assert (costs[["distil_seconds", "evaluate_seconds"]] > 0).all(axis=None)
    assert (costs["prepare_seconds"] == 0).all()
    sets = finished.result.distilled(seed=1)
    assert [(one.method, one.ipc, one.seed) for one in sets] == [
        (method, ipc, 1) for method in ("random", "dm", "dc") for ipc in (1, 2)
    ]
    for name in TABLES:
        written = pd.read_parquet(finished.folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(written, getattr(finished.result, name), check_exact=True)


def test_a_gap_is_measured_from_the_seeds_own_network_on_all_data(finished):
    references = finished.result.references
    full = references.set_index(["seed", "reference"])
    for row in finished.result.trials.to_dict("records"):
        for measure, (name, kind) in itertools.product(
            ("error", "cross_entropy"), (("", "converged"), ("_same_steps", "same_steps"))
        ):
            gap = row[measure] - full.loc[(row["seed"], kind), measure]
            assert row[f"gap_{measure}{name}"] == gap


def test_nothing_is_left_but_results(finished):
    files = [path for path in finished.folder.parent.rglob("*") if path.is_file()]
    assert Counter(f"{path.parent.name}/{path.suffix}" for path in files) == {
        **{"trials/.json": 12, "distilled/.safetensors": 12, "distilled/.seconds": 12},
        **{"references/.json": 4, "observed/.safetensors": 2, "data/.safetensors": 1},
        **{"lengths/.json": 1, "lengths/.seconds": 1},
        **{"grid/.parquet": 4, "grid/.json": 2, "grid/": 1},
    }
    kept = json.loads((finished.folder / "settings.json").read_text())
    assert kept["seeds"] == 2
    assert not {"workers", "scheduler_address"} & set(kept)
    assert list(kept["methods"]) == ["random", "dm", "dc"]  # in the order of the study
    assert set(kept["methods"]["dm"]) == {"method", *METHODS["dm"].parameters.model_fields}
    assert Settings.read(kept).methods == finished.result.plan.settings.methods


@pytest.mark.parametrize("method", ["random", "dm", "dc"])
def test_a_trial_is_what_its_own_call_gives(finished, method):
    """Distilled alone, in this process, a set of the sweep is the same to the last bit."""
    dataset = load(**DIGITS)
    parameters = METHODS[method].parameters(**(GRID["methods"][method] or {}))
    synthetic = METHODS[method].distil(dataset, mlp(), [2], 1, parameters)[2]
    [kept] = [one for one in finished.result.distilled(1) if (one.method, one.k) == (method, 6)]
    assert torch.equal(kept.samples, synthetic.samples)
    rows = finished.result.trials.query("method == @method and k == 6 and seed == 1")
    for row in rows.itertuples():
        given = synthetic.samples, synthetic.labels, dataset.test, recipe(20), (1, row.evaluation)
        score = train_and_score(mlp(), *given)
        assert (score.accuracy, score.cross_entropy) == (row.accuracy, row.cross_entropy)
    assert rows["cross_entropy"].nunique() == 2


def test_a_reference_is_the_same_training_on_all_data(finished):
    """The converged one takes the steps at which the risk on images held out is least."""
    dataset = load(**DIGITS)
    real, held_out = dataset.train, hold_out(dataset.train.labels, 0.5)
    rest, tested = (Split(real.samples[at], real.labels[at]) for at in (~held_out, held_out))
    given = mlp(), rest.samples, rest.labels, tested
    risks = [train_and_score(*given, recipe(steps), (0, 0)).cross_entropy for steps in (20, 40, 80)]
    assert risks[1] == min(risks)
    references = finished.result.references
    assert list(references["steps"]) == [40, 20] * 2
    assert not references["capped"].any()
    assert list(references["passes"]) == [40 * 16 / 60, 20 * 16 / 60] * 2
    for row in references.itertuples():
        given = real.samples, real.labels, dataset.test, recipe(row.steps), (row.seed, 0)
        score = train_and_score(mlp(), *given)
        assert (score.accuracy, score.cross_entropy) == (row.accuracy, row.cross_entropy)
        assert score.balanced_accuracy == row.balanced_accuracy


def test_networks_compute_in_the_precision_of_the_study(tmp_path, address):
    given = SMALL | {"precision": "bf16", "scheduler_address": address}
    result = run(settings(tmp_path / "study", **given))
    dataset, [synthetic, _] = load(**DIGITS), result.distilled()
    given = synthetic.samples, synthetic.labels, dataset.test, recipe(20), (0, 0)
    with precision("bf16", "cpu"):
        score = train_and_score(mlp(), *given)
    assert result.trials["cross_entropy"][0] == score.cross_entropy


def test_a_seed_whose_network_on_all_data_diverged_has_no_gap(finished, tmp_path):
    """Its accuracy stays, its gap is missing, and the other seed's gaps are what they were."""
    folder = finished.copy(tmp_path)
    [path] = folder.parent.glob("cache/references/digits-seed1-converged-*")
    lost = DivergedError(3, "the training loss")
    path.write_text(json.dumps(store.failure(lost)))
    result = run(settings(folder, **NOBODY))
    kept, lacking = (result.trials.query(f"seed == {seed}") for seed in (0, 1))
    assert lacking[["gap_error", "gap_cross_entropy"]].isna().all(axis=None)
    assert lacking[["accuracy", "gap_error_same_steps"]].notna().all(axis=None)
    message = f"no gap to the network on all data (converged), which diverged: {lost}"
    assert set(lacking["message"]) == {message}
    assert kept.equals(finished.result.trials.query("seed == 0"))
    assert tables.read(folder).gaps["gap_error"].isna().sum() == len(lacking)


def test_only_what_is_missing_is_done_again(finished, tmp_path, address):
    """At first nothing is."""
    folder = finished.copy(tmp_path)
    before = stamps(folder.parent)
    run(settings(folder, **NOBODY))
    assert stamps(folder.parent) == before
    assert all((folder / f"{n}.parquet").read_bytes() == finished.table(n) for n in TABLES)
    patterns = ["trials/dm-ipc2-seed1-*", "trials/dc-ipc1-seed0-*"]
    patterns += ["distilled/dc-ipc1-seed0-*.safetensors", "../cache/observed/digits-seed1-*"]
    lost = [path for pattern in patterns for path in folder.glob(pattern)]
    [reference] = folder.parent.glob("cache/references/digits-seed1-same_steps-*")
    for path in lost:
        path.unlink()
    run(settings(folder, scheduler_address=address))
    after = stamps(folder.parent)
    written = {name for name in after if before.get(name) != after[name]}
    assert written == {path.name for path in [*lost, reference]}
    for name in ("trials", "references"):
        assert (folder / f"{name}.parquet").read_bytes() == finished.table(name)


SCRIPT = """
from ddlib.study import run, settings

def main():
    run.run(settings.Settings.read({given!r}))

{call}
"""


def script(tmp_path: Path, given: dict, call="if __name__ == '__main__':\n    main()") -> list:
    """Return the command of a process that runs a study."""
    table = settings(tmp_path / "study", **given).table
    (tmp_path / "script.py").write_text(SCRIPT.format(given=table, call=call))
    return [sys.executable, str(tmp_path / "script.py")]


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_an_interrupted_study_goes_on(tmp_path, address):
    """Both happen in the midst of a trial that does not end before a folder is gone."""
    hold = tmp_path / "hold"
    given = {"extensions": [str(write_holding(tmp_path / "holding.py", hold))]}
    given |= {"methods": {"random": None, "holding": {}}}
    run(settings(tmp_path / "undisturbed" / "study", scheduler_address=address, **given))
    hold.mkdir()
    study = subprocess.Popen(
        script(tmp_path, given | {"workers": 1}),
        **{"stderr": subprocess.PIPE, "start_new_session": True, "text": True},
        preexec_fn=heed_interrupts,
    )
    worker = held(hold)
    (hold / "held").unlink()
    os.kill(worker, signal.SIGKILL)
    assert held(hold) != worker
    os.killpg(study.pid, signal.SIGINT)  # as a terminal's Ctrl-C
    said = study.communicate(timeout=240)[1]
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert said.count("Traceback") == 1
    shutil.rmtree(hold)
    before = stamps(tmp_path / "study")
    run(settings(tmp_path / "study", scheduler_address=address, **given))
    assert before.items() <= stamps(tmp_path / "study").items()
    for name in ("trials", "references"):
        tables = [tmp_path / part / f"{name}.parquet" for part in ("study", "undisturbed/study")]
        assert tables[0].read_bytes() == tables[1].read_bytes()


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    ended = subprocess.run(
        script(tmp_path, SMALL | {"workers": 1}, call="main()"),
        **{"capture_output": True, "text": True, "timeout": 300},
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("OSError: worker processes do not start on this machine: ")
    assert last.endswith('put what runs a study under `if __name__ == "__main__":`')


def test_a_diverged_size_is_recorded_and_the_others_go_on(finished, tmp_path, address):
    """The first step is taken from finite images; its huge rate is what breaks the next one."""
    folder = finished.copy(tmp_path)
    methods = {"dm": DM | {"learning_rate": {1: 1e30, 2: 1.0}}, "dc": DC}
    result = run(settings(folder, methods=methods, seeds=1, scheduler_address=address))
    [row] = result.failures.to_dict("records")
    assert row == {
        **{"configuration": "own", "method": "dm", "k": 3, "seed": 0, "status": "diverged"},
        "message": "the matching loss stopped being a finite number at step 1; choose a smaller "
        "learning rate",
    }
    measures = ["accuracy", "error", "cross_entropy", "gap_error", "gap_cross_entropy"]
    assert result.trials.query("status != 'ok'")[measures].isna().all(axis=None)
    query = "seed == 0 and (method == 'dc' or method == 'dm' and k == 6)"
    before, after = (one.trials.query(query) for one in (finished.result, result))
    places = ["method", "k", "evaluation"]
    assert np.array_equal(before.sort_values(places)[measures], after.sort_values(places)[measures])


def register(monkeypatch, name: str, distil, preparation: Preparation | None = None) -> None:
    monkeypatch.setitem(METHODS, name, Method(distil, Parameters, preparation=preparation))


def crash(synthetic):
    raise MemoryError("no room for 6 images")


NO_SET = "ValueError: the method returned no valid set: it should "
BROKEN = {
    "crash": (crash, "MemoryError: no room for 6 images"),
    "nothing": (lambda synthetic: None, f"{NO_SET}be a DistilledSet of ipc=2, not NoneType"),
    "other": (lambda synthetic: replace(synthetic, seed=1), f"{NO_SET}hold seed 0, not 1"),
}


def test_what_fails_is_recorded_and_tried_again(tmp_path, address, monkeypatch):
    def broken_method(change):
        def distil(dataset, network, ipc, seed, parameters):
            synthetic = selection.random(dataset, network, [ipc], seed, parameters)[ipc]
            return change(synthetic) if broken and (ipc, seed) == (2, 0) else synthetic

        return distil

    for name, (change, _) in BROKEN.items():
        register(monkeypatch, name, broken_method(change))
    methods = dict.fromkeys([*BROKEN, "random"])
    chosen = settings(tmp_path / "study", methods=methods, scheduler_address=address)
    broken = True
    result = run(chosen)
    place = {"configuration": "own", "k": 6, "seed": 0, "status": "failed"}
    assert result.failures.to_dict("records") == [
        {**place, "method": name, "message": message} for name, (_, message) in BROKEN.items()
    ]
    before, broken = stamps(tmp_path), False
    again = run(chosen)
    assert again.failures.empty
    written = {name for name, time in stamps(tmp_path).items() if before.get(name) != time}
    assert {name.rsplit("-", 1)[0] for name in written} == {f"{n}-ipc2-seed0" for n in BROKEN}
    measures = ["k", "seed", "evaluation", "accuracy", "cross_entropy", "gap_error"]
    *others, plain = (again.trials.query("method == @name")[measures] for name in methods)
    assert all(np.array_equal(trials, plain) for trials in others)


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        ("grid/trials/dc-ipc1-*.json", b""),
        ("grid/distilled/dc-ipc1-*.seconds", b'{"status": "ok", "mess'),
        ("cache/references/*.json", b'{"status": "ok"}'),
        ("cache/observed/*.safetensors", b"null"),
        ("cache/data/*.safetensors", b"null"),
    ],
)
def test_an_unreadable_record_is_named_and_left_as_it_is(finished, tmp_path, pattern, content):
    folder = finished.copy(tmp_path)
    path = next(folder.parent.glob(pattern))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is not whole \(.*\); delete it, and run again"):
        run(settings(folder, **NOBODY)).observed("own")
    assert path.read_bytes() == content


def test_an_unreadable_file_that_a_job_starts_from_is_named(tmp_path, address):
    mtt = {"iterations": 1, "student_steps": 1, "expert_epochs": 1, "max_start": 1, "experts": 1}
    taught = {"initialisation": "rotation", "pretraining": {"steps": 2}}
    changes = {"configurations": {"taught": taught}, "methods": {"mtt": mtt, "random": None}}
    changes |= {"scheduler_address": address, "k": [3], "seeds": 1, "reference": "same_steps"}
    chosen = settings(tmp_path / "study", **changes)
    assert run(chosen).failures.empty

    def break_files(*patterns: str) -> list[Path]:
        """Empty files as a loss of power does."""
        paths = [path for pattern in patterns for path in tmp_path.glob(pattern)]
        for path in paths:
            path.write_bytes(b"")
        return paths

    shutil.rmtree(tmp_path / "study/trials")
    [path] = break_files("study/distilled/random*.safetensors")
    [message] = run(chosen).failures["message"]
    assert message.startswith(f"ValueError: {path} is not a whole distilled set (")
    shutil.rmtree(tmp_path / "study")
    shutil.rmtree(tmp_path / "cache" / "references")
    expert, body = break_files(
        f"cache/prepared/trajectory-digits-{'?' * 12}", "cache/pretrained/*.safetensors"
    )
    failures = run(chosen).failures
    assert list(failures["method"]) == ["all data, same_steps", "mtt", "random"]
    for row in failures.itertuples():
        path = expert if row.method == "mtt" else body
        assert row.message.startswith(f"ValueError: {path} is not whole (")


def shifting(monkeypatch, make) -> None:
    """Register the method `shifted`: random images, each moved by numbers that `make` makes."""

    def distil(dataset, network, ipc, seed, parameters, prepared):
        total = sum(int(path.read_text()) for path in prepared) / 100
        plain = selection.random(dataset, network, [ipc], seed, parameters)[ipc]
        return replace(plain, samples=plain.samples + total)

    shifts = Preparation(lambda parameters, ipcs: [{"shift": 1}, {"shift": 10}], make)
    register(monkeypatch, "shifted", distil, shifts)


def test_what_is_prepared_is_made_once_by_two_studies_at_once(tmp_path, address, monkeypatch):
    made = []

    def make(dataset, network, job):
        made.append(job["shift"])
        threading.Event().wait(0.5)  # for the other study to come to it
        return str(job["shift"]).encode()

    shifting(monkeypatch, make)
    methods = {"shifted": {}, "random": {}, "same": {"method": "shifted"}}
    with in_process() as other, ThreadPoolExecutor() as threads:
        studies = [
            settings(tmp_path / where, methods=methods, scheduler_address=where_to)
            for where, where_to in (("one", address), ("two", other))
        ]
        one, two = threads.map(run, studies)
    assert sorted(made) == [1, 10]
    assert one.trials.equals(two.trials)
    assert one.references.equals(two.references)
    assert set(one.trials.query("method == 'same'")["base"]) == {"shifted"}
    sets = one.distilled()
    for moved, plain in zip(sets[:2], sets[2:4], strict=True):
        assert torch.equal(moved.samples, plain.samples + 0.11)
        assert moved.network == {"name": "mlp", "width": 16, "depth": 2}
    seconds = one.costs.groupby("method")["prepare_seconds"].first()
    assert seconds["random"] == 0 < seconds["shifted"]
    for _, path in two.plan.preparations("shifted"):
        store.write_seconds(path, 3600.0)
    provenance.write_provenance(collect(two.plan), [])
    hours = json.loads((two.plan.folder / "provenance.json").read_text())["core_hours"]
    assert hours["preparations"] == 2  # two files, that two methods share
    for _, path in two.plan.preparations("shifted"):
        store.write_seconds(path, 0.0)  # shorter than the clock can tell
    assert (collect(two.plan).costs["prepare_seconds"] == 0).all()
    path.with_name(f"{path.name}.seconds").unlink()
    seconds = collect(two.plan).costs.groupby("method")["prepare_seconds"].min()
    assert seconds[["random", "shifted"]].isna().tolist() == [False, True]


def test_a_preparation_that_fails_fails_what_waits_for_it(tmp_path, address, monkeypatch):
    made = []

    def make(dataset, network, job):
        made.append(job["shift"])
        if len(made) == 1:
            raise MemoryError("no room for experts")
        return str(job["shift"]).encode()

    shifting(monkeypatch, make)
    given = SMALL | {"methods": {"shifted": {}, "random": {}}}
    chosen = settings(tmp_path / "study", scheduler_address=address, **given)
    failures = run(chosen).failures
    assert list(failures["method"]) == ["shifted", "shifted"]
    assert set(failures["message"]) == {"MemoryError: no room for experts"}
    assert run(chosen).failures.empty
    assert {*made[:2]} == {1, 10}
    assert made[2:] == made[:1]  # what was under way when another failed is kept


def test_who_comes_second_to_a_results_folder_says_so_and_waits(tmp_path, capsys):
    order = []

    def second():
        with store.alone(tmp_path):
            order.append("second")

    with store.alone(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.3)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    said = f"another process is at work in {tmp_path}; waiting for it to end\n"
    assert capsys.readouterr().out == said


def test_every_set_of_a_job_has_its_own_networks_scores(finished):
    plan = finished.result.plan
    trials = [one for one in plan.trials if (one.method, one.ipc) == ("random", 1)]
    lost = store.failure(ValueError("lost"))

    def evaluate(trials, evaluations, failed):
        with store.alone(plan.folder):
            given = plan.context, trials, evaluations, plan.first, (None, None), failed
            return [record["scores"] for record in jobs.evaluate(*given)]

    scores = evaluate(trials, 2, [])
    assert scores == [evaluate([trial], 2, [])[0] for trial in trials]
    assert [trial_scores[:1] for trial_scores in scores] == evaluate(trials, 1, [])
    assert evaluate(trials, 2, [{trials[0].set_path: lost}]) == [[], scores[1]]


# Several configurations.

SEVERAL = {
    "configurations": {
        "own": {},
        "adam": {"optimizer": "adam", "learning_rate": 0.01},
        "lenet": {"network": {"name": "lenet"}, "augmentation": "dsa"},
        "taught": {"initialisation": "contrastive", "pretraining": {"steps": 2}},
        **{"seen": {"augmentation": "dsa"}, "wild": {"learning_rate": 1e30}},
    },
    "families": {"all": ["own", "wild", "lenet"], "wild alone": ["wild"]},
    "methods": {"random": None, "dm": DM},
    **{"k": [3], "seeds": 5, "evaluations": 1, "probe": 7, "reference": "same_steps"},
}


@pytest.fixture(scope="module")
def several(tmp_path_factory, address) -> Result:
    folder = tmp_path_factory.mktemp("several") / "study"
    return run(settings(folder, scheduler_address=address, **SEVERAL))


def test_every_set_is_distilled_once_and_evaluated_under_every_configuration(several):
    grid = itertools.product(SEVERAL["configurations"], ["random", "dm"], range(5))
    rows = several.trials[["configuration", "method", "seed"]].itertuples(index=False)
    assert [tuple(row) for row in rows] == list(grid)
    assert len(list(several.plan.folder.glob("distilled/*.safetensors"))) == 10
    full = several.references.set_index(["configuration", "seed"])["error"]
    for row in several.trials.query("configuration != 'wild'").to_dict("records"):
        assert row["gap_error"] == row["error"] - full[row["configuration"], row["seed"]]
        assert row["gap_error"] == row["gap_error_same_steps"]
    assert not (several.plan.cache / "lengths").exists()
    part = several.under("lenet")
    assert len(part.trials) == len(part.costs) == 10
    assert list(part.references["seed"]) == [0, 1, 2, 3, 4]
    assert set(several.other_augmentation.trials["configuration"]) == {"seen"}


def test_ars_finds_the_other_configuration_also_where_the_first_augments(several):
    parts = several.plan.settings.table["configurations"]
    for names, other in ((["seen", "adam", "own"], {"own"}), (["lenet", "seen"], set())):
        table = GRID | SEVERAL | {"results": "results/unused", "families": {}}
        chosen = Settings.read(table | {"configurations": {name: parts[name] for name in names}})
        part = replace(several, plan=replace(several.plan, settings=chosen)).other_augmentation
        assert set(part.trials["configuration"] if part else ()) == other


def test_a_configuration_without_a_reference_is_left_out_of_families(several):
    """One network on all data that diverges takes its configuration, and no other with it."""
    tabled = tables.read(several.plan.folder)
    rest = tuple(name for name in SEVERAL["configurations"] if name != "wild")
    assert tabled.families == {"all configurations": rest, "all": ("own", "lenet")}
    assert several.observed("wild") == {}
    failures = several.failures
    assert set(failures["configuration"]) == {"wild"}
    assert set(failures["method"]) == {"all data, same_steps", "random", "dm"}
    assert (failures["k"].isna() == failures["method"].str.startswith("all data")).all()
    assert set(failures["status"]) == {"diverged"}
    assert failures["message"].str.contains(r"at step [1-9]\d?; choose a smaller").all()
    rows = several.trials.query("configuration == 'wild'")
    assert rows[["error", "gap_error"]].isna().all(axis=None)
    assert run(settings(several.plan.folder, **SEVERAL, **NOBODY)).failures.equals(failures)


def test_what_trained_networks_showed_on_the_probe_images(several):
    """Probabilities and features at the end; logits' changes over four quarters of the training."""
    shown, dataset = several.observed("adam"), load(**DIGITS)
    count, real = len(dataset.test.labels), dataset.train
    seen = dataset.test.samples[[i * count // 7 for i in range(7)]]
    adam = recipe(20, learning_rate=0.01, optimizer="adam")
    for seed in (0, 1):
        theta = initial_parameters(mlp(), generator("evaluation weights", (seed, 0)))
        stream = generator("evaluation batches", (seed, 0))
        scores = [networks.logits(mlp(), theta, seen)]
        steps = training_steps(mlp(), theta, real.samples, real.labels, adam, stream)
        for number, theta in enumerate(steps, 1):
            if number in (5, 10, 15, 20):
                scores.append(networks.logits(mlp(), theta, seen))
        scores = [each - each.mean(1, keepdim=True) for each in scores]
        moved = torch.stack([b - a for a, b in itertools.pairwise(scores)]).flatten(1)
        assert np.allclose(shown["probabilities"][seed], scores[-1].softmax(1), atol=1e-6)
        assert np.allclose(shown["increments"][seed], moved, rtol=2e-3, atol=1e-4)
        features = networks.embed(mlp(), theta, seen)
        assert np.allclose(shown["features"][seed], features, rtol=2e-3, atol=1e-4)


def test_networks_are_compared_over_the_seeds_that_all_have(several, tmp_path):
    """With too few of those, configurations that lack one are left out instead."""
    root = shutil.copytree(several.plan.folder.parent, tmp_path / "copy")
    plan = replace(several.plan, cache=root / "cache")
    result = replace(several, plan=plan)
    own = result.observed("own")["features"]
    plan.reference("adam", 0, "same_steps").observed.unlink()
    shown = result.observed_together(["own", "adam"])
    assert [len(each["features"]) for each in shown.values()] == [4, 4]
    assert np.array_equal(shown["own"]["features"], own[1:])
    plan.reference("adam", 1, "same_steps").observed.unlink()
    shown = result.observed_together(["own", "adam"])
    assert list(shown) == ["own"]
    assert np.array_equal(shown["own"]["features"], own)


def test_a_file_with_the_set_of_another_trial_is_named(tmp_path, address):
    methods = {"methods": {"random": {}, "herding": {}}, "k": [3], "seeds": 1}
    chosen = settings(tmp_path / "study", **methods, scheduler_address=address)
    run(chosen)
    shutil.rmtree(tmp_path / "study/trials")
    [ours] = tmp_path.glob("study/distilled/random-*.safetensors")
    [theirs] = tmp_path.glob("study/distilled/herding-*.safetensors")
    shutil.copy(theirs, ours)
    assert list(run(chosen).failures["message"]) == [
        f"ValueError: {ours} is not the set of its name: it should hold method 'random', not "
        "'herding'; delete it, and run again"
    ]
    ours.unlink()
    assert run(chosen).failures.empty
