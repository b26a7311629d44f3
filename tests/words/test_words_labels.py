"""What soft labels give, said of trials whose answer is known."""

from itertools import product

import numpy as np
import pandas as pd

from ddlib.words import methods as words

TEACHERS = pd.DataFrame({"accuracy": [0.975]})
NOISE = np.array([0.01, -0.01, 0.0, 0.005, -0.005])  # over seeds


def trials(**accuracies):
    """Five seeds at k = 10 and 20; the differences of methods vary by a tenth of the noise."""
    places = product(enumerate(accuracies.items()), (10, 20), range(5))
    rows = [
        (method, k, seed, mean + NOISE[seed] + NOISE[(seed + place + round(10 * mean)) % 5] / 10)
        for (place, (method, mean)), k, seed in places
    ]
    table = pd.DataFrame(rows, columns=["method", "k", "seed", "accuracy"])
    return table.assign(base=table["method"], status="ok")


def test_who_beats_random_images_is_said_of_every_regime():
    regimes = {
        "hard": trials(random=0.5, dm=0.6, herding=0.4),
        "soft": trials(random=0.7, dm=0.7, herding=0.4),
        "learned": trials(random=0.5, dm=0.5, herding=0.6),
    }
    verdict, _, *lines = words.labels(regimes, TEACHERS).splitlines()
    assert verdict == "**With the same teacher, no method significantly beats random samples.**"
    assert lines == [
        "- Under hard labels, dm (k = 10 and 20) significantly beats random samples.",
        "- Under learned labels (hard for methods that learn none), herding (k = 10 and 20) "
        "significantly beats random samples.",
        "- Soft labels significantly change the accuracy of random samples by +0.200 at k = 10 and "
        "+0.200 at k = 20.",
        "- The teacher was trained on all data and has an accuracy of 0.975.",
    ]


def test_one_regime_is_nothing_to_compare():
    text = words.labels({"hard": trials(random=0.5, dm=0.6)}, TEACHERS[:0])
    assert text == "Only hard labels are in this study, so there is nothing to compare."


def test_without_the_baseline_nothing_is_said_to_be_no_better_than_it():
    regimes = dict.fromkeys(["hard", "soft"], trials(dm=0.5, dc=0.6))
    text = words.labels(regimes, TEACHERS)
    assert text == "The study has no random beside another method, so nothing to compare with."
