"""Schedules, parameter names and counts of the published code."""

import json

import pytest
import torch

from ibot.config.schema import AugmentConfig, Config, HeadConfig, MaskConfig, MethodConfig, ModelConfig, TrainConfig
from ibot.engine.schedule import Schedules, cosine
from ibot.method.model import Student, Teacher
from ibot.models.backbone import build_backbone
from ibot.models.head import ProjectionHead


def test_cosine_schedules_equal_the_golden_values(golden):
    cases = json.loads((golden / "schedules.json").read_text())["cosine"]
    assert len(cases) > 3
    for case in cases:
        per_epoch = case["niter_per_ep"]
        total, warmup = case["epochs"] * per_epoch, case["warmup_epochs"] * per_epoch
        start = case.get("start_warmup_value", 0)
        got = [cosine(t, case["base_value"], case["final_value"], total, warmup) for t in range(total)]
        if start == 0:
            assert got == pytest.approx(case["values"], rel=1e-12, abs=1e-15), case["name"]
        else:  # ours always warms up from 0; the part after it must agree
            assert got[warmup:] == pytest.approx(case["values"][warmup:], rel=1e-12, abs=1e-15), case["name"]


def test_temperature_schedules_equal_the_golden_values(golden):
    cases = json.loads((golden / "schedules.json").read_text())["temperatures"]
    assert len(cases) > 3
    for case in cases:
        method = MethodConfig(
            teacher_temp=case["teacher_temp"], teacher_temp_start=case["warmup_teacher_temp"],
            patch_temp=case["teacher_patch_temp"], patch_temp_start=case["warmup_teacher_patch_temp"],
        )  # fmt: skip
        start = case["pred_start_epoch"]
        config = Config(method=method, mask=MaskConfig(start_epoch=start), train=TrainConfig(batch=256))
        epochs, per_epoch = case["epochs"], 3
        warmup = case["warmup_teacher_temp_epochs"] * per_epoch
        schedules = Schedules(config, per_epoch, epochs * per_epoch, 0, warmup, 0)
        for key, name in (("teacher_temp_values", "teacher_temp"), ("teacher_patch_temp_values", "patch_temp")):
            got = [getattr(schedules.at(e * per_epoch + 1), name) for e in range(epochs)]
            assert got == pytest.approx(case[key], rel=1e-12), case["name"]


@pytest.mark.parametrize(
    ("width", "depth", "heads", "count"),
    [(192, 12, 3, 5_524_416), (384, 12, 6, 21_665_664), (768, 12, 12, 85_798_656), (1024, 24, 16, 303_301_632)],
)
def test_backbones_have_the_published_number_of_parameters(width, depth, heads, count):
    config = ModelConfig(width=width, depth=depth, heads=heads)
    with torch.device("meta"):
        plain, masked = (build_backbone(config, (224, 224), masked=m) for m in (False, True))
    assert sum(p.numel() for p in plain.parameters()) == count
    assert sum(p.numel() for p in masked.parameters()) == count + width


@pytest.mark.parametrize(
    ("width", "shared", "unshared"),
    [
        (192, 7_221_504, 9_326_848),
        (384, 7_614_720, 9_720_064),
        (768, 8_401_152, 10_506_496),
        (1024, 8_925_440, 11_030_784),
    ],
)
def test_heads_have_the_published_number_of_parameters(width, shared, unshared):
    with torch.device("meta"):
        counts = [sum(p.numel() for p in ProjectionHead(width, HeadConfig(), s).parameters()) for s in (True, False)]
    assert counts == [shared, unshared]


@pytest.mark.parametrize("name", ["tiny", "small", "small_p8", "base", "large"])
def test_state_names_and_shapes_equal_the_published_ones(golden, name):
    case = json.loads((golden / f"names_vit_{name}.json").read_text())
    about = case["about"]
    config = Config(
        augment=AugmentConfig(global_size=(about["img_size"],) * 2),
        model=ModelConfig(
            width=about["embed_dim"], depth=about["depth"], heads=about["embed_dim"] // 64, patch=about["patch_size"]
        ),
        head=HeadConfig(
            out_dim=about["out_dim"], patch_out_dim=about["patch_out_dim"], shared=about["student_shared_head"],
            shared_teacher=about["teacher_shared_head"], norm_last_layer=about["norm_last_layer"],
        ),
    )  # fmt: skip
    with torch.device("meta"):
        student, teacher = Student(config), Teacher(config)
    trainable = {n: p.requires_grad for n, p in student.named_parameters()}
    own = {n: list(t.shape) for n, t in student.state_dict().items()}
    wanted = {row[0]: row for row in case["student"]}
    assert own == {n: row[1] for n, row in wanted.items()} and list(own) == list(wanted)
    for n, row in wanted.items():
        assert trainable[n] == (row[2:] != ["frozen"]), n
    assert sum(p.numel() for p in student.parameters() if p.requires_grad) == about["student_trainable"]
    lacks = set(case["teacher_lacks"])
    theirs = {row[0]: row[1] for row in case["student"] if row[0] not in lacks}
    aliases = {row[0] for row in case["teacher_differs"] if len(row) > 2 and str(row[2]).startswith("alias")}
    assert {n: list(t.shape) for n, t in teacher.state_dict().items()} == {
        n: s for n, s in theirs.items() if n not in aliases
    }
