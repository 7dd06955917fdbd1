import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.data.decode import decode
from ibot.data.pixels import evaluation_view, normalize
from ibot.data.sources import scan
from ibot.errors import DataError
from ibot.eval.features import extract_features
from ibot.models.backbone import build_backbone


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return build_backbone(ModelConfig(width=16, depth=2, heads=2, patch=8, drop_path=0.5), (32, 32), drop_path=0.5)


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for i, size in enumerate([(32, 32), (50, 70), (33, 20), (64, 32), (32, 32)]):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / "ab"[i % 2] / f"{i}.png")
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
