"""What is said of networks on all data: which guess, their length, and which S is no worse."""

import pandas as pd

from ddlib.words import scaling as reading
from ddlib.words.methods import guesses


def table(accuracies: dict, **columns) -> pd.DataFrame:
    """Return rows of trials from {(method, k): (accuracy, balanced accuracy) of each seed}."""
    rows = [
        (method, k // 10, k, seed, *accuracy)
        for (method, k), seeds in accuracies.items()
        for seed, accuracy in enumerate(seeds)
    ]
    names = ["method", "ipc", "k", "seed", "accuracy", "balanced_accuracy"]
    rows = pd.DataFrame(rows, columns=names)
    return rows.assign(**{"configuration": "own", "status": "ok"} | columns)


def full(converged: list, same_steps: list, **columns) -> pd.DataFrame:
    """Return a table of references from the (accuracy, balanced accuracy) of each seed."""
    given = {("converged", 0): converged, ("same_steps", 0): same_steps}
    rows = table({place: seeds for place, seeds in given.items() if seeds})
    lengths = {"converged": (400, 16.0), "same_steps": (100, 4.0)}
    rows[["steps", "passes"]] = [lengths[name] for name in rows["method"]]
    rows = rows.rename(columns={"method": "reference"}).drop(columns="k")
    return rows.assign(**{"capped": False, "measure": "accuracy"} | columns)


def test_networks_that_guess_are_named():
    trials = table({
        ("dm", 10): [(0.1, 0.1), (0.5, 0.5)],
        ("dm", 20): [(0.108, 0.108), (0.104, 0.102)],
        ("dc", 10): [(0.11, 0.11), (0.2, 0.2)],
    })  # fmt: skip
    text = guesses(trials, full([(0.1, 0.1)], [(0.9, 0.9)]))
    assert "\n- all data (converged): 1 of 1 networks, balanced accuracy 0.100" in text
    assert "\n- dm at k = 10 and 20: 3 of 4 networks, balanced accuracy 0.103" in text
    assert "same_steps" not in text
    assert "dc" not in text
    fine = guesses(trials[trials["method"] == "dc"], full([(0.9, 0.9)], []))
    assert fine == "Every network beats a guess, whose balanced accuracy is 10.0%."
    failed = full([(0.9, 0.9)], [], status="failed")
    assert guesses(trials.assign(status="failed"), failed) == "No network ended well."


def test_a_constant_network_on_unbalanced_data_is_named():
    """1000 : 20 images: one class is right for 98 %; a set that reaches 90 % of both is better."""
    trials = table({("dm", 10): [(0.9, 0.9)]}).assign(ipc=5)
    text = guesses(trials, full([(1000 / 1020, 0.5)], []))
    assert "whose balanced accuracy is 50.0%" in text
    assert "- all data (converged): 1 of 1 networks, balanced accuracy 0.500" in text
    assert "dm" not in text


def test_sizes_at_which_the_set_beats_all_data_are_said():
    trials = table({(m, k): [(0.9, 0.9)] for m in ("dm", "dc") for k in (10, 20, 50)})
    trials = trials.assign(gap_error=[0.1, -0.1, 0.0, 0.2, -0.2, 0.1], configuration="own")
    text = "On average, networks trained on S are no worse than those trained on D for "
    assert reading.no_worse(trials) == [f"{text}dm at k = 20 or 50; dc at k = 20."]
    assert reading.no_worse(trials.assign(gap_error=0.1)) == []
    other = trials[trials["method"] == "dc"].assign(configuration="mlp")
    assert reading.no_worse(pd.concat([trials[trials["method"] == "dm"], other])) == [
        f"{text}dm under own at k = 20 or 50; dc under mlp at k = 20."
    ]
    several = pd.concat([trials.assign(configuration=name) for name in "abcde"])
    assert reading.no_worse(several) == [
        f"{text}dm under 5 configurations at k = 20 or 50; dc under 5 configurations at k = 20."
    ]


def test_networks_on_all_data_without_a_length_are_no_crash():
    lost = full([], [(0.9, 0.9)], status="failed", steps=pd.array([None], "Int64"))
    assert reading.effort(lost).endswith("must be trained: see Failures.")


def test_the_sentence_on_all_data_names_lengths_and_what_they_change():
    given = full([(0.96, 0.96), (0.98, 0.98)], [(0.95, 0.95), (0.95, 0.95)])
    text = reading.effort(given)
    assert "trained on all of D for 400 steps, 16 passes over D." in text
    assert "Longer training of seed 0 did not lower the risk on training samples held out." in text
    assert "the accuracy on D changes by -0.0200 (seeds: -0.0300 to -0.0100)." in text
    capped = reading.effort(given.assign(capped=given["reference"] == "converged"))
    assert "It may fall further: training stopped at the largest allowed number of passes" in capped
    few = full([], [(0.6, 0.6)]).assign(passes=0.32)
    assert "100 steps, 0.32 passes over D. They need not have converged" in reading.effort(few)
    unknown = given.assign(steps=given["steps"].where(given["reference"] == "same_steps"))
    assert reading.effort(unknown).startswith("It is not known how long")
    balanced = reading.effort(given.assign(measure="balanced"))
    assert balanced == f"{text} {reading.BALANCED}"
    assert reading.effort(given.assign(steps=0)).endswith(
        "table models fitted to all of D; they take no steps."
    )
