import json

import numpy as np
import pytest
import torch
from PIL import Image

from ibot.config.schema import ModelConfig
from ibot.models.attention import foreground
from ibot.models.backbone import build_backbone
from ibot.show.attention import class_attention
from ibot.show.layout import masked_image
from ibot.show.training import Example, training_picture


def test_golden_attention_maps_and_tokens(golden):
    arrays = np.load(golden / "evaluation.npz", allow_pickle=False)
    cases = {
        k: v
        for k, v in json.loads((golden / "evaluation.json").read_text()).items()
        if k.startswith("attention_")
    }
    assert cases
    for name, case in cases.items():
        prefix = f"{name}/weights/"
        weights = {
            key[len(prefix) :]: torch.from_numpy(arrays[key]).double()
            for key in arrays.files
            if key.startswith(prefix)
        }
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        side = round((weights["pos_embed"].shape[1] - 1) ** 0.5) * patch
        depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
        heads = arrays[f"{name}/cls_attention"].shape[0]
        hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
        config = ModelConfig(
            width=width,
            depth=depth,
            heads=heads,
            patch=patch,
            mlp_ratio=hidden / width,
            drop_path=0.0,
        )
        backbone = build_backbone(config, (side, side)).double()
        backbone.load_state_dict(weights)
        image = torch.from_numpy(arrays[f"{name}/image"]).double()
        maps = class_attention(backbone, image)[0]
        np.testing.assert_allclose(
            maps.flatten(1).numpy(), arrays[f"{name}/cls_attention"], rtol=1e-9, atol=1e-12
        )
        threshold = case.get("threshold", 0.6)
        largest = foreground(maps.flatten(1), threshold).view_as(maps)
        np.testing.assert_array_equal(largest.numpy(), arrays[f"{name}/thresholded_grid"])
        with torch.no_grad():
            layers = backbone.last_layers(image, 2)
        for number, out in enumerate(reversed(layers), 1):
            got = torch.cat([out.cls[:, None], out.patches], 1)
            stored = [arrays[f"{name}/intermediate_{i}"] for i in (1, 2)]
            want = stored[0] if number == 2 else stored[1]
            np.testing.assert_allclose(got.numpy().reshape(want.shape), want, rtol=1e-9, atol=1e-10)


def test_a_network_without_class_attention_has_nothing_to_show():
    sizes = {"width": 8, "depths": (1, 1), "stage_heads": (1, 2), "window": 4, "patch": 4}
    swin = ModelConfig(kind="swin", **sizes)
    with pytest.raises(ValueError, match="a Swin has no class token that attends"):
        class_attention(build_backbone(swin, (32, 32)), torch.randn(1, 3, 32, 32))


def test_hidden_patches_are_gray():
    image = np.zeros((8, 8, 3), np.uint8)
    shown = masked_image(image, np.array([[True, False], [False, False]]))
    assert (shown[:4, :4] > 128).all() and (shown[4:] == 0).all() and (shown[:4, 4:] == 0).all()


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("also", [{}, {"visible_loss": 4.0}])
def test_the_training_picture_is_written(tmp_path, rows, also):
    metrics = [
        {"images_seen": 100 * i, "cls_loss": 5.0 - i, "patch_loss_masked": 4.0 - i, "ln_k": 5.0}
        | also
        for i in range(1, rows + 1)
    ]
    rng = np.random.default_rng(0)
    examples = [
        Example([rng.integers(0, 256, (side, side, 3), np.uint8) for side in (32, 4)], "words")
        for _ in range(5)
    ]
    out = tmp_path / "a.png"
    knn, levels = [(0, 10.0), (300, 30.0)], {"random, whitened": 20.0}
    training_picture(metrics, knn, levels, ["image", "small"], examples, out, "title")
    with Image.open(out) as picture:
        assert min(picture.size) > 600 and len(set(picture.convert("L").tobytes())) > 50
