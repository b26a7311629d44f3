"""The plan of a study: which files a change keeps, and the sentences that refuse bad input."""

import itertools
import json
import math
from pathlib import Path

import nbformat
import pytest
from grids import DC, DIGITS, DM, GRID, settings
from papermill.parameterize import parameterize_notebook

from ddlib.methods import METHODS, Method, Preparation
from ddlib.parameters import Parameters
from ddlib.study.plan import Plan, check_folder, make_plan
from ddlib.study.run import run
from ddlib.study.settings import Settings, check_coverage

TRIALS = 3 * 2 * 2


def planned(folder: Path, **changes) -> Plan:
    return make_plan(settings(folder / "study", **changes))


def names(plan: Plan) -> list[set[str]]:
    """The file names of the trials, distilled sets and references of a study."""
    files = [trial.path for trial in plan.trials], [trial.set_path for trial in plan.trials]
    files += ([reference.path for reference in plan.references],)
    return [{path.name for path in paths} for paths in files]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"data": DIGITS | {"per_class": 19}}, [0, 0, 0]),
        ({"network": {"name": "mlp", "width": 17, "depth": 2}}, [0, 0, 0]),
        ({"training": GRID["training"] | {"momentum": 0.8}}, [0, TRIALS, 0]),
        ({"evaluations": 3}, [0, TRIALS, 4]),
        ({"methods": GRID["methods"] | {"dm": DM | {"momentum": 0.4}}}, [8, 8, 4]),
        ({"methods": {"dc": DC, "random": {}, "herding": {}}}, [8, 8, 4]),
        ({"k": [3, 9]}, [6, 6, 4]),
        ({"seeds": 1}, [6, 6, 2]),
        ({"seeds": 3, "workers": 1, "draws": 7}, [TRIALS, TRIALS, 4]),
        ({"scheduler_address": "tcp://127.0.0.1:1"}, [TRIALS, TRIALS, 4]),
        ({"converged": {"passes": 31}}, [TRIALS, TRIALS, 2]),
        ({"reference": "same_steps"}, [TRIALS, TRIALS, 2]),
        ({"precision": "bf16"}, [0, 0, 0]),
    ],
)
def test_what_is_kept_depends_on_all_that_decides_it(tmp_path, change, kept):
    before, after = names(planned(tmp_path)), names(planned(tmp_path, **change))
    assert [len(old & new) for old, new in zip(before, after, strict=True)] == kept


class Inner(Parameters):
    """Parameters inside others."""

    weights: str = "no file"


class Reader(Parameters):
    """A method that reads files."""

    path: str = "no file"
    files: list = []
    inner: Inner = Inner()


def test_what_a_parameter_names_is_known_by_its_content(tmp_path, monkeypatch):
    """A file, also in a list or a table; a folder of a generator's weights."""

    def distil(dataset, network, ipc, seed, parameters):
        raise AssertionError("names alone are asked for")

    made = Preparation(lambda parameters, ipcs: [{}], distil)
    monkeypatch.setitem(METHODS, "reader", Method(distil, Reader, preparation=made))
    path, long = str(tmp_path / "images.pt"), "a text of more letters than a file's name " * 10
    (tmp_path / "dit").mkdir()
    readers = {
        "alone": {"path": path},
        "deep": {"files": ["no file", {"of": {"cat": [long, path]}}]},
        "inside": {"inner": {"weights": path}},
        "none": {"path": long},
    }
    methods = {name: {"method": "reader", **given} for name, given in readers.items()}
    methods |= {"random": None, "mgd3": {"generator": str(tmp_path / "dit")}}

    def paths(content: bytes) -> dict[str, list[Path]]:
        (tmp_path / "images.pt").write_bytes(content)
        (tmp_path / "dit" / "weights.bin").write_bytes(content)
        plan = planned(tmp_path, methods=methods, k=[3], seeds=1)
        found = {trial.method: [trial.set_path, trial.path] for trial in plan.trials}
        return found | {f"{name} made": [plan.preparations(name)[0][1]] for name in readers}

    before, after = paths(b"ours"), paths(b"theirs")
    changed = {name for name in before if not set(before[name]) & set(after[name])}
    naming = {"alone", "deep", "inside"}
    assert changed == {*naming, *(f"{name} made" for name in naming), "mgd3"}
    assert paths(b"ours") == before


