"""Notebook 04 as papermill runs it, on few problems, and as a page without a network."""

import re
from types import SimpleNamespace

import nbformat
import pytest
from bs4 import BeautifulSoup
from running import NOTEBOOKS, TINY, execute, outputs

from ddlib.publish.page import write_page

NOTEBOOK = NOTEBOOKS / "04_theory.ipynb"
SMALL = {
    **TINY,
    "methods": {"random": {}, "dm": TINY["methods"]["dm"]},
    **{"k": [10, 40, 100], "seeds": 2, "draws": 60},
    "theory": {"problems": 20, "configurations": [2, 16, 64], "worlds": 5, "optimised": [1, 3]},
}


def prose() -> str:
    """Return the text of the notebook, without its code."""
    cells = nbformat.read(NOTEBOOK, 4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    notebook = execute(NOTEBOOK, folder, **SMALL, results=str(folder / "results"))
    nbformat.write(notebook, folder / NOTEBOOK.name)
    write_page(folder / NOTEBOOK.name)
    page = (folder / NOTEBOOK.name).with_suffix(".html").read_text()
    return notebook, BeautifulSoup(page, "html.parser")


def test_it_leaves_figures_sentences_and_sliders(executed):
    notebook, _ = executed
    assert len(outputs(notebook, "image/png")) == 11
    assert len(outputs(notebook, "application/vnd.jupyter.widget-view+json")) == 1
    texts = outputs(notebook, "text/markdown")
    assert "the distance of the weights holds on all 20 random problems" in texts[0]
    assert not any("nan" in text or "FAIL" in text for text in texts)


def test_the_six_quick_checks_fold_their_answers(executed):
    notebook, soup = executed
    part = soup.find(id="Part-5.-Six-quick-checks")
    summaries = [fold.summary.text for fold in part.find_all_next("details", class_=None)]
    assert summaries == ["Answer", "Answer in numbers"] * 6
    answers = [t for t in outputs(notebook, "text/markdown") if t.startswith("<details>")]
    assert len(answers) == 6
    assert all("<td>" in answer for answer in answers)


def test_links_within_it_lead_to_headings(executed):
    _, soup = executed
    places = [link["href"] for link in soup("a") if link["href"].startswith("#")]
    assert len(places) >= 6
    assert all(soup.find(id=place.removeprefix("#")) for place in places)
    other = nbformat.read(NOTEBOOKS / "00_start_here.ipynb", 4).cells[-1].source
    assert "04_theory.ipynb#Part-5.-Six-quick-checks" in other


def test_what_becomes_of_bounds_where_assumptions_fail(executed):
    notebook, _ = executed
    [cell] = [cell for cell in notebook.cells if cell.id == "assumptions-broken"]
    table = cell.outputs[0].data["text/plain"]
    said = dict(re.findall(r"^(A\d).* (broken|holds)", table, re.MULTILINE))
    broken = dict.fromkeys(("A2", "A3", "A5"), "broken")
    assert said | {"A1": ""} == {"A1": "", "A4": "holds", **broken}


def test_every_formula_becomes_mathml(executed):
    _, soup = executed
    text = re.sub(r"`[^`]*`", "", prose())
    text, blocks = re.subn(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    formulas = blocks + len(re.findall(r"\$[^$]+\$", text))
    assert formulas > 150
    assert len(soup("math")) == formulas
    assert not any("\\" in math.text for math in soup("math"))  # no command left untranslated
    assert "$" not in "".join(p.text for p in soup("p"))


def test_statements_are_numbered_and_proved():
    numbers = [int(n) for n in re.findall(r"\*\*Statement (\d+)", prose())]
    assert numbers == list(range(1, len(numbers) + 1))
    assert prose().count("*Proof.*") == prose().count("∎") == len(numbers)


@pytest.mark.parametrize(
    ("k", "draws"), [([400, 10, 20, 5], 60), ([10, 10, 40], 60), ([10, 40, 100], 1)]
)
def test_sizes_and_draws_that_allow_no_exponent_are_refused(k, draws):
    cells = nbformat.read(NOTEBOOK, 4).cells
    [start] = [cell.source for cell in cells if "allow no exponent" in cell.source]
    check = start.split("knobs = settings.theory\n")[1]
    names = {"settings": SimpleNamespace(k=k, draws=draws), "knobs": SimpleNamespace(dimension=5)}
    with pytest.raises(ValueError, match=r"give three sizes above 6 .*, and two draws or more"):
        exec(check, names)
