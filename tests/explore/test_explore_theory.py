"""The knobs of the theory course: every slider redraws the picture as the library computes it."""

import json
import time

import pytest

from ddlib.explore import theory as explore_theory
from ddlib.figures import render

MOVES = {"rho": 0.5, "noise": 2.0, "k": 300, "count": 64, "spread": 10}


class Screen:
    """A display that keeps what it was given last."""

    def __init__(self, shown):
        self.shown = shown

    def update(self, shown, raw):
        assert raw
        self.shown = shown


@pytest.fixture
def explorer(monkeypatch):
    """The sliders by name, and the screen below them."""
    displayed = []

    def display(what, raw=False, display_id=False):
        displayed.append(Screen(what) if display_id else what)
        return displayed[-1]

    monkeypatch.setattr(explore_theory, "display", display)
    explore_theory.explorer()
    box, screen = displayed
    names = {knob["description"]: name for name, knob in explore_theory.KNOBS.items()}
    return {names[slider.description]: slider for slider in box.children}, screen


def drawn(screen) -> str:
    """All rows that the picture shows, whatever names its tables have."""
    return json.dumps(sorted(json.dumps(t) for t in screen.shown[render.LIVE]["datasets"].values()))


def expected(**knobs) -> str:
    tables = explore_theory.picture(**{**explore_theory.DEFAULTS, **knobs}).to_dict()["datasets"]
    return json.dumps(sorted(json.dumps(table) for table in tables.values()))


@pytest.mark.parametrize("name", MOVES)
def test_a_slider_redraws_the_picture_at_once(explorer, name):
    sliders, screen = explorer
    assert drawn(screen) == expected()
    start = time.perf_counter()
    sliders[name].value = MOVES[name]
    assert time.perf_counter() - start < 2  # some 0.05 s; generous, for a busy machine
    assert drawn(screen) == expected(**{name: MOVES[name]}) != expected()
