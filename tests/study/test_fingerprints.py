"""Names of results: equal for equal programs and data, different for all that changes a number."""

import ast
import shutil
import sys
import tracemalloc
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest
import torch

from ddlib import fingerprints
from ddlib.data.base import DataSet, Split, images_digest
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.fingerprints import (
    DECIDING,
    METHOD_MODULES,
    PACKAGE,
    code_digest,
    files_digest,
    fingerprint,
    program,
)
from ddlib.methods import METHODS
from ddlib.study.cluster import code

PROGRAM = '''"""A module."""
import math

def area(radius):
    """Return the area."""
    return math.pi * radius**2
'''


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Digest a program's text, as a module outside the package."""

    def of(text: str) -> str:
        path = tmp_path / "own_method.py"
        path.write_text(text)
        module = module_from_spec(spec_from_file_location("own_method", path))
        monkeypatch.setitem(sys.modules, "own_method", module)
        forget()
        return code_digest("own_method")

    yield of
    forget()


def forget() -> None:
    """Have the code read anew, as a new process would."""
    code_digest.cache_clear()
    fingerprints._source.cache_clear()


def test_the_order_of_names_does_not_matter_and_values_do():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"a": 1, "b": 3})
    assert len(fingerprint([])) == 12


def test_words_beside_the_code_do_not_count(digest):
    other = PROGRAM.replace("Return the area", "Say how large it is").replace(
        "import math", "# the circle\nimport math"
    )
    assert other != PROGRAM
    assert digest(other.replace("radius**2", "radius ** 2")) == digest(PROGRAM)


def test_a_change_of_the_code_counts(digest):
    assert digest(PROGRAM.replace("radius**2", "radius**3")) != digest(PROGRAM)


def test_all_names_in_a_process_are_of_the_code_it_began_with(tmp_path, monkeypatch):
    """An edit between two studies changes no name, of methods that come in later either."""
    package = shutil.copytree(PACKAGE, tmp_path / "ddlib")
    modules = METHODS["dc"].modules
    with monkeypatch.context() as patched:
        patched.setattr(fingerprints, "PACKAGE", package)
        forget()
        before = code_digest(*modules)
        forget()
        code()
        with (package / "methods" / "gradient.py").open("a") as file:
            file.write("more = 1\n")
        assert code_digest(*modules) == before
        forget()
        assert code_digest(*modules) != before
    forget()


def test_code_in_no_file_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cell", ModuleType("cell"))
    with pytest.raises(ValueError, match="the code of the module 'cell' is in no file, and could"):
        code_digest("cell")


def test_a_program_is_the_same_in_every_python():
    """Python 3.12 splits f-strings into tokens; docstrings and layout are no part of a program."""
    source = (
        '"""Doc."""\nx = (1,\n     f"é{a["b"]!r:>{w}} {{}}" f\'{f"{c}"}\')  # why\n\n'
        "def f(r):\n    r'Doc.'\n    return '''a\n\n  # b'''\n"
    ).replace('a["b"]', "a['b']")
    assert program(source) == (
        "x = ( 1 , f\"é{a['b']!r:>{w}} {{}}\" f'{f\"{c}\"}' ) <NEWLINE> "
        "def f ( r ) : <NEWLINE> <INDENT> return '''a\n\n  # b''' <NEWLINE> <DEDENT>"
    )


BESIDE_THE_NUMBERS = {
    *("batch", "execute", "page", "report", "runs", "published", "explore", "explore_theory"),
    *("charts", "charts_coverage", "charts_explore", "charts_methods", "charts_theory", "live"),
    *("reading", "reading_coverage", "reading_explore", "reading_theory", "tables", "comparison"),
    *("laws", "coverage", "coverage_laws", "planner", "operators"),
    *("theory", "theory_coverage", "theory_logistic", "theory_scaling", "theory_surrogates"),
    # What a study asks for is part of the names of its results; how it is kept and sent is not.
    *("settings", "study", "running", "cluster", "forked", "extensions", "files", "fingerprints"),
    "shared",
}


