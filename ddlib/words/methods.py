"""Sentences that compare methods, computed from tables."""

from collections.abc import Iterable, Mapping

import pandas as pd

from ddlib.stats.compare import BASELINE, against, paired
from ddlib.words.surrogates import interchangeable
from ddlib.words.text import Text, box, bullets, listed

HARDLY = 0.01  # of the distance from a guess to perfect accuracy


def guesses(trials: pd.DataFrame, references: pd.DataFrame) -> Text:
    """Say which networks are hardly better than a guess, which has a balanced accuracy of 1 / C.

    Their balanced accuracy is above it by less than HARDLY of the distance to 1. trials,
    references: the study's tables.
    """
    guess = float(trials["ipc"].iloc[0] / trials["k"].iloc[0])
    least, lines = guess + HARDLY * (1 - guess), []
    full = references.assign(method="all data (" + references["reference"] + ")", k=0)
    both = pd.concat([full, trials]).query("status == 'ok'")
    several = both["configuration"].nunique() > 1
    for (name, method), rows in both.groupby(["configuration", "method"], sort=False):
        low = rows[rows["balanced_accuracy"] < least]
        if len(low):
            ks = [k for k in sorted(low["k"].unique()) if k]
            place = f"{method}{f' under {name}' * several}{f' at k = {listed(ks)}' * bool(ks)}"
            count, mean = rows["k"].isin(low["k"]).sum(), low["balanced_accuracy"].mean()
            lines.append(f"{place}: {len(low)} of {count} networks, balanced accuracy {mean:.3f}")
    if both.empty:
        return Text("No network ended well.")
    if not lines:
        return Text(f"Every network beats a guess, whose balanced accuracy is {guess:.1%}.")
    return Text(
        f"**Hardly better than a guess,** whose balanced accuracy is {guess:.1%}, are the networks "
        f"below {least:.1%}. Their gaps say nothing about the sets.\n\n{bullets(lines)}"
    )


def verdicts(
    pairs: pd.DataFrame,
    ranks: pd.DataFrame,
    controls: pd.DataFrame,
    learned: pd.DataFrame,
    exponents: pd.DataFrame,
) -> Text:
    """Return a line each: the best per sample, who beats BASELINE, per second, interchangeable.

    pairs, ranks: `paired` and `ranking` of `ddlib.stats.compare`; controls: `against_controls` of
    `ddlib.stats.scores`; learned: `paired` of the methods that learn samples; exponents: that table
    of `ddlib.stats.surrogates`.
    """
    versus = against(pairs)
    beaten = f"{_better(versus)}." if len(versus) else _over_baseline(versus)[0]
    lines = [_best(ranks), f"**Against {BASELINE}:** {beaten}", _worth(controls)]
    return box([*lines, interchangeable(learned, exponents)])


def _best(ranks: pd.DataFrame) -> str:
    if ranks.empty:
        return "**Per sample: cannot be decided.** No method reached an accuracy."
    sizes = ranks.groupby("best", sort=False)["k"]
    places = [f"{method} at k = {listed(ks)}" for method, ks in sizes]
    text = f"**Per sample:** best is {'; '.join(places)}."
    if ranks["runner_up"].isna().all():
        return f"{text} There is no other method."
    if (ranks["reason"].dropna() != "").all():
        return f"{text} Whether it is significantly better cannot be decided."
    ahead = ranks["not_separable"].map(len) == 0
    alone = ranks.loc[ahead & ranks["runner_up"].notna(), "k"]
    clear = f"only at k = {listed(alone)}" if len(alone) else "at no k"
    clear = "at every k" if len(alone) == len(ranks) else clear
    return f"{text} Significantly better than all others: {clear}."


def _worth(controls: pd.DataFrame) -> str:
    if (controls["outcome"] == "untested").all():
        return "**Per second: cannot be decided.** No control that costs less can be tested."
    sizes = controls[controls["outcome"] == "ahead"].groupby("method", sort=False)["k"]
    return f"**Per second:** {_beat(sizes)} every control that costs less."


def against_random(pairs: pd.DataFrame) -> Text:
    """Say where each method is better or worse than BASELINE; pairs: `paired` of `compare`."""
    return bullets(_over_baseline(against(pairs)))


