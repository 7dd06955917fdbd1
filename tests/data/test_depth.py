"""Draws of stochastic depth: by image, at the rates of the blocks."""

import numpy as np
import pytest
import torch

from ibot.data.depth import branch_factors
from ibot.rng import Purpose, uniform

RATES = (0.0, 0.1, 0.25, 0.4)


def test_each_factor_hangs_on_seed_epoch_image_view_block_and_branch():
    index = np.array([5, 2**33 + 1, 5])
    factors = branch_factors(RATES, 3, seed=7, epoch=2, index=index)
    assert factors.shape == (4, 2, 9) and factors.dtype is torch.float32
    assert factors.is_contiguous()
    for view in range(3):
        for place, image in enumerate(index):
            drawn = uniform(7, 2, image, view, Purpose.BRANCH, 8).reshape(4, 2)
            for block, rate in enumerate(RATES):
                want = [0 if number < rate else 1 / (1 - rate) for number in drawn[block]]
                got = factors[block, :, view * 3 + place].tolist()
                assert got == pytest.approx(want, rel=1e-6)


def test_images_bring_their_factors_wherever_they_are():
    index = np.random.default_rng().permutation(1000)[:12]
    whole = branch_factors(RATES, 4, 0, 1, index).unflatten(-1, (4, 12))
    for part in (slice(0, 1), slice(1, 6), slice(6, 12), slice(1, None, 3)):
        own = branch_factors(RATES, 4, 0, 1, index[part]).unflatten(-1, (4, -1))
        assert torch.equal(own, whole[..., part])
    for seed, epoch in ((1, 1), (0, 2)):
        other = branch_factors(RATES, 4, seed, epoch, index).unflatten(-1, (4, 12))
        assert not torch.equal(other, whole)


def test_branches_are_dropped_at_their_rates_and_independently():
    images, views = 8000, 2
    dropped = branch_factors(RATES, views, 3, 0, np.arange(images)) == 0
    shares = dropped.double().mean(-1)
    assert not dropped[0].any()
    for own, rate in zip(shares, RATES, strict=True):
        bound = 4.5 * (rate * (1 - rate) / (views * images)) ** 0.5
        assert (own - rate).abs().max() <= bound
    each = dropped[1:].unflatten(-1, (views, images)).flatten(0, 2).double()
    assert (torch.corrcoef(each) - torch.eye(len(each))).abs().max() < 5 / images**0.5


def test_kept_branches_are_scaled_so_that_the_mean_stays():
    factors = branch_factors(RATES, 1, 0, 0, np.arange(20000))
    assert (factors.double().mean(-1) - 1).abs().max() < 0.03
    assert {round(value, 5) for value in factors[2].unique().tolist()} == {0, round(4 / 3, 5)}
