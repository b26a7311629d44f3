"""Methods of a test module are those of the library again when it ends."""

from collections.abc import Iterator

import pytest

from ddlib.methods import METHODS


@pytest.fixture(autouse=True, scope="module")
def library_methods() -> Iterator[None]:
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)
