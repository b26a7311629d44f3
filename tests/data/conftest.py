"""What the tests of data share."""

import pytest


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root that DDLIB_DATA names, with an empty home, so that no real data are found."""
    monkeypatch.setenv("DDLIB_DATA", str(tmp_path / "root"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "root"
