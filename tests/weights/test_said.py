"""What stands beside weights is believed where it is about them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ibot.config.reading import IMAGENET_MEAN
from ibot.config.schema import ModelConfig
from ibot.models.backbone import build_backbone
from ibot.weights.read import load

STRANGER = {
    "model_type": "vit",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-12,
}


@pytest.fixture
def network():
    return build_backbone(ModelConfig(width=128, depth=2, heads=2, patch=8), (16, 16))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (STRANGER, "it is of width 768, the tensors of 128"),
        ({**STRANGER, "hidden_size": 128}, "it is of 12 blocks, the tensors of 2"),
        (
            {**STRANGER, "hidden_size": 128, "num_hidden_layers": 2},
            "of Hugging Face, the names of the tensors are not",
        ),
        ({"model_type": "bert", "num_attention_heads": 4}, "of Hugging Face"),
        (
            {
                "architecture": "vit_base",
                "num_features": 768,
                "pretrained_cfg": {"mean": [0.5] * 3},
            },
            "width 768",
        ),
        (
            {"architecture": "vit_base", "pretrained_cfg": {"mean": [0.5] * 3}},
            "it does not say of which width",
        ),
        ({}, "of Hugging Face"),
    ],
)
def test_settings_of_a_stranger_in_the_same_folder_are_passed_over_in_one_line(
    network, tmp_path, settings, words, caplog
):
    torch.save(network.state_dict(), tmp_path / "dino.pth")
    alone = load(tmp_path / "dino.pth").config
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    caplog.clear()
    assert load(tmp_path / "dino.pth").config == alone
    assert words in caplog.text and caplog.text.count("passed over") == 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pytorch_model.bin", {"model_type": "vit", "num_attention_heads": 4}),
        ("own.pth", {"num_attention_heads": 4}),
        (
            "timm.pth",
            {
                "architecture": "vit",
                "num_features": 128,
                "model_args": {"num_heads": 4, "depth": 2},
            },
        ),
    ],
)
def test_settings_of_the_same_network_are_believed(network, tmp_path, name, settings, caplog):
    torch.save(network.state_dict(), tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert load(tmp_path / name).config.heads == 4 and "passed over" not in caplog.text


@pytest.mark.parametrize(
    ("processor", "mean"),
    [
        ({"do_resize": True}, None),
        ({"do_normalize": True, "image_std": [0.5] * 3}, None),
        ({"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, (0.0, 0.0, 0.0)),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, (0.5, 0.5, 0.5)),
    ],
)
def test_a_processor_that_says_no_mean_leaves_it_a_guess(
    network, tmp_path, processor, mean, caplog
):
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert load(tmp_path).config.statistics[0] == (mean or IMAGENET_MEAN)
    assert ("mean and deviation" in caplog.text) == (mean is None)


def test_settings_of_other_trainers_under_our_words_are_not_ours(network, tmp_path, caplog):
    alone = ["mean and deviation: ImageNet's"]
    cases = {
        "settings": {"state_dict": network.state_dict(), "settings": {"lr": 0.1, "image_size": 99}},
        "words": {
            "state_dict": network.state_dict(),
            "args": {"model": "vit_tiny", "augment": True},
        },
        "dictionaries": {
            "state_dict": network.state_dict(),
            "args": {"model": {"name": "x"}, "augment": {"crop": 1}},
        },
        "one": {
            "state_dict": network.state_dict(),
            "args": {"model": {"name": "vit_tiny"}, "augment": "auto"},
        },
    }
    for name, content in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        caplog.clear()
        assert load(tmp_path / f"{name}.pth").config.heads == 2, name
        assert all(words in caplog.text for words in alone), name


def test_the_first_exports_said_their_heads_alone(network, tmp_path, caplog):
    torch.save(
        {"state_dict": network.state_dict(), "settings": {"num_attention_heads": 4}},
        tmp_path / "w.pth",
    )
    assert load(tmp_path / "w.pth").config.heads == 4 and not caplog.records


@pytest.mark.parametrize(
    "own", ["vit_tiny", "[1]", json.dumps({"model": "vit", "augment": None}), "{}"]
)
def test_metadata_of_a_stranger_hide_neither_the_tensors_nor_the_config_beside(
    network, tmp_path, own
):
    save_file(network.state_dict(), tmp_path / "model.safetensors", {"config": own})
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    assert load(tmp_path).config.heads == 4
