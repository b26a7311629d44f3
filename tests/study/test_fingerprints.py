"""Names of results: equal for equal programs and data, different for all that changes a number."""

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ddlib.data.base import Pixels, Split, images_digest
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


def test_rooms_and_methods_decide_results():
    rooms = {
        f"ddlib.{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}"
        for room in ("data", "networks", "training")
        for path in (PACKAGE / room).glob("[!_]*.py")
    }
    assert rooms | {"ddlib.seeds", "ddlib.devices", "ddlib.methods.common"} <= set(DECIDING)
    assert not set(DECIDING) & set(METHOD_MODULES)
    for name, method in METHODS.items():
        assert set(method.modules) <= set(METHOD_MODULES), name


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
    def changed(split: Split, part: str) -> Split:
        tensors = {"images": split.images.clone(), "labels": split.labels.clone()}
        tensors[part].view(-1)[-1] += 1
        return Split(**tensors)

    values = (tiny.train.images * 20).clamp(0, 255).to(torch.uint8)
    norm = tiny.normalisation
    matrix = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    several = [
        tiny,
        *(
            replace(tiny, **{name: changed(getattr(tiny, name), part)})
            for name in ("train", "test")
            for part in ("images", "labels")
        ),
        replace(tiny, classes=("ant", "bee", "dog")),
        replace(tiny, normalisation=Normalisation((0.5,), (0.3,))),
        *(
            replace(tiny, normalisation=Whitening(torch.zeros(64), scale * matrix))
            for scale in (1, 2)
        ),
        *(
            replace(tiny, train=Split(Pixels(values + more, norm, white), tiny.train.labels))
            for more, white in ((0, 255), (1, 255), (0, 240))
        ),
    ]
    assert len({images_digest(dataset) for dataset in several}) == len(several) == 12
    for dataset in several:
        twin = replace(dataset, name="other", test=Split(*vars(dataset.test).values()))
        assert images_digest(twin) == images_digest(dataset)


def test_every_file_counts_with_its_place_and_content(tmp_path):
    folder: Path = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "weights.bin").write_bytes(b"1234")
    (folder / "index.json").write_text("{}")

    def digest() -> str:
        return files_digest(folder, (".bin", ".json"))

    digests = [digest()]
    (folder / "readme.md").write_text("not read")
    assert digest() == digests[0]
    moved = folder.rename(tmp_path / "elsewhere")
    assert files_digest(moved, (".json", ".bin")) == digests[0]
    moved.rename(folder)
    for change in (
        lambda: (folder / "part" / "weights.bin").write_bytes(b"12345"),
        lambda: (folder / "index.json").write_text("[]"),
        lambda: (folder / "part" / "weights.bin").rename(folder / "weights.bin"),
        lambda: (folder / "weights.bin").unlink(),
    ):
        change()
        digests.append(digest())
    assert len(set(digests)) == 5
