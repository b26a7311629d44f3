"""What README and docs say is what the files hold, and their Python runs."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
import shipped
import torch

from ddlib.data.normalise import Normalisation
from ddlib.distilled import DistilledSet
from ddlib.explore import evidence, tables
from ddlib.stats import compare, covers, families, laws, regressions, verdicts

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TEXT = " ".join(README.split())
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "results.md").read_text(), re.DOTALL)


def test_the_tables_are_read_as_shown():
    """The gap is that of each evaluation, which the study wrote itself, in the mean."""
    snippet, _ = [block for block in PYTHON if "trials.parquet" in block]
    assert "results/methods/quick" in snippet
    namespace: dict = {}
    snippet = snippet.replace("results/methods/quick", str(shipped.METHODS))
    exec(snippet.replace("'plain'", "'hard'"), namespace)
    trials = pd.read_parquet(shipped.METHODS / "trials.parquet")
    for (method, ipc), gap in namespace["gap"].items():
        rows = trials[(trials["method"] == method) & (trials["ipc"] == ipc)]
        gaps = [row.gap_error for row in rows.itertuples() if row.configuration == "hard"]
        assert gap == pytest.approx(sum(gaps) / len(gaps), abs=1e-12)
    assert len(namespace["gap"]) == 5 * 6


def test_a_set_is_loaded_as_shown(tmp_path):
    [snippet] = [block for block in PYTHON if "load_distilled" in block]
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    synthetic = DistilledSet(
        images, labels, Normalisation((0.5,), (0.25,)), ("a", "b"), "x", "dm", parameters={}, seed=0
    )
    synthetic.save(tmp_path / "distilled" / "dm-ipc10-seed0-abc.safetensors")
    sets = ["x", "dm-ipc10-seed0-abc.safetensors"]
    costs = pd.DataFrame({"method": ["random", "dm"], "ipc": 10, "seed": 0, "set": sets})
    costs.to_parquet(tmp_path / "costs.parquet")
    namespace: dict = {}
    exec(snippet.replace("results/scaling_law/quick", str(tmp_path)), namespace)
    assert torch.equal(namespace["synthetic"].samples, images)
    assert namespace["synthetic"].normalisation == synthetic.normalisation


def test_its_first_picture_is_of_what_its_caption_says():
    study = tables.findings()[0]
    assert f"parameters/scaling_law/{study.folder.name}.yaml" in README.split("## ")[0]
    gaps = study.gaps[study.gaps["method"].isin(evidence.PICTURED)]
    fits = laws.fit_table(gaps, "gap_error", draws=200)
    outcomes = {name: verdicts.verdict(fit).outcome for name, fit in fits.items()}
    assert outcomes == dict.fromkeys(evidence.PICTURED, "fails")
    assert "The scaling law fails here in all six panels, " in README.replace("\n", " ")


def test_the_accuracies_of_a_finding_are_tabulated_as_shown(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    _, snippet = [block for block in PYTHON if "trials.parquet" in block]
    exec(snippet, {})
    printed = {
        line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[2:]
    }
    assert printed["dm_factor_2"] == ["0.891", "0.947", "0.965"]
    assert len(printed) == 16


def test_its_findings_are_what_the_shipped_tables_give():
    found = evidence.gather(tables.findings())
    assert evidence.readme(README, found) == README, "run python -m ddlib.explore.evidence"
    assert "**Scaling law.** The curve" in README


@pytest.mark.parametrize("data", ["mnist", "cifar10", "cifar100", "imagenette"])
def test_longer_training_reverses_no_difference_as_it_says(data):
    study = tables.read(tables.FINDINGS / "methods" / f"longer_{data}")
    [row] = compare.reordered(study.trials, ()).to_dict("records")
    assert (row["first"], row["configuration"], row["reversed"]) == ("own", "longer", 0)
    assert row["kept"] > row["unclear"]
    said = "steps on S reverse no significant difference between methods on MNIST, CIFAR-10,"
    assert f"{said} CIFAR-100 or ImageNette" in README


def test_what_it_says_of_errors_is_what_was_simulated():
    page = (ROOT / "docs" / "statistics.md").read_text()

    def rows(heading: str) -> list[list[int]]:
        section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
        return [list(map(int, re.findall(r"(\d+)%", line))) for line in section.splitlines()]

    held = [row[:6] for row in rows("The planner") if row]  # the last two are no coverage
    assert len(held) == 9
    low, high = min(map(min, held)), max(map(max, held))
    assert f"in simulations, {low} to {high} %" in TEXT
    fails = [row[-1] for row in rows("Intervals and conditions where the law is true") if row]
    assert "fails these tests in about one study of ten" in TEXT
    assert all(8 <= share <= 12 for share in fails)
    table = re.findall(r"(?m)^\| gaps grow with .*\| 5 of 4 \|(.*)\|$", page)
    found = [float(line.split("|")[3]) for line in table]
    assert "five find a true law in one study of four" in TEXT
    assert found == pytest.approx([0.25, 0.25], abs=0.04)


def judged(name, spread):
    """Return a verdict on a shipped study, and p of its tests of H_cov: by claim and worst gap."""
    study = tables.read(tables.FINDINGS / "coverage_law" / name)
    assert study.settings["spread"] == {"size": [4, 6], "count": 12}
    study = dataclasses.replace(study, settings={**study.settings, "spread": spread})
    law = evidence.cover(study, draws=100)
    rises, among = (
        table[table["predictor"] == "h_cov"].set_index("epsilon")["p"]
        for table in (law.fitted, law.within)
    )
    return regressions.confirms(law.fitted, law.within), rises, among


def test_what_it_says_of_the_two_judgements_of_the_coverage_law():
    five, many = {"size": 4, "count": 5}, {"size": [4, 6], "count": 12}
    verdict, _, among = judged("mnist", five)
    assert verdict == "not confirmed"
    assert f"on MNIST p = {among[0.1]:.3f} among them, at a worst gap of 0.1" in TEXT
    verdict, rises, _ = judged("cifar10", five)
    assert verdict == "not confirmed"
    assert f"on CIFAR-10 p = {rises[0.2]:.3f} that k* rises, at 0.2" in TEXT
    assert judged("adult", five)[0] == judged("adult", many)[0] == "not confirmed"
    assert judged("mnist", many)[0] == "confirmed"
    verdict, rises, among = judged("cifar10", many)
    assert verdict == "confirmed"
    assert rises.isna().to_dict() == among.isna().to_dict() == {0.1: True, 0.2: False}


def test_what_it_says_of_other_numbers_of_families_and_other_radii():
    page = (ROOT / "docs" / "statistics.md").read_text()
    rows = re.findall(r"(?m)^\| (\d+) \| (\d.\d{3}) \| [a-z ]+ \| (\d.\d{3}) \|", page)
    largest = {int(count): float(p) for count, p, _ in rows}
    assert f"Its largest p is {largest.pop(12):.3f} with twelve families of each size" in TEXT
    above = sum(p > 0.05 for p in largest.values())
    assert f"above 0.05 with {above} of {len(largest)} other numbers" in TEXT
    mnist, cifar = (sum(float(row[place]) <= 0.05 for row in rows) for place in (2, 1))
    sentence = f"{mnist} of 14 rows confirm the law on MNIST, {cifar} on CIFAR-10, none on Adult"
    assert sentence in " ".join(page.split())
    study = tables.read(tables.FINDINGS / "coverage_law" / "cifar10")
    gaps = study.gaps_of(study.methods[0])
    k_stars, ps = families.k_star(gaps, study.law_families, 0.2, draws=100), []
    for radius in study.radii:
        h_cov = covers.measures(study.distances, study.law_families, radius, bandwidth=1)
        ps += regressions.regress(k_stars, h_cov).query("predictor == 'h_cov'")["p"].tolist()
    chosen, *others = sorted(ps)
    assert f"p = {chosen:.3f}), not at the others ({others[0]:.2f} to {others[-1]:.2f})" in page
    assert f"the p that k* rises is {others[0]:.2f} to {others[-1]:.2f}" in TEXT


def test_its_short_answer_is_that_of_the_findings():
    assert "up to 10 images per class a distilled set is usually better than random" in TEXT
    assert "above that in one case of two" in TEXT
    counts = re.search(r"they are better in (\d+) of (\d+), above in (\d+) of (\d+)", TEXT)
    small, of_small, large, of_large = map(int, counts.groups())
    assert small / of_small > 0.7
    assert large / of_large == pytest.approx(0.5, abs=0.05)
    assert "On MNIST and CIFAR-10, DM with `factor: 2` was the most accurate" in TEXT
    for data in ("cifar10", "mnist"):
        assert f"on {data} dm_factor_2 at 1, 10 and 50" in TEXT


def test_published_accuracies_are_those_of_the_page_of_fidelity():
    page, ours = (ROOT / "docs" / "fidelity.md").read_text(), {}
    row = r"^\| (\w+) \| (\d+) \| ([\d.]+) \| ([\d.]+) ±"
    for section in page.split("\n## ")[1:]:
        data = section.partition(",")[0]
        for method, ipc, published, accuracy in re.findall(row, section, re.MULTILINE):
            # of two sections with the same row, such as MNIST's of dc, the first is the paper's
            ours.setdefault(f"{data} {method} {ipc}", f"{accuracy} % ({published}")
    dc, dsa, dm = (ours[f"cifar10 {name} 1"] for name in ("dc", "dsa", "dm"))
    assert f"DC reaches {dc} published), DSA {dsa}) and DM {dm})" in TEXT
    dc, dsa, dm = (ours[f"mnist {name} 1"] for name in ("dc", "dsa", "dm"))
    assert f"on MNIST DC reaches {dc}), DSA {dsa}) and DM {dm})" in TEXT
    dm, on_mnist = ours["cifar10 dm 10"], ours["mnist dm 10"]
    assert f"At ten, DM reaches {dm}) on CIFAR-10 and {on_mnist}) on MNIST." in TEXT
    (loop,) = re.findall(r"mtt: iterations \| (\d+) \| (\d+) \|", page)
    (few,) = re.findall(r"mtt: experts \| (\d+) \| (\d+) \|", page)
    loop, few = (f"{int(here)} of its {int(there):,}" for here, there in (loop, few))
    after = f"after {loop} iterations, with {few} experts"
    assert f"whitened image per class, reaches {ours['cifar10 mtt 1']}) {after}" in TEXT
    random, herding = ours["cifar10 random 10"], ours["cifar10 herding 10"]
    assert f"random images reach {random}) and herding {herding})" in TEXT
    assert f"but k-center {ours['cifar10 k_center 10']})" in TEXT
    assert f"reach {ours['cifar10 nearest_to_centroid 10'].partition(' (')[0]}." in TEXT


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_of_files_lead_somewhere(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    names = re.findall(r"`((?:parameters|notebooks|examples|docs|ddlib)/[\w./-]+\.\w+)`", text)
    assert all((page.parent / link).is_file() for link in links)
    assert all((ROOT / name).is_file() for name in names)


def test_every_notebook_stands_in_the_table():
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"| `{path.stem}` |" in README
