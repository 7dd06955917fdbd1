import numpy as np
import pytest

from ibot.data.reef import FORMS, HUES, PATTERNS, SHOALS, SPECIES, draw_shoal
from ibot.data.scenes import write_folder
from ibot.data.sets.open import find_labelled

SEEN = [
    (1118, 140.9, 144.7, 156.8, 139.1),
    (784, 146.1, 148.0, 130.5, 144.3),
    (672, 117.5, 106.6, 131.1, 113.9),
    (976, 136.6, 143.6, 164.2, 172.1),
    (939, 102.6, 108.7, 107.9, 105.8),
    (884, 151.9, 126.5, 130.5, 152.9),
    (1206, 146.0, 141.0, 160.9, 170.9),
]
"""Of one image of every third species: pixels of fish, and brightness of the four quarters."""


def test_a_shoal_is_a_function_of_its_numbers():
    first, again, other = draw_shoal(3, 17), draw_shoal(3, 17), draw_shoal(4, 17)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, other.image)
    assert first.species == 17 and first.image.shape == (48, 48, 3)
    assert first.image.dtype == np.uint8 and first.labels.dtype == np.int16


def test_every_fish_of_a_shoal_is_of_its_species():
    for index in (0, 19, 25):
        shoal = draw_shoal(0, index, size=64)
        assert set(np.unique(shoal.labels)) == {0, 1 + shoal.species}
        assert shoal.species == index % len(SPECIES)
        assert 0.15 < (shoal.labels > 0).mean() < 0.75


def test_no_two_species_are_alike():
    looks = {(number % len(PATTERNS), number // len(PATTERNS)) for number in range(len(SPECIES))}
    assert len(looks) == len(SPECIES) == len(PATTERNS) * len(HUES)
    assert len({number % len(FORMS) for number in range(len(SPECIES))}) == len(FORMS)


def test_larger_images_hold_more_fish_of_the_same_size():
    def shares(size):
        return np.mean([(draw_shoal(1, i, size=size).labels > 0).mean() for i in range(20)])

    assert shares(96) == pytest.approx(shares(48), abs=0.08)


def test_the_mean_colour_of_an_image_hardly_tells_its_species():
    """A nearest mean of colours among twenty species is right in few of them (by chance in 5 %)."""
    means = np.array([draw_shoal(0, i).image.mean((0, 1)) for i in range(200)])
    hue = means - means.mean(1, keepdims=True)
    centres = np.stack([hue[:160][np.arange(160) % 20 == k].mean(0) for k in range(20)])
    nearest = np.square(hue[160:, None] - centres).sum(-1).argmin(1)
    assert (nearest == np.arange(160, 200) % 20).mean() < 0.4


def test_shoals_stay_what_they_are():
    """Results on generated images are published: other versions must draw the same ones."""
    for number, (pixels, *levels) in enumerate(SEEN):
        shoal = draw_shoal(5, 3 * number)
        assert (shoal.labels > 0).sum() == pytest.approx(pixels, abs=4)
        quarters = shoal.image.reshape(2, 24, 2, 24, 3).mean((1, 3, 4)).ravel()
        assert quarters.tolist() == pytest.approx(levels, abs=0.3)


def test_a_written_set_is_labelled_and_kept_apart_from_other_kinds(tmp_path):
    write_folder(tmp_path, train=20, val=20, seed=2, size=48, kind=SHOALS)
    train, val = find_labelled(str(tmp_path))
    assert train.classes == tuple(sorted(SPECIES)) and len(train) == len(val) == 20
    place = [train.name(i) for i in range(20)].index(f"{SPECIES[3]}/00003.png")
    np.testing.assert_array_equal(train.read(place), draw_shoal(2, 3).image)
    assert (tmp_path / "scenes.txt").read_text().startswith("shoals seed 2 size 48")
