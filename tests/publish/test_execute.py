"""Running a notebook with a file of parameters: where its files go, and what is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml
from clusters import heed_interrupts

from ddlib.publish import page
from ddlib.publish.execute import foresee, main

STUDY = {
    "data": {"name": "digits"},
    "network": {"name": "mlp"},
    "training": {},
    "methods": {"random": {}},
    "k": [10],
}


def write(path: Path, source: str, tagged=("code",), cell="k = 0") -> None:
    """Write a notebook of one cell, after those that are tagged."""
    cells = [
        getattr(nbformat.v4, f"new_{kind}_cell")(cell, metadata={"tags": ["parameters"]})
        for kind in tagged
    ] + [nbformat.v4.new_code_cell(source)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def run(tmp_path):
    """Run a notebook of one cell, whose source is given; return its results folder.

    tagged: one more cell for each, of these types, with the tag of the parameters cell.
    """

    def execute(source: str, text: str | None = None, tagged=("code",), cell="k = 0", **changes):
        places = {"results": str(tmp_path / "out"), "cache": str(tmp_path / "cache")}
        values = STUDY | places | changes
        parameters = tmp_path / "mine.yaml"
        parameters.write_text(yaml.safe_dump(values) if text is None else text)
        write(tmp_path / "question.ipynb", source, tagged, cell)
        main([str(tmp_path / "question.ipynb"), str(parameters)])
        return tmp_path / "out"

    return execute


def test_the_notebook_and_its_page_go_where_the_parameters_say(run, capfd, monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with it, ipykernel captures no child's output
    bar = (
        "import time\nfor n in range(3): print(f'\\r{n} of 2', end='', flush=True); time.sleep(.1)"
    )
    child = "import subprocess; subprocess.run(['echo', 'once']); time.sleep(3)"
    folder = run(f"{bar}\nprint('\\nsizes', k)\n{child}")  # a thread reads a child's output
    [output] = nbformat.read(folder / "question.ipynb", 4).cells[-1].outputs
    assert output.text == "2 of 2\nsizes [10]\nonce\n"  # a bar leaves its last state
    assert "sizes [10]" in (folder / "question.html").read_text()
    printed = capfd.readouterr().out
    assert printed.endswith(f"read {folder / 'question.html'}\n")
    assert "once" not in printed  # the cell's output is logged, and not printed a second time


def test_the_file_is_the_whole_study_and_the_log_names_run_and_cells(run, capfd, caplog):
    caplog.set_level("INFO", logger="papermill")
    cell = "k, seeds, configurations, labels = 0, 9, {'mine': {}}, {'regime': 'learned'}"
    folder = run("print(seeds, configurations, labels)", cell=cell)
    executed = nbformat.read(folder / "question.ipynb", 4)
    assert executed.cells[-1].outputs[0].text.startswith("5 {} {'regime': 'hard',")  # defaults
    name = f"{folder.parent.name}/mine"
    lines = [record.getMessage() for record in caplog.records if "ell" in record.getMessage()]
    assert lines[-3:] == [f"{name}: cell {number} of 3" for number in (1, 2, 3)]


def test_a_notebook_of_other_parameters_is_refused(tmp_path):
    notebook = Path(__file__).parents[2] / "notebooks" / "01_scaling_law.ipynb"
    parameters = notebook.parents[1] / "parameters" / "methods" / "quick.yaml"
    with pytest.raises(
        SystemExit, match=r"is for 02_methods\.ipynb, not for 01_scaling_law\.ipynb"
    ):
        main([str(notebook), str(parameters), f"results={tmp_path}"])


@pytest.mark.parametrize(
    ("source", "changes", "sentence"),
    [
        ("", {"k": [15]}, "15"),
        ("", {"data": {"name": "cifar10"}}, "cifar10"),
        ("", {"network": {"name": "text_cnn"}}, "text_cnn"),
        ("# check_coverage(settings)", {}, "^1 configurations make no families; give at least 3$"),
    ],
)
def test_what_the_data_and_the_notebook_decide_is_checked_before_a_kernel_starts(
    run, tmp_path, monkeypatch, source, changes, sentence
):
    monkeypatch.setenv("DDLIB_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=sentence):
        run(source, **changes)
    assert not list((tmp_path / "out").glob("*.ipynb"))


def test_ctrl_c_leaves_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(STUDY | {"results": str(tmp_path / "out")}))
    write(tmp_path / "question.ipynb", "open('started', 'w').close(); __import__('time').sleep(99)")
    command = [sys.executable, "-m", "ddlib.publish.execute", "question.ipynb", "mine.yaml"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_interrupts,
    )
    while not (tmp_path / "started").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].splitlines()
    assert said[-1] == "stopped; what is finished is kept: the same command goes on from there"
    assert process.returncode == 1
    assert not [line for line in said if "Traceback" in line]


def test_a_dry_run_says_what_a_study_costs_and_computes_no_trial(tmp_path, capsys, address):
    parameters = tmp_path / "mine.yaml"
    places = {"results": str(tmp_path / "out"), "cache": str(tmp_path / "cache")}
    parameters.write_text(yaml.safe_dump(STUDY | places))
    notebook = Path(__file__).parents[2] / "notebooks" / "01_scaling_law.ipynb"
    main([str(notebook), str(parameters), f"scheduler_address={address}", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 trials, 0 of them cached; 10 networks on all data, 0 of them cached"
    assert [line.split()[0] for line in lines[2:5]] == ["random", "evaluation", "networks"]
    assert "seconds on 1 workers" in lines[-1]
    assert not list(tmp_path.rglob("*.ipynb"))
    assert not list(tmp_path.rglob("*.json"))


def test_a_dry_run_of_a_notebook_without_trials_says_so(tmp_path):
    root = Path(__file__).parents[2]
    paths = root / "notebooks/00_start_here.ipynb", root / "parameters/start_here/quick.yaml"
    text = "nothing to compute: this notebook runs no study"
    assert foresee(*paths, results=str(tmp_path)) == text


def test_a_cell_that_fails_is_named_and_leaves_its_page(run, tmp_path):
    with pytest.raises(SystemExit, match=r"question\.ipynb stopped in cell 3: no such luck"):
        run("raise ValueError('no such luck')")
    assert "This run stopped in" in (tmp_path / "out" / "question.html").read_text()


def test_a_kernel_that_dies_is_named_and_leaves_no_page_of_another_run(run, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "question.html").write_text("of the last run")
    with pytest.raises(SystemExit, match=r"question\.ipynb died, perhaps for want of"):
        run("import os\nos._exit(9)")
    text = (folder / "question.html").read_text()
    assert "of the last run" not in text
    assert "This run is not past" in text
    assert page.failure(nbformat.read(folder / "question.ipynb", 4))[::2] == (3, page.NO_END)


@pytest.mark.parametrize(
    ("text", "changes", "sentence"),
    [
        ("k: [1", {}, r"mine\.yaml is not YAML: .* line 1"),
        (None, {"results": 5}, "results=5 must be text"),
        (None, {"seedz": 3}, "'seedz' is not a parameter; did you mean 'seeds'"),
    ],
)
def test_parameters_that_name_no_study_are_refused(run, tmp_path, text, changes, sentence):
    with pytest.raises(SystemExit, match=sentence):
        run("", text, **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tagged", "number"),
    [((), "none"), (("code", "markdown"), "a code cell and a markdown cell")],
)
def test_a_notebook_without_its_one_parameters_cell_is_refused(run, tmp_path, tagged, number):
    """papermill would run it with the notebook's own values in the place of the file's."""
    with pytest.raises(SystemExit, match=rf"one code cell tagged 'parameters', but has {number};"):
        run("from pathlib import Path; Path(results, 'ran').touch()", tagged=tagged)
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_take_results_are_refused(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"cannot write to the folder .*; choose another folder"):
        run("", results=str(tmp_path / "file" / "out"))
    with pytest.raises(SystemExit, match="is the notebook's own folder; name another"):
        run("", results=str(tmp_path))


def test_missing_files_and_arguments_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"no notebook at .*nowhere\.ipynb; give the path"):
        main([str(tmp_path / "nowhere.ipynb"), str(tmp_path / "mine.yaml")])
    with pytest.raises(SystemExit, match=r"usage: python -m ddlib\.publish\.execute NOTEBOOK"):
        main([])
