"""Compact features: the same every time, and cosines follow from them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ibot.errors import DataError
from ibot.vocabulary.projection import Projection, fit, sample, sampled_images


def tokens_of(count, width, seed=0):
    """Tokens [n, D] with a common part, of many lengths, that differ more in some directions."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, width, generator=g) * torch.logspace(0, -2, width)
    return (noise + 2) * torch.rand(count, 1, generator=g).add(0.1).mul(30)


def test_cosines_of_all_dimensions_are_those_of_the_tokens():
    tokens = tokens_of(300, 12)
    projection = fit(tokens)
    compact = projection(tokens)
    assert compact.dtype == torch.int8 and compact.shape == (300, 12)
    unit = F.normalize(tokens, dim=1)
    got = projection.cosines(compact[7].numpy(), compact.numpy())
    # An entry is off by half a step at most, both tokens by 12 of them.
    np.testing.assert_allclose(got, (unit @ unit[7]).numpy(), atol=2 * 12 * projection.scale / 2)
    assert got.argmax() == 7


def test_of_wide_tokens_the_first_32_components_are_kept():
    tokens = tokens_of(500, 40)
    projection = fit(tokens)
    unit = F.normalize(tokens.double(), dim=1)
    _, _, rows = torch.linalg.svd(unit - unit.mean(0), full_matrices=False)
    assert projection.components.shape == (32, 40)
    alike = (projection.components.double() * rows[:32]).sum(1).abs()
    torch.testing.assert_close(alike, torch.ones_like(alike), atol=1e-5, rtol=0)


def test_the_entry_of_the_largest_size_is_positive_and_nothing_is_drawn():
    tokens = tokens_of(100, 9)
    one, other = fit(tokens), fit(tokens.clone())
    assert torch.equal(one.components, other.components) and one.digest == other.digest
    largest = one.components.gather(1, one.components.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()
    assert fit(tokens[:90]).digest != one.digest


def test_what_lies_beyond_the_sample_is_cut_and_keeps_its_sign():
    projection = Projection(torch.zeros(2), torch.eye(2), 0.001)
    assert projection(torch.tensor([[3.0, -4.0], [0.0, 0.0]])).tolist() == [[127, -127], [0, 0]]


def test_tokens_alike_in_all_images_make_no_nan():
    assert fit(torch.ones(8, 4))(torch.ones(1, 4)).tolist() == [[0, 0, 0, 0]]


def test_a_saved_projection_is_the_same(tmp_path):
    projection = fit(tokens_of(50, 6))
    projection.save(tmp_path / "projection.npz")
    read = Projection.load(tmp_path / "projection.npz")
    assert read.digest == projection.digest
    tokens = tokens_of(5, 6, seed=1)[None]
    assert torch.equal(read(tokens), projection(tokens))


@pytest.mark.parametrize(("patches", "taken"), [(4, 4), (100, 2)])
def test_a_sample_takes_patches_evenly_when_there_are_many(patches, taken):
    batch = torch.arange(3 * patches * 2.0).view(3, patches, 2)
    got = sample(iter([batch]), limit=256 * 2 if taken == 2 else 2**15)
    step = patches // taken
    assert torch.equal(got, batch[:, ::step].reshape(-1, 2))


def test_a_sample_of_nothing_is_an_error():
    with pytest.raises(DataError, match="none of the images"):
        sample(iter([]))


@pytest.mark.parametrize(
    ("images", "taken"), [(1, 1), (20, 20), (500, 32), (2000, 100), (10**6, 256)]
)
def test_one_image_in_twenty_is_sampled_within_limits(images, taken):
    chosen = sampled_images(images)
    assert len(set(chosen.tolist())) == taken
    assert (chosen[0], chosen[-1]) == (0, images - 1 if images > 1 else 0)
