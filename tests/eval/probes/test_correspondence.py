"""Patches of two pictures: known warps are recovered, and what is kept comes back."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.pixels import normalize
from ibot.data.sets.open import open_images
from ibot.eval.probes import match_places
from ibot.eval.probes.correspondence import (
    BY_ATTENTION,
    BY_LENGTH,
    BY_WINDOWS,
    Correspondence,
    Truth,
    correspond,
    salience,
    true_places,
)
from ibot.eval.probes.kept_pairs import Pair, keep_pairs, read_pairs, view_pairs
from ibot.eval.probes.match_places import (
    Cells,
    Placed,
    accuracy_of,
    matches_between,
    most_similar,
)
from ibot.eval.probes.view_pairs import pair_batches
from ibot.models.backbone import build_backbone
from ibot.models.contract import Backbone

VIT = ModelConfig(width=24, depth=2, heads=3, patch=8, drop_path=0.0)
SWIN = ModelConfig(kind="swin", width=8, depths=(1, 1), stage_heads=(1, 2), window=4, patch=4)


def network(config):
    torch.manual_seed(0)
    return build_backbone(config, (32, 32)).eval()


def noise(height, width):
    """An image whose patches all differ, uint8 [1, 3, H, W]."""
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (1, 3, height, width), dtype=np.uint8))


@pytest.mark.parametrize("products", [1, 30, 2**24])
@pytest.mark.parametrize("cosine", [True, False])
def test_matches_both_ways_equal_loops(cosine, products, monkeypatch):
    monkeypatch.setattr(match_places, "PRODUCTS", products)
    first, second = torch.randn(7, 5), 3 * torch.randn(9, 5)
    got = matches_between(first, second, cosine=cosine)
    assert torch.equal(got.found, most_similar(first[None], second[None], cosine=cosine)[0])
    assert torch.equal(got.back, most_similar(second[None], first[None], cosine=cosine)[0])
    for i, j in enumerate(got.found.tolist()):
        product = (first[i] @ second[j]).item()
        length = (first[i].norm() * second[j].norm()).item() if cosine else 1.0
        assert got.similarity[i].item() == pytest.approx(product / length, abs=1e-5)
        assert got.mutual[i].item() == (got.back[j].item() == i)


def test_accuracy_counts_a_square_of_patches_around_the_true_one_and_only_what_is_held():
    true = torch.tensor([[1, 1], [1, 1], [0, 3], [2, 2]])
    found = torch.tensor([5, 10, 3, 0])  # of 4 columns: (1, 1), (2, 2), (0, 3), (0, 0)
    held = torch.tensor([True, True, True, False])
    got = [accuracy_of(found, true, 4, radius) for radius in (0, 1, 2)]
    assert got == [0.5, 0.75, 1.0]
    assert accuracy_of(found, true, 4, 1, held) == 1.0
    assert np.isnan(accuracy_of(found, true, 4, 1, torch.zeros(4, dtype=torch.bool)))


@pytest.mark.parametrize("config", [VIT, SWIN], ids=["ViT", "Swin"])
def test_an_image_finds_its_own_patches_in_itself(config):
    backbone = network(config)
    image = normalize(noise(32, 48))
    found = correspond(backbone, image, image)
    count = found.cells[0].grid[0] * found.cells[0].grid[1]
    assert found.matches.found.tolist() == list(range(count)) and found.matches.mutual.all()
    assert found.salient_by == (BY_ATTENTION if config is VIT else BY_WINDOWS)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [(0, 0), (1, 2), (2, 1)])
def test_a_shift_by_whole_patches_and_a_mirror_are_recovered_by_pixels(shift, flip):
    image = noise(48, 64)
    boxes = [(0, 0, 24, 40), (8 * shift[0], 8 * shift[1], 24, 40)]
    first, second = (image[..., t : t + h, v : v + w] for t, v, h, w in boxes)
    if flip:
        second = second.flip(-1)
    placed = [
        Placed(torch.tensor([box]), torch.tensor([flip and i == 1])) for i, box in enumerate(boxes)
    ]
    cells = Cells.of((3, 5), (24, 40), 8)
    truth = true_places((placed[0], placed[1]), (cells, cells))
    # Mean colours of patches: a mirrored patch has the same.
    smooth = torch.nn.functional.avg_pool2d
    views = [
        smooth(view.float(), 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
        for view in (first, second)
    ]
    found = correspond(
        network(VIT), *(view / 255 - 0.5 for view in views), feature="pixels", truth=truth
    )
    held = (3 - shift[0]) * (5 - shift[1])
    assert int(truth.held.sum()) == held
    got = found.accuracy()
    assert got["patches"] == held
    assert [got["within"][r]["found"] for r in "012"] == [1.0, 1.0, 1.0]
    assert got["within"]["0"]["chance"] == pytest.approx(1 / 15)
    wrong = Truth((truth.place + 3) % 5, truth.held)
    assert accuracy_of(found.matches.found, wrong.place, 5, 0, wrong.held) < 0.5


def test_points_that_move_elsewhere_or_nowhere_are_followed():
    """A shift of 16 pixels that is known on the upper half alone."""
    whole = Placed(torch.tensor([[0, 0, 32, 64]]), torch.tensor([False]))
    cells = Cells.of((4, 8), (32, 64), 8)

    def moved(points):
        known = points[:, 0] < 16
        shift = torch.where(known, 16.0, float("inf"))
        return torch.stack([points[:, 0], points[:, 1] - shift], dim=1), known

    truth = true_places((whole, whole), (cells, cells), moved)
    for number in range(32):
        row, column = divmod(number, 8)
        held = row < 2 and column >= 2
        assert bool(truth.held[number]) == held
        if held:
            assert truth.place[number].tolist() == [row, column - 2]


def test_salience_is_the_mean_attention_or_the_length_before_the_norm(monkeypatch):
    images = normalize(noise(32, 32))
    vit, swin = network(VIT), network(SWIN)
    with torch.no_grad():
        maps = vit.attention_maps(images)[:, :, 0, 1:]
        torch.testing.assert_close(salience(vit, images)[0], maps.mean(dim=1))
        received = swin.received_attention(images).mean(dim=1).flatten(1)
        torch.testing.assert_close(salience(swin, images)[0], received)
        monkeypatch.setattr(type(swin), "received_attention", Backbone.received_attention)
        lengths, by = salience(swin, images)
        normed = swin(images).patches.norm(dim=-1)
    assert by == BY_LENGTH
    assert lengths.std() > 10 * normed.std()


@pytest.mark.parametrize("known", [False, True])
def test_what_is_kept_of_pairs_comes_back(tmp_path, known):
    image = noise(32, 48)
    found = correspond(network(VIT), normalize(image), normalize(noise(24, 32)))
    if known:
        place, held = torch.arange(24).view(24, 1) % 3, torch.arange(24) % 2 == 0
        truth = Truth(place.expand(-1, 2).contiguous(), held)
        found = Correspondence(
            cells=found.cells,
            matches=found.matches,
            saliency=found.saliency,
            salient_by=found.salient_by,
            truth=truth,
        )
    pixels = image[0].permute(1, 2, 0).numpy()
    pairs = [Pair(names=("<b>\n",), pictures=(pixels, pixels[:24, :32]), found=found)]
    for _ in range(2):  # in the place of what was there
        keep_pairs(tmp_path / "kept", "title", iter(pairs))
    title, (back,) = read_pairs(tmp_path / "kept")
    assert title == "title" and back.names == ("<b>\n",)
    assert [picture.shape for picture in back.pictures] == [(32, 48, 3), (24, 32, 3)]
    assert torch.equal(back.found.matches.found, found.matches.found)
    assert torch.equal(back.found.matches.mutual, found.matches.mutual)
    torch.testing.assert_close(back.found.saliency, found.saliency, atol=1e-7, rtol=0)
    assert back.found.cells == found.cells
    assert json.loads(json.dumps(found.as_plain()))["accuracy"] == found.accuracy()
    assert (back.found.truth is None) == (not known)
    if known:
        assert back.found.accuracy() == found.accuracy()


def test_pictures_of_small_views_show_the_same_boxes_larger(tmp_path):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    coarse.resize((400, 300), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    images = open_images(str(tmp_path))
    (pair,) = view_pairs(network(VIT), images, np.array([0]), (32, 40), seed=3)
    (pairs,) = pair_batches(images, (32, 40), [np.array([0])], 3)
    for picture, view in zip(pair.pictures, pairs.views, strict=True):
        assert picture.shape == (224, 280, 3)
        small = Image.fromarray(picture).resize((40, 32), Image.Resampling.BOX)
        given = view[0].permute(1, 2, 0).numpy().astype(float)
        assert np.abs(np.asarray(small) - given).mean() < 6  # two ways to reduce
    held = pair.found.truth.held
    assert held.sum() > 0 and pair.found.accuracy()["patches"] == held.sum()