def test_what_does_not_depend_on_the_network_is_shared_by_networks(tmp_path):
    def files(method: str, **changes) -> list[Path]:
        methods = {"mgd3": {"unet_steps": 3}, "mtt": {"experts": 2}}
        plan = planned(tmp_path, **{"methods": methods, **changes})
        return [path for _, path in plan.preparations(method)]

    narrow = {"network": {"name": "mlp", "width": 8}}
    assert files("mgd3") == files("mgd3", **narrow)
    assert not set(files("mtt")) & set(files("mtt", **narrow))
    for changes in ({"data": DIGITS | {"per_class": 19}}, {"methods": {"mgd3": {"unet_steps": 4}}}):
        assert not set(files("mgd3")) & set(files("mgd3", **changes))


def test_methods_share_what_they_prepare_alike(tmp_path):
    """One teacher, one pool with the network of trained features, and the same experts."""
    steps = {"steps": 20}
    expert = {"label_snapshot": 2, "max_start": 2, "expert_epochs": 2, "experts": 1}
    methods = {
        **{"rded": {"teacher": steps}, "sre2l": {"teacher": steps}},
        **{"ncfm": {"pool": steps, "networks": 2}},
        **{name: {"features": "trained", "training": steps} for name in ("herding", "k_center")},
        **{"other": {"method": "herding", "features": "trained", "training": {"steps": 21}}},
        **{"mtt": {"experts": 1, "expert_epochs": 2, "max_start": 2}, "datm": expert},
    }
    plan = planned(tmp_path, methods=methods, k=[3], seeds=1)
    files = {name: {path for _, path in plan.preparations(name)} for name in methods}
    assert files["rded"] == files["sre2l"]
    assert files["herding"] == files["k_center"] < files["ncfm"]
    assert files["mtt"] == files["datm"]
    assert not files["herding"] & (files["other"] | files["rded"] | files["mtt"])


def with_method(name: str, **parameters) -> dict:
    return {"methods": {"random": None, name: parameters}}


