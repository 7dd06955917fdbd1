"""A set whose pictures have borders, opened with and without them."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ibot.data.borders import without_border
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.open import open_images, open_labelled
from ibot.data.sets.subsets import LabelledSubset
from ibot.data.sets.trimmed import TrimmedImages, is_trimmed, trimmed
from ibot.data.sets.variants import count_shared, read_as


@pytest.fixture
def scans(tmp_path):
    """Two classes of scans with white borders of different widths; the inside is noise."""
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(4):
            page = np.full((40, 30, 3), 250, np.uint8)
            page[2 + i : 38, 3:28] = rng.integers(0, 200, (36 - i, 25, 3))
            Image.fromarray(page).save(tmp_path / label / f"{i}.png")
    return tmp_path


def test_pictures_and_sizes_are_those_of_the_inside(scans):
    whole = open_images(str(scans))
    cut = trimmed(whole)
    assert isinstance(cut, LabelledImages) and isinstance(cut, Images) and len(cut) == 8
    for i in range(8):
        np.testing.assert_array_equal(cut.read(i), without_border(whole.read(i)))
        assert cut.size(i) == cut.read(i).shape[:2] == (36 - i % 4, 25)
        assert cut.name(i) == whole.name(i) and cut.label(i) == whole.label(i)
        assert cut.read(i).flags.c_contiguous
    assert cut.provenance() == whole.provenance() and cut.channels == whole.channels
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cut)).read(3), cut.read(3))


def test_they_are_other_images_but_the_same_files(scans):
    whole = open_images(str(scans))
    assert trimmed(whole).fingerprint() != whole.fingerprint()
    assert trimmed(whole).fingerprint() == trimmed(open_images(str(scans))).fingerprint()
    assert count_shared(trimmed(whole), whole) == 8


def test_what_is_trimmed_already_or_not_to_be_stays_as_it_is(scans):
    whole = open_images(str(scans))
    cut = trimmed(whole)
    assert trimmed(cut) is cut and trimmed(whole, False) is whole
    part = LabelledSubset(cut, [2, 3])
    assert trimmed(part) is part and is_trimmed(part) and not is_trimmed(whole)


def test_read_as_reaches_the_files_below(scans):
    cut = read_as(trimmed(open_images(str(scans))), "ignore", 10**6)
    assert isinstance(cut, TrimmedImages)
    assert (cut.base.exif_orientation, cut.base.max_pixels) == ("ignore", 10**6)


def test_images_without_labels_have_none(scans):
    train, _ = open_labelled(str(scans), split=0.25)
    assert isinstance(trimmed(train), LabelledImages)
    assert not isinstance(trimmed(open_images(str(scans / "a"))), LabelledImages)
