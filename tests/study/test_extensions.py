"""Files of one's own: what they may register, what is said of a bad one, and what names results."""

from pathlib import Path

import pytest
import torch
import yaml
from sklearn.datasets import load_digits

from ddlib.methods import METHODS
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.study.extensions import REGISTRIES, read_extensions
from ddlib.study.plan import make_plan
from ddlib.study.run import run
from ddlib.study.settings import Settings

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
METHOD = """
from ddlib.methods import METHODS, Method, selection

def distil(dataset, network, ipcs, seed, parameters):
    return selection.random(dataset, network, ipcs, seed, parameters)

METHODS["mine"] = Method(distil, selection.RandomSelection, shares=True)
"""
NETWORK = """
from ddlib.networks.zoo import NETWORKS, mlp

def small(sample_shape, class_count, width: int = 8):
    return mlp(sample_shape, class_count, width, 2)

NETWORKS["small"] = small
"""
SECOND = NETWORK.replace("small", "second")
DATA = "from ddlib.data.sources import DATASETS\nDATASETS['mine'] = 3"
TINY = {
    "data": {"name": "digits", "classes": ["0", "1"]},
    "network": {"name": "mlp", "width": 8, "depth": 2},
    "training": {"steps": 5, "batch_size": 8},
    **{"methods": {"random": None, "mine": None}, "k": [2], "seeds": 1},
    "configurations": {"plain": {}, "other": {"network": {"name": "small"}}},
    "results": "results/none",
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of one's own into the folder that paths count from; return its path."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


def test_what_a_file_brings_is_known_and_stays(write):
    settings = Settings.read(TINY | {"extensions": [write(METHOD + NETWORK)]})
    assert settings.methods["mine"][0] == "mine"
    assert settings.configurations["other"].network == {"name": "small", "width": 8}
    first = METHODS["mine"]
    read_extensions(["mine.py"])
    assert METHODS["mine"] is first


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\ny = (", r"mine\.py, line 2: '\(' was never closed"),
        ("def f():\n    return 1 / 0\n\nf()", r"mine\.py, line 2: ZeroDivisionError: division by"),
        ("import sys\nsys.exit(3)", r"mine\.py, line 2: SystemExit: 3"),
        ("from helper import x", r"line 1: an edit of helper\.py would not change the names"),
        ("import parts.losses", r"line 1: an edit of parts/losses\.py would not change the names"),
        ("x = 1", r"mine\.py registers nothing; let it set an entry of METHODS, NETWORKS or DATA"),
        (METHOD.replace('"mine"', '"dm"'), r"mine\.py: the method 'dm' exists already, in the lib"),
        (METHOD.replace("(distil,", "(selection.random,"), "needs a function of its own file, not"),
        (NETWORK.replace("width: int = 8", "width=8"), r"'small' must annotate its options with"),
        (NETWORK.replace("= small", "= 3"), r"the network 'small' must be a function"),
        (DATA, r"mine\.py: the data set 'mine' must be a Source, got 3"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_changes_nothing(write, text, sentence):
    before = {kind: dict(registry) for kind, registry in REGISTRIES.items()}
    write("x = 1", "helper.py")
    Path("parts").mkdir()
    write("x = 1", "parts/losses.py")
    with pytest.raises(ValueError, match=sentence) as caught:
        read_extensions([write(text)])
    assert str(caught.value).count("\n") == 0
    assert before == REGISTRIES


def test_a_name_stands_for_one_thing(write):
    text = METHOD.replace("mine", "shared")
    first, second = write(text, "first.py"), write(text, "second.py")
    with pytest.raises(ValueError, match=r"second\.py: .* 'shared' exists already, in "):
        read_extensions([first, second])
    assert METHODS["shared"].function.__module__.startswith("first_")


def test_what_names_no_file_is_refused():
    with pytest.raises(ValueError, match=r"this study: extensions='mine.py' must be a list of te"):
        Settings.read(TINY | {"extensions": "mine.py"})
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no/such\.py; give its path f"):
        Settings.read(TINY | {"extensions": ["no/such.py"]})


def names(write, method: str = METHOD, network: str = SECOND) -> dict[str, str]:
    """Return what the results of a study under two configurations are called."""
    files = [write(method, "mine.py"), write(network, "network.py")]
    configurations = {"plain": {}, "other": {"network": {"name": "second"}}}
    plan = make_plan(Settings.read(TINY | {"extensions": files, "configurations": configurations}))
    paths = {f"{trial.method} {trial.configuration}": trial.path for trial in plan.trials}
    paths |= {f"set {trial.method}": trial.set_path for trial in plan.trials}
    paths |= {f"all {each.configuration}": each.path for each in plan.references}
    return {what: path.name for what, path in paths.items()}


def test_results_are_named_by_the_code_that_makes_them(write):
    before = names(write)
    assert names(write, method=METHOD.replace("\n\n", "\n# why\n")) == before
    edited = METHOD.replace("seed, parameters)\n\nM", "seed + 1, parameters)\n\nM")
    other = names(write, method=edited)
    changed = {name for name in before if other[name] != before[name]}
    assert changed == {"mine plain", "mine other", "set mine"}
    other = names(write, network=SECOND.replace("width, 2)", "width, 3)"))
    changed = {name for name in before if other[name] != before[name]}
    assert changed == {"random other", "mine other", "all other"}
    wide = NETWORK.replace("small", "größe")
    changes = {
        "network": {"name": "größe"},
        "methods": {"random": {}},
        "configurations": {"plain": {}},
    }
    other = TINY | changes | {"extensions": [write(wide)]}
    paths = make_plan(Settings.read(other)).references
    write(wide.replace("width, 2)", "width, 3)"))
    assert make_plan(Settings.read(other)).references[0].path != paths[0].path


PREPARED = """
from ddlib.methods import METHODS, Method, Preparation, selection

def make(dataset, network, job):
    return b"made"

def distil(dataset, network, ipcs, seed, parameters, prepared):
    return selection.random(dataset, network, ipcs, seed, parameters)

made = Preparation(lambda parameters, ipcs: [{}], make)
METHODS["mine"] = Method(distil, selection.RandomSelection, shares=True, preparation=made)
"""


def test_a_comment_renames_no_file_that_a_method_made_first(write):
    def path(text: str) -> Path:
        changes = {"extensions": [write(text)], "configurations": {"plain": {}}}
        [(_, path)] = make_plan(Settings.read(TINY | changes)).preparations("mine")
        return path

    assert path(PREPARED).name.startswith("mine-digits-")
    assert path(f"# why\n{PREPARED}") == path(PREPARED)
    assert path(PREPARED.replace('b"made"', 'b"new"')) != path(PREPARED)


SHORT = {"k": [2, 20], "reference": "same_steps"}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The examples' study, run by a worker process, which only gets the text of its files."""
    folder = tmp_path_factory.mktemp("own")
    table = yaml.safe_load((EXAMPLES / "study.yaml").read_text())
    places = {"results": str(folder / "out"), "cache": str(folder / "cache")}
    return run(Settings.read(table | places | {"seeds": 1, "workers": 1, **SHORT}))


def test_the_examples_run_in_worker_processes(own):
    assert all(len(path.read_text().splitlines()) <= 26 for path in EXAMPLES.glob("*.py"))
    [means] = [s for s in own.distilled() if (s.method, s.k) == ("clusters", 2)]
    dataset, digits = own.plan.dataset, load_digits()
    assert dataset.test.labels.tolist() == [int(digit) % 2 for digit in digits.target[1200:]]
    pixels = dataset.normalisation.denormalise(dataset.test.at(slice(None)))[:, 0] * 16
    torch.testing.assert_close(pixels, torch.tensor(digits.images[1200:], dtype=torch.float32))
    real = dataset.train
    expected = [real.at(torch.nonzero(real.labels == label).flatten()).mean(0) for label in (0, 1)]
    torch.testing.assert_close(means.samples, torch.stack(expected))
    assert (own.trials["status"] == "ok").all()
    assert set(own.trials["network"]) == {"convnext"}
    assert own.trials.groupby("method")["accuracy"].max()["clusters"] > 0.7


def test_the_example_of_a_network_has_the_weights_of_its_formula(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    read_extensions(["examples/own_network.py"])  # a path counts from the project's root
    network = build("convnext", (3, 32, 32), 10, width=16, depth=2)
    weights = initial_parameters(network, torch.Generator().manual_seed(0))
    block = 16 * 49 + 16 + 2 * 16 + (16 * 64 + 64) + (64 * 16 + 16)
    total = 3 * 4 * 16 + 16 + 2 * 16 + 2 * block + 16 * 10 + 10
    assert sum(value.numel() for value in weights.values()) == total
