import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.decode import decode
from ibot.data.pixels import evaluation_view, normalize
from ibot.data.sets.scan import scan
from ibot.errors import DataError
from ibot.eval.features.tokens import Feature, compute, extract_features, pooled, probe_feature
from ibot.models.backbone import build_backbone


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return build_backbone(
        ModelConfig(width=16, depth=2, heads=2, patch=8, drop_path=0.5), (32, 32), drop_path=0.5
    )


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for i, size in enumerate([(32, 32), (50, 70), (33, 20), (64, 32), (32, 32)]):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            tmp_path / "ab"[i % 2] / f"{i}.png"
        )
    (tmp_path / "a" / "broken.png").write_bytes(b"x")
    return scan(tmp_path)


def test_tokens_equal_those_of_single_images(backbone, source):
    features = extract_features(backbone, source, size=(32, 32), patches=True, batch=2)
    assert backbone.training, "the backbone is left as it was"
    assert features.bad == [("a/broken.png", "not an image")] and len(features.names) == 5
    backbone.eval()
    for row, name in enumerate(features.names):
        image = decode(source.root / name)
        view = image if image.shape[:2] == (32, 32) else evaluation_view(image, 37, (32, 32))
        with torch.no_grad():
            out = backbone(normalize(torch.from_numpy(np.array(view)).permute(2, 0, 1)[None]))
        torch.testing.assert_close(features.cls[row], out.cls[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.patches[row], out.patches[0], rtol=1e-4, atol=1e-5)
    assert features.labels.tolist() == [source.classes.index(name[0]) for name in features.names]
    torch.testing.assert_close(features.unit().norm(dim=1), torch.ones(5))


def test_indices_pick_images_and_workers_change_nothing(backbone, source):
    picked = [source.name(i) for i in (4, 0)]
    features = extract_features(backbone, source, size=(32, 32), indices=[4, 0])
    assert features.names == picked
    again = extract_features(backbone, source, size=(32, 32), indices=[4, 0], workers=1)
    assert torch.equal(features.cls, again.cls)


def test_a_folder_without_readable_images_is_an_error(backbone, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 1 images"):
        extract_features(backbone, scan(tmp_path), size=(32, 32))


@pytest.mark.parametrize("changes", [{}, {"mean_pooling": True}, {"registers": 3}], ids=str)
@torch.no_grad()
def test_features_are_joined_from_the_tokens_that_their_name_says(changes):
    torch.manual_seed(1)
    net = build_backbone(
        ModelConfig(width=12, depth=4, heads=2, patch=8, **changes), (24, 32)
    ).eval()
    images = torch.randn(2, 3, 24, 40)
    normed, plain = net.last_layers(images, 4), net.last_layers(images, 4, norm=False)
    asked = [Feature(blocks, mode) for blocks in (1, 3, 4) for mode in (0, 1, 2)]
    for features in (asked, asked[:1], asked[2:3], [asked[1], asked[4]], [asked[1], asked[0]]):
        found = compute(net, images, features)
        assert list(found) == list(features)
        for feature, rows in found.items():
            tokens = [block.cls for block in normed[4 - feature.blocks :]]
            want = {
                0: tokens,
                1: [plain[3].patches.mean(1)],
                2: [*tokens, normed[3].patches.mean(1)],
            }[feature.mode]
            torch.testing.assert_close(rows, torch.cat(want, 1))
    blocks = pooled(normed, None, Feature(2, 0))
    torch.testing.assert_close(blocks, torch.cat([normed[2].cls, normed[3].cls], 1))


def test_names_of_features_are_read_as_they_are_written():
    for blocks, mode in ((1, 0), (4, 2), (12, 1)):
        feature = Feature(blocks, mode)
        assert str(feature) == f"n{blocks}m{mode}" and Feature.parse(str(feature)) == feature
    for text in ("n0m0", "n1m3", "1m0", "n1", "nm0", "n1m", "n-1m0"):
        with pytest.raises(ValueError, match="feature"):
            Feature.parse(text)


def test_the_paper_probes_wide_networks_otherwise_than_narrow_ones():
    def probed(**changes):
        config = ModelConfig(**{"depth": 1, "heads": 2, "patch": 8, "width": 12, **changes})
        return str(probe_feature(build_backbone(config, (16, 16))))

    assert probed(depth=6) == "n4m0" and probed(depth=3) == "n3m0"
    assert probed(width=766) == "n1m0" and probed(width=768) == "n1m2"
    swin = {"kind": "swin", "width": 384, "depths": (1, 1), "stage_heads": (1, 1), "window": 2}
    assert probed(**swin, patch=4) == "n2m0"


def test_progress_counts_the_images_and_those_that_cannot_be_read(backbone, source):
    told = []
    extract_features(
        backbone, source, size=(32, 32), batch=4, progress=lambda *now: told.append(now)
    )
    assert told == [(4, 6), (6, 6)]
    backbone.eval()
    extract_features(backbone, source, size=(32, 32), indices=[0])
    assert not backbone.training


def test_a_folder_a_path_of_weights_and_one_number_for_the_size_will_do(backbone, source, tmp_path):
    torch.save(
        {"state_dict": backbone.state_dict(), "settings": {"num_attention_heads": 2}},
        tmp_path / "w.pth",
    )
    want = extract_features(backbone, source, size=(32, 32), device="cpu")
    for weights, folder in (
        (str(tmp_path / "w.pth"), str(source.root)),
        (tmp_path / "w.pth", source.root),
    ):
        features = extract_features(weights, folder, size=32)
        assert torch.equal(features.cls, want.cls) and features.names == want.names


def test_every_part_of_the_backbone_is_left_in_its_mode(backbone, source):
    backbone.blocks[1].eval()
    modes = [part.training for part in backbone.modules()]
    extract_features(backbone, source, size=(32, 32))
    assert [part.training for part in backbone.modules()] == modes and len(set(modes)) == 2


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"size": 0}, {"indices": [99]}, {"indices": [-1]}])
def test_settings_that_mean_nothing_are_refused(backbone, source, wrong):
    with pytest.raises(ValueError, match="of 6 images"):
        extract_features(backbone, source, **{"size": 32, **wrong})
