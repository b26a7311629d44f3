"""Notebook 00: every step in seconds, answers that run, and one line of links in all notebooks."""

import math
import re
import symtable

import nbformat
import numpy as np
import pytest
from running import NOTEBOOKS, execute, outputs

from ddlib.data.load import load
from ddlib.explore import tables
from ddlib.methods import METHODS
from ddlib.networks.functional import build
from ddlib.publish.page import write_page
from ddlib.stats import laws, verdicts
from ddlib.stats.cells import PAPER_METHODS
from ddlib.study.exploration import Exploration
from ddlib.study.settings import Settings
from ddlib.training.loop import train_and_score

NOTEBOOK = NOTEBOOKS / "00_start_here.ipynb"
ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
DM = {"iterations": 2, "real_batch": 8, "learning_rate": 1, "augmentation": "none", "factor": 2}
FAST = {
    **{"data": {"name": "digits"}, "network": {"name": "convnet", "width": 8, "depth": 2}},
    **{"training": {"steps": 10, "batch_size": 64}, "methods": {"random": {}, "dm": DM}},
    **{"k": [10, 20], "seeds": 2},
}


def answers() -> list[str]:
    """Return the code of the hidden answers."""
    cells = nbformat.read(NOTEBOOK, 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"<details>.*?```python\n(.*?)```.*?</details>", text, re.DOTALL)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run the notebook with its answers pasted into new cells, on little."""
    folder = tmp_path_factory.mktemp("lesson")
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells += [nbformat.v4.new_code_cell(answer) for answer in answers()]
    nbformat.write(notebook, folder / "in.ipynb")
    return folder, execute(folder / "in.ipynb", folder, **FAST, results=str(folder / "results"))


def test_it_shows_a_set_two_laws_and_what_they_say(executed):
    _, notebook = executed
    charts = outputs(notebook, "application/vnd.vegalite.v5+json")
    assert len(charts) == 3 + 1  # the set, a figure a law, and the answer about noise
    kept, scaling, coverage = outputs(notebook, "text/markdown")
    assert kept.startswith("> - With 0.8% of the samples, the set of dm keeps ")
    told = re.findall(r"\*\*(\w+): (\w+)", scaling)
    assert told == [("dm", "fails"), ("mgd3", "survives"), ("random", "fails")]
    assert coverage.startswith("**Families with a larger H_cov need more samples** to hold a ")
    assert coverage.endswith("at a worst gap of 0.05 and 0.1: **confirmed**. See notebook 06.")
    jargon = ("AIC", "p =", "R²", "Vendi", "τ", "interval")
    assert not any(word in text for word in jargon for text in (kept, scaling, coverage))


def test_it_scores_a_set_by_the_images_that_networks_see(executed):
    """DM with factor=2 holds four images in one."""
    real, options = load("digits"), Settings.read(FAST | {"results": "results"})
    network = build(**options.network, **real.sizes)
    _, parameters = options.methods["dm"]
    seen = METHODS["dm"].distil(real, network, [1], 0, parameters)[1].decoded
    pairs = [(seen.samples, seen.labels), (real.train.samples, real.train.labels)]
    means = [
        np.mean(
            [
                train_and_score(network, *pair, real.test, options.training, seed).accuracy
                for seed in range(2)
            ]
        )
        for pair in pairs
    ]
    kept = outputs(executed[1], "text/markdown")[0]
    assert kept.endswith(f"keeps {means[0] / means[1]:.0%} of the accuracy.")


def test_what_it_says_of_the_law_beside_its_figure_is_what_the_findings_give():
    """On CIFAR-10 the law fails for the paper's methods; on MNIST, c of random is below zero."""
    mnist, cifar = (tables.read(tables.FINDINGS / "scaling_law" / x) for x in ("mnist", "cifar10"))
    fits = laws.fit_table(cifar.trials, "gap_error", draws=1000)
    assert {verdicts.verdict(fits[method]).outcome for method in PAPER_METHODS} == {"fails"}
    random = mnist.trials[mnist.trials["method"] == "random"]
    law = laws.fit_table(random, "gap_error", draws=1000)["random"]["inverse_sqrt"]
    assert law.parameters["c"].estimate < 0


def test_it_takes_fifteen_minutes():
    """120 words a minute, half a minute a cell or answer to paste; a lecturer's questions extra."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.id != "navigation"]
    text = "\n".join("```python```" if c.cell_type == "code" else c.source for c in cells)
    text = re.sub(r"<details><summary>A lecturer.*?</details>", "", text, flags=re.DOTALL)
    title, *parts = re.split(r"^## .+ \((\d+) minutes?\)$", text, flags=re.MULTILINE)
    said, sections = [int(minutes) for minutes in parts[::2]], parts[1::2]
    sections[0] = title + sections[0]
    for minutes, section in zip(said, sections, strict=True):
        prose, runs = re.subn(r"```python.*?```", "", section, flags=re.DOTALL)
        assert minutes == math.ceil(len(prose.split()) / 120 + runs / 2)
    assert sum(said) == 15


def test_its_answers_are_hidden_and_run(executed):
    folder, notebook = executed
    assert len(answers()) == 3
    printed = [
        "".join(output.get("text", "") for output in cell["outputs"])  # in one piece or several
        for cell in notebook.cells[-3:]
    ]
    table = notebook.cells[-3]["outputs"][0]["data"]["text/plain"]
    assert re.fullmatch(r" +1 +2\nmean( +-?0\.\d+){2}\nstd( +0\.\d+){2}", table)
    assert re.fullmatch(r"0\.\d+\n", printed[1])
    assert printed[2].count("\n") == 5
    write_page(folder / "out.ipynb")
    page = (folder / "out.html").read_text()
    hidden = re.findall(r"<details><summary>.*?</summary>(.*?)</details>", page, re.DOTALL)
    assert sum("<p>" in part for part in hidden) == len(hidden) >= 9


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_no_cell_takes_the_name_of_a_parameter_that_the_parameters_cell_leaves_out(path):
    """A second Run All would read what such a cell left as the parameter."""
    names = {True: set(), False: set()}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            symbols = symtable.symtable(cell.source, path.name, "exec").get_symbols()
            found = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
            names["parameters" in cell.metadata.get("tags", [])] |= found
    kind = Exploration if path.stem in ("05_explore", "06_findings") else Settings
    assert names[False] & set(kind.model_fields) <= names[True]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_notebook_links_to_all_in_one_line(path):
    cell = nbformat.read(path, 4).cells[1]
    assert re.findall(r"\]\(([^)]+)\)", cell.source) == [part.name for part in ALL]
    assert cell.source == nbformat.read(NOTEBOOK, 4).cells[1].source
