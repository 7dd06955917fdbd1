import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError
from ibot.models.backbone import build_backbone
from ibot.weights.read import load_backbone, load_weights


@pytest.mark.parametrize("key", ["student", "teacher"])
@pytest.mark.parametrize("layout", ["full", "backbone"])
def test_published_vit_files_give_the_published_tokens(golden, key, layout):
    expected = json.loads((golden / "checkpoint_expected.json").read_text())
    arrays = np.load(golden / "checkpoint_expected.npz", allow_pickle=False)
    path = golden / ("published_checkpoint.pth" if layout == "full" else f"backbone_{key}.pth")
    backbone = load_backbone(path, key, heads=expected["backbone"]["num_heads"]).double()
    for shape in expected["input_shapes"]:
        with torch.no_grad():
            out = backbone(torch.from_numpy(arrays[f"input/{shape}"]).double())
        got = torch.cat([out.cls[:, None], out.patches], 1).numpy()
        assert np.abs(got - arrays[f"{key}/{shape}"]).max() < 1e-9 * max(1, np.abs(got).max())


def test_a_full_checkpoint_gives_head_and_arguments(golden):
    weights = load_weights(golden / "published_checkpoint.pth", "student")
    assert "head.last_layer.weight_v" in weights.head and weights.settings["arch"].startswith("vit")
    assert "masked_embed" in weights.backbone and not any(n.startswith("module") for n in weights.backbone)


def test_a_pickle_with_code_is_refused_and_runs_nothing(tmp_path):
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {mark}",))

    torch.save({"teacher": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(WeightsError):
            load_weights(tmp_path / name)
    assert not mark.exists()


def test_files_that_cannot_be_weights_are_refused_with_a_reason(tmp_path, golden):
    (tmp_path / "empty").mkdir()
    whole = (golden / "published_checkpoint.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    torch.save({"other": 1}, tmp_path / "other.pth")
    save_file({"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(3, 3)}, tmp_path / "swin.safetensors")
    cases = {
        "missing.pth": "no file", "empty": "holds no weights", "half.pth": "cannot be read",
        "bad.safetensors": "cannot be read", "other.pth": "no network", "swin.safetensors": "not a ViT",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(WeightsError, match=message):
            load_backbone(tmp_path / name)
    with pytest.raises(WeightsError, match="unknown network"):
        load_weights(tmp_path / "other.pth", "best")


def test_missing_and_superfluous_tensors_are_errors(tmp_path):
    state = build_backbone(ModelConfig(width=64, depth=2, heads=1, patch=8), (32, 32)).state_dict()
    save_file(state, tmp_path / "whole.safetensors")
    assert load_backbone(tmp_path / "whole.safetensors").num_blocks == 2
    short = {name: t for name, t in state.items() if name != "norm.bias"}
    save_file({**short, "extra": torch.zeros(1)}, tmp_path / "short.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_backbone(tmp_path / "short.safetensors")
    assert "norm.bias" in caught.value.why and "extra" in caught.value.why


def test_prefixes_are_cut_at_the_start_only(tmp_path):
    tensors = {"module.backbone.cls_token": torch.zeros(1), "encoder.backbone.x": torch.zeros(1)}
    torch.save(tensors, tmp_path / "a.pth")
    assert set(load_weights(tmp_path / "a.pth").backbone) == {"cls_token", "encoder.backbone.x"}