def per_second(costs: pd.DataFrame, controls: pd.DataFrame) -> Text:
    """Say who is ahead of every control that costs less, and whose search is counted.

    costs, controls: the tables `cost_table` and `against_controls` of `ddlib.stats.scores`, of all
    label regimes, which a column labels names.
    """
    counts, lines = [], []
    tested = controls[controls["outcome"] != "untested"]
    for labels, rows in tested.groupby("labels", sort=False):
        level, ahead = (rows[rows["outcome"] == name] for name in ("level", "ahead"))
        counts.append(f"{len(level)} of {len(rows)} cases with {labels} labels")
        names = listed(_with_sizes(ahead.groupby("method", sort=False)["k"])) or "none"
        better = "Significantly better than every control that costs less"
        lines.append(f"{better}, {labels} labels: {names}.")
    if not counts:
        return Text("No method can be compared with a control that costs less.")
    searched = listed(costs.dropna(subset="search_seconds")["method"].unique())
    lines.append(f"The search for settings is counted for: {searched or 'none'}.")
    return Text(
        f"**A control that costs less is not significantly worse in {listed(counts)}.** A "
        f"case is a method at a size.\n\n{bullets(lines)}"
    )


def _over_baseline(table: pd.DataFrame) -> list[str]:
    if table.empty:
        return [f"The study has no {BASELINE} beside another method, so nothing to compare with."]
    kept, untested = table["survives"].astype(bool), table["reason"] != ""
    groups = {
        "better": kept & (table["difference"] > 0),
        "worse": kept & (table["difference"] < 0),
        "no significant difference": ~kept & ~untested,
        "not testable": untested,
    }
    lines = []
    for method, ks in table.groupby("method", sort=False)["k"]:
        places = {words: ks[where[ks.index]] for words, where in groups.items()}
        parts = [f"{words} at k = {listed(at)}" for words, at in places.items() if len(at)]
        lines.append(f"{method}: {'; '.join(parts)}.")
    return lines


def labels(regimes: Mapping[str, pd.DataFrame], teachers: pd.DataFrame) -> Text:
    """Say which methods beat random samples under each label regime, and what soft labels give.

    regimes: the trials of each regime, of configurations that differ in labels alone; teachers:
    that table of `ddlib.study.results`.
    """
    if not {"hard", "soft"} <= set(regimes):
        known = listed(regimes)
        return Text(f"Only {known} labels are in this study, so there is nothing to compare.")
    differences = {name: against(paired(trials)) for name, trials in regimes.items()}
    if differences["hard"].empty:
        return Text(" ".join(_over_baseline(differences["hard"])))
    better = {name: _better(table) for name, table in differences.items()}
    controls = [
        trials[trials["method"] == BASELINE].assign(method=name) for name, trials in regimes.items()
    ]
    gains = against(paired(pd.concat(controls)), "hard").query("method == 'soft' and survives")
    parts = [f"{row.difference:+.3f} at k = {row.k}" for row in gains.itertuples()]
    change = f"by {listed(parts)}" if parts else "at no k"
    accuracies = listed(f"{value:.3f}" for value in teachers["accuracy"].unique())
    regime = {"hard": "hard labels", "learned": "learned labels (hard for methods that learn none)"}
    lines = [f"Under {text}, {better[name]}." for name, text in regime.items() if name in better]
    lines += [f"Soft labels significantly change the accuracy of {BASELINE} samples {change}."]
    lines += [f"The teacher was trained on all data and has an accuracy of {accuracies}."]
    return Text(f"**With the same teacher, {better['soft']}.**\n\n{bullets(lines)}")


def _better(table: pd.DataFrame) -> str:
    if (table["reason"] != "").all():
        return f"it cannot be decided who beats {BASELINE} samples"
    rows = table[table["survives"].astype(bool) & (table["low"] > 0)]
    return f"{_beat(rows.groupby('method', sort=False)['k'])} {BASELINE} samples"


def _beat(sizes: Iterable[tuple[str, pd.Series]]) -> str:
    names = _with_sizes(sizes)
    verb = "significantly beat" if len(names) > 1 else "significantly beats"
    return f"{listed(names) or 'no method'} {verb}"


def _with_sizes(sizes: Iterable[tuple[str, pd.Series]]) -> list[str]:
    return [f"{method} (k = {listed(ks)})" for method, ks in sizes]


def orders(table: pd.DataFrame) -> Text:
    """Say how the order of the methods differs under other configurations; see `reordered`."""
    if table.empty:
        return Text(
            "No two configurations can be compared; those with learned labels do not count."
        )
    if not table["pairs"].any():
        return Text(f"No two methods differ significantly under {table['first'].iloc[0]}.")
    lines = []
    for row in table.itertuples():
        rest = f"; the rest, {row.unclear}, do not differ significantly there, which may be lack of"
        lines.append(
            f"**{row.configuration}** keeps the order of {row.kept} of the {row.pairs} pairs that "
            f"differ significantly under {row.first}, and reverses it significantly in "
            f"{row.reversed}{f'{rest} power' * (row.unclear > 0)}."
        )
    return bullets(lines)
