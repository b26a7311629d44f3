import numpy as np
import pytest
import torch

from ddlib.seeds import generator


def draws(*keys, count=64):
    return torch.randint(2**31, (count,), generator=generator(*keys))


@pytest.mark.parametrize(
    "other", [("real", 4), ("noise", 3), (3, "real"), ("real", 3, 0), ("real", "3"), ("real3",), ()]
)
def test_different_keys_give_unrelated_streams(other):
    ours, theirs = draws("real", 3, count=4096), draws(*other, count=4096)
    assert (ours == theirs).sum() <= 1  # chance: 4096 / 2^31
    correlation = torch.corrcoef(torch.stack([ours, theirs]).double())[0, 1]
    assert abs(correlation) < 4 / 4096**0.5  # four standard errors


def test_thousands_of_streams_are_all_different():
    # Any two of 64-bit streams coincide with chance 1e-11; of 24-bit ones twelve pairs would.
    firsts = {tuple(draws("matching weights", seed, count=4).tolist()) for seed in range(20_000)}
    assert len(firsts) == 20_000


def test_a_stream_depends_on_its_keys_alone():
    """Keys are hashed by their text, so the numbers are the same in every process."""
    first, before = draws("real", (3, 1), count=2), torch.get_rng_state()
    assert first.tolist() == [1538009972, 1844739286]
    other, late = generator("noise", 3), generator("real", (3, 1))
    torch.rand(1000, generator=other)
    assert torch.equal(torch.randint(2**31, (2,), generator=late), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("keys", [("real", np.int64(3)), ("real", (1, np.int64(3)))])
def test_numbers_of_numpy_are_refused(keys):
    """Their text is another than Python's, and so would their streams be."""
    with pytest.raises(TypeError, match=r"np.int64\(3\) is no key of a stream; .* own, 3$"):
        generator(*keys)
