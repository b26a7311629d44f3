"""Files of one's own: what they may register, what is said of a bad one, and what names results."""

import inspect
import traceback
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.datasets import load_digits

from ddlib import study
from ddlib.data.sources import DATASETS
from ddlib.methods import METHODS
from ddlib.networks.functional import build
from ddlib.networks.initial import initial_parameters
from ddlib.networks.zoo import NETWORKS
from ddlib.study.extensions import read_extensions, use
from ddlib.study.settings import read_evaluations, read_methods, read_parameters, read_settings

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BUILT_IN = set(METHODS), set(NETWORKS), set(DATASETS)
METHOD = """
from ddlib.methods import METHODS, Method, selection

def distil(dataset, network, ipcs, seed, parameters):
    return selection.random(dataset, network, ipcs, seed, parameters)

METHODS["mine"] = Method(distil, selection.RandomSelection, shares=True)
"""
PREPARED = """
from ddlib.methods import METHODS, Method, Preparation, selection

def jobs(parameters):
    return [{}]

def make(dataset, network, job):
    return b""

def distil(dataset, network, ipcs, seed, parameters, prepared):
    return selection.random(dataset, network, ipcs, seed, parameters)

made = Preparation(jobs, make)
METHODS["mine"] = Method(distil, selection.RandomSelection, shares=True, preparation=made)
"""
NETWORK = """
from ddlib.networks.zoo import NETWORKS, mlp

def small(image_shape, class_count, width: int = 8):
    return mlp(image_shape, class_count, width, 2)

NETWORKS["small"] = small
"""
TINY = {
    "data": {"name": "digits", "classes": ["0", "1"]},
    "network": {"name": "mlp", "width": 8, "depth": 2},
    "training": {"steps": 5, "batch_size": 8},
    "methods": {"random": None, "mine": None},
    "k": [2],
    "seeds": 1,
    "configurations": {"plain": {}, "other": {"network": {"name": "small"}}},
}


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    use(())
    assert (set(METHODS), set(NETWORKS), set(DATASETS)) == BUILT_IN


