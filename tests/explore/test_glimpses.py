"""Small gray pictures: copies agree, other images do not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ibot.data.annotated.attacks import attacked
from ibot.data.pixels import normalize
from ibot.eval.features.views import View, planar
from ibot.explore.glimpses import SIDE, agreement, coarse, glimpses
from ibot.explore.pairs import EXACT, WORTH_COMPARING, Likeness, once


def smooth(seed, height=96, width=120):
    """An image of soft blobs in colour, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (7, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def seen(*images):
    view = View((64, 64))
    return glimpses(normalize(planar([view.render(image) for image in images])))


@pytest.mark.parametrize("kind", ["jpeg30", "gray", "mirror", "colour", "crop20"])
def test_altered_copies_agree_and_others_do_not(kind):
    images = [smooth(seed) for seed in range(6)]
    originals = seen(*images)
    copies = seen(*(attacked(image, kind, 0, i) for i, image in enumerate(images)))
    assert agreement(originals, copies).min() > 0.9
    others = agreement(originals, copies.roll(1, 0))
    assert others.max() < agreement(originals, copies).min()


def test_agreement_is_symmetric_and_at_least_the_plain_correlation():
    pictures = seen(*(smooth(seed) for seed in range(8)))
    other = pictures.roll(3, 0)
    found = agreement(pictures, other)
    torch.testing.assert_close(found, agreement(other, pictures))
    rows = [part.float() - part.float().mean(1, keepdim=True) for part in (pictures, other)]
    plain = F.cosine_similarity(*rows)
    assert (found >= plain - 1e-5).all() and (found <= 1 + 1e-5).all()
    torch.testing.assert_close(agreement(pictures, pictures), torch.ones(8), atol=1e-5, rtol=0)


def test_what_shows_nothing_agrees_with_nothing():
    blank = np.full((80, 80, 3), 200, np.uint8)
    pictures = seen(blank, smooth(0))
    assert not pictures[0].any() and pictures[1].any() and pictures.shape == (2, SIDE * SIDE)
    assert agreement(pictures[:1], pictures[1:]).item() == pytest.approx(0, abs=1e-6)
    assert not coarse(pictures)[0][0].any()


def test_blank_images_are_copies_if_the_network_cannot_tell_them_apart():
    pictures = seen(*(np.full((80, 80, 3), tone, np.uint8) for tone in (200, 200, 10)))
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.9, 0.3]])
    pairs = Likeness.of(features, pictures).measured(torch.tensor([0, 0]), torch.tensor([1, 2]))
    assert pairs.agreement.tolist() == [1, 0] and pairs.cosine[0] >= EXACT


def test_candidates_are_found_whatever_the_network_says():
    """Also mirror images, when features are noise."""
    images = [smooth(seed) for seed in range(30)]
    images += [images[4][:, ::-1], attacked(images[9], "jpeg10", 0, 0)]
    random = torch.Generator().manual_seed(0)
    features = torch.randn(32, 4, generator=random)
    likeness = Likeness.of(features, seen(*images))
    neighbours = torch.randint(32, (32, 2), generator=random)
    pairs = likeness.candidates(neighbours)
    found = dict(
        zip(
            zip(pairs.first.tolist(), pairs.second.tolist(), strict=True),
            pairs.agreement.tolist(),
            strict=True,
        )
    )
    assert found[4, 30] > 0.95 and found[9, 31] > 0.9
    assert all(low < high for low, high in found) and len(found) == len(pairs.first)
    for (low, high), value in found.items():
        exact = agreement(likeness.pictures[[low]], likeness.pictures[[high]]).item()
        assert value == pytest.approx(exact, abs=1e-5) or value <= WORTH_COMPARING


def test_each_pair_is_named_once():
    first, second = once(torch.tensor([[1, 0], [0, 2], [2, 1]]))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (1, 2)]
