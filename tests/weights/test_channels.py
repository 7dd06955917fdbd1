"""Networks of many channels: patch embeddings from others, and what every export keeps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ibot.config.reading import PICTURES, RGB, Channels
from ibot.config.schema import ModelConfig
from ibot.models.backbone import build_backbone
from ibot.weights.card import model_card
from ibot.weights.channels import fitting_embedding, told_embedding
from ibot.weights.export import export_backbone
from ibot.weights.read import KeyReport, Loaded, load, load_weights, reading_of
from ibot.weights.suffixes import SUFFIXES

NAMES = tuple(f"B{number:02}" for number in range(1, 14))
MEAN = tuple(0.01 * number for number in range(1, 14))
STD = tuple(0.3 / number for number in range(1, 14))
VIT = ModelConfig(width=32, depth=2, heads=4, patch=8, channels=NAMES, mean=MEAN, std=STD)
SWIN = ModelConfig(
    kind="swin",
    width=16,
    depths=(1, 1),
    stage_heads=(2, 4),
    window=4,
    patch=4,
    channels=NAMES,
    mean=MEAN,
    std=STD,
)
STORED = Channels("all", "{name}_{channel}.tif", (-1.0, 65535.0))


def loaded_of(config, reading=STORED, seed=0):
    torch.manual_seed(seed)
    backbone = build_backbone(config, (32, 32)).eval()
    reading = reading.of(config.channels, config.mean)
    return Loaded(backbone, config, (32, 32), KeyReport(), reading=reading)


@pytest.mark.parametrize(
    "wanted",
    [
        ("gray",),
        NAMES,
        ("nir", "swir"),
        ("blue", "green", "red", "nir"),
        ("a", "b2", "c", "B04", "e", "Green"),
    ],
)
def test_the_response_to_an_image_of_equal_channels_is_kept(wanted):
    kernels = torch.randn(7, 3, 4, 4, dtype=torch.float64)
    image = torch.randn(1, 1, 12, 12, dtype=torch.float64)

    def response(weight):
        copies = image.expand(1, weight.shape[1], 12, 12)
        return torch.nn.functional.conv2d(copies, weight, stride=4)

    found = fitting_embedding(kernels, RGB, wanted)
    assert found.shape == (7, len(wanted), 4, 4)
    torch.testing.assert_close(response(found), response(kernels))


def test_channels_known_by_name_take_their_own_kernel():
    kernels = torch.randn(5, 3, 2, 2)
    found = fitting_embedding(kernels, RGB, ("B02", "nir", "B04"))
    torch.testing.assert_close(found[:, 0], kernels[:, 2])
    torch.testing.assert_close(found[:, 1], kernels.mean(1))
    torch.testing.assert_close(found[:, 2], kernels[:, 0])
    assert told_embedding(RGB, ("B02", "nir", "B04")) == (
        "its patch embedding of 3 channels made one of 3: B02, B04 with their own kernels, 1 "
        "channel with the mean of all, times 3/3"
    )
    assert fitting_embedding(kernels, RGB, RGB) is kernels and not told_embedding(RGB, RGB)
    torch.testing.assert_close(fitting_embedding(kernels, RGB, ("gray",))[:, 0], kernels.sum(1))


@pytest.mark.parametrize("config", [VIT, SWIN], ids=["vit", "swin"])
@pytest.mark.parametrize(
    "target",
    [
        "safetensors",
        "published",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("timm", "huggingface", "onnx")),
    ],
)
def test_every_export_keeps_channels_and_statistics(config, target, tmp_path):
    for package in {"timm": ["timm"], "huggingface": ["transformers"]}.get(target, []):
        pytest.importorskip(package)
    if target == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    network, out = loaded_of(config), tmp_path / f"network{SUFFIXES[target]}"
    differences = export_backbone(network, target, out)
    assert max(max(one.cls, one.patches) for one in differences) < 1e-4
    card = model_card(network, target, out.name, Path("run"), differences)
    assert "13 channels" in card and "B13 0.13, 0.0230769" in card
    if target == "onnx":
        metadata = {
            entry.key: entry.value for entry in pytest.importorskip("onnx").load(out).metadata_props
        }
        assert eval(metadata["ibot.channels"]) == list(NAMES)
        assert eval(metadata["ibot.std"]) == list(STD)
        return
    back = load(out)
    assert back.config.channels == NAMES and back.backbone.channels == NAMES
    torch.testing.assert_close(torch.tensor(back.config.statistics), torch.tensor([MEAN, STD]))
    assert replace(back.reading, mean=()) == replace(network.reading, mean=())
    assert back.reading.names == ",".join(NAMES) and back.reading.files == STORED.files
    assert replace(reading_of(load_weights(out)), mean=()) == replace(back.reading, mean=())
    assert not [guess for guess in back.guesses if "mean" in guess or "channels" in guess]
    images = torch.randn(2, 13, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            back.backbone(images).cls, network.backbone(images).cls, rtol=0, atol=1e-5
        )


def test_files_of_colour_networks_say_nothing_of_channels(tmp_path):
    network = loaded_of(replace(VIT, channels=RGB, mean=(0.5,) * 3, std=(0.5,) * 3), PICTURES)
    out = tmp_path / "network.pth"
    export_backbone(network, "published", out)
    settings = torch.load(out, weights_only=True)["settings"]
    assert not any("channel" in name for name in settings)
    assert load(out).reading == PICTURES


def test_a_network_of_one_channel_of_others_is_read_with_what_it_does_not_say(tmp_path):
    config = replace(VIT, channels=("x",), mean=(0.3,), std=(0.2,))
    state = loaded_of(config).backbone.state_dict()
    file = tmp_path / "stranger.pth"
    torch.save(state, file)
    found = load(file)
    assert found.config.channels == ("1",) and found.reading.names == "1"
    assert len(found.config.mean) == 1 and 0.44 < found.config.mean[0] < 0.46
    assert any(guess.startswith("channels: called 1 ") for guess in found.guesses)
    assert any("every channel the average of ImageNet's" in guess for guess in found.guesses)
