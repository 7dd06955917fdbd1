"""A classifier in a file gives the scores that it gave in memory."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from ibot.errors import WeightsError
from ibot.eval.features.tokens import Feature
from ibot.eval.features.views import View
from ibot.eval.linear_classifier import LinearClassifier, load_classifier


@pytest.mark.parametrize(
    ("feature", "unit"),
    [(Feature(1, 0), True), (Feature(2, 0), False), (Feature(1, 1), True), (Feature(2, 2), False)],
    ids=str,
)
@pytest.mark.parametrize("kind", ["vit", "swin"])
@torch.no_grad()
def test_what_is_read_scores_as_what_was_written(lab, unit, feature, kind):
    loaded = lab.with_network(kind=kind).loaded
    blocks = loaded.backbone.last_layers(torch.randn(1, 3, 32, 48), feature.blocks)
    widths = [block.cls.shape[1] for block in blocks]
    width = widths[-1] if feature.mode == 1 else sum(widths) + (feature.mode == 2) * widths[-1]
    view = View((32, 48), "pad", "bilinear", 40, keep=False)
    made = LinearClassifier(
        backbone=loaded.backbone,
        config=replace(loaded.config, pos_size=(32, 32)),
        weight=torch.randn(3, width),
        bias=torch.randn(3),
        feature=feature,
        unit=unit,
        view=view,
        classes=("b", "a", "c"),
        about={"rate": 0.5},
    )
    images = torch.randn(4, 3, 32, 48)
    blocks = loaded.backbone.last_layers(images, feature.blocks)
    plain = loaded.backbone.last_layers(images, 1, norm=False)[0].patches.mean(1)
    rows = [plain] if feature.mode == 1 else [block.cls for block in blocks]
    rows = torch.cat(rows + [blocks[-1].patches.mean(1)] * (feature.mode == 2), 1)
    rows = F.normalize(rows, dim=1) if unit else rows
    want = rows @ made.weight.T + made.bias
    torch.testing.assert_close(made.logits(images), want, rtol=1e-4, atol=1e-4)
    file = lab.folder / "head.safetensors"
    made.save(file)
    read = load_classifier(str(file))
    assert not read.backbone.training
    torch.testing.assert_close(read.logits(images), made.logits(images))
    for name in ("config", "feature", "unit", "view", "classes", "about"):
        assert getattr(read, name) == getattr(made, name)
    moved = read.to(torch.device("meta"))
    devices = {moved.weight.device, moved.bias.device}
    assert devices | {p.device for p in moved.backbone.parameters()} == {torch.device("meta")}


@pytest.mark.parametrize("name", ["linear.weight", "linear.bias", "backbone.norm.weight"])
def test_a_stored_classifier_with_nan_or_infinity_is_refused(lab, name):
    file = lab.store(lab.context).weights
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    for value, word in ((float("nan"), "NaN"), (float("inf"), "infinity")):
        tensors[name].view(-1)[0] = value
        save_file(tensors, file, metadata)
        with pytest.raises(WeightsError, match="cannot be used") as caught:
            load_classifier(file)
        assert f"{name} ({word})" in caught.value.why


def test_scores_that_are_not_finite_are_refused(lab):
    context = lab.store(
        lab.context, weight=torch.full((10, lab.context.loaded.backbone.embed_dim), 3e38)
    )
    with pytest.raises(WeightsError, match="outputs are not finite"):
        load_classifier(context.weights).head(
            torch.full((2, lab.context.loaded.backbone.embed_dim), 10.0)
        )


def test_other_files_hold_no_classifier(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("plain.safetensors", "text.txt", "folder.safetensors", "none.safetensors"):
        assert load_classifier(tmp_path / name) is None
    (tmp_path / "cut.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(WeightsError, match=r"cut\.safetensors' cannot be read"):
        load_classifier(tmp_path / "cut.safetensors")
