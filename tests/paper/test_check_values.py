"""The tables of check values of the specification (3.1.6 and 6.13), reproduced from the fill rule
alone.
"""

import numpy as np
import pytest
import torch

from ibot.config.schema import (
    AugmentConfig,
    Config,
    HeadConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    duration,
)
from ibot.data.masks import masks_from_map
from ibot.engine.optimizer import build_optimizer
from ibot.engine.schedule import Schedules
from ibot.engine.update import Update
from ibot.method.model import StudentTeacher
from ibot.models.backbone import build_backbone
from ibot.types import Batch

COUNT, PER_EPOCH, EPOCHS = 3, 2, 4


def pattern(count: int, offset: int) -> torch.Tensor:
    i = np.arange(count, dtype=np.int64)
    return torch.from_numpy(((31 * i * i + 17 * i + 101 * offset) % 10007) / 10007 - 0.5)


def fill(name: str, shape, sigma: int = 0) -> torch.Tensor:
    if name.endswith("weight_g"):
        return torch.ones(shape, dtype=torch.float64)
    code = sum(name.encode()) % 100
    values = 0.3 * pattern(int(np.prod(shape)), code + sigma).reshape(shape)
    return values + 1 if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")) else values


def views(step: int, crop: int, size: int) -> torch.Tensor:
    return 4 * pattern(COUNT * 3 * size * size, 50 * step + crop).reshape(COUNT, 3, size, size)


def batch(step: int) -> Batch:
    maps = torch.zeros(2, COUNT, 16, dtype=torch.bool)
    for crop in range(2):
        for image in range(COUNT):
            for cell in range(16):
                maps[crop, image, cell] = (7 * cell + 3 * image + 5 * crop) % 5 < 2
    maps[0, 1] = False
    assert maps.sum(-1).tolist() == [[7, 0, 7], [7, 6, 7]]
    global_views = torch.stack([views(step, crop, 32) for crop in range(2)])
    local_views = torch.stack([views(step, 2 + crop, 16) for crop in range(2)])
    return Batch(
        global_views, local_views, masks_from_map(maps, dtype=torch.float64), np.arange(COUNT)
    )


def config(shared=True, shared_teacher=True, norm_last_layer=True, optimizer="adamw") -> Config:
    return Config(
        augment=AugmentConfig(num_local=2, global_size=(32, 32), local_size=(16, 16)),
        model=ModelConfig(width=24, depth=2, heads=3, patch=8, drop_path=0.0),
        head=HeadConfig(
            out_dim=40,
            patch_out_dim=40,
            hidden_dim=32,
            bottleneck_dim=16,
            shared=shared,
            shared_teacher=shared_teacher,
            norm_last_layer=norm_last_layer,
        ),
        method=MethodConfig(momentum=0.9, teacher_temp=0.07, patch_temp=0.06),
        optim=OptimConfig(name=optimizer, lr=0.0075 * 256 / 3, clip=0.3),
        train=TrainConfig(length=duration("4 epochs"), batch=3),
    )


@torch.no_grad()
def prepared(settings: Config) -> StudentTeacher:
    model = StudentTeacher(settings).double()
    for name, p in model.student.named_parameters():
        p.copy_(fill(name, p.shape))
    model.start_teacher()
    for name, p in model.teacher.named_parameters():
        if not name.endswith("weight_g"):
            # The fill of the teacher's own shift carries the + 1 of norm weights too.
            p.add_(0.3 * fill(name, p.shape, sigma=1))
    return model


def steps(settings: Config, count: int) -> list[dict]:
    model = prepared(settings)
    update = Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, settings.optim),
        config=settings,
    )
    schedules = Schedules(
        config=settings,
        steps_per_epoch=PER_EPOCH,
        total_steps=EPOCHS * PER_EPOCH,
        warmup_steps=PER_EPOCH,
        temp_warmup_steps=2 * PER_EPOCH,
        freeze_steps=PER_EPOCH,
        mask_start=0,
    )
    rows = []
    for t in range(count):
        out = update.step([batch(t)], schedules.at(t))
        rows.append(
            {
                "cls": out.metrics["cls_loss"].item(),
                "patch": out.metrics["patch_loss"].item(),
                "student": sum(p.abs().sum().item() for p in model.student.parameters()),
                "teacher": sum(p.abs().sum().item() for p in model.teacher.parameters()),
                "center": model.cls_center.value.square().sum().item(),
                "center_patch": model.patch_center.value.square().sum().item(),
                "acc": out.metrics["agreement"].item(),
            }
        )
    return rows


