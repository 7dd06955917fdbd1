import numpy as np
import pytest
import torch

from ibot.models.attention import foreground

MASSES = tuple(i / 10 for i in range(1, 11))


def loop_foreground(attention: np.ndarray, mass: float) -> np.ndarray:
    found = np.zeros(len(attention), dtype=bool)
    reached = 0.0
    for patch in np.argsort(attention, kind="stable"):
        reached += attention[patch] / attention.sum()
        found[patch] = reached > 1 - mass
    return found


@pytest.mark.parametrize(
    ("mass", "want"), [(0.1, {1}), (0.5, {1, 3}), (0.6, {1, 3}), (1.0, {0, 1, 2, 3}), (0.0, set())]
)
def test_mass_rule_of_the_specification(mass, want):
    got = foreground(torch.tensor([[0.1, 0.4, 0.2, 0.3]]), mass)
    assert got.dtype == torch.bool and set(got[0].nonzero()[:, 0].tolist()) == want


@pytest.mark.parametrize("mass", [0.05, *MASSES[:-1]])
def test_mass_rule_equals_a_loop(mass):
    attention = (
        torch.rand(5, 36, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3
    )
    got = foreground(attention, mass)
    for row, found in zip(attention.numpy(), got.numpy(), strict=True):
        np.testing.assert_array_equal(found, loop_foreground(row, mass))


def test_foreground_is_the_smallest_set_with_the_mass():
    attention = torch.rand(8, 49, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for mass in (0.15, 0.35, 0.85):
        for row, found in zip(
            attention / attention.sum(1, keepdim=True),
            foreground(attention, mass),
            strict=True,
        ):
            held = row[found].sum()
            assert held >= mass and held - row[found].min() < mass
            assert row[found].min() >= row[~found].max()


def test_scale_of_attention_changes_nothing_and_foregrounds_are_nested():
    attention = torch.rand(3, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    previous = torch.zeros(3, 16, dtype=torch.bool)
    for mass in MASSES:
        found = foreground(attention, mass)
        assert torch.equal(found, foreground(attention * 4, mass))
        assert bool((previous <= found).all())
        previous = found
    assert bool(previous.all())


def test_rows_of_any_shape_have_their_own_foreground():
    attention = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(4)) + 0.01
    found = foreground(attention, 0.6)
    for image, heads in zip(attention, found, strict=True):
        for row, one in zip(image, heads, strict=True):
            assert torch.equal(foreground(row, 0.6), one)


def test_attention_that_tells_nothing_is_refused():
    with pytest.raises(ValueError, match=r"1\.5"):
        foreground(torch.ones(1, 4), 1.5)
    for row in ([0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]):
        with pytest.raises(ValueError, match="finite"):
            foreground(torch.tensor([[1.0, 1.0], row]), 0.5)
