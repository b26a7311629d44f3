"""Whether methods behave as surrogates of one objective: one order over k, alike exponents.

Letters: M methods, K sizes.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used

from ddlib.stats.compare import CONTROLS, seed_accuracies
from ddlib.stats.intervals import LEVEL, SAME
from ddlib.stats.laws import Fits

DRAWS = 10_000  # orders that are compared, the observed one among them


class Agreement(NamedTuple):
    """Whether the order of the methods is the same at every k; `reason` says why not tested.

    left_out: methods without a result at some k; seeds: those complete, of how many.
    """

    w: float  # Kendall's W over sizes: 0 no common order, 1 the same order at every k
    p: float
    methods: tuple[str, ...]
    ks: tuple[int, ...]
    reason: str
    left_out: tuple[str, ...] = ()
    seeds: tuple[int, int] = (0, 0)


def agreement(trials: pd.DataFrame) -> Agreement:
    """Test whether the methods come in the same order at every k, by Kendall's W of their means.

    Methods without a result at some k and seeds that are not complete are left out. p is the share
    of DRAWS, the observed order among them, in which orders agree at least as much.
    Noise that a seed shares over k can make orders alike, too: read p beside `paired`.
    """
    table = seed_accuracies(trials).unstack("k")  # rows seeds, columns (method, k)
    asked, missing = len(table), table.columns[table.isna().all()].unique("method")
    table = table.drop(columns=missing, level="method").dropna()
    methods, ks = (tuple(table.columns.unique(level)) for level in ("method", "k"))
    result = Agreement(np.nan, np.nan, methods, ks, "", tuple(missing), (len(table), asked))
    needs = ("method", len(methods), 2), ("size", len(ks), 2), ("seed", len(table), 1)
    for name, count, least in needs:
        if count < least:
            return result._replace(reason=f"{count or 'no'} {name} with a result everywhere")
    means = table.mean().to_numpy().reshape(len(methods), len(ks)).T
    w = kendall_w(means)
    if np.isnan(w):
        return result._replace(reason="all methods reach the same accuracy at every k")
    shuffle = np.random.default_rng(0).random((DRAWS - 1, *means.shape)).argsort(axis=-1)
    shuffled = kendall_w(np.take_along_axis(means[None], shuffle, axis=-1))
    return result._replace(w=float(w), p=(1 + (shuffled >= w - SAME).sum()) / DRAWS)


def kendall_w(values: np.ndarray) -> np.ndarray:
    """Return Kendall's coefficient of concordance of K rankings of M items, values (..., K, M).

    Equal values share their mean rank, with the usual correction; NaN where all are equal.
    """
    ranks = scipy.stats.rankdata(np.round(values, 12), axis=-1)  # equal but for rounding is equal
    ranks -= ranks.mean(axis=-1, keepdims=True)
    most = ranks.shape[-2] * (ranks**2).sum(axis=(-2, -1))
    agreed = (ranks.sum(axis=-2) ** 2).sum(axis=-1)
    return np.divide(agreed, most, out=np.full(np.shape(most), np.nan), where=most > 0)


def exponents(fits_by_method: dict[str, Fits]) -> pd.DataFrame:
    """Compare the fitted exponents b of a/k^b + c of each pair of methods, controls left out.

    fits_by_method: see `fit_table`; its draws weigh a seed alike in all methods. Columns: first,
    second, b_first, b_second, difference, low, high, differs, reason. Each interval leaves out
    5 % over the number of pairs (Bonferroni); docs/statistics.md says how often all hold at once.
    """
    fits = {m: laws["free_exponent"] for m, laws in fits_by_method.items() if m not in CONTROLS}
    pairs, rows = list(combinations(fits, 2)), []
    for pair in pairs:
        vague = [f"{name}: {fits[name].reason}" for name in pair if not fits[name].identifiable]
        b = [fits[name].parameters["b"].estimate if fits[name].fitted else np.nan for name in pair]
        low, high = np.nan, np.nan
        if not vague:
            draws = np.subtract(*(fits[name].coefficients[1:, 1] for name in pair))
            out = LEVEL / len(pairs)
            low, high = np.quantile(draws, [out / 2, 1 - out / 2])
        differs = low > 0 or high < 0
        rows.append((*pair, *b, b[0] - b[1], low, high, differs, "; ".join(vague)))
    names = ["first", "second", "b_first", "b_second", "difference", "low", "high", "differs"]
    return pd.DataFrame(rows, columns=[*names, "reason"])
