"""The style of all figures: theme, palettes, axes and tooltips."""

import zlib
from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from ddlib.stats.laws import LAWS

WIDTH = 800  # pixels of a whole figure without its axis labels
INK, FAINT = "#222222", "#5A5A5A"
SIZE_TITLE = "distilled samples in all, k (log scale)"

# Okabe and Ito's colours, which colour-blind readers can distinguish, and others like them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#B0508C", "#E69F00", "#332288", "#666666", "#7A0019")
MANY_COLOURS = (
    *COLOURS,
    *("#56B4E9", "#999933", "#8C564B", "#44AA99", "#DD77BB", "#1B5E20", "#9467BD", "#B98600"),
)
METHODS = (
    *("dm", "dc", "herding", "k_center", "dsa", "mtt", "random", "mgd3"),
    *("datm", "kernel_herding", "imported", "k_means", "ncfm", "nearest_to_centroid"),
    *("rded", "sre2l"),
)
METHOD_COLOURS = dict(zip(METHODS, MANY_COLOURS, strict=True))
OTHER_COLOURS = (  # of variants and methods of your own; far from those above for all eyes
    *("#A800F0", "#780060", "#9078F0", "#78A860", "#6048C0", "#A81890", "#A80018", "#6000C0"),
)
STYLES = {  # colour and dashes of each law; only the tested law is black and solid
    "inverse_sqrt": ("#000000", (1, 0)),
    "free_exponent": ("#CC3377", (8, 3)),
    "pure_power": ("#4477AA", (2, 2)),
    "exponential": ("#CC8800", (6, 2, 2, 2)),
    "inverse": ("#228833", (4, 2)),
    "logarithmic": ("#7755BB", (10, 2, 2, 2, 2, 2)),
}
FORMULAS = {name: law.formula for name, law in LAWS.items()}
LAW_COLOURS = {FORMULAS[law]: ink for law, (ink, _) in STYLES.items()}
LAW_DASHES = {FORMULAS[law]: dashes for law, (_, dashes) in STYLES.items()}
LABELS = {"labelColor": INK, "titleColor": INK}
LINES = {"domainColor": "#888888", "tickColor": "#888888", "gridColor": "#E8E8E8"}
SIZES = {"titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 12}
HEADING = {"anchor": "start", "color": INK, "fontSize": 14, "subtitleColor": FAINT, "offset": 10}
CONFIG = {  # sets every colour, so JupyterLab's dark theme changes none
    "background": "white",
    "font": "sans-serif",
    "view": {"stroke": "#CCCCCC"},
    "axis": LABELS | LINES | SIZES,
    "title": HEADING,
    "text": {"color": INK},
    "legend": LABELS | {"labelFontSize": 12},
}


def method_colours(methods: pd.Series) -> dict[str, str]:
    """Return {method: colour}. A method has the same colour in all figures.

    The name alone decides. Variants and methods of your own have one of OTHER_COLOURS, which two
    of them may share.
    """
    others = {
        name: OTHER_COLOURS[zlib.crc32(name.encode()) % len(OTHER_COLOURS)]
        for name in methods.unique()
    }
    return {name: METHOD_COLOURS.get(name.lower(), other) for name, other in others.items()}


def scale(values: Mapping[str, object]) -> alt.Scale:
    """Return a scale that gives each name its value, such as a colour or a shape."""
    return alt.Scale(domain=list(values), range=list(values.values()))


def colour(field: str, names: Sequence[str], **legend: object) -> alt.Color:
    """Return a colour for each name of a field, and its legend; colours repeat after 16 names."""
    colours = {name: MANY_COLOURS[i % len(MANY_COLOURS)] for i, name in enumerate(names)}
    legend = {"title": None, "labelLimit": 300, "symbolOpacity": 1, **legend}
    return alt.Color(f"{field}:N", scale=scale(colours), sort=list(names), legend=legend)


def log_ticks(bottom: float, top: float) -> list[float]:
    """Return round numbers from bottom to top for a log axis."""
    finer = [[count / 10**n for count in range(10**n, 10 ** (n + 1))] for n in (0, 1, 2)]
    for digits in [(1, 2, 5), *finer] if top > 6 * bottom else finer:
        steps = [float(f"{digit}e{exponent}") for exponent in range(-9, 10) for digit in digits]
        if len(ticks := [step for step in steps if bottom <= step <= top]) > 1:
            break
    return ticks


def log_axis(channel: type, field: str, bottom: float, top: float, title: str) -> alt.X | alt.Y:
    """Return a log axis from bottom to top (alt.X or alt.Y), with labels at round numbers."""
    scale = alt.Scale(type="log", domain=[bottom, top], nice=False)
    axis = {"values": log_ticks(bottom, top), "format": "~g", "labelOverlap": True}
    return channel(f"{field}:Q", scale=scale, axis=axis, title=title)


def k_axis(drawn: pd.Series, measured: pd.Series, field: str = "k", margin: float = 1.15) -> alt.X:
    """Return a log axis of `field` over the sizes `drawn`, with labels at the `measured` ones."""
    domain = [float(drawn.min()) / margin, float(drawn.max()) * margin]
    scale = alt.Scale(type="log", domain=domain, nice=False)
    axis = {"values": sorted(measured.unique().tolist()), "format": "d", "labelOverlap": True}
    return alt.X(f"{field}:Q", scale=scale, axis=axis, title=SIZE_TITLE)


def panels(
    chart: alt.TopLevelMixin, field: str, names: Sequence[str], columns: int, prefix: str = ""
) -> alt.FacetChart:
    """Return one panel of a chart for each name of a field, headed by a prefix and the name."""
    facet = alt.Facet(f"{field}:N", sort=list(names), header=header(prefix))
    return chart.facet(facet, columns=columns)


def header(prefix: str = "") -> alt.Header:
    """Return the header of panels: a prefix and the panel's value, which may have several lines."""
    lines = f"split('{prefix}' + (datum.label), '\\n')"
    return alt.Header(title=None, labelAnchor="start", labelFontSize=12, labelExpr=lines)


def figure(chart: alt.TopLevelMixin, title: str, *subtitle: str) -> alt.TopLevelMixin:
    """Return a chart with its title, the lines of its subtitle, and the theme."""
    heading = alt.Title(title, subtitle=list(subtitle))
    return chart.properties(title=heading).configure(**CONFIG)


def zoom() -> alt.Parameter:
    """Return zooming with Ctrl and the mouse wheel; the wheel alone scrolls the page."""
    return alt.selection_interval(bind="scales", zoom="wheel![event.ctrlKey]")


def tips(*fields: str) -> list[alt.Tooltip]:
    """Return tooltips; fields: texts end in ":N", all others are numbers (four digits)."""
    return [
        alt.Tooltip(field) if field.endswith(":N") else alt.Tooltip(f"{field}:Q", format=".4~g")
        for field in fields
    ]