COVERAGE = {
    "configurations": {
        "own": {},
        "adam": {"optimizer": "adam", "learning_rate": 0.01},
        "lenet": {"network": {"name": "lenet"}},
        "taught": {"initialisation": "contrastive", "pretraining": {"steps": 2}},
    },
    "families": {"all": ["own", "adam", "lenet", "taught"], "own alone": ["own"]},
    **{"seeds": 4, "probe": 20, "spread": {"size": 3, "count": 2}, "k": [3, 6, 9, 12, 15]},
}
SOFT = {"regime": "soft", "teacher": {}}
DEEP = {"network": {"name": "convnet", "depth": 4}}
BAD = [
    ({"data": {"name": "digit"}}, "your own data; did you mean 'digits'? allowed: digits, mnist"),
    ({"data": "digits"}, "data: this must be a table with a name"),
    ({"data": DIGITS | {1: 2}}, "data: '1' is not a parameter; allowed: classes, per_class, "),
    ({"labels": {"teacher": 3}}, "labels: teacher=3 must be a table {name: value}"),
    ({"data": DIGITS | {"classes": [10]}}, "'10' is not a class of this data set; did you mean"),
    ({"network": {"name": "mpl"}}, "'mpl' is not a network; did you mean 'mlp'? allowed: mlp, "),
    (
        {"network": {"name": ["mlp"]}},
        "network must be a table with a name, such as {name: convnet}",
    ),
    (
        {"data": DIGITS | {"classes": [3]}},
        "digits: one class leaves nothing to tell apart; give two",
    ),
    ({"network": {"name": "mlp", "widht": 3}}, "'widht' is not a parameter; did you mean 'width'?"),
    ({"network": {"name": "convnet", "depth": 4}}, "at least 16 pixels, got 8x8; choose a smaller"),
    ({"training": {"stpes": 3}}, "training: 'stpes' is not a parameter; did you mean 'steps'?"),
    (with_method("dmm"), "'dmm' is not a method; did you mean 'dm'? allowed: random, "),
    (with_method("dc", method="dm"), "'dc' cannot name a variant of the method 'dm'; choose"),
    (with_method("../mine", method="dm"), "'../mine' cannot name a variant of the method 'dm'"),
    ({"methods": {}}, "methods: this must be a table {name: parameters}, got {}"),
    (with_method("dm", iteration=3), "'iteration' is not a parameter; did you mean 'iterations'?"),
    ({"k": [3, 63]}, "ipc=21 is more than the 20 samples of class 0; choose ipc <= 20"),
    ({"k": [3, 7]}, "k=7 is not a multiple of the 3 classes of digits; choose 6 or 9"),
    ({"k": 30}, "k=30 must be a list of one or more whole numbers of at least 1, such as [10, 50,"),
    ({"device": "gpu"}, "'gpu' is not a device of this machine; "),
    ({"device": "cpu", "precision": "tf32"}, "is a mode of CUDA GPUs, and the device is 'cpu'; "),
    ({"sedes": 3}, "'sedes' is not a parameter; did you mean 'seeds'? allowed: extensions, data"),
    ({"configurations": {"small": DEEP}}, "the configuration 'small' does not fit digits: "),
    ({"families": {"f": ["own", "b"]}}, "'b' is not a configuration of 'f'"),
    ({"spread": {"size": 2}}, "spread: the parameter 'count' is missing; add it"),
    ({"spread": {"size": 1, "count": 2}}, "spread: size=1 must be a whole number of at least 2"),
    ({"spread": {"size": [3, 1], "count": 2}}, "spread: size[1]=1 must be a whole number of at"),
    ({"theory": {"noise": 0}}, "theory: noise=0 must be a number above 0"),
    ({"theory": {"worlds": 3}}, "theory: worlds=3 must be a whole number of at least 4"),
    ({"theory": {"configurations": [2, 16, 17]}}, "has fewer than two sizes of 16 or more, 8 o"),
    ({"spread": {"size": [4, 4], "count": 2}}, "spread: size: [4, 4] names a size twice; name ea"),
    ({"pilot": {"k": [30], "configurations": ["own"]}}, "'30' is not a k of this study; did you"),
    ({"search_seconds": {"dmm": 3}}, "'dmm' is not a method of this study; did you mean 'dm'?"),
    ({"reference": "converge"}, "did you mean 'converged'"),
    ({"converged": {"held_out": 1}}, "held_out=1 must be a number above 0 and below 1"),
    (
        {"network": {"name": "convnet", "norm": "batch"}, "methods": {"datm": None}},
        "the method 'datm': labels are answers of experts, which keep no running statistics, but",
    ),
    ({"data": {"name": "no/where"}, "k": [2]}, "data folder no/where does not exist; give an"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD)
def test_bad_input_is_refused_before_anything_runs(tmp_path, changes, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=r"^[^\n]*$") as refused:
        run(settings(tmp_path / "study", **changes))
    assert sentence in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"configurations": {"own": {}, "a": {"momentum": 0}}, "families": None}, "2 conf"),
        ({"families": None}, "families is missing"),
        ({"seeds": 3}, "seeds=3 are too few to measure distances; choose >= 4"),
        ({"probe": 19}, "probe=19 are too few"),
        ({"spread": {"size": 4, "count": 2}}, "size=4 gives no choice among 4 configurations"),
        ({"spread": {"size": [3, 4], "count": 2}}, r"size=\[3, 4\] gives no choice among 4 conf"),
        ({"k": [3, 6, 9]}, r"the pilot's k=\[3, 6\] are too few to fit a law; give at least 3"),
        ({"pilot": {"k": [3, 6], "configurations": ["own"]}}, "too few to fit a law; give at lea"),
        ({"labels": SOFT}, "'own' has soft labels, but the coverage law takes hard"),
    ],
)
def test_a_study_too_small_for_coverage_is_refused(tmp_path, changes, sentence):
    check_coverage(settings(tmp_path / "study", **COVERAGE))
    part = {"k": [3, 6, 9, 12], "pilot": {"k": [3, 6, 9], "configurations": ["own"]}}
    check_coverage(settings(tmp_path / "study", **COVERAGE | part))
    with pytest.raises(ValueError, match=sentence):
        check_coverage(settings(tmp_path / "study", **COVERAGE | changes))


ANYTHING = [4, 0.5, "", "x", True, None, [], [1], ["x"], [[1]], {}, {"x": 1}, {1: 2}, math.nan]


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_whatever_stands_for_a_parameter_ends_in_a_sentence_at_worst(tmp_path, name):
    for value, base in itertools.product(ANYTHING, ({}, COVERAGE)):
        try:
            chosen = settings(tmp_path / "study", **base | {name: value})
            check_coverage(chosen)
        except (ValueError, OSError) as refused:
            assert "\n" not in str(refused)  # noqa: PT017


