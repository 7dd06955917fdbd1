"""Labels of patches and of pixels, against loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ibot.eval.probes import dense_vote
from ibot.eval.probes.dense_vote import drawn, enlarged, label_shares, voted


@pytest.mark.parametrize(
    ("size", "grid"), [((12, 20), (3, 5)), ((13, 7), (4, 2)), ((2, 3), (4, 5)), ((31, 50), (3, 4))]
)
def test_shares_of_a_patch_are_those_of_the_pixels_whose_centres_it_holds(size, grid):
    labels = np.random.default_rng(0).integers(-1, 4, size).astype(np.int16)
    counts = np.zeros((grid[0] * grid[1], 4))
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = int((y + 0.5) * grid[0] / size[0]), int((x + 0.5) * grid[1] / size[1])
            if labels[y, x] >= 0:
                counts[row * grid[1] + column, labels[y, x]] += 1
    shares, pixels = label_shares(labels, grid, 4)
    assert pixels.tolist() == counts.sum(axis=1).tolist()
    want = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(shares, want, atol=1e-6)


def test_patches_are_drawn_evenly_and_by_seed_and_image_alone():
    candidates = np.arange(3, 43)
    found = drawn(candidates, 10, seed=0, image=5)
    assert len(set(found)) == 10 and (np.diff(found) > 0).all() and set(found) <= set(candidates)
    assert np.array_equal(found, drawn(candidates, 10, seed=0, image=5))
    for seed, image in ((1, 5), (0, 6)):
        assert not np.array_equal(found, drawn(candidates, 10, seed, image))
    # Whether a patch is taken does not hang on the other candidates but for the places left.
    assert set(drawn(candidates, 9, 0, 5)) < set(found)
    assert np.array_equal(drawn(candidates, 40, 0, 5), candidates)
    often = np.bincount(np.concatenate([drawn(candidates, 10, 0, i) for i in range(600)]))[3:]
    assert often.sum() == 6000 and often.min() > 110 and often.max() < 190


def test_a_vote_equals_a_loop_over_neighbours(monkeypatch):
    monkeypatch.setattr(dense_vote, "QUERIES", 4)
    torch.manual_seed(0)
    values, index = torch.rand(11, 3), torch.randint(0, 9, (11, 3))
    shares = torch.rand(9, 5).softmax(dim=1)
    got = voted(values, index, shares, 0.1)
    for row in range(11):
        weights = [float(torch.exp(v / 0.1)) for v in values[row]]
        want = sum(w * shares[i] for w, i in zip(weights, index[row], strict=True)) / sum(weights)
        assert torch.allclose(got[row], want, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 20), (17, 9), (2, 2), (3, 5)])
def test_classes_of_pixels_are_those_of_all_enlarged_maps_at_once(size, monkeypatch):
    monkeypatch.setattr(dense_vote, "CLASSES", 2)
    torch.manual_seed(1)
    shares = torch.rand(15, 7)
    got = enlarged(shares, (3, 5), size)
    maps = F.interpolate(shares.T.reshape(1, 7, 3, 5), size, mode="bilinear", align_corners=False)
    assert torch.equal(got, maps[0].argmax(dim=0))


def test_of_equal_classes_the_first_is_taken():
    assert (enlarged(torch.full((4, 40), 0.025), (2, 2), (5, 5)) == 0).all()
