"""Names of results: equal for equal programs and data, different for all that changes a number."""

import importlib.util
import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from ddlib.data.base import DataSet, Pixels, Split, data_digest
from ddlib.data.normalise import Normalisation, Whitening
from ddlib.fingerprints import PACKAGE, code_digest, files_digest, fingerprint, program

PROGRAM = '''"""A module."""
import math

def area(radius):
    """Return the area."""
    return math.pi * radius**2
'''


def test_the_order_of_names_does_not_matter_and_values_do():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"a": 1, "b": 3})
    assert len(fingerprint([])) == 12


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("Return the area", "Say how large it is", True),
        ("import math", "# the circle\nimport math\n\n", True),
        ("radius**2", "(radius\n            ** 2)", True),
        ("radius**2", "radius**3", False),
        ("radius**2", "radius**2.0", False),
        ("math.pi * radius", 'f"{radius}" * radius', False),
        ("return", "'text'\n    return", True),
        ("return", "if radius: return", False),
    ],
)
def test_only_a_change_of_what_runs_counts(before, after, same):
    assert before in PROGRAM
    assert (program(PROGRAM.replace(before, after)) == program(PROGRAM)) == same


def test_a_program_is_the_same_in_every_python():
    """Later Pythons split f-strings otherwise, and know of parameters of types."""
    source = (
        '"""Doc."""\nx = f"é{a[\'b\']!r:>{w}} {{}}" f"{f\'{c}\'}" "", f"", f"{x=}"\n'
        "def f(r: int): return r\n"
    )
    assert fingerprint(program(source)) == "f0d03a085e9d"  # of Pythons 3.11, 3.12 and 3.13


LATER = """
from pathlib import Path
from ddlib import fingerprints
names = [("ddlib.training.loop",), ("ddlib.methods.gradient",), ("ddlib.seeds",)]
before = [fingerprints.code_digest(*modules) for modules in names]
for edited in ("training/loop.py", "methods/gradient.py"):
    with (fingerprints.PACKAGE / edited).open("a") as file:
        file.write("more = 1\\n")
assert before == [fingerprints.code_digest(*modules) for modules in names]
print(*before)
"""


def test_all_names_in_a_process_are_of_the_code_it_began_with(tmp_path):
    """An edit while a study runs counts in the next process."""
    shutil.copytree(PACKAGE, tmp_path / "ddlib")
    command = {"args": [sys.executable, "-c", LATER], "cwd": tmp_path, "text": True, "check": True}
    environment = {"PYTHONPATH": str(tmp_path)}
    first, second = (
        subprocess.run(**command, env=environment, stdout=subprocess.PIPE).stdout.split()
        for _ in range(2)
    )
    assert [old == new for old, new in zip(first, second, strict=True)] == [False, False, True]


def test_code_in_no_file_is_refused_and_that_of_a_file_counts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cell", ModuleType("cell"))
    with pytest.raises(ValueError, match="the code of the module 'cell' is in no file, and could"):
        code_digest("cell")
    digests = set()
    for name, text in {"mine": PROGRAM, "theirs": PROGRAM.replace("2", "3")}.items():
        (tmp_path / f"{name}.py").write_text(text)
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        monkeypatch.setitem(sys.modules, name, importlib.util.module_from_spec(spec))
        digests.add(code_digest(name))
    assert len(digests) == 2


def test_all_that_a_data_set_holds_counts_but_its_name(tiny):
    def changed(name: str, part: str) -> DataSet:
        split = getattr(tiny, name)
        tensors = {"samples": split.samples.clone(), "labels": split.labels.clone()}
        tensors[part].view(-1)[-1] += 1
        return replace(tiny, **{name: Split(**tensors)})

    def in_bytes(more: int, white: int) -> DataSet:
        values = (tiny.train.samples * 20).clamp(0, 255).to(torch.uint8) + more
        return replace(tiny, train=Split(Pixels(values, norm, white), tiny.train.labels))

    norm, zero, one = tiny.normalisation, torch.zeros(64), torch.eye(64)
    norms = Normalisation((0.5,), (0.3,)), Whitening(zero, one), Whitening(zero, 2 * one)
    several = [tiny, replace(tiny, classes=("ant", "bee", "dog"))]
    several += [changed(*at) for at in itertools.product(("train", "test"), ("samples", "labels"))]
    several += [replace(tiny, normalisation=other) for other in norms]
    several += [in_bytes(*values) for values in ((0, 255), (1, 255), (0, 240))]
    assert len({data_digest(dataset) for dataset in several}) == len(several) == 12
    for dataset in several:
        twin = replace(dataset, name="other", test=Split(*vars(dataset.test).values()))
        assert data_digest(twin) == data_digest(dataset)


def test_every_file_counts_with_its_place_and_content(tmp_path):
    def digest(name: str, **files: str) -> str:
        for path, content in files.items():
            file = tmp_path / name / path.replace("__", "/").replace("_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        return files_digest(tmp_path / name)

    digests = [
        digest("first", part__weights_bin="1234", index_json="{}"),
        digest("longer", part__weights_bin="12345", index_json="{}"),
        digest("other", part__weights_bin="1234", index_json="[]"),
        digest("moved", weights_bin="1234", index_json="{}"),
        digest("fewer", index_json="{}"),
    ]
    assert len(set(digests)) == 5
    assert digest("again", part__weights_bin="1234", index_json="{}") == digests[0]
    assert digest("again", readme_md="x") not in digests
    assert digest("first", index_json="[1]") not in digests  # read anew
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "part").symlink_to(tmp_path / "other" / "part")
    linked = files_digest(tmp_path / "linked")
    (tmp_path / "other" / "part" / "weights.bin").write_text("5678")
    assert files_digest(tmp_path / "linked") != linked
