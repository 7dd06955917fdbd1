import numpy as np
import pytest
import torch

from ibot.spectrum import effective_rank


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_equal_directions_count_as_many_and_the_unit_does_not_matter(make):
    assert effective_rank(make([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert effective_rank(make([1e-9, 3e-9])) == pytest.approx(effective_rank(make([1.0, 3.0])))
    assert 1 < effective_rank(make([1.0, 1e-3])) < 1.01


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_rows_that_are_all_the_same_have_one_direction(make):
    assert effective_rank(make(4)) == effective_rank(make(0)) == 1.0


def test_it_is_the_exponential_of_the_entropy_of_the_shares():
    energy = np.random.default_rng(0).uniform(0, 9, 20)
    share = energy / energy.sum()
    assert effective_rank(torch.from_numpy(energy)) == pytest.approx(
        np.prod(share ** (-share)), rel=1e-12
    )
