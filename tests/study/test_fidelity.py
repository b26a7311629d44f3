"""The table of published accuracies beside ours is made from a study's results folder."""

import numpy as np
import pandas as pd
import pytest

from ddlib.study.fidelity import main
from ddlib.study.run import run
from ddlib.study.settings import Settings


def test_a_published_accuracy_stands_beside_ours_with_what_differs(tmp_path, monkeypatch, address):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "mnist").mkdir()
    labels = np.arange(30) % 3
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    for split in ("train", "test"):
        arrays = {"images": images, "labels": labels, "class_names": ["a", "b", "c"]}
        np.savez(tmp_path / "mnist" / f"{split}.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    study = {
        **{"data": {"name": str(tmp_path / "mnist")}, "training": {"steps": 5}},
        **{"network": {"name": "mlp", "width": 16, "depth": 2}, "methods": {"random": {}}},
        **{"k": [3, 6], "seeds": 2, "reference": "same_steps"},
        **{"results": "methods/own", "cache": "cache", "scheduler_address": address},
    }
    run(Settings.read(study))
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/fidelity.md"
    page.write_text(
        "# Old head\n\n## cifar10, kept\n\nits rows\n\n## mnist, methods/own\n\nold rows\n"
    )
    main(["methods/own"])
    text = page.read_text()
    assert "## cifar10, kept\n\nits rows\n" in text  # a section on another study stays
    assert "Old head" not in text
    assert "old rows" not in text
    lines = text.splitlines()
    assert "## mnist, methods/own" in lines
    rows = [line.split(" | ") for line in lines if line.startswith(("| random", "| all data"))]
    # one size of random and the network on all data are published: 64.9 % and 99.6 %
    trials = pd.read_parquet("methods/own/trials.parquet").query("ipc == 1")
    ours, deviation = 100 * trials["accuracy"].mean(), 100 * trials["accuracy"].std()
    both = f"{ours:.1f} ± {deviation:.1f}"
    assert rows[0][:5] == ["| random", "1", "64.9", both, f"{ours - 64.9:.1f}"]
    assert rows[1][:3] == ["| all data", "", "99.6"]
    assert "as few steps as on S" in rows[1][5]
    why, doubt = rows[0][5].removesuffix(" |").split("; ")
    names = ["images to train on", "network", "batch_size", "learning_rate", "schedule"]
    assert set(why.split(", ")) - {*names, "momentum", "augmentation"} == {"steps of training"}
    assert doubt == "published at second hand"
    assert "| network | mlp width 16 depth 2 | convnet width 128 depth 3 |" in lines
    assert "| steps of training, at every k here | 5 | 1,000 |" in lines
    assert lines[-1].startswith("Seeds: 2; networks on each set: 1. Computed at commit ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [([], "usage"), (["nowhere"], "there is no finished study in .*nowhere; name")],
)
def test_what_is_no_study_is_refused(arguments, sentence):
    with pytest.raises(SystemExit, match=sentence):
        main(arguments)