@pytest.fixture
def write(tmp_path):
    """Write a file of one's own; return its path."""

    def write(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_names_are_known_while_a_study_asks_for_their_file(write):
    given = {**TINY, "results": "results/none", "extensions": [write(METHOD + NETWORK)]}
    assert read_methods(read_settings(given))["mine"][0] == "mine"
    read_parameters({**given, "extensions": None, "methods": {"random": None}})
    assert "mine" not in METHODS
    with pytest.raises(ValueError, match="'mine' is not a method"):
        read_methods(read_settings({**given, "extensions": None}))


def test_paths_count_from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    [extension] = read_extensions(["examples/own_network.py"])
    assert extension.text == (EXAMPLES / "own_network.py").read_text()
    assert "convnext" in NETWORKS


def test_code_that_changed_takes_the_place_of_what_it_was(write):
    path = write(METHOD)
    read_extensions([path])
    first = METHODS["mine"]
    read_extensions([path])
    assert METHODS["mine"] is first
    write(METHOD.replace("ipcs, seed, parameters)\n\n", "ipcs, seed + 1, parameters)\n\n"))
    read_extensions([path])
    assert METHODS["mine"].modules != first.modules


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\ny = (", r"mine\.py, line 2: '\(' was never closed"),
        ("def f():\n    return 1 / 0\n\nf()", r"mine\.py, line 2: ZeroDivisionError: division by"),
        ("import nowhere_to_be_found", r"mine\.py, line 1: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit(3)", r"mine\.py, line 2: SystemExit: 3"),
        ("from helper import x", r"line 1: helper\.py beside it would be missing where workers"),
        ("x = 1", r"mine\.py registers nothing; let it set an entry of METHODS, NETWORKS or DATA"),
        (METHOD.replace('"mine"', '"dm"'), r"line 7: the method 'dm' is the library's own; choose"),
        (METHOD.replace("ipcs, seed, ", "", 1), r"line 7: .* must be a function of 5 arguments"),
        (
            METHOD.replace("Method(distil", "Method(selection.random"),
            r"line 7: the method 'mine' has a distil that must be a function of this file, whose",
        ),
        (
            PREPARED,
            r"line 14: the method 'mine' has a jobs that must be a function of 2 arguments, see",
        ),
        (
            METHOD.replace("selection.RandomSelection", "dict"),
            r"line 7: the method 'mine' must be a ddlib\.methods\.Method, with a subclass of Par",
        ),
        (METHOD.replace('"mine"', '"my own"'), r"line 7: the method 'my own' has a name that no"),
        (NETWORK.replace("width: int = 8", "width=8"), r"'small' must say of width: int, float"),
        (NETWORK.replace("= small", "= 3"), r"line 7: the network 'small' must be a function of"),
        (
            "from ddlib.data.sources import DATASETS\nDATASETS['mine'] = 3",
            r"mine\.py, line 2: the data set 'mine' must be a ddlib\.data\.sources\.Source",
        ),
        (
            "from ddlib.networks.zoo import NETWORKS\ndel NETWORKS['mlp']",
            r"line 2: the network 'mlp' is",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_line(write, text, sentence):
    write("x = 1", "helper.py")
    with pytest.raises(ValueError, match=sentence) as caught:
        read_extensions([write(text)])
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("given", "kind", "sentence"),
    [
        ("mine.py", ValueError, r"this study: extensions='mine.py' must be a list of texts"),
        ([3], ValueError, r"this study: extensions\[0\]=3 must be text"),
        (["no/such.py"], FileNotFoundError, r"there is no file .*no/such\.py; give its path from"),
    ],
)
def test_what_names_no_file_is_refused(given, kind, sentence):
    with pytest.raises(kind, match=sentence):
        read_settings({**TINY, "results": "results/none", "extensions": given})


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "mine.py").write_bytes(b"x = '\xff'")
    with pytest.raises(ValueError, match=r"mine\.py is not Python in UTF-8"):
        read_extensions([str(tmp_path / "mine.py")])


def test_a_name_stands_for_one_thing_and_a_refusal_changes_nothing(write):
    first, second = write(METHOD, "first.py"), write(METHOD, "second.py")
    read_extensions([second])
    kept = METHODS["mine"]
    with pytest.raises(ValueError, match=r"second\.py, line 7: the method 'mine' is that of .*fir"):
        read_extensions([first, second])
    assert METHODS["mine"] is kept


def test_tracebacks_and_inspect_show_the_text_without_the_file(write):
    path = Path(write(NETWORK.replace("return mlp", "return 1 / 0, mlp")))
    read_extensions([str(path)])
    path.unlink()
    assert "return 1 / 0, mlp" in inspect.getsource(NETWORKS["small"])
    with pytest.raises(ZeroDivisionError) as caught:
        NETWORKS["small"]((1, 8, 8), 2)
    assert "return 1 / 0, mlp" in "".join(traceback.format_exception(caught.value))


def names(write, tmp_path, method: str = METHOD, network: str = NETWORK) -> dict[str, str]:
    """Return what the results of a study under two configurations are called."""
    files = [write(method, "method.py"), write(network, "network.py")]
    given = TINY | {"results": str(tmp_path / "out"), "cache": str(tmp_path / "cache")}
    plan = study.prepare(read_settings(given | {"extensions": files}))
    found = {f"{t.method} {t.configuration}": t.path.name for t in plan.trials}
    found |= {f"set {t.method}": t.set_path.name for t in plan.trials}
    full = {name: plan.reference_path(name, seed, kind) for name, seed, kind in plan.references}
    return found | {f"all {name}": path.name for name, path in full.items()}


def test_results_are_named_by_the_code_that_makes_them(write, tmp_path):
    before = names(write, tmp_path)
    assert names(write, tmp_path, method=METHOD.replace("\n\n", "\n# why\n")) == before
    other = names(
        write,
        tmp_path,
        method=METHOD.replace(
            "network, ipcs, seed, parameters)\n\n", "network, ipcs, seed + 1, parameters)\n\n"
        ),
    )
    changed = {name for name in before if other[name] != before[name]}
    assert changed == {"mine plain", "mine other", "set mine"}
    other = names(write, tmp_path, network=NETWORK.replace("width, 2)", "width, 3)"))
    changed = {name for name in before if other[name] != before[name]}
    assert changed == {"random other", "mine other", "all other"}


def test_a_plan_finds_its_own_method_after_another_study_was_read(write, tmp_path):
    given = TINY | {"results": str(tmp_path / "out"), "cache": str(tmp_path / "cache")}
    plan = study.prepare(read_settings(given | {"extensions": [write(METHOD + NETWORK)]}))
    names = [trial.path for trial in plan.trials]
    read_extensions(None)
    assert "mine" not in METHODS
    assert [trial.path for trial in plan.trials] == names
    read_extensions(None)
    assert list(read_methods(plan.settings)) == ["random", "mine"]
    read_extensions(None)
    assert list(read_evaluations(plan.settings)) == ["plain", "other"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The examples' study, run by a worker process, which only gets the text of its files."""
    folder = tmp_path_factory.mktemp("own")
    given = yaml.safe_load((EXAMPLES / "study.yaml").read_text())
    places = {
        "results": str(folder / "out"),
        "cache": str(folder / "cache"),
        "seeds": 1,
        "workers": 1,
    }
    return study.run(read_settings(given | places | {"k": [2, 20]}))


def test_the_examples_run_in_worker_processes(own):
    use(own.plan.context.extensions)
    dataset, [one] = (
        own.plan.dataset,
        [s for s in own.distilled() if (s.method, s.k) == ("k_means", 2)],
    )
    real = dataset.train
    means = [real.images[real.labels == label].mean(0) for label in (0, 1)]
    torch.testing.assert_close(one.images, torch.stack(means))
    assert (own.trials["status"] == "ok").all()
    assert set(own.trials["network"]) == {"convnext"}
    best = own.trials.groupby("method")["accuracy"].max()
    assert best["k_means"] > 0.7


def test_the_example_of_data_is_what_it_says(own):
    dataset, digits = own.plan.dataset, load_digits()
    assert dataset.test.labels.tolist() == [int(digit) % 2 for digit in digits.target[1200:]]
    shown = dataset.normalisation.denormalise(dataset.test.images)[:, 0] * 16
    torch.testing.assert_close(shown, torch.tensor(digits.images[1200:], dtype=torch.float32))


def test_the_example_of_a_network_has_the_weights_of_its_formula():
    read_extensions(["examples/own_network.py"])
    network = build("convnext", (3, 32, 32), 10, width=16, depth=2)
    weights = initial_parameters(network, torch.Generator().manual_seed(0))
    block = 16 * 49 + 16 + 2 * 16 + (16 * 64 + 64) + (64 * 16 + 16)
    total = 3 * 4 * 16 + 16 + 2 * 16 + 2 * block + 16 * 10 + 10
    assert sum(value.numel() for value in weights.values()) == total


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_complete_in_25_lines(path):
    assert len(path.read_text().splitlines()) <= 25
