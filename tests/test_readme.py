"""What the README shows is what the files hold, and its Python runs."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from ddlib import laws, reading, tables
from ddlib.data import Normalisation
from ddlib.distilled import DistilledSet

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / "ddlib" / "example" / "methods" / "digits"
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").iterdir()), ids=lambda path: path.name)
def test_an_example_is_shown_as_it_is(path):
    if path.suffix in (".py", ".yaml"):
        kind = {".py": "python", ".yaml": "yaml"}[path.suffix]
        assert f"`examples/{path.name}`\n\n```{kind}\n{path.read_text()}```" in README


def test_the_tables_are_read_as_shown():
    """The gap is that of each evaluation, which the study wrote itself, in the mean."""
    [snippet] = [each for each in PYTHON if "trials.parquet" in each]
    assert "results/methods/quick" in snippet
    found: dict = {}
    exec(snippet.replace("results/methods/quick", str(EXAMPLE)), found)
    trials = pd.read_parquet(EXAMPLE / "trials.parquet")
    for (method, ipc), gap in found["gap"].items():
        rows = trials[(trials["method"] == method) & (trials["ipc"] == ipc)]
        gaps = [row.gap_error for row in rows.itertuples() if row.configuration == "plain"]
        assert gap == pytest.approx(sum(gaps) / len(gaps), abs=1e-12)
    assert len(found["gap"]) == 60


def test_a_set_is_loaded_as_shown(tmp_path):
    [snippet] = [each for each in PYTHON if "load_distilled" in each]
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    made = DistilledSet(
        images, labels, Normalisation((0.5,), (0.25,)), ("a", "b"), "x", "dm", parameters={}, seed=0
    )
    made.save(tmp_path / "distilled" / "dm-ipc10-seed0-abc.safetensors")
    costs = {
        "method": ["random", "dm"],
        "ipc": 10,
        "seed": 0,
        "set": ["x", "dm-ipc10-seed0-abc.safetensors"],
    }
    pd.DataFrame(costs).to_parquet(tmp_path / "costs.parquet")
    found: dict = {}
    exec(snippet.replace("results/scaling_law/quick", str(tmp_path)), found)
    assert torch.equal(found["synthetic"].images, images)
    assert found["synthetic"].normalisation.normalise(images[:, :, :1, :1]).shape == (2, 1, 1, 1)


def test_what_it_says_of_the_scaling_law_on_digits_is_what_the_example_shows():
    study, _ = tables.example()
    trials = study.trials.query("configuration == 'plain'")
    references = study.references.query("configuration == 'plain'")
    text, survive, other = " ".join(README.split()), {}, {}
    for measure in ("gap_error", "gap_cross_entropy"):
        fits = laws.fit_table(trials, references, measure, draws=500)
        said = {
            name: reading.scaling({name: own}, "", 0.1, {name: 400}) for name, own in fits.items()
        }
        survive[measure] = [name for name, words in said.items() if "c survives" in words]
        assert all("without a floor above 0" in said[name] for name in survive[measure])
        faster = {name for name, words in said.items() if "an upper bound allows" in words}
        other[measure] = set(said) - faster - set(survive[measure])
    told = reading.listed([f"`{name}`" for name in survive["gap_error"]], "and")
    assert f"survives in test error for {told}, in cross-entropy for `mtt`, and" in text
    assert survive["gap_cross_entropy"] == ["mtt"]
    assert other == {"gap_error": set(), "gap_cross_entropy": {"k_center"}}
    assert "but for `k_center` in cross-entropy" in text


@pytest.mark.parametrize("page", ["README.md", "docs/parameters.md"])
def test_links_and_names_of_files_lead_somewhere(page):
    text = (ROOT / page).read_text()
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:parameters|notebooks|examples|docs|ddlib)/[\w./-]+\.\w+)`", text)
    assert all((ROOT / link).is_file() for link in linked + named)


def test_every_notebook_stands_in_the_table():
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"| `{path.stem}` |" in README
