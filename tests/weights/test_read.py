import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ibot.config.schema import HeadConfig, ModelConfig
from ibot.errors import WeightsError
from ibot.models.backbone import build_backbone
from ibot.models.head import ProjectionHead
from ibot.weights.head import projection_head
from ibot.weights.read import load, load_backbone, load_both, load_weights
from ibot.weights.said import told

FOLDER = Path(os.environ.get("IBOT_GOLDEN", Path(__file__).parents[1] / "golden"))


def published_files() -> list:
    """(file, network) for every published checkpoint of the golden folder."""
    cases = []
    for path in sorted([*FOLDER.glob("published_checkpoint*.pth"), *FOLDER.glob("backbone_*.pth")]):
        keys = (
            ("student", "teacher")
            if path.stem.startswith("published")
            else (path.stem.split("_")[1],)
        )
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
    assert "masked_embed" in weights.backbone and not any(
        n.startswith("module") for n in weights.backbone
    )


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
    save_file(
        {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(3, 3)},
        tmp_path / "swin.safetensors",
    )
    cases = {
        "missing.pth": "no file",
        "empty": "holds no weights",
        "half.pth": "cannot be read",
        "bad.safetensors": "cannot be read",
        "other.pth": "no network",
        "swin.safetensors": "neither a ViT nor a Swin",
    }
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
def test_a_swin_without_settings_tells_the_size_for_which_it_was_built_by_its_windows(
    tmp_path, size
):
    config = ModelConfig(
        kind="swin", width=8, depths=(1, 2, 2, 1), stage_heads=(1, 2, 2, 4), window=7, patch=4
    )
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
    (tmp_path / "timm" / "config.json").write_text(
        json.dumps(
            {
                "model_args": {"num_heads": 4},
                "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
            }
        )
    )
    torch.save(
        {"state_dict": tensors, "settings": {"num_attention_heads": 4}}, tmp_path / "ours.pth"
    )
    for path in (tmp_path / "timm", tmp_path / "ours.pth"):
        assert load(path).config.heads == 4
    assert not caplog.records
    torch.save({"state_dict": tensors}, tmp_path / "silent.pth")
    assert load(tmp_path / "silent.pth").config.heads == 2
    assert "heads: 2 are assumed" in caplog.text and "--heads" in caplog.text
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
        contents = {
            "csv": b"path,label\na.png,cat\n",
            "txt": b"hello",
            "jpg": b"\xff\xd8\xff\xe0",
            "empty": b"",
        }
        file.write_bytes(contents[kind])
    with pytest.raises(WeightsError) as caught:
        load_weights(file)
    error = caught.value
    assert (
        error.what == f"'{file}' is no weights file"
        and ".safetensors" in error.fix
        and ".pth" in error.fix
    )
    assert len(str(error).splitlines()) == 3 and "weights_only" not in str(error)


def test_a_file_that_holds_more_than_tensors_names_it_without_unsafe_advice(tmp_path):
    torch.save({"teacher": torch.nn.Linear(2, 2)}, tmp_path / "module.pth")
    with pytest.raises(WeightsError, match="is refused") as caught:
        load_weights(tmp_path / "module.pth")
    assert (
        caught.value.why
        == "it holds more than tensors and settings: torch.nn.modules.linear.Linear"
    )
    assert "weights_only" not in str(caught.value) and "safetensors" in caught.value.fix


