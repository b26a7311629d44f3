"""Figures of distilled sets: images, or points in the plane."""

import base64
from io import BytesIO

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from ddlib.figures import style

SIZES = 4  # columns of points, at most
MIDDLE = 0.99  # the axes leave out what lies far beyond this quantile


def png_address(image: Image.Image) -> str:
    """Return an image as a PNG data address, which a chart can show."""
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def distilled_sets(table: pd.DataFrame) -> alt.FacetChart:
    """Draw the table that `ddlib.pictures.to_draw` returns: images or points."""
    return distilled_images(table) if "url" in table else distilled_points(table)


def distilled_images(pictures: pd.DataFrame) -> alt.FacetChart:
    """Draw one picture per class (columns) and k (rows), one block per method.

    pictures: columns method, k, ipc, class_name and url (a PNG data URL), one row each.
    """
    classes, methods = (list(pictures[name].unique()) for name in ("class_name", "method"))
    columns = 2 if len(methods) > 2 else 1  # one or two methods fill the width
    side = int(np.clip((style.WIDTH / columns - 80) / len(classes), 24, 72))
    angle = 0 if max(map(len, classes)) * 7 < side else -45
    bare = {"domain": False, "ticks": False, "grid": False}
    x = alt.Axis(orient="top", labelAngle=angle, **bare)
    blocks = alt.Chart(pictures, width=alt.Step(side), height=alt.Step(side)).encode(
        alt.X("class_name:N", sort=classes, title=None, axis=x),
        alt.Y("k:O", title=None, axis=alt.Axis(labelExpr="'k = ' + datum.label", **bare)),
        alt.Url("url:N"),
        tooltip=style.tips("class_name:N", "k", "ipc"),
    )
    blocks = blocks.mark_image(width=side - 2, height=side - 2, smooth=False)
    return style.figure(
        style.panels(blocks, "method", methods, columns).resolve_axis(x="independent"),
        "What each method keeps: one image of every class at every size k",
        "k counts the images of all classes; where a class has several, one is shown.",
    )


def distilled_points(points: pd.DataFrame) -> alt.FacetChart:
    """Draw D and the distilled sets in one plane: methods in rows, up to SIZES sizes k in columns.

    points: columns set ("D" or "S"), method, k, class_name, x, y, and x_share and y_share of the
    variance of D.
    """
    is_real = points["set"] == "D"
    real, synthetic = points[is_real], points[~is_real]
    measured = np.sort(synthetic["k"].unique())
    few = np.linspace(0, len(measured) - 1, min(len(measured), SIZES))
    sizes = measured[few.round().astype(int)]
    synthetic = synthetic[synthetic["k"].isin(sizes)]
    synthetic = synthetic.assign(area=(4000 / synthetic["k"].astype(float)).clip(18, 55))
    classes, methods = (list(synthetic[name].unique()) for name in ("class_name", "method"))
    side = min(style.WIDTH // len(sizes) - 20, 220)
    bare = alt.Axis(title=None, grid=False, ticks=False, labels=False)
    drawn = pd.concat([real, synthetic])[["x", "y"]]
    low, high = drawn.quantile(1 - MIDDLE), drawn.quantile(MIDDLE)
    low, high = low - (high - low) / 8, high + (high - low) / 8
    beyond = int((drawn.lt(low) | drawn.gt(high)).any(axis=1).sum())
    x, y = (
        channel(f"{name}:Q", axis=bare, scale=alt.Scale(domain=[low[name], high[name]], nice=False))
        for channel, name in ((alt.X, "x"), (alt.Y, "y"))
    )
    colour = style.colour("class_name", classes, orient="top", columns=8)
    base = alt.Chart(width=side, height=side).encode(x, y, colour)
    faint = base.properties(data=real).mark_point(filled=True, clip=True, size=10, opacity=0.25)
    marks = base.mark_point(shape="diamond", filled=True, clip=True, opacity=0.9)
    marks = marks.encode(
        alt.Size("area:Q", scale=None),
        stroke=alt.value(style.INK),
        strokeWidth=alt.value(0.5),
        tooltip=style.tips("method:N", "k", "class_name:N", "x", "y"),
    )
    chart = alt.layer(faint, marks, data=synthetic).facet(
        row=alt.Row("method:N", sort=methods, header=alt.Header(title=None, labelFontSize=12)),
        column=alt.Column("k:O", header=style.header("k = ")),
    )
    first, second = points[["x_share", "y_share"]].iloc[0]
    return style.figure(
        chart,
        "What each method keeps: distilled samples among the real ones",
        f"Diamonds: S. Dots: {len(real)} samples of D. Across and up: the first two "
        f"principal components of D, {first:.0%} and {second:.0%} of its variance.",
        f"{beyond} of {len(drawn)} points lie beyond the edges."
        + f" Shown: {SIZES} of {len(measured)} sizes k." * (len(measured) > SIZES),
    )
