"""environment.yml, pyproject.toml, the parameters files and the notebooks agree with each other."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ddlib.networks.functional import build
from ddlib.parameters import read_file
from ddlib.study.exploration import Exploration
from ddlib.study.settings import Settings, read_parameters

ROOT = Path(__file__).parents[1]
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "parameters").glob("*/*.yaml"))
# what a notebook takes, if no study's Settings
KINDS = {"explore": Exploration, "findings": Exploration}
STUDIES = [path for path in PROFILES if path.parent.name not in KINDS]
SHAPES = {  # of a sample, and the number of classes: the data need not be there
    **{"digits": ((1, 8, 8), 10), "mnist": ((1, 28, 28), 10), "cifar10": ((3, 32, 32), 10)},
    **{"cifar100": ((3, 32, 32), 100), "imagenette": ((3, 64, 64), 10), "adult": ((108,), 2)},
    **{"letter": ((16,), 26), "magic_telescope": ((10,), 2)},
    **{"sst2": ((256,), 2), "trec6": ((256,), 6)},
}


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["dependencies"] + project["optional-dependencies"]["test"]


def test_environment_and_project_name_the_same_dependencies():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert sorted(pip) == sorted([*dependencies(), "-c constraints.txt", "-e ."])


def test_binder_and_the_container_install_the_project_as_tested():
    """Both name no package themselves, so that versions are those of constraints.txt."""
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    options = [line for line in lines if not line.startswith("#")]
    assert options == [f"--extra-index-url {CPU_WHEELS}", "-c ../constraints.txt", "-e ."]
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"].endswith(" binder/requirements.txt")
    version = container["image"].rpartition(":")[2]
    assert (ROOT / "binder" / "runtime.txt").read_text() == f"python-{version}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version)
    assert CPU_WHEELS in (ROOT / "docs" / "install.md").read_text()


def test_every_dependency_is_a_range_that_holds_the_version_that_was_tested():
    text = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    pins = dict(line.split("==") for line in text.splitlines() if line and line[0] != "#")
    for dependency in dependencies():
        requirement = Requirement(dependency)
        assert requirement.specifier.contains(pins[requirement.name]), dependency
        assert {">=", "<"} <= {part.operator for part in requirement.specifier}, dependency


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_profile_means_the_same_alone_and_merged_by_papermill_with_its_notebook(path):
    [notebook] = [notebook for notebook in NOTEBOOKS if notebook.stem[3:] == path.parent.name]
    profile = yaml.safe_load(path.read_text())
    injected = "# Parameters\n" + "\n".join(f"{key} = {value!r}" for key, value in profile.items())
    namespace = {"In": [parameters_cell(notebook), injected]}
    for source in namespace["In"]:
        exec(compile(source, "parameters", "exec"), {}, namespace)
    kind = KINDS.get(path.parent.name, Settings)
    merged, alone = kind.of_notebook(namespace), read_parameters(profile)
    assert vars(merged) == vars(alone)
    assert alone.results == f"results/{path.parent.name}/{path.stem}"


def parameters_cell(notebook: Path) -> str:
    cells = code_cells(notebook)
    [cell] = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean_and_its_defaults_are_its_quick_profile(path):
    cells = code_cells(path)
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert max(len(cell.source.splitlines()) for cell in cells) <= 20
    defaults = {}
    exec(compile(parameters_cell(path), "parameters", "exec"), {}, defaults)
    quick = yaml.safe_load((ROOT / "parameters" / path.stem[3:] / "quick.yaml").read_text())
    assert vars(read_parameters(defaults)) == vars(read_parameters(quick))


def test_formulas_of_studies_show_where_there_is_no_network():
    """Notebook 04, whose formulas are long, shows them on its page."""
    for path in NOTEBOOKS:
        cells = nbformat.read(path, 4).cells if "theory" not in path.stem else []
        assert not [cell.source for cell in cells if "$" in cell.source], path.name


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_profile_is_valid_without_its_data_and_its_device(path):
    settings = Settings.read(read_file(path))
    options = settings.data
    (first, *sides), class_count = SHAPES[options["name"]]
    shape = (first, *([options["image_size"]] * 2 if options["image_size"] else sides))
    if options.get("form") == "tokens":
        shape = options["length"], options["dimension"]
    build(**settings.network, sample_shape=shape, class_count=class_count)
    assert settings.device in ("auto", "cuda")
    assert all(k > 0 and k % class_count == 0 for k in settings.k)
    if path.parent.name == "start_here" or path.stem.startswith(("fidelity", "reviewers")):
        return  # a lesson and checks of numbers fit no law to their few trials
    sizes, seeds = {"coverage_law": (5, 4), "methods": (2, 5)}.get(path.parent.name, (6, 5))
    assert len(set(settings.k)) >= sizes
    assert settings.seeds >= seeds


def loaded_by(module: str) -> set[str]:
    """The names of all modules that a process has loaded once it has loaded this one."""
    listing = f"import {module}, sys; print(*sys.modules)"
    options = {"check": True, "capture_output": True, "text": True, "cwd": ROOT}
    started = subprocess.run([sys.executable, "-c", listing], **options)
    return set(started.stdout.split())


def test_who_reads_tables_does_not_wait_for_torch():
    rooms = ("stats", "theory", "figures", "words")
    files = [path for room in rooms for path in (ROOT / "ddlib" / room).glob("[!_]*.py")]
    modules = [f"ddlib.{path.parent.name}.{path.stem}" for path in files]
    assert {path.parent.name for path in files} == set(rooms)
    assert "torch" not in loaded_by(", ".join(modules))


def test_what_starts_a_study_can_be_imported_on_windows():
    """Python has no module `resource` there, which psutil imports on Linux alone."""
    without = "psutil, sys; sys.modules['resource'] = None; import ddlib.publish.execute"
    assert "ddlib.study.forecast" in loaded_by(without)


def test_a_study_starts_without_what_it_may_never_need():
    heavy = {"torchvision", "sklearn", "scipy.stats", "diffusers", "altair", "papermill"}
    assert not loaded_by("ddlib.study.run") & heavy
