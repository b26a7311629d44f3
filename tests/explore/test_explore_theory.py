"""The sliders of the theory course redraw their picture as the library computes it."""

import pytest

from ddlib.explore import theory

MOVES = {"rho": 0.5, "sigma": 2.0, "k": 300, "members": 64, "degrees": 10}


@pytest.mark.parametrize("name", MOVES)
def test_a_slider_redraws_the_picture(name):
    explorer = theory.explorer()
    sliders, screen = explorer.children
    [slider] = [control for control in sliders.kwargs_widgets if control.description == name]
    for knobs in ({}, {name: MOVES[name]}):
        slider.value = knobs.get(name, slider.value)
        assert screen.chart.to_dict() == theory.picture(**knobs).to_dict()
    assert theory.picture(**knobs).to_dict() != theory.picture().to_dict()
