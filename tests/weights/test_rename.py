"""Names of other layouts and back: every tensor arrives where it came from."""

import pytest
import torch

from ibot.config.schema import ModelConfig
from ibot.models.backbone import build_backbone
from ibot.weights.rename import recognise, to_huggingface, to_ours, to_timm

VIT = {"width": 12, "depth": 2, "heads": 2, "patch": 8}
SWIN = {
    "kind": "swin",
    "width": 8,
    "depths": (1, 2, 1),
    "stage_heads": (1, 2, 2),
    "window": 2,
    "patch": 4,
}


def tensors_of(**changes):
    torch.manual_seed(0)
    net = build_backbone(ModelConfig(**changes), (32, 32))
    return {name: torch.randn(value.shape) for name, value in net.named_parameters()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    "changes",
    [VIT, SWIN, {**VIT, "layer_scale": 0.1, "registers": 2}],
    ids=str,
)
def test_names_of_timm_lead_back(changes):
    ours = tensors_of(**changes)
    theirs = to_timm({**ours, "layers.0.blocks.0.attn.relative_position_index": torch.zeros(4)})
    assert len(theirs) == len(ours)
    back = to_ours(theirs)
    assert_same(back.backbone, ours)
    plain = changes == VIT
    assert back.layout == recognise(theirs) == ("published" if plain else "timm")
    assert recognise(ours) == "published"
    if "kind" in changes:
        moved = {name for name in theirs if "downsample" in name}
        assert {name.split(".")[1] for name in moved} == {"1", "2"}
    elif not plain:
        assert "blocks.1.ls2.gamma" in theirs and "reg_token" in theirs


@pytest.mark.parametrize("changes", [VIT, SWIN], ids=["vit", "swin"])
def test_names_of_hugging_face_lead_back_with_queries_keys_and_values_apart(changes):
    ours = tensors_of(**changes)
    theirs = to_huggingface(ours)
    first = "layers.0.blocks.0" if "kind" in changes else "blocks.0"
    first = f"{first}.attn.qkv.weight"
    inner = next(name for name in theirs if ".query.weight" in name)
    width = len(ours[first]) // 3
    for place, part in enumerate(("query", "key", "value")):
        piece = ours[first][place * width : (place + 1) * width]
        assert torch.equal(theirs[inner.replace("query", part)], piece)
    back = to_ours(theirs)
    assert back.layout == "huggingface" and not back.head
    assert_same(back.backbone, ours)


def test_mask_tokens_get_our_name_and_shape_but_those_of_a_decoder():
    token = torch.randn(1, 1, 12)
    for name in ("mask_token", "masked_embed"):
        found = to_ours({**tensors_of(**VIT), name: token}).backbone
        assert torch.equal(found["masked_embed"], token[0]) and "mask_token" not in found
    mae = {**tensors_of(**VIT), "mask_token": token, "decoder_embed.weight": torch.zeros(2, 12)}
    found = to_ours(mae)
    assert not {"mask_token", "masked_embed"} & set(found.backbone)
    assert set(found.head) == {"decoder_embed.weight"}
    assert "masked_embed" not in to_ours(tensors_of(**VIT)).backbone
