"""Features on disk: what the network gives, computed once, never for other weights, images or views."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.labelled_folders import open_folder
from ibot.data.pixels import normalize
from ibot.errors import DataError
from ibot.eval import cache
from ibot.eval.cache import cached_features, rows_of, weights_hash
from ibot.eval.features import Feature, compute, pooled, probe_feature
from ibot.eval.views import View
from ibot.models.backbone import build_backbone
from ibot.types import TokenOutput

MODES = [Feature(1, 0), Feature(2, 0), Feature(1, 1), Feature(1, 2)]
VIEW = View((32, 32))


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return build_backbone(ModelConfig(width=24, depth=3, heads=2, patch=8), (32, 32)).eval()


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(6):
            pixels = random.integers(0, 256, (40 + i, 36, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{i}.png")
    return tmp_path / "data"


def features_of(backbone, folder, cache_dir, features=tuple(MODES), view=VIEW, **kwargs):
    return cached_features(
        backbone, weights_hash(backbone), open_folder(folder), view, features, cache_dir, batch=5, **kwargs
    )


def test_the_published_modes_are_reproduced(golden):
    arrays = np.load(golden / "evaluation.npz")
    blocks = [
        TokenOutput(tokens[:, 0], tokens[:, 1:], (3, 3))
        for tokens in (torch.from_numpy(arrays[f"features/block{i}"]).double() for i in (1, 2))
    ]
    seen = 0
    for name in arrays.files:
        if name.startswith("features/n"):
            count, mode = (int(part) for part in name.removeprefix("features/n").split("_avgpool"))
            got = pooled(blocks, blocks[-1], Feature(count, mode))
            np.testing.assert_allclose(got.numpy(), arrays[name], rtol=1e-6, atol=1e-7, err_msg=name)
            seen += 1
    assert seen >= 4


def test_rows_are_what_the_network_gives_for_each_mode(backbone, images, tmp_path):
    sets = features_of(backbone, images, tmp_path / "cache")
    source = open_folder(images)
    views = torch.from_numpy(np.stack([VIEW.render(source.read(i)) for i in range(12)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        layers = backbone.last_layers(normalize(views), 2)
        raw = backbone.last_layers(normalize(views), 1, norm=False)[0]
    want = {
        MODES[0]: layers[-1].cls,
        MODES[1]: torch.cat([layers[0].cls, layers[1].cls], 1),
        MODES[2]: raw.patches.mean(1),
        MODES[3]: torch.cat([layers[-1].cls, layers[-1].patches.mean(1)], 1),
    }
    for feature, rows in want.items():
        torch.testing.assert_close(sets[feature].rows, rows, rtol=1e-4, atol=1e-5)
        assert not sets[feature].cached and sets[feature].labels.tolist() == [0] * 6 + [1] * 6


def test_the_second_reading_computes_nothing(backbone, images, tmp_path, monkeypatch):
    first = features_of(backbone, images, tmp_path / "cache")
    monkeypatch.setattr(cache, "compute", lambda *_: pytest.fail("the network ran again"))
    second = features_of(backbone, images, tmp_path / "cache")
    for feature in MODES:
        assert second[feature].cached and torch.equal(first[feature].rows, second[feature].rows)


def test_other_weights_images_views_and_modes_never_meet_old_features(backbone, images, tmp_path):
    folder = tmp_path / "cache"
    plain = (MODES[0],)
    first = features_of(backbone, images, folder, plain)[MODES[0]].rows.clone()
    with torch.no_grad():
        backbone.pos_embed[0, 0, 0] += 1e-3
    changed = features_of(backbone, images, folder, plain)[MODES[0]]
    assert not changed.cached and not torch.equal(changed.rows, first)
    assert not features_of(backbone, images, folder, plain, View((32, 32), "squash"))[MODES[0]].cached
    assert not features_of(backbone, images, folder, (MODES[1],))[MODES[1]].cached
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(images / "cat" / "0.png")
    again = features_of(backbone, images, folder, plain)[MODES[0]]
    assert not again.cached and not torch.equal(again.rows[0], changed.rows[0])
    assert len(list(folder.iterdir())) == 5


def test_an_interrupted_pass_goes_on_where_it_stopped(backbone, images, tmp_path, monkeypatch):
    whole = features_of(backbone, images, tmp_path / "whole")
    sizes = []

    def failing(network, batch, features):
        if len(batch) > 1:  # the first call asks for widths only
            sizes.append(len(batch))
            if len(sizes) == 2:
                raise KeyboardInterrupt
        return compute(network, batch, features)

    monkeypatch.setattr(cache, "compute", failing)
    with pytest.raises(KeyboardInterrupt):
        features_of(backbone, images, tmp_path / "cache")
    rest = features_of(backbone, images, tmp_path / "cache")
    assert sizes == [5, 5, 5, 2], "the first batch is not computed again"
    for feature in MODES:
        assert torch.equal(rest[feature].rows, whole[feature].rows)


def test_images_that_cannot_be_read_are_left_out_and_named(backbone, images, tmp_path):
    (images / "cat" / "3.png").write_bytes(b"no image")
    for _ in range(2):
        got = features_of(backbone, images, tmp_path / "cache", (MODES[0],))[MODES[0]]
        assert len(got.rows) == len(got.labels) == 11 and 3 not in got.index
        assert [name for name, _ in got.bad] == ["cat/3.png"] and got.bad[0][1]
    assert rows_of(got, np.array([2, 3, 7])).index.tolist() == [2, 7]
    for file in images.glob("*/*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 12"):
        features_of(backbone, images, tmp_path / "cache", (MODES[0],))


def test_an_entry_says_what_it_holds(backbone, images, tmp_path):
    features_of(backbone, images, tmp_path / "cache", (MODES[0],))
    about = json.loads(next((tmp_path / "cache").glob("*/about.json")).read_text())
    assert about["weights"] == weights_hash(backbone) and about["view"] == [32, 32, "crop", "bicubic", 0]


def test_the_probe_s_feature_follows_the_width():
    vit = build_backbone(ModelConfig(width=48, depth=6, heads=3, patch=8), (16, 16))
    wide = build_backbone(ModelConfig(width=768, depth=1, heads=12, patch=16), (32, 32))
    swin = build_backbone(ModelConfig(kind="swin", width=12, depths=(1, 2), stage_heads=(1, 2), patch=4), (64, 64))
    assert [str(probe_feature(network)) for network in (vit, wide, swin)] == ["n4m0", "n1m2", "n3m0"]


def test_swin_blocks_of_two_stages_are_joined():
    torch.manual_seed(0)
    swin = build_backbone(ModelConfig(kind="swin", width=12, depths=(1, 2), stage_heads=(1, 2), patch=4), (64, 64))
    got = compute(swin.eval(), torch.randn(2, 3, 64, 64), (Feature(3, 0),))[Feature(3, 0)]
    assert got.shape == (2, 12 + 24 + 24)


@pytest.mark.parametrize("text", ["n4", "4m0", "n4m3", "n0m0", "nm"])
def test_a_feature_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"feature"):
        Feature.parse(text)


def test_views_of_other_shapes_crop_squash_or_pad():
    image = np.zeros((60, 30, 3), np.uint8)
    image[:10] = 255  # a bright top
    crop, squash, pad = (View((32, 32), fit).render(image) for fit in ("crop", "squash", "pad"))
    assert crop.shape == squash.shape == pad.shape == (32, 32, 3)
    assert crop[0].mean() < 5 and squash[0].mean() > 250
    assert pad[:, :7].max() == 0 and pad[0, 8:24].mean() > 250
