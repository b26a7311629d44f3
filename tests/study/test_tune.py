"""The search for settings: what it tries, what it chooses, and that it sees no test image."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from grids import DM

from ddlib.study.settings import Settings
from ddlib.study.tune import candidates, main, tuned


def write_study(folder: Path, address: str, corrupt: bool = False, **changes) -> Path:
    """Write data of three classes and a study of them; return its parameter file."""
    draw, data = np.random.default_rng(0), folder / "data"
    data.mkdir(parents=True)
    prototypes = draw.integers(100, 156, (3, 8, 8))
    for split, count in (("train", 60), ("test", 15)):
        labels = np.arange(count) % 3
        images = (prototypes[labels] + draw.integers(-60, 60, (count, 8, 8))).astype(np.uint8)
        if corrupt and split == "test":
            images, labels = 255 - images, labels[::-1].copy()
        np.savez(data / f"{split}.npz", images=images, labels=labels, class_names=["a", "b", "c"])
    study = {
        "data": {"name": str(data)},
        "network": {"name": "mlp", "width": 16, "depth": 2},
        "training": {"steps": 10, "batch_size": 16, "learning_rate": 0.05},
        "methods": {"random": {}, "dm": DM},
        "configurations": {"plain": {}, "long": {"steps": 20}},
        "k": [3, 6],
        "results": str(folder / "results"),
        "cache": str(folder / "cache"),
        "scheduler_address": address,
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    return path


OPTIONS = ["--factors", "0.01", "100"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory, address) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    main([str(write_study(folder, address)), *OPTIONS])
    return folder


def test_all_methods_have_the_same_number_of_candidates_nearest_first():
    factors = (1 / 16, 1 / 4, 4, 16)
    rates = [("rate", factor) for factor in (1, 1 / 4, 4, 1 / 16, 16)]
    assert candidates(["rate"], factors) == rates
    star = [("rate", 1), ("rate", 1 / 4), ("rate", 4), ("step", 1 / 4), ("step", 4)]
    assert candidates(["rate", "step"], factors) == star


def test_the_best_on_held_out_images_is_chosen(searched):
    table = pd.read_csv(searched / "results/tune/tune.csv")
    assert list(table.groupby(["method", "ipc"]).size()) == [3, 3]
    trials = pd.read_parquet(searched / "results/tune/trials.parquet")
    assert set(trials["configuration"]) == {"plain"}
    for row in table.to_dict("records"):
        variant = f"{row['method']}-learning_rate-x{row['factor']:g}"
        own = trials.set_index(["method", "ipc"])["accuracy"][variant, row["ipc"]]
        assert row["accuracy"] == pytest.approx(own.mean())
        # over two seeds, the standard error is half of their difference
        assert row["standard_error"] == pytest.approx(abs(own.iloc[0] - own.iloc[1]) / 2)
        assert row["seconds"] > 0
        assert row["prepare_seconds"] == 0
        assert row["at_edge"] == (row["chosen"] and row["factor"] != 1)
    chosen = table[table["chosen"]].set_index(["method", "ipc"])
    best = table.groupby(["method", "ipc"])["accuracy"].max()
    assert chosen["accuracy"]["dm"].to_dict() == best["dm"].to_dict()
    tuned = Settings.read(yaml.safe_load((searched / "results/tune/tuned.yaml").read_text()))
    assert tuned.methods["dm"][1].learning_rate == chosen["value"]["dm"].to_dict()
    assert tuned.methods["dm"][1].iterations == 3
    assert list(tuned.configurations) == ["plain", "long"]
    assert tuned.data["held_out"] is None
    costs = pd.read_parquet(searched / "results/tune/costs.parquet")
    costs["distil_seconds"] *= 2  # one call makes both sizes
    spent = costs.groupby("ipc")[["distil_seconds", "evaluate_seconds"]].sum().sum(axis=1)
    assert tuned.search_seconds["dm"] == pytest.approx(spent.to_dict(), rel=1e-3)


def test_no_test_image_is_looked_at(searched, tmp_path, address):
    main([str(write_study(tmp_path, address, corrupt=True)), *OPTIONS])
    folders = [folder / "results" / "tune" for folder in (searched, tmp_path)]
    for kind in ("distilled/*.safetensors", "trials/*.json"):
        names = [sorted(path.name for path in folder.glob(kind)) for folder in folders]
        assert names[0] == names[1] != []
    sets = [sorted(folder.glob("distilled/*.safetensors")) for folder in folders]
    assert [path.read_bytes() for path in sets[0]] == [path.read_bytes() for path in sets[1]]
    tables = [pd.read_csv(folder / "tune.csv").drop(columns="seconds") for folder in folders]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_reader_is_told_of_edges_failures_and_what_was_skipped(tmp_path, address, capsys):
    methods = {"random": {}, "dm": DM | {"learning_rate": 1.0e30}}
    study = write_study(tmp_path, address, methods=methods, k=[3])
    main([str(study), "--factors", "1e-30", "1e6", "--seeds", "1", "--held-out", "5"])
    printed = capsys.readouterr().out
    assert "dm: the best value lies at the edge of the grid at ipc 1" in printed
    why = r"\(.+ stopped being a finite number at step \d.+\)"
    failed = rf"learning_rate 1e\+30 {why} and learning_rate 1e\+36 {why}"
    assert re.search(f"dm at ipc 1: these failed and cannot be chosen: {failed}", printed)
    assert "not searched, for want of a number to choose: random" in printed
    assert str(tmp_path / "results/tune/tuned.yaml") in printed
    read = Settings.read(yaml.safe_load((tmp_path / "results/tune/tuned.yaml").read_text()))
    assert read.methods["dm"][1].learning_rate == {1: 1.0}
    settings = (tmp_path / "results/tune/settings.json").read_text()
    assert '"held_out":5' in settings.replace(" ", "")


def test_where_all_candidates_failed_the_number_stays(tmp_path, address):
    dm = {"learning_rate": {1: 1.0, 2: 3.0}}
    study = write_study(tmp_path, address, methods={"dm": dm})
    columns = ["method", "ipc", "number", "factor", "chosen", "seconds", "prepare_seconds"]
    places = [(1, 1, False), (1, 10, True), (2, 1, False), (2, 10, False)]
    rows = [("dm", ipc, "learning_rate", factor, chosen, 1, 0) for ipc, factor, chosen in places]
    table = pd.DataFrame(rows, columns=columns)
    values = tuned(Settings.read(yaml.safe_load(study.read_text())), table)
    assert values["methods"]["dm"]["learning_rate"] == {1: 10.0, 2: 3.0}
    unprepared = tuned(Settings.read(values), table.assign(prepare_seconds=float("nan")))
    assert Settings.read(unprepared).search_seconds["dm"] == {1: 4.0, 2: 4.0}


def test_a_second_search_adds_its_seconds_and_what_is_prepared_counts_once(tmp_path, address):
    mtt = {"iterations": 1, "student_steps": 1, "expert_epochs": 1, "max_start": 1, "experts": 1}
    mtt |= {"augmentation": "none", "expert_augmentation": "none", "expert_steps": 2}
    earlier = {"mtt": {1: 1000, 3: 3000}, "random": 5}
    study = write_study(tmp_path, address, methods={"random": {}, "mtt": mtt}, k=[6])
    table = yaml.safe_load(study.read_text()) | {"search_seconds": earlier}
    study.write_text(yaml.safe_dump(table))
    main([str(study), "--factors", "2", "--seeds", "1"])
    rows = pd.read_csv(tmp_path / "results/tune/tune.csv")
    assert len(rows) == 2
    assert rows["prepare_seconds"].min() == rows["prepare_seconds"].max() > 0
    spent = 2000 + rows["seconds"].sum() + rows["prepare_seconds"][0]
    tuned = Settings.read(yaml.safe_load((tmp_path / "results/tune/tuned.yaml").read_text()))
    assert tuned.search_seconds == {"mtt": {2: pytest.approx(spent, rel=1e-3)}, "random": 5}


def test_vectors_are_searched_in_balanced_accuracy(tmp_path, address):
    """Their methods augment by default, which only images can."""
    changes = {"data": {"name": "wine"}, "methods": {"dm": {"iterations": 3}}}
    changes |= {"measure": "balanced"}
    main([str(write_study(tmp_path, address, **changes)), "--factors", "0.5", "2"])
    folder = tmp_path / "results/tune"
    trials = pd.read_parquet(folder / "trials.parquet")
    means = trials.groupby(["method", "ipc"])["balanced_accuracy"].mean()
    for row in pd.read_csv(folder / "tune.csv").to_dict("records"):
        variant = f"{row['method']}-learning_rate-x{row['factor']:g}"
        assert row["accuracy"] == pytest.approx(means[variant, row["ipc"]])


@pytest.mark.parametrize(
    ("options", "changes", "sentence"),
    [
        ([], {"methods": {"random": {}}}, "random have no number to search"),
        (["--factors", "0", "4"], {}, "--factors has 0; give factors above 0"),
        (
            ["--held-out", "20"],
            {},
            "held_out=20 leaves nothing of the 20 training samples of class",
        ),
        (["--held-out", "19"], {}, "ipc"),
        (["--held-out", "0"], {}, "held_out=0 must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path, options, changes, sentence):
    study = write_study(tmp_path, "tcp://127.0.0.1:1", **changes)
    with pytest.raises(SystemExit, match=sentence):
        main([str(study), *options])
