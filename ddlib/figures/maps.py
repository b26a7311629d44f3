"""Maps of configurations: a plane of their distances, with the balls of a cover."""

import altair as alt
import numpy as np
import pandas as pd

from ddlib.figures import style

ROLES = {"centre of a ball": style.COLOURS[1], "covered": style.COLOURS[0]}
ROLES["not in the family"] = "white"
WIDTH, HEIGHTS = 340, (-13, 14, -25, 26, -37, 38)  # pixels: of a small map, from dots to names


def configuration_map(points: pd.DataFrame, share: float, radius: float) -> alt.LayerChart:
    """Draw the configurations in the plane with the balls of a smallest cover.

    points: see `cover_map`; share: of the distances' variance that the plane shows.
    """
    return style.figure(
        cover_map(points, radius, radius).properties(width=560, height=560),
        covered(points["centre"].nunique(), f"{radius:.2g}", len(points)),
        f"The plane shows {share:.0%} of the distances' variance, so a ball may look too wide or "
        "too narrow. A line joins each member to its centre.",
    )


def covered(balls: int, radius: str, members: int) -> str:
    """Say how many balls of a radius cover how many configurations."""
    cover = "ball of radius {} covers" if balls == 1 else "balls of radius {} cover"
    return f"{balls} {cover.format(radius)} {members} configuration{'s' * (members > 1)}"


def cover_map(points: pd.DataFrame, radius: float, usual: float) -> alt.LayerChart:
    """Draw configurations, the balls of a cover, and lines from members to their centres.

    points: index configuration, columns x, y, centre (of the ball that holds it; missing outside
    the family); usual: a radius whose balls are in view. A name that would overlap others at all
    HEIGHTS is hidden; its tooltip has it.
    """
    centre, member, outside = ROLES
    table = points.rename_axis("configuration").reset_index()
    central, inside = table["configuration"].isin(table["centre"]), table["centre"].notna()
    table = table.assign(role=np.select([central, inside], [centre, member], outside))
    table["order"] = table["role"].map(list(ROLES).index)
    centres = table.loc[central, ["configuration", "x", "y"]].set_axis(["ball", "x", "y"], axis=1)
    spokes = table.merge(centres, left_on="centre", right_on="ball", suffixes=("", "2"))
    angles = np.linspace(0, 2 * np.pi, 49)
    circle = pd.DataFrame({"order": angles, "dx": np.cos(angles), "dy": np.sin(angles)})
    balls = centres.merge(circle, how="cross")
    balls = balls.assign(x=balls["x"] + radius * balls["dx"], y=balls["y"] + radius * balls["dy"])

    farthest = float(points[["x", "y"]].abs().to_numpy().max())
    reach = max(1.25 * farthest, farthest + usual, 1e-9)
    table = table.sort_values("order", kind="stable", ignore_index=True)
    table["height"] = _name_heights(table, reach)
    looks = {"axis": {"format": ".2~g", "tickCount": 5}, "title": None}
    looks["scale"] = alt.Scale(domain=[-reach, reach], nice=False)
    x, y = alt.X("x:Q", **looks), alt.Y("y:Q", **looks)
    fill = alt.Fill("role:N", scale=style.scale(ROLES), title=None).legend(orient="bottom")
    ball = {"fill": ROLES[centre], "fillOpacity": 0.06, "color": ROLES[centre], "clip": True}
    ball = alt.Chart(balls).mark_line(**ball).encode(x, y, detail="ball:N", order="order:Q")
    spoke = alt.Chart(spokes[["x", "y", "x2", "y2"]]).mark_rule(color=ROLES[centre], opacity=0.5)
    named = alt.Chart(table).encode(x, y, tooltip=style.tips("configuration:N", "role:N"))
    dots = named.mark_point(size=100, filled=True, stroke=style.INK, strokeWidth=1, opacity=1)
    names = named.transform_filter("isValid(datum.height)")
    names = names.mark_text(color=style.INK, dy=alt.expr("datum.height"))
    return alt.layer(
        ball,
        spoke.encode(x, y, alt.X2("x2:Q"), alt.Y2("y2:Q")),
        dots.encode(fill),
        names.encode(text="configuration:N"),
    )


def _name_heights(table: pd.DataFrame, reach: float) -> list[float]:
    """Return pixels from each point to its name, of HEIGHTS; NaN where none is free.

    Rows that come first choose first. Letters and pixels are those of a map WIDTH wide.
    """
    taken, heights = [], []
    pixels = table[["x", "y"]].to_numpy() * (1, -1) * WIDTH / (2 * reach)
    for name, (x, y) in zip(table["configuration"], pixels, strict=True):
        half = 3 * len(name)
        free = [
            height
            for height in HEIGHTS
            if all(abs(x - a) > half + w or abs(y + height - b) > 11 for a, b, w in taken)
        ]
        heights.append(free[0] if free else np.nan)
        taken += [(x, y + height, half) for height in free[:1]]
    return heights
