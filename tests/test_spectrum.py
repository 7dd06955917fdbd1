from __future__ import annotations

import math

import pytest
import torch

from ibot.spectrum import effective_directions


def test_equal_energies_fill_all_directions_and_a_single_one_fills_one():
    assert effective_directions(torch.full((7,), 0.3)) == pytest.approx(7)
    assert effective_directions(torch.tensor([0.0, 4.0, 0.0])) == pytest.approx(1)


def test_directions_do_not_depend_on_the_unit_of_the_energy():
    energy = torch.tensor([5.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    want = math.exp(-sum(p * math.log(p) for p in (5 / 8, 2 / 8, 1 / 8)))
    assert effective_directions(energy) == pytest.approx(want, rel=1e-12)
    assert effective_directions(energy * 1e-20) == pytest.approx(want, rel=1e-12)


def test_no_energy_counts_as_one_direction():
    assert effective_directions(torch.zeros(5)) == 1.0
