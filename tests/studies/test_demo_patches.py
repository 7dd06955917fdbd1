"""Fish cut out and named by their nearest labelled patches."""

import numpy as np
import pytest
import torch

from ibot.data.reef import SPECIES, draw_shoal
from ibot.studies import demo_patches
from ibot.studies.demo_patches import (
    FIRST,
    SIDE,
    Found,
    agreement,
    find,
    patch_images,
    patch_scores,
    pixels_of,
)


@pytest.fixture(scope="module")
def shoals():
    return [draw_shoal(0, i, size=SIDE) for i in range(40)]


def truth(shoals):
    """Rows that hold the share of each species in each patch: [n, N, 1 + species]."""
    rows = []
    for shoal in shoals:
        cells = shoal.labels.reshape(12, 8, 12, 8).transpose(0, 2, 1, 3).reshape(144, 64)
        rows.append(np.stack([(cells == c).mean(1) for c in range(1 + len(SPECIES))], axis=1))
    return torch.from_numpy(np.stack(rows)).float()


def nothing(shoals):
    """Rows that know nothing of their images, others for each set."""
    generator = torch.Generator().manual_seed(int(shoals[0].image.sum()))
    return torch.randn(len(shoals), 144, 8, generator=generator)


def test_patches_that_know_their_pixels_cut_out_and_name_the_fish(shoals):
    bank, judged = shoals[:20], shoals[20:]
    iou, species = agreement(find(truth, bank, judged), judged)
    # The masks are as fine as patches of 8 pixels, enlarged, can be.
    assert iou > 60 and species > 95


def test_patches_that_know_nothing_name_few(shoals):
    bank, judged = shoals[:20], shoals[20:]
    scores, found = patch_scores(nothing, bank, judged)
    assert len(found) == len(judged)
    assert scores.species < 20 and scores.species_whitened < 20


def test_agreement_is_that_of_all_pixels_together(shoals):
    rng = np.random.default_rng(0)
    shape = (SIDE, SIDE)
    found = [Found(rng.random(shape) < 0.5, rng.integers(1, 21, shape)) for _ in range(3)]
    both = either = right = fish = 0
    for one, shoal in zip(found, shoals, strict=False):
        for y in range(SIDE):
            for x in range(SIDE):
                true = shoal.labels[y, x]
                both += one.fish[y, x] and true > 0
                either += one.fish[y, x] or true > 0
                right += true > 0 and one.species[y, x] == true
                fish += true > 0
    want = 100 * both / either, 100 * right / fish
    assert agreement(found, shoals[:3]) == pytest.approx(want)


def test_a_shoal_is_named_by_most_of_its_fish():
    fish = np.array([[True, True, True, False]])
    assert Found(fish, np.array([[3, 3, 1, 1]])).named() == SPECIES[2]
    assert Found(~fish & fish, np.ones((1, 4), np.int64)).named() == "nothing"


def test_pixels_of_patches_are_those_of_the_image(shoals):
    rows = pixels_of(8)(shoals[:4])
    patches = np.stack([s.image[8:16, 16:24].transpose(2, 0, 1).ravel() for s in shoals[:4]])
    of_patch = rows[:, 12 + 2].numpy()
    # Standardised number by number: a line for each.
    for place in (0, 77, 191):
        assert np.corrcoef(of_patch[:, place], patches[:, place])[0, 1] == pytest.approx(
            1, abs=1e-5
        )
    assert rows.mean((0, 1)).abs().max() < 1e-4


def test_the_images_are_none_of_the_training(monkeypatch):
    monkeypatch.setattr(demo_patches, "BANK", 2)
    monkeypatch.setattr(demo_patches, "QUERIES", 1)
    bank, judged = patch_images(3)
    assert [shoal.image.shape for shoal in (*bank, *judged)] == [(SIDE, SIDE, 3)] * 3
    np.testing.assert_array_equal(judged[0].image, draw_shoal(3, FIRST + 2, size=SIDE).image)