@pytest.mark.parametrize("name", ["results", "cache"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("a file, so no folder can be below it")
    folder = tmp_path / "file" / "study"
    with pytest.raises(OSError, match=rf"^cannot write to the folder {folder} \(.*choose another"):
        run(settings(tmp_path / "fine" / "study", **{name: str(folder)}))
    assert not (tmp_path / "fine" / "study").exists()


# Notebooks.

DEFAULTS = """# Parameters
data = {"name": "digits"}
network, training = {"name": "mlp"}, {}
methods = {"random": {}}
k = [10, 20]
results = "results/x"
seeds = 5
"""


def given(*sources: str, **injected) -> Settings:
    """The parameters of a notebook whose cells have run, with what papermill injects."""
    cells = [nbformat.v4.new_code_cell(DEFAULTS, metadata={"tags": ["parameters"]})]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "papermill": {}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    if injected:
        sources = (parameterize_notebook(notebook, injected).cells[1].source, *sources)
    namespace = {"In": [""]}
    for source in (DEFAULTS, *sources):
        namespace["In"].append(source)
        exec(source, namespace)
    return Settings.of_notebook(namespace)


def test_the_parameters_cell_gives_the_settings():
    parameters = given("answer = 42").table
    assert parameters == {
        **{"data": {"name": "digits"}, "network": {"name": "mlp"}, "training": {}},
        **{"methods": {"random": {}}, "k": [10, 20], "results": "results/x", "seeds": 5},
    }
    assert given(seeds=2).table == parameters | {"seeds": 2}
    assert given(data={"name": "mnist"}, k=[10]).table == parameters | {
        "data": {"name": "mnist"},
        "k": [10],
    }


def test_papermill_overrides_the_parameters_cell():
    """Papermill writes the keys of a table as text, which must not change what a table means."""
    rates = {1: 1, 100: 50.5}
    changed = given().table | {
        "seeds": 2,
        "methods": {"dm": {"learning_rate": rates}},
        "workers": None,
    }
    read = given("later = 7", **changed)
    assert (read.seeds, read.workers, read.k) == (2, None, [10, 20])
    assert read.methods["dm"][1].learning_rate == rates


def test_an_unknown_name_is_refused_until_it_is_put_right():
    """In JupyterLab the cell is edited and run again; the old name is still in the namespace."""
    with pytest.raises(ValueError, match="'sedes' is not a parameter; did you mean"):
        given(sedes=2)
    right = DEFAULTS.replace("seeds = 5", "seeds = 2")
    assert given(DEFAULTS + "sedes = 2\n", right).seeds == 2


def test_a_missing_parameter_is_named_and_no_file_is():
    table = given().table
    del table["k"]
    with pytest.raises(ValueError, match=r"the parameter .k. is missing; add it$"):
        Settings.read(table)


# The results folder.


def test_a_results_folder_holds_one_study_which_may_grow(tmp_path):
    table = given().table | {"results": str(tmp_path), "cache": str(tmp_path / "cache")}
    make_plan(Settings.read(table))
    (tmp_path / "settings.json").write_text(json.dumps(table))  # as at the end of a run
    spelled_out = table | {"training": {"momentum": 0.9}, "labels": None}
    assert check_folder(Settings.read(spelled_out)) == []
    downloading = table | {"data": {**table["data"], "download": True}}
    assert check_folder(Settings.read(downloading)) == []  # it changes no sample
    grown = {"k": [10, 20, 50], "seeds": 7, "methods": {"random": {}, "herding": {}}}
    assert check_folder(Settings.read(table | grown)) == ["methods", "k", "seeds"]
    others = {
        "data": {"name": "digits", "per_class": 20},
        "network": {"name": "linear"},
        "training": {"steps": 3},
        "labels": SOFT,
    }
    for name, value in others.items():
        with pytest.raises(
            ValueError, match=f"whose {name} is .*; name another folder in `results`"
        ):
            make_plan(Settings.read(table | {name: value}))
    pairs = [("classes", ("0", "1"), ["0", "1"]), ("classes", [0, 1], ["0", "1"])]
    for option, now, before in pairs:
        old, new = (table | {"data": {"name": "digits", option: x}} for x in (before, now))
        (tmp_path / "settings.json").write_text(json.dumps(old))
        assert check_folder(Settings.read(new)) == []
    changed = {"extensions": ["gone.py"], "methods": {"mine": {"tries": 3}}}
    (tmp_path / "settings.json").write_text(json.dumps(table | changed))
    assert check_folder(Settings.read(table)) == ["methods"]
    with pytest.raises(ValueError, match="whose network is "):
        check_folder(Settings.read(table | {"network": {"name": "linear"}}))
    (tmp_path / "settings.json").write_text(json.dumps(table | {"sedes": 3}))
    with pytest.raises(ValueError, match=r"holds a study that cannot be read .*; name another"):
        make_plan(Settings.read(table))
