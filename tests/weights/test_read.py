import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ibot.config.schema import ModelConfig
from ibot.errors import WeightsError
from ibot.models.backbone import build_backbone
from ibot.weights.read import load, load_backbone, load_weights

FOLDER = Path(os.environ.get("IBOT_GOLDEN", Path(__file__).parents[1] / "golden"))


def published_files() -> list:
    """(file, network) for every published checkpoint of the golden folder."""
    cases = []
    for path in sorted([*FOLDER.glob("published_checkpoint*.pth"), *FOLDER.glob("backbone_*.pth")]):
        keys = ("student", "teacher") if path.stem.startswith("published") else (path.stem.split("_")[1],)
        cases += [pytest.param(path, key, id=f"{path.stem}-{key}") for key in keys]
    return cases


def test_the_golden_folder_holds_published_files_of_both_kinds():
    names = [case.values[0].stem for case in published_files()]
    assert any("swin" in name for name in names) and any("swin" not in name for name in names)


@pytest.mark.parametrize(("path", "key"), published_files())
def test_published_files_give_the_published_tokens(path, key):
    name = "checkpoint_expected_swin" if "swin" in path.stem else "checkpoint_expected"
    expected = json.loads((FOLDER / f"{name}.json").read_text())
    arrays = np.load(FOLDER / f"{name}.npz", allow_pickle=False)
    heads = None if "swin" in path.stem else expected["backbone"]["num_heads"]
    backbone = load_backbone(path, key, heads=heads).double()
    assert {"native", "non_square"} < set(expected["input_shapes"])
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
        "bad.safetensors": "cannot be read", "other.pth": "no network", "swin.safetensors": "neither a ViT nor a Swin",
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
    loaded = load(tmp_path / "short.safetensors", allow_partial=True)
    assert loaded.report.missing == ["norm.bias"] and loaded.report.unused == ["extra"]
    assert torch.equal(loaded.backbone.state_dict()["norm.weight"], state["norm.weight"])
    assert len(loaded.report.matched) == len(state) - 1


def test_prefixes_are_cut_at_the_start_only(tmp_path):
    tensors = {"module.backbone.cls_token": torch.zeros(1), "encoder.backbone.x": torch.zeros(1)}
    torch.save(tensors, tmp_path / "a.pth")
    assert set(load_weights(tmp_path / "a.pth").backbone) == {"cls_token", "encoder.backbone.x"}


@pytest.mark.parametrize("size", [64, 96, 224])
def test_a_swin_without_settings_tells_the_size_for_which_it_was_built_by_its_windows(tmp_path, size):
    config = ModelConfig("swin", 8, depths=(1, 2, 2, 1), stage_heads=(1, 2, 2, 4), window=7, patch=4)
    torch.manual_seed(0)
    backbone = build_backbone(config, (size, size)).eval()
    save_file(backbone.state_dict(), tmp_path / "swin.safetensors")
    loaded = load(tmp_path / "swin.safetensors")
    assert loaded.size == (size, size) and loaded.config.depths == (1, 2, 2, 1)
    images = torch.randn(1, 3, 96, 64)
    assert torch.equal(loaded.backbone(images).patches, backbone(images).patches)


def small_vit(heads):
    return build_backbone(ModelConfig(width=128, depth=1, heads=heads, patch=8), (16, 16))


def test_heads_come_from_the_file_where_it_says_and_a_guess_is_told(tmp_path, caplog):
    tensors = small_vit(4).state_dict()
    (tmp_path / "timm").mkdir()
    save_file(tensors, tmp_path / "timm" / "model.safetensors")
    (tmp_path / "timm" / "config.json").write_text(json.dumps({"model_args": {"num_heads": 4}}))
    torch.save({"state_dict": tensors, "settings": {"num_attention_heads": 4}}, tmp_path / "ours.pth")
    for path in (tmp_path / "timm", tmp_path / "ours.pth"):
        assert load(path).config.heads == 4
    assert not caplog.records
    torch.save({"state_dict": tensors}, tmp_path / "silent.pth")
    assert load(tmp_path / "silent.pth").config.heads == 2
    assert "2 are assumed" in caplog.text and "--heads" in caplog.text
    assert load(tmp_path / "silent.pth", heads=4).config.heads == 4


def test_the_path_that_names_the_last_checkpoint_leads_to_it(tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "step_0000002"
    folder.mkdir(parents=True)
    save_file(small_vit(2).state_dict(), folder / "teacher.safetensors")
    (folder / "state.json").write_text("{}")
    last = folder.parent / "last"
    last.write_text("step_0000002\n")
    assert load_weights(last).source == load_weights(tmp_path / "run").source


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("note.pth", b"step_0000002\n", "is no weights file"),
        ("model.onnx", b"\x08\x0a", "ONNX"),
        ("empty.pth", b"", "it is empty"),
    ],
)
def test_what_is_no_pickle_is_a_weights_error(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        load_weights(tmp_path / name)


@pytest.mark.parametrize("kind", ["csv", "txt", "jpg", "npy", "npz", "empty"])
def test_what_is_no_weights_file_is_told_with_the_known_formats(tmp_path, kind):
    file = tmp_path / f"x.{kind}"
    if kind in ("npy", "npz"):
        (np.save if kind == "npy" else np.savez)(file, np.zeros(3))
    else:
        contents = {"csv": b"path,label\na.png,cat\n", "txt": b"hello", "jpg": b"\xff\xd8\xff\xe0", "empty": b""}
        file.write_bytes(contents[kind])
    with pytest.raises(WeightsError) as caught:
        load_weights(file)
    error = caught.value
    assert error.what == f"'{file}' is no weights file" and ".safetensors" in error.fix and ".pth" in error.fix
    assert len(str(error).splitlines()) == 3 and "weights_only" not in str(error)


def test_a_file_that_holds_more_than_tensors_names_it_without_unsafe_advice(tmp_path):
    torch.save({"teacher": torch.nn.Linear(2, 2)}, tmp_path / "module.pth")
    with pytest.raises(WeightsError, match="is refused") as caught:
        load_weights(tmp_path / "module.pth")
    assert caught.value.why == "it holds more than tensors and settings: torch.nn.modules.linear.Linear"
    assert "weights_only" not in str(caught.value) and "safetensors" in caught.value.fix


@pytest.mark.parametrize("new", [True, False])
def test_a_file_that_is_cut_off_is_to_be_copied_again(tmp_path, new):
    torch.save({"teacher": {"x": torch.zeros(99)}}, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-8])
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        load_weights(tmp_path / "x.pth")
    assert "copy" in caught.value.fix