@pytest.mark.parametrize("new", [True, False])
def test_a_file_that_is_cut_off_is_to_be_copied_again(tmp_path, new):
    torch.save(
        {"teacher": {"x": torch.zeros(99)}}, tmp_path / "x.pth", _use_new_zipfile_serialization=new
    )
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-8])
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        load_weights(tmp_path / "x.pth")
    assert "copy" in caught.value.fix


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda t: t * float("nan"), "NaN"),
        (lambda t: t / 0, "infinity"),
        (lambda t: t.half() * 1e9, "infinity"),
        (lambda t: t.double() * 1e300, "infinity"),
        (lambda t: t.to(torch.int8), "int8"),
        (lambda t: t.to(torch.complex64), "complex64"),
        (lambda t: t > 0, "bool"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused_by_name_however_partial(
    tmp_path, bad, words
):
    state = small_vit(2).state_dict()
    name = "blocks.0.mlp.fc2.weight"
    torch.save({**state, name: bad(state[name] + 1)}, tmp_path / "bad.pth")
    for partial in (False, True):
        with pytest.raises(WeightsError, match="cannot be used") as caught:
            load(tmp_path / "bad.pth", allow_partial=partial)
        assert f"{name} ({words}" in caught.value.why


def test_an_empty_tensor_does_not_fit(tmp_path):
    state = small_vit(2).state_dict()
    for name in ("blocks.0.mlp.fc2.weight", "patch_embed.proj.weight"):
        torch.save({**state, name: state[name][:0]}, tmp_path / "empty.pth")
        with pytest.raises(WeightsError):
            load(tmp_path / "empty.pth")


def test_nan_in_a_head_stops_only_those_who_use_the_head(tmp_path):
    state = {f"backbone.{name}": tensor for name, tensor in small_vit(2).state_dict().items()}
    head = ProjectionHead(
        128, HeadConfig(out_dim=8, patch_out_dim=8, hidden_dim=8, bottleneck_dim=4), True
    )
    state |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    state["head.mlp.0.bias"] = torch.full((8,), float("nan"))
    torch.save({"teacher": state}, tmp_path / "head.pth")
    assert load(tmp_path / "head.pth").backbone.num_blocks == 1
    with pytest.raises(WeightsError, match="cannot be used"):
        projection_head(load_weights(tmp_path / "head.pth"), 128, "teacher")


def test_objects_beside_the_tensors_are_passed_over_and_not_run(tmp_path, caplog):
    content = {
        "state_dict": small_vit(2).state_dict(),
        "hyper_parameters": {"path": Path("x"), "of": ModelConfig()},
    }
    for new in (True, False):
        torch.save(content, tmp_path / "lightning.ckpt", _use_new_zipfile_serialization=new)
        loaded = load(tmp_path / "lightning.ckpt")
        assert torch.equal(
            loaded.backbone.state_dict()["norm.weight"], content["state_dict"]["norm.weight"]
        )
    assert "not run: pathlib" in caplog.text and "ModelConfig" in caplog.text


def test_a_file_that_asks_for_code_beside_its_tensors_is_refused_and_runs_nothing(tmp_path):
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {mark}",))

    torch.save(
        {"state_dict": small_vit(2).state_dict(), "callbacks": Evil()}, tmp_path / "evil.ckpt"
    )
    with pytest.raises(WeightsError, match="is refused") as caught:
        load(tmp_path / "evil.ckpt")
    assert "system" in caught.value.why and not mark.exists()


def test_shards_are_joined_and_missing_ones_named(tmp_path):
    state = small_vit(2).state_dict()
    names = list(state)
    for suffix, write in (("safetensors", save_file), ("bin", torch.save)):
        folder = tmp_path / suffix
        folder.mkdir()
        base = "model.safetensors" if suffix == "safetensors" else "pytorch_model.bin"
        shards = {f"part-{i}.{suffix}": names[i::2] for i in range(2)}
        for file, part in shards.items():
            write({name: state[name] for name in part}, folder / file)
        where = {name: file for file, part in shards.items() for name in part}
        (folder / f"{base}.index.json").write_text(json.dumps({"weight_map": where}))
        for path in (folder, folder / f"{base}.index.json"):
            assert torch.equal(load(path).backbone.state_dict()["pos_embed"], state["pos_embed"])
        (folder / f"part-1.{suffix}").unlink()
        with pytest.raises(WeightsError, match="is incomplete") as caught:
            load(folder)
        assert f"part-1.{suffix}" in caught.value.why


def test_a_table_of_unknown_shape_is_refused_until_a_file_beside_it_says_the_size(tmp_path):
    backbone = build_backbone(ModelConfig(width=64, depth=1, heads=1, patch=8), (16, 40)).eval()
    torch.save(backbone.state_dict(), tmp_path / "wide.pth")
    for partial in (False, True):
        with pytest.raises(WeightsError, match="unknown shape") as caught:
            load(tmp_path / "wide.pth", allow_partial=partial)
    assert "image_size" in caught.value.fix
    (tmp_path / "config.json").write_text(json.dumps({"image_size": [16, 40]}))
    loaded, images = load(tmp_path / "wide.pth"), torch.randn(1, 3, 16, 40)
    assert loaded.size == (16, 40)
    assert torch.equal(loaded.backbone(images).patches, backbone(images).patches)


def test_a_partial_fit_never_leaves_positions_random(tmp_path):
    config = ModelConfig(kind="swin", width=8, depths=(1, 2), stage_heads=(1, 2), window=4, patch=4)
    state = build_backbone(config, (32, 32)).state_dict()
    del state["layers.1.blocks.1.attn.relative_position_bias_table"]
    save_file(state, tmp_path / "swin.safetensors")
    with pytest.raises(WeightsError, match="does not fit") as caught:
        load(tmp_path / "swin.safetensors", allow_partial=True)
    assert "positions would be random" in caught.value.why and "partial" not in caught.value.fix


def test_one_of_several_networks_is_chosen_by_key_and_what_was_not_read_is_said(tmp_path, caplog):
    first, second = (small_vit(2).state_dict() for _ in range(2))
    wrapped = {f"backbone.{name}": tensor for name, tensor in first.items()}
    wrapped |= {f"momentum_backbone.{name}": tensor for name, tensor in second.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "solo.ckpt")
    assert torch.equal(
        load(tmp_path / "solo.ckpt").backbone.state_dict()["pos_embed"], first["pos_embed"]
    )
    assert "not 'state_dict.momentum_backbone'" in caplog.text
    other = load_weights(tmp_path / "solo.ckpt", "momentum_backbone")
    assert torch.equal(other.backbone["pos_embed"], second["pos_embed"])
    torch.save({"a": first, "b": second}, tmp_path / "two.pth")
    with pytest.raises(WeightsError, match="several networks") as caught:
        load_weights(tmp_path / "two.pth")
    assert "--key a" in caught.value.fix
    assert torch.equal(
        load_weights(tmp_path / "two.pth", "b").backbone["pos_embed"], second["pos_embed"]
    )


def test_one_network_fills_student_and_teacher(tmp_path):
    state = {f"backbone.{name}": tensor for name, tensor in small_vit(2).state_dict().items()}
    torch.save({"teacher": state}, tmp_path / "teacher.pth")
    student, teacher = load_both(tmp_path / "teacher.pth")
    assert torch.equal(student.backbone["pos_embed"], teacher.backbone["pos_embed"])
    torch.save(
        {"teacher": state, "student": {n: t + 1 for n, t in state.items()}}, tmp_path / "both.pth"
    )
    student, teacher = load_both(tmp_path / "both.pth")
    assert torch.equal(student.backbone["pos_embed"], teacher.backbone["pos_embed"] + 1)


def test_what_a_published_export_cannot_show_by_its_shapes_is_read_back(tmp_path, caplog):
    said = {
        "act": "relu",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.5, 0.5, 0.5),
        "pos_interp": "exact",
        "norm_eps": 1e-5,
    }
    config = ModelConfig(
        width=64, depth=1, heads=2, patch=8, drop_path=0.0, pos_size=(16, 40), **said
    )
    backbone = build_backbone(config, (16, 40))
    torch.save(
        {"state_dict": backbone.state_dict(), "settings": told(config, (16, 40))},
        tmp_path / "out.pth",
    )
    loaded = load(tmp_path / "out.pth")
    assert loaded.config == config and loaded.size == (16, 40) and not caplog.records
