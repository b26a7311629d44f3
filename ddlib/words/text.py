"""Format lists, tables of lines, folded tables and p-values for sentences."""

import re
from collections.abc import Iterable

import pandas as pd

LONG = 10  # rows, above which a table is folded


class Text(str):
    """Markdown that a notebook renders and a terminal shows as it is."""

    __repr__ = str.__str__

    def _repr_markdown_(self) -> str:
        return re.sub(r"\bk\*(?!\*)", r"k\\*", self)  # the star of k* begins no italics


def listed(names: Iterable, word: str = "and") -> str:
    """Return names as a list in words: `a, b and c`."""
    names = [str(name) for name in names]
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def unless_empty(table: pd.DataFrame, sentence: str, summary: str) -> pd.DataFrame | Text:
    """Return a table, folded under its summary if it is long, or a sentence if it has no rows."""
    if table.empty:
        return Text(sentence)
    return folded(table, summary) if len(table) > LONG else table


def box(lines: Iterable[str]) -> Text:
    """Return verdicts, one a line, as a Markdown quote. The report shows a notebook's first one."""
    return Text("\n".join(f"> - {line}" for line in lines))


def bullets(lines: Iterable[str]) -> Text:
    """Return lines as a Markdown list."""
    return Text("\n".join(f"- {line}" for line in lines))


def folded(table: pd.DataFrame | pd.Series, summary: str = "Answer in numbers") -> Text:
    """Return a table that a click on its summary unfolds, in JupyterLab and in a page."""
    rows = pd.DataFrame(table).to_html(border=0)
    return Text(f"<details><summary>{summary}</summary>\n\n{rows}\n\n</details>")


def p_value(value: float) -> str:
    """Return a p-value with its name: `p = 0.012`, or `p < 0.001`."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
