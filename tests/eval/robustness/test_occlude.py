import numpy as np
import pytest
import torch

from ibot.eval.robustness.occlude import (
    at_ratio,
    drop_counts,
    drop_patches,
    random_patches,
    shuffle_blocks,
)
from ibot.eval.robustness.settings import OcclusionSettings, ShuffleSettings
from ibot.models.attention import foreground

MASSES = OcclusionSettings().masses


def random_images(batch: int, height: int, width: int) -> torch.Tensor:
    # Away from zero, so that a zero can only come from dropping.
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)) + 1


def test_the_defaults_are_the_published_ones():
    assert tuple(i / 10 for i in range(1, 11)) == MASSES
    assert drop_counts(196, OcclusionSettings().steps) == (
        0,
        19,
        39,
        58,
        78,
        98,
        117,
        137,
        156,
        176,
    )
    assert [rows * columns for rows, columns in ShuffleSettings().grids] == [
        4,
        8,
        16,
        32,
        64,
        196,
        256,
    ]


@pytest.mark.parametrize("num_patches", [1, 36, 196, 784])
def test_random_patches_drop_exactly_as_many_as_asked(num_patches):
    for count in drop_counts(num_patches):
        dropped = random_patches(np.arange(7), num_patches, count, seed=1)
        assert dropped.dtype == torch.bool and dropped.shape == (7, num_patches)
        assert (dropped.sum(1) == count).all()


def test_random_patches_depend_on_seed_and_image_only():
    alone = random_patches([41], 196, 98, seed=1)
    together = random_patches([5, 41, 2**33 + 5], 196, 98, seed=1)
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1]) and not torch.equal(together[0], together[2])
    assert not torch.equal(alone, random_patches([41], 196, 98, seed=2))


def test_random_patches_are_nested_and_uniform():
    index = np.arange(4000)
    less, more = random_patches(index, 36, 9, seed=3), random_patches(index, 36, 18, seed=3)
    assert bool((less <= more).all())
    share = less.double().mean(0)
    # Standard deviation of a share of 1/4 over 4000 images is 0.0068; five of them.
    assert float((share - 0.25).abs().max()) < 0.034


@pytest.mark.parametrize(("height", "width"), [(12, 8), (14, 11)])
def test_drop_patches_equals_a_loop_over_patches(height, width):
    images = random_images(3, height, width)
    dropped = random_patches([0, 1, 2], 6, 3, seed=0)
    want = images.clone()
    for image, row in zip(want, dropped, strict=True):
        for patch in row.nonzero()[:, 0].tolist():
            top, left = patch // 2 * 4, patch % 2 * 4
            image[:, top : top + 4, left : left + 4] = 0
    before = images.clone()
    assert torch.equal(drop_patches(images, dropped, (3, 2), 4), want)
    assert torch.equal(images, before)


def test_dropping_salient_and_non_salient_patches_covers_the_image_once():
    images, found = random_images(2, 16, 16), foreground(torch.rand(2, 16) + 0.1, 0.5)
    parts = drop_patches(images, found, (4, 4), 4) + drop_patches(images, ~found, (4, 4), 4)
    assert torch.equal(parts, images)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (2, 4), (4, 4), (3, 2)])
def test_shuffled_blocks_are_the_blocks_of_the_image(rows, columns):
    images = random_images(3, 24, 16)
    got = shuffle_blocks(images, rows, columns, seed=1, index=[4, 5, 6])

    def blocks(image: torch.Tensor) -> list[bytes]:
        height, width = 24 // rows, 16 // columns
        return [
            image[:, i * height : (i + 1) * height, j * width : (j + 1) * width].numpy().tobytes()
            for i in range(rows)
            for j in range(columns)
        ]

    for before, after in zip(images, got, strict=True):
        assert sorted(blocks(before)) == sorted(blocks(after))
    assert torch.equal(got, images) == (rows * columns == 1)


def test_shuffling_depends_on_seed_and_image_only():
    images = random_images(1, 16, 16).expand(3, -1, -1, -1)
    got = shuffle_blocks(images, 4, 4, seed=1, index=[8, 9, 8])
    assert torch.equal(got[0], got[2]) and not torch.equal(got[0], got[1])
    assert torch.equal(shuffle_blocks(images[:1], 4, 4, seed=1, index=[9])[0], got[1])
    assert not torch.equal(shuffle_blocks(images[:1], 4, 4, seed=2, index=[9])[0], got[1])


def test_one_index_gives_one_permutation_to_the_batch():
    position = torch.arange(256.0).view(1, 1, 16, 16).expand(4, 3, -1, -1)
    got = shuffle_blocks(position, 4, 4, seed=1, index=0)
    assert all(torch.equal(got[0], image) for image in got)
    assert torch.equal(got, shuffle_blocks(position, 4, 4, seed=1, index=[0] * 4))


def test_every_published_shuffle_grid_divides_224_pixels():
    images = random_images(1, 224, 224)
    for rows, columns in ShuffleSettings().grids:
        got = shuffle_blocks(images, rows, columns, seed=1, index=[0])
        assert got.shape == images.shape
        assert torch.equal(got.flatten().sort().values, images.flatten().sort().values)


def test_permutations_are_uniform():
    position = torch.arange(4.0).view(1, 1, 2, 2).expand(4000, 3, -1, -1)
    first = shuffle_blocks(position, 2, 2, seed=0, index=np.arange(4000))[:, 0, 0, 0].long()
    # Standard deviation of a share of 1/4 over 4000 images is 0.0068; five of them.
    assert float((torch.bincount(first, minlength=4) / 4000 - 0.25).abs().max()) < 0.034


def test_value_at_a_ratio_is_interpolated_in_any_order():
    ratios, accuracies = [0.9, 0.1, 0.4, 0.6], [10.0, 80.0, 60.0, 40.0]
    assert at_ratio(ratios, accuracies) == pytest.approx(50)
    assert at_ratio(ratios[::-1], accuracies[::-1]) == pytest.approx(50)
    assert at_ratio(ratios, accuracies, 0.1) == 80 and at_ratio(
        ratios, accuracies, 0.75
    ) == pytest.approx(25)
    assert at_ratio([0.5, 0.5, 1.0], [20.0, 40.0, 0.0]) == pytest.approx(30)


def test_unusable_arguments_are_refused():
    with pytest.raises(ValueError, match=r"0\.2 to 0\.4"):
        at_ratio([0.2, 0.4], [1.0, 2.0])
    with pytest.raises(ValueError, match="no curve"):
        at_ratio([], [])
    with pytest.raises(ValueError, match="5 of 4"):
        random_patches([0], 4, 5, seed=0)
    with pytest.raises(ValueError, match="grid of 2 x 3"):
        drop_patches(torch.ones(1, 3, 8, 8), torch.zeros(1, 6, dtype=torch.bool), (2, 3), 4)
    with pytest.raises(ValueError, match="do not divide"):
        shuffle_blocks(torch.ones(1, 3, 8, 8), 3, 2, seed=0, index=[0])
    with pytest.raises(ValueError, match="for 2 images"):
        shuffle_blocks(torch.ones(2, 3, 8, 8), 2, 2, seed=0, index=[0])