def test_the_fill_rule_starts_as_written():
    want = [-0.06219146597, -0.06075247327, -0.05745478165, -0.05229839112]
    assert fill("backbone.cls_token", (4,)).tolist() == pytest.approx(want, abs=1e-10)


@pytest.mark.parametrize(
    ("size", "total"),
    [
        ((16, 16), -0.457726223716),
        ((40, 24), -2.976700940713),
        ((16, 64), -2.649289252910),
        ((24, 64), -4.765767056171),
        ((36, 44), -3.944518018335),
    ],
)
def test_position_table_is_resampled_as_published(size, total):
    backbone = build_backbone(ModelConfig(width=24, depth=1, heads=3, patch=8), (32, 32)).double()
    with torch.no_grad():
        backbone.pos_embed.copy_(fill("pos_embed", backbone.pos_embed.shape))
        table = backbone.positions((size[0] // 8, size[1] // 8), square=size[0] == size[1])
    assert table.sum().item() == pytest.approx(total, abs=1e-9)


def test_first_scores_with_shared_heads():
    model = prepared(config())
    with torch.no_grad():
        teacher = model.teacher(batch(0).global_views, batch(0).masks)
        student = model.student(batch(0).global_views, batch(0).masks, batch(0).local_views)
    want = [0.34617860956, 0.02831452100, 0.26567931472, -0.09246780270]
    assert teacher.cls[0, 0, :4].tolist() == pytest.approx(want, abs=1e-10)
    # The first hidden patch of crop 0, image 0 is cell 0: the first token.
    want = [0.35859853014, 0.08304851986, 0.30512336637, -0.13194298982]
    assert student.patch[0, :4].tolist() == pytest.approx(want, abs=1e-10)
    # The specification prints 0.27562812700 as the third value: one digit is off there, all others
    # agree to 1e-11.
    want = [0.37165638044, 0.06919914862, 0.27569812700, -0.12466655167]
    assert student.cls[2, 0, :4].tolist() == pytest.approx(want, abs=1e-10)


SHARED = """
2.42407787542 2.01561181994 1826.728050365 2287.724296592 0.021199797112 0.015395665283 0.333333333
2.23109680382 2.32122516278 1829.065283174 2243.166002750 0.068956785534 0.051220552073 0.333333333
2.32844393260 3.80227692968 1833.692681742 2207.482886550 0.144566077765 0.110184679099 1
2.04859153540 2.86126703971 1837.890416457 2181.049316923 0.223806216757 0.174195623049 0
2.32863214932 2.47502354893 1839.710416203 2163.230701086 0.322725704578 0.257192574312 0
2.27315413843 2.45931870988 1840.374713147 2152.757223058 0.416015685128 0.334244189919 0
"""
UNSHARED_STUDENT = """
5.87580600129 0.35456522547 1913.416678325 2259.584286400 0.029559672801 0.024868662775
5.92616793483 0.30626086876 1915.504052021 2213.153002558 0.102210881724 0.084783458122
2.85701183583 1.72106946533 1920.119177656 2176.442544485 0.206182736928 0.175307901523
1.77956766854 1.95031899569 1924.607138437 2149.825178676 0.334088836016 0.280489868485
2.04921650424 2.35954490421 1927.337730167 2132.005304825 0.481032205381 0.403508340181
2.20189722866 2.18724936107 1928.561304827 2121.608150734 0.648945428478 0.532094962723
"""


@pytest.mark.parametrize(
    ("settings", "table"),
    [(config(), SHARED), (config(shared=False), UNSHARED_STUDENT)],
    ids=["shared", "unshared student"],
)
def test_six_steps_reproduce_the_table(settings, table):
    rows = steps(settings, 6)
    for row, line in zip(rows, table.strip().splitlines(), strict=True):
        want = [float(x) for x in line.split()]
        got = [
            row[k] for k in ("cls", "patch", "student", "teacher", "center", "center_patch", "acc")
        ][: len(want)]
        assert got == pytest.approx(want, rel=1e-8, abs=2e-8)  # acc is a float32 share


def test_unshared_heads_with_trained_lengths():
    rows = steps(config(False, False, norm_last_layer=False), 6)
    assert [rows[0]["cls"], rows[0]["patch"]] == pytest.approx(
        [2.424077875424, 0.6700272086395], rel=1e-10
    )
    got = [rows[5][k] for k in ("cls", "patch", "student", "teacher")]
    assert got == pytest.approx(
        [1.896619728998, 1.815827478705, 1929.500928353, 2248.332429056], rel=1e-9
    )


def test_shared_student_with_unshared_teacher():
    rows = steps(config(True, False, norm_last_layer=False), 6)
    assert [rows[0]["cls"], rows[0]["patch"]] == pytest.approx(
        [2.424077875424, 2.056463668321], rel=1e-10
    )
    got = [rows[5][k] for k in ("cls", "patch", "student", "teacher")]
    assert got == pytest.approx(
        [2.246682905933, 2.350807410961, 1841.946211782, 2234.030009958], rel=1e-9
    )


@pytest.mark.parametrize(
    ("settings", "third", "sixth"),
    [
        (
            config(optimizer="sgd"),
            [2.47460257194, 2.26923986785, 1823.602453018],
            [2.41859966518, 2.90173666129, 1811.222284484],
        ),
        (
            config(optimizer="lars", norm_last_layer=False),
            [2.52229795490, 2.25596010286, 1826.675751162],
            [2.48828163491, 2.95877132601, 1826.602563254],
        ),
    ],
    ids=["sgd", "lars"],
)
def test_other_optimizers_reproduce_their_values(settings, third, sixth):
    rows = steps(settings, 6)
    for row, want in ((rows[2], third), (rows[5], sixth)):
        assert [row[k] for k in ("cls", "patch", "student")] == pytest.approx(want, rel=1e-9)


def test_gradient_norms_of_the_first_step():
    model = prepared(config())
    seen: dict[str, float] = {}
    for name, p in model.student.named_parameters():
        if p.requires_grad:
            p.register_hook(lambda g, name=name: seen.__setitem__(name, g.norm().item()))
    optimizer = build_optimizer(model.student, config().optim)
    schedules = Schedules(
        config=config(),
        steps_per_epoch=PER_EPOCH,
        total_steps=EPOCHS * PER_EPOCH,
        warmup_steps=PER_EPOCH,
        temp_warmup_steps=2 * PER_EPOCH,
        freeze_steps=PER_EPOCH,
        mask_start=0,
    )
    Update(model=model, student=model.student, optimizer=optimizer, config=config()).step(
        [batch(0)], schedules.at(0)
    )
    want = {
        "backbone.cls_token": 1.50596731862,
        "backbone.pos_embed": 1.56234284596,
        "backbone.masked_embed": 0.535480824243,
        "backbone.patch_embed.proj.weight": 1.09621778030,
        "backbone.blocks.0.attn.qkv.weight": 0.899385816691,
        "head.mlp.0.weight": 3.76372937920,
        "head.last_layer.weight_v": 7.01509073140,
    }
    assert {name: seen[name] for name in want} == pytest.approx(want, rel=1e-10)


def test_schedules_of_the_check_run():
    schedules = Schedules(
        config=config(),
        steps_per_epoch=PER_EPOCH,
        total_steps=EPOCHS * PER_EPOCH,
        warmup_steps=PER_EPOCH,
        temp_warmup_steps=2 * PER_EPOCH,
        freeze_steps=PER_EPOCH,
        mask_start=0,
    )
    values = [schedules.at(t) for t in range(6)]
    assert [v.lr for v in values] == pytest.approx(
        [0, 0.0075, 0.0075, 0.006997662251, 0.00562525, 0.0037505], rel=1e-9
    )
    want = [0.04, 0.05370168415, 0.09272077939, 0.1511169822, 0.22, 0.2888830178]
    assert [v.weight_decay for v in values] == pytest.approx(want, rel=1e-9)
    want = [0.9, 0.9038060234, 0.9146446609, 0.9308658284, 0.95, 0.9691341716]
    assert [v.momentum for v in values] == pytest.approx(want, rel=1e-9)
