"""Exports are loaded by the libraries they are for and give the same tokens, at other and non-square sizes too."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ibot.cli.main import main
from ibot.config.schema import ModelConfig
from ibot.errors import UserError, WeightsError
from ibot.models.backbone import build_backbone
from ibot.weights import export as exporting
from ibot.weights.export import TARGETS, export_backbone, with_epsilon
from ibot.weights.read import KeyReport, Loaded, load

VIT = ModelConfig(width=64, depth=2, heads=2, patch=8)
SWIN = ModelConfig("swin", 16, depths=(1, 2, 2, 1), stage_heads=(1, 2, 2, 4), window=7, patch=4)


def network(config: ModelConfig, size: tuple[int, int]) -> Loaded:
    torch.manual_seed(0)
    backbone = build_backbone(config, size).eval()
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    return Loaded(backbone, config, size, KeyReport())


NETWORKS = {"vit": (VIT, (48, 48)), "swin": (SWIN, (224, 224))}


SLOW = ("swin", "onnx")
CASES = [
    pytest.param(kind, target, marks=[pytest.mark.slow] if (kind, target) == SLOW else [])
    for kind in NETWORKS for target in TARGETS
]  # fmt: skip


@pytest.mark.parametrize(("kind", "target"), CASES)
def test_the_target_gives_our_tokens_at_three_sizes(tmp_path, kind, target):
    loaded = network(*NETWORKS[kind])
    out = tmp_path / f"out{TARGETS[target].suffix}"
    differences = export_backbone(loaded, target, out)
    assert out.exists() and differences[0].size == loaded.size
    sizes = {d.size for d in differences}
    assert len(sizes) == 3 and any(h != w for h, w in sizes)
    assert all(max(d.cls, d.patches) < 2e-5 for d in differences)


@pytest.mark.parametrize("target", ["timm", "huggingface"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_what_was_exported_is_read_back_as_the_same_network(tmp_path, kind, target):
    loaded = network(*NETWORKS[kind])
    export_backbone(loaded, target, tmp_path / "out")
    again = load(tmp_path / "out", heads=2 if kind == "vit" else None)
    images = torch.randn(1, 3, *loaded.size)
    with torch.no_grad():
        torch.testing.assert_close(again.backbone(images).cls, loaded.backbone(images).cls, rtol=1e-4, atol=2e-5)


def test_a_size_may_be_chosen(tmp_path):
    loaded = network(*NETWORKS["vit"])
    differences = export_backbone(loaded, "timm", tmp_path / "wide", (32, 64))
    assert differences[0].size == (32, 64)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["model_args"]["img_size"] == [32, 64]


def test_a_swin_takes_a_size_where_its_file_serves_one_and_nowhere_else(tmp_path):
    loaded = network(*NETWORKS["swin"])
    with pytest.raises(UserError, match="every size"):
        export_backbone(loaded, "timm", tmp_path / "out", (288, 288))
    resized = exporting.at_size(loaded, (288, 320))
    assert resized.size == (288, 320) and resized.built_for == (224, 224)
    assert exporting.at_size(network(*NETWORKS["vit"]), (32, 64)).built_for == (32, 64)


def test_an_export_that_does_not_reproduce_the_network_is_removed(tmp_path, monkeypatch):
    loaded = network(*NETWORKS["vit"])

    def damaged(tensors):
        return {name: 2 * t if name == "cls_token" else t for name, t in tensors.items()}

    monkeypatch.setattr(exporting, "to_timm", damaged)
    with pytest.raises(WeightsError, match="does not reproduce"):
        export_backbone(loaded, "timm", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_target_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(WeightsError, match="cannot hold") as caught:
        export_backbone(network(ModelConfig(width=64, depth=1, heads=1, patch=8, registers=2), (16, 16)), "huggingface",
                        tmp_path / "out")  # fmt: skip
    assert "registers" in caught.value.why
    with pytest.raises(WeightsError, match="cannot hold") as caught:
        export_backbone(network(SWIN, (64, 64)), "huggingface", tmp_path / "out")
    assert "windows" in caught.value.why and list(tmp_path.iterdir()) == []


def test_existing_files_and_wrong_suffixes_are_refused(tmp_path):
    loaded = network(*NETWORKS["vit"])
    (tmp_path / "a.onnx").write_text("mine")
    for out, message in (("a.onnx", "exists"), ("b.bin", "end with"), ("no/c.onnx", "no folder")):
        with pytest.raises(UserError, match=message):
            export_backbone(loaded, "onnx", tmp_path / out)
    assert (tmp_path / "a.onnx").read_text() == "mine"


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_another_epsilon_gives_the_same_function(kind):
    config, _ = NETWORKS[kind]
    loaded = network(config, (64, 64))
    other = build_backbone(replace(config, norm_eps=3e-4), (64, 64)).double().eval()
    other.load_state_dict(with_epsilon(loaded.backbone.double().state_dict(), 1e-6, 3e-4))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(other(images).patches, loaded.backbone(images).patches, rtol=1e-9, atol=1e-9)


def test_the_command_prints_differences_and_writes_a_card(tmp_path, capsys):
    loaded = network(*NETWORKS["vit"])
    save_file(loaded.backbone.state_dict(), tmp_path / "mine.safetensors")
    out = tmp_path / "hf"
    command = ["weights", "export", str(tmp_path / "mine.safetensors"), "--heads", "2", "--to", "huggingface"]
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("largest difference") == 3 and "48x48" in printed
    card = (out / "README.md").read_text()
    assert "from_pretrained" in card and "| 48 x 48 |" in card and "2 blocks, width 64" in card
    assert load_file(out / "model.safetensors")["embeddings.cls_token"].shape == (1, 1, 64)
    assert main([*command, "--out", str(out)]) == 2


def test_inspect_names_what_a_file_holds(tmp_path, capsys):
    save_file(network(*NETWORKS["swin"]).backbone.state_dict(), tmp_path / "swin.safetensors")
    assert main(["weights", "inspect", str(tmp_path / "swin.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "blocks, width 16" in out and "window 7" in out and "missing 0, unused 0" in out


def test_a_backbone_alone_is_converted_to_a_folder_of_ours(tmp_path, capsys):
    loaded = network(*NETWORKS["vit"])
    torch.save({"state_dict": loaded.backbone.state_dict()}, tmp_path / "theirs.pth")
    folder = tmp_path / "ours"
    command = ["weights", "convert", str(tmp_path / "theirs.pth"), "--run", str(folder)]
    assert main([*command, "--heads", "2"]) == 0
    assert "matched 30, missing 0, unused 0" in capsys.readouterr().out
    again = load(folder)
    assert again.config.heads == 2 and again.size == (48, 48)
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(again.backbone(images).patches, loaded.backbone(images).patches)
    assert main(command) == 2 and "not empty" in capsys.readouterr().err
