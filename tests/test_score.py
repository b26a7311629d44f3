"""Sets of other programs are scored as any method's, in one call or one command."""

import pandas as pd
import pytest
import torch
import yaml

from ddlib.data.load import load
from ddlib.networks.functional import build
from ddlib.score import main, score, sentence
from ddlib.training.loop import train_and_score
from ddlib.training.recipe import Recipe

DATA = {"name": "digits", "classes": [0, 1, 2]}
TRAINING = {"steps": 20, "batch_size": 16, "learning_rate": 0.05}
UNIT = "normalised_by: {mean: [0], std: [1]}"
LABELS = torch.arange(3).repeat_interleave(2)


@pytest.fixture
def project(tmp_path, monkeypatch, address):
    """A project with a protocol for digits, and a set of MTT's of real digits."""
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "parameters/methods").mkdir(parents=True)
    network = {"name": "mlp", "width": 16, "depth": 2}
    study = {"data": DATA, "network": network, "training": TRAINING, "methods": {"dc": {}}}
    path = tmp_path / "parameters/methods/digits.yaml"
    path.write_text(yaml.safe_dump(study | {"k": [30], "results": "elsewhere"}))
    train = load(**DATA).train
    rows = torch.cat([(train.labels == label).nonzero().flatten()[:2] for label in range(3)])
    torch.save(train.at(rows), "images_best.pt")
    torch.save(LABELS, "labels_best.pt")
    return train.at(rows)


def by_hand(samples, labels, rate):
    network, test = build("mlp", (1, 8, 8), 3, width=16, depth=2), load(**DATA).test
    recipe = Recipe(**TRAINING | {"learning_rate": rate})
    scores = [
        train_and_score(network, samples, labels, test, recipe, (seed, 0)) for seed in range(3)
    ]
    return pd.Series([score.accuracy for score in scores])


def test_a_folder_needs_a_file_of_parameters(project):
    with pytest.raises(
        FileNotFoundError, match=r"mine.yaml; name a study's file with --parameters"
    ):
        score("images_best.pt", "mtt", "mine")


def test_data_that_are_no_table_are_said_to_be_none(project, tmp_path):
    path = tmp_path / "parameters/methods/digits.yaml"
    path.write_text(path.read_text().replace(yaml.safe_dump({"data": DATA}), "data: digits\n"))
    with pytest.raises(ValueError, match="data: this must be a table with a name"):
        score("images_best.pt", "mtt", "digits")


def test_a_folder_of_the_name_of_a_data_set_is_not_passed_over(project, tmp_path):
    (tmp_path / "digits").mkdir()
    with pytest.raises(ValueError, match=r"'digits' is a data set and a folder .*; write ./digits"):
        score("images_best.pt", "mtt", "digits")


def test_a_protocol_for_a_gpu_is_not_taken_to_a_cpu(project, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    path = tmp_path / "parameters/methods/digits.yaml"
    path.write_text(path.read_text() + "device: cuda\n")
    with pytest.raises(
        ValueError, match=r"'cuda' is not a device of .*protocol is that of .*digits.yaml"
    ):
        score("images_best.pt", "mtt", "digits")


def test_a_set_is_scored_beside_random_samples_of_its_size(project):
    settings, table = score("images_best.pt", "mtt", "digits", seeds=3, step_size=0.2)
    assert table["method"].tolist() == ["imported", "random", "all data"]
    assert table["n"].tolist() == [3, 3, 3]
    accuracies, row = by_hand(project, LABELS, 0.2), table.iloc[0]
    half = 4.302653 * accuracies.std() / 3**0.5  # Student t with two degrees of freedom
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx(
        (accuracies.mean(), accuracies.mean() - half, accuracies.mean() + half)
    )
    assert settings.k == [6]
    other, _ = score("images_best.pt", "mtt", "digits", seeds=3)
    assert other.results != settings.results  # another protocol does not replace the first


def test_soft_labels_are_trained_on(project):
    soft = torch.softmax(3 * torch.eye(3)[LABELS], 1)
    torch.save(soft, "labels_best.pt")
    settings, table = score("images_best.pt", "mtt", "digits", seeds=3)
    assert table["accuracy"][0] == pytest.approx(by_hand(project, soft, 0.05).mean())
    line = sentence(settings, table)
    assert line.endswith("the set has its learned labels; random samples have hard labels")


def test_the_command_prints_one_line_or_one_sentence(project, capsys):
    unit = (project * load(**DATA).normalisation.std[0]) + load(**DATA).normalisation.mean[0]
    torch.save({"data": [[unit, LABELS]]}, "res_DM.pt")
    arguments = ["res_DM.pt", "--as", "dc", "--data", "digits", "--seeds", "3"]
    main([*arguments, "--options", f"{UNIT}, experiment: 0"])
    line = capsys.readouterr().out.splitlines()[-1]
    accuracy = 100 * by_hand(project, LABELS, 0.05).mean()
    assert line.startswith(f"imported {accuracy:.1f} (")
    assert line.endswith(
        "seeds: 3, k=6 of digits, network mlp width 16 depth 2, 20 steps, on all data too"
    )
    assert ", random " in line
    assert ", all data " in line
    for more, message in (
        ([], "res_DM.pt, read as asked, has channels of mean"),
        (["--options", f"{UNIT}, experiment: 1"], "of 1 sets, none is experiment 1"),
        (["--data", "letter"], "holds no letter_reference.yaml or letter.yaml"),
        (["--as", "pt"], "'pt' is not a format; .*allowed: dc, mtt, npz, folder"),
        (["--options", "step: 1"], "'step' is not a parameter; did you mean 'step_size'"),
        (["--options", "}"], "--options is not YAML"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*arguments, *more])
