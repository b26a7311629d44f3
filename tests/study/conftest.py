"""What a test module registers is forgotten when it ends."""

from collections.abc import Iterator

import pytest

from ddlib.study import extensions


@pytest.fixture(autouse=True, scope="module")
def library_alone() -> Iterator[None]:
    before = {kind: dict(registry) for kind, registry in extensions.REGISTRIES.items()}
    yield
    extensions._loaded.clear()
    for kind, registry in extensions.REGISTRIES.items():
        registry.clear()
        registry.update(before[kind])