def imported(module: str) -> set[str]:
    """The modules of the library that a module imports, wherever in its text."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
} - {"ddlib"}


def test_every_module_decides_results_or_is_known_not_to():
    beside = {f"ddlib.{name}" for name in BESIDE_THE_NUMBERS}
    decide = {*DECIDING, *METHOD_MODULES}
    assert decide | beside == MODULES
    assert not decide & beside
    kept = {f"ddlib.{name}" for name in ("files", "fingerprints", "extensions", "shared")}
    for module in DECIDING:
        others = set(METHOD_MODULES) if module in ("ddlib.methods", "ddlib.study.jobs") else set()
        assert imported(module) <= {*DECIDING, *kept, *others}, module
    for name, method in METHODS.items():
        for module in method.modules:
            assert imported(module) <= {*DECIDING, *kept, *method.modules}, name


def test_the_versions_of_libraries_count(digest, monkeypatch):
    before = digest(PROGRAM)
    monkeypatch.setattr(fingerprints, "version", lambda library: "0.0")
    assert digest(PROGRAM) != before


def test_every_image_and_label_counts(tiny):
    def changed(split: str, part: str) -> DataSet:
        pair = {name: getattr(tiny, name) for name in ("train", "test")}
        tensors = {"images": pair[split].images.clone(), "labels": pair[split].labels.clone()}
        tensors[part].view(-1)[-1] += 1
        return DataSet(
            **{**vars(tiny), **pair, split: Split(**tensors)},
        )

    digests = {images_digest(tiny)}
    for split in ("train", "test"):
        for part in ("images", "labels"):
            digests.add(images_digest(changed(split, part)))
    digests.add(images_digest(replace(tiny, classes=("ant", "bee", "dog"))))
    digests.add(images_digest(replace(tiny, normalisation=Normalisation((0.5,), (0.3,)))))
    assert len(digests) == 7


def test_a_whitening_counts_and_costs_no_more_memory_than_itself(tiny):
    """A matrix of 1 MB; written out as decimal numbers it would take some 20."""
    matrix = torch.rand(512, 512, generator=torch.Generator().manual_seed(0))
    whitening = Whitening(torch.zeros(512), matrix)
    whitened = replace(tiny, normalisation=whitening)
    tracemalloc.start()
    digest = images_digest(whitened)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 2**20
    assert whitening.inverse.shape == matrix.shape
    assert images_digest(whitened) == digest
    changed = matrix.clone()
    changed[-1, -1] += 1
    other = replace(tiny, normalisation=Whitening(torch.zeros(512), changed))
    assert images_digest(other) != digest


def test_every_file_counts_with_its_place_and_content(tmp_path):
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "weights.bin").write_bytes(b"1234")
    (folder / "index.json").write_text("{}")

    def digest() -> str:
        return files_digest(folder, (".bin", ".json"))

    seen = [digest()]
    assert digest() == seen[0]
    (folder / "readme.md").write_text("not read")
    assert digest() == seen[0]
    moved = folder.rename(tmp_path / "elsewhere")
    assert files_digest(moved, (".json", ".bin")) == seen[0]
    moved.rename(folder)
    for change in (
        lambda: (folder / "part" / "weights.bin").write_bytes(b"12345"),
        lambda: (folder / "index.json").write_text("[]"),
        lambda: (folder / "part" / "weights.bin").rename(folder / "weights.bin"),
        lambda: (folder / "weights.bin").unlink(),
    ):
        change()
        seen.append(digest())
    assert len(set(seen)) == 5


def test_a_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "weights.bin").write_bytes(b"1")
    first = files_digest(tmp_path, [".bin"])
    monkeypatch.setattr(fingerprints.hashlib, "file_digest", lambda *given: pytest.fail("read"))
    assert files_digest(tmp_path, [".bin"]) == first
