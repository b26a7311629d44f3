"""The sliders of the theory course redraw their picture as the library computes it."""

import json

import pytest

from ddlib.explore import theory as explore_theory
from ddlib.figures import render

MOVES = {"rho": 0.5, "noise": 2.0, "k": 300, "count": 64, "spread": 10}


class Screen:
    """A display that keeps what it was given last."""

    def __init__(self, content):
        self.content = content

    def update(self, content, raw):
        assert raw
        self.content = content


def rows(datasets) -> list[str]:
    """Return all rows of a picture, whatever names its tables have."""
    return sorted(json.dumps(table) for table in datasets.values())


@pytest.mark.parametrize("name", MOVES)
def test_a_slider_redraws_the_picture(monkeypatch, name):
    displayed = []

    def display(what, raw=False, display_id=False):
        displayed.append(Screen(what) if display_id else what)
        return displayed[-1]

    monkeypatch.setattr(explore_theory, "display", display)
    explore_theory.explorer()
    box, screen = displayed
    [slider] = [
        slider
        for slider in box.children
        if slider.description == explore_theory.KNOBS[name]["description"]
    ]
    pictures = []
    for knobs in (explore_theory.DEFAULTS, {**explore_theory.DEFAULTS, name: MOVES[name]}):
        slider.value = knobs[name]
        pictures.append(rows(screen.content[render.LIVE]["datasets"]))
        assert pictures[-1] == rows(explore_theory.picture(**knobs).to_dict()["datasets"])
    assert pictures[0] != pictures[1]
