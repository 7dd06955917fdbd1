"""Schedules, parameter names and counts of the published code."""

import json
import os
from pathlib import Path

import pytest
import torch

from ibot.config.schema import (
    AugmentConfig,
    Config,
    HeadConfig,
    MethodConfig,
    ModelConfig,
    TrainConfig,
)
from ibot.curves import cosine
from ibot.engine.schedule import Schedules
from ibot.method.model import Student, Teacher
from ibot.models.backbone import build_backbone
from ibot.models.head import ProjectionHead

FOLDER = Path(os.environ.get("IBOT_GOLDEN", Path(__file__).parents[1] / "golden"))


def test_cosine_schedules_equal_the_golden_values(golden):
    cases = json.loads((golden / "schedules.json").read_text())["cosine"]
    assert len(cases) > 3
    for case in cases:
        per_epoch = case["niter_per_ep"]
        total, warmup = case["epochs"] * per_epoch, case["warmup_epochs"] * per_epoch
        start = case.get("start_warmup_value", 0)
        got = [
            cosine(t, case["base_value"], case["final_value"], total, warmup) for t in range(total)
        ]
        if start == 0:
            assert got == pytest.approx(case["values"], rel=1e-12, abs=1e-15), case["name"]
        else:  # ours always warms up from 0; the part after it must agree
            assert got[warmup:] == pytest.approx(case["values"][warmup:], rel=1e-12, abs=1e-15), (
                case["name"]
            )


def test_temperature_schedules_equal_the_golden_values(golden):
    cases = json.loads((golden / "schedules.json").read_text())["temperatures"]
    assert len(cases) > 3
    for case in cases:
        method = MethodConfig(
            teacher_temp=case["teacher_temp"],
            teacher_temp_start=case["warmup_teacher_temp"],
            patch_temp=case["teacher_patch_temp"],
            patch_temp_start=case["warmup_teacher_patch_temp"],
        )
        start = case["pred_start_epoch"]
        config = Config(method=method, train=TrainConfig(batch=256))
        epochs, per_epoch = case["epochs"], 3
        warmup = case["warmup_teacher_temp_epochs"] * per_epoch
        schedules = Schedules(
            config=config,
            steps_per_epoch=per_epoch,
            total_steps=epochs * per_epoch,
            warmup_steps=0,
            temp_warmup_steps=warmup,
            freeze_steps=0,
            mask_start=start * per_epoch,
        )
        for key, name in (
            ("teacher_temp_values", "teacher_temp"),
            ("teacher_patch_temp_values", "patch_temp"),
        ):
            got = [getattr(schedules.at(e * per_epoch + 1), name) for e in range(epochs)]
            assert got == pytest.approx(case[key], rel=1e-12), case["name"]


@pytest.mark.parametrize(
    ("width", "depth", "heads", "count"),
    [
        (192, 12, 3, 5_524_416),
        (384, 12, 6, 21_665_664),
        (768, 12, 12, 85_798_656),
        (1024, 24, 16, 303_301_632),
    ],
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
        counts = [
            sum(p.numel() for p in ProjectionHead(width, HeadConfig(), s).parameters())
            for s in (True, False)
        ]
    assert counts == [shared, unshared]


SWIN = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


@pytest.mark.parametrize(
    ("size", "window", "count"),
    [
        ("tiny", 7, 27_519_354),
        ("tiny", 14, 27_569_754),
        ("small", 7, 48_837_258),
        ("small", 14, 48_968_298),
        ("base", 7, 86_743_224),
        ("base", 14, 86_917_944),
        ("large", 7, 194_995_476),
        ("large", 14, 195_257_556),
    ],
)
def test_swin_backbones_have_the_published_number_of_parameters(size, window, count):
    width, depths, heads = SWIN[size]
    config = ModelConfig(
        kind="swin", width=width, depths=depths, stage_heads=heads, window=window, patch=4
    )
    with torch.device("meta"):
        plain, masked = (build_backbone(config, (224, 224), masked=m) for m in (False, True))
    assert sum(p.numel() for p in plain.parameters()) == count
    assert sum(p.numel() for p in masked.parameters()) == count + width


def names_files() -> list:
    return [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("names_*.json"))]


def network_of(about: dict) -> ModelConfig:
    if about["window_size"]:
        _, depths, heads = SWIN[about["name"].split("_")[1]]
        assert list(depths) == about["depth"]
        return ModelConfig(
            kind="swin",
            width=about["embed_dim"],
            depths=depths,
            stage_heads=heads,
            window=about["window_size"],
            patch=4,
        )
    width = about["embed_dim"]
    return ModelConfig(
        width=width, depth=about["depth"], heads=width // 64, patch=about["patch_size"]
    )


@pytest.mark.parametrize("path", names_files())
def test_state_names_and_shapes_equal_the_published_ones(path):
    case = json.loads(path.read_text())
    about = case["about"]
    config = Config(
        augment=AugmentConfig(global_size=(about["img_size"],) * 2),
        model=network_of(about),
        head=HeadConfig(
            out_dim=about["out_dim"],
            patch_out_dim=about["patch_out_dim"],
            shared=about["student_shared_head"],
            shared_teacher=about["teacher_shared_head"],
            norm_last_layer=about["norm_last_layer"],
        ),
    )
    with torch.device("meta"):
        student, teacher = Student(config), Teacher(config)
    trainable = {n: p.requires_grad for n, p in student.named_parameters()}
    own = {n: list(t.shape) for n, t in student.state_dict().items()}
    wanted = {row[0]: row for row in case["student"]}
    assert own == {n: row[1] for n, row in wanted.items()} and list(own) == list(wanted)
    buffers = {n for n, row in wanted.items() if str(row[2:]).startswith("['buffer")}
    assert set(trainable) == set(wanted) - buffers
    for n in trainable:
        assert trainable[n] == (wanted[n][2:] != ["frozen"]), n
    assert (
        sum(p.numel() for p in student.parameters() if p.requires_grad)
        == about["student_trainable"]
    )
    lacks = set(case["teacher_lacks"])
    theirs = {row[0]: row[1] for row in case["student"] if row[0] not in lacks}
    aliases = {
        row[0]
        for row in case["teacher_differs"]
        if len(row) > 2 and str(row[2]).startswith("alias")
    }
    assert {n: list(t.shape) for n, t in teacher.state_dict().items()} == {
        n: s for n, s in theirs.items() if n not in aliases
    }
