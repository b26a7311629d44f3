"""One copy of a data set for all processes."""

from dataclasses import replace

import pytest
import torch

from ddlib.data.base import data_digest
from ddlib.data.cache import one_copy, read
from ddlib.data.normalise import Whitening


def assert_same(ours, theirs):
    assert (ours.name, data_digest(ours)) == (theirs.name, data_digest(theirs))
    for one, other in ((ours.train, theirs.train), (ours.test, theirs.test)):
        assert torch.equal(one.samples, other.samples)


@pytest.mark.parametrize("whitened", [False, True])
def test_a_copy_is_the_data_set(tiny, tmp_path, whitened):
    if whitened:
        tiny = replace(tiny, normalisation=Whitening(torch.rand(64), torch.rand(64, 64)))
    digest, path = data_digest(tiny), tmp_path / "folder" / "copy.safetensors"
    ours = one_copy(tiny, digest, path)
    assert_same(ours, tiny)
    written = path.stat().st_mtime_ns
    assert_same(one_copy(tiny, digest, path), tiny)
    assert path.stat().st_mtime_ns == written
    ours.train.samples.zero_()  # in the memory of this process alone
    assert_same(read(path, digest), tiny)


@pytest.mark.parametrize("content", [b"not tensors", None])
def test_a_file_that_is_not_the_copy_is_named_and_left(tiny, tmp_path, content):
    digest, path = data_digest(tiny), tmp_path / "copy.safetensors"
    one_copy(tiny, digest, path)
    with pytest.raises(ValueError, match="it holds other data than this study's"):
        read(path, "another digest")
    content = content or path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} is not whole .*; delete it, and run again"):
        one_copy(tiny, digest, path)
    assert path.read_bytes() == content
