"""What the README shows is what the files hold, and its Python runs."""

import re
from pathlib import Path

import pandas as pd
import pytest

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
    [snippet] = [each for each in PYTHON if "read_parquet" in each]
    assert "results/methods/quick" in snippet
    found: dict = {}
    exec(snippet.replace("results/methods/quick", str(EXAMPLE)), found)
    trials = pd.read_parquet(EXAMPLE / "trials.parquet")
    for (method, ipc), gap in found["gap"].items():
        rows = trials[(trials["method"] == method) & (trials["ipc"] == ipc)]
        gaps = [row.gap_error for row in rows.itertuples() if row.configuration == "plain"]
        assert gap == pytest.approx(sum(gaps) / len(gaps), abs=1e-12)
    assert len(found["gap"]) == 60


@pytest.mark.parametrize("page", ["README.md", "docs/parameters.md"])
def test_links_and_names_of_files_lead_somewhere(page):
    text = (ROOT / page).read_text()
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:parameters|notebooks|examples|docs|ddlib)/[\w./-]+\.\w+)`", text)
    assert all((ROOT / link).is_file() for link in linked + named)


def test_every_notebook_stands_in_the_table():
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"| `{path.stem}` |" in README
