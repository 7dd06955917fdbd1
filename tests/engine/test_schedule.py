"""Schedules against the arrays that the published trainer builds (spec 5.4, 6.1)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ibot.config.schema import Config, MethodConfig, OptimConfig, TrainConfig
from ibot.curves import cosine, ramp
from ibot.engine.schedule import Schedules


def published(base, final, total, warmup=0):
    """`cosine_scheduler`: a linspace with both ends, then half a cosine."""
    steps = np.arange(total - warmup)
    fall = final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / max(1, len(steps))))
    return np.concatenate([np.linspace(0, base, warmup), fall])


@pytest.mark.parametrize("warmup", [0, 1, 2, 5, 20])
@pytest.mark.parametrize(("base", "final"), [(0.5, 0.01), (0.04, 0.4), (0.996, 1.0), (0.0, 0.0)])
def test_cosine_equals_the_published_array(base, final, warmup):
    got = [cosine(step, base, final, 20, warmup) for step in range(20)]
    np.testing.assert_allclose(got, published(base, final, 20, warmup), rtol=1e-12, atol=1e-15)


def test_without_a_warmup_named_the_cosine_begins_at_its_base():
    assert cosine(0, 0.3, 0.1, 10) == pytest.approx(0.3)


@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_a_ramp_is_a_linspace_and_then_constant(length):
    want = [*np.linspace(0.04, 0.07, length), *[0.07] * 3]
    assert [ramp(i, 0.04, 0.07, length) for i in range(length + 3)] == pytest.approx(want)


CONFIG = Config(
    train=TrainConfig(batch=64),
    optim=OptimConfig(lr=0.4, min_lr=0.01, weight_decay=0.04, weight_decay_end=0.5),
    method=MethodConfig(
        teacher_temp=0.07,
        teacher_temp_start=0.04,
        patch_temp=0.09,
        patch_temp_start=0.05,
        momentum=0.9,
    ),
)


def schedules(config=CONFIG, temp_warmup=12, head_warmup=5, mask_start=8):
    """Four steps an epoch, ten epochs, masks from the third on."""
    return Schedules(
        config=config,
        steps_per_epoch=4,
        total_steps=40,
        warmup_steps=6,
        temp_warmup_steps=temp_warmup,
        freeze_steps=3,
        head_warmup_steps=head_warmup,
        mask_start=mask_start,
    )


def test_each_value_follows_its_own_settings():
    made = schedules()
    assert made.peak_lr == pytest.approx(0.1) and [made.epoch(s) for s in (0, 3, 4, 39)] == [
        0,
        0,
        1,
        9,
    ]
    values = [made.at(step) for step in range(40)]
    for name, want in (
        ("lr", published(0.1, 0.01, 40, 6)),
        ("weight_decay", published(0.04, 0.5, 40)),
        ("momentum", published(0.9, 1.0, 40)),
    ):
        np.testing.assert_allclose(
            [getattr(v, name) for v in values], want, rtol=1e-12, atol=1e-15, err_msg=name
        )
    assert [v.freeze_last_layer for v in values] == [True] * 3 + [False] * 37
    assert [v.freeze_backbone for v in values] == [True] * 5 + [False] * 35
    assert not any(
        v.freeze_backbone
        for v in map(
            Schedules(
                config=CONFIG,
                steps_per_epoch=4,
                total_steps=40,
                warmup_steps=6,
                temp_warmup_steps=12,
                freeze_steps=3,
                mask_start=0,
            ).at,
            range(3),
        )
    )


@pytest.mark.parametrize("start_epoch", [0, 2])
@pytest.mark.parametrize("schedule", ["epoch", "step"])
def test_temperatures_warm_up_by_epoch_or_step_those_of_patches_from_the_first_masks(
    schedule, start_epoch
):
    config = replace(
        CONFIG,
        method=replace(CONFIG.method, temp_schedule=schedule),
    )
    made = schedules(config, mask_start=4 * start_epoch)
    values = [made.at(step) for step in range(40)]
    assert [v.hides_patches for v in values] == [step >= 4 * start_epoch for step in range(40)]

    def reference(start, end, delay):
        """Constant for `delay` epochs, 3 epochs or 12 steps of linspace, constant."""
        per_epoch = 1 if schedule == "epoch" else 4
        curve = [start] * (delay * per_epoch) + list(np.linspace(start, end, 3 * per_epoch))
        curve += [end] * (10 * per_epoch - len(curve))
        return np.repeat(curve, 4 // per_epoch)

    np.testing.assert_allclose([v.teacher_temp for v in values], reference(0.04, 0.07, 0))
    np.testing.assert_allclose([v.patch_temp for v in values], reference(0.05, 0.09, start_epoch))
    assert len({v.patch_temp for v in values}) == (3 if schedule == "epoch" else 12)


def longer(*lengths):
    """The same run with these lengths since."""
    return replace(schedules(), total_steps=lengths[-1][1], lengths=((0, 40), *lengths))


def test_a_run_made_longer_is_on_the_schedules_of_its_new_length_after_a_twentieth_of_it():
    made, plain = longer((40, 140)), replace(schedules(), total_steps=140)
    assert [made.at(step) for step in range(40)] == [schedules().at(step) for step in range(40)]
    assert [made.at(step) for step in range(45, 140)] == [plain.at(step) for step in range(45, 140)]
    # From where it stood it moves there evenly: by a sixth of what is left at the first step.
    stood = schedules().at(39)
    for name in ("lr", "weight_decay", "momentum"):
        before = getattr(stood, name)
        for i, step in enumerate(range(40, 45)):
            want = before + (i + 1) / 6 * (getattr(plain.at(step), name) - before)
            assert getattr(made.at(step), name) == pytest.approx(want, rel=1e-12)
    assert made.at(45).lr > 3 * stood.lr and made.at(45).momentum < stood.momentum
    assert not any(made.at(s).freeze_last_layer or made.at(s).freeze_backbone for s in (40, 139))


def test_the_longer_a_run_is_to_go_on_the_more_it_warms_up_again():
    rates = [longer((40, total)).at(total // 2 + 40).lr for total in (80, 160, 320)]
    peaks = [max(longer((40, total)).at(s).lr for s in range(40, total)) for total in (44, 80, 400)]
    assert peaks == sorted(peaks) and peaks[-1] < schedules().peak_lr and min(rates) > 0


def test_a_run_made_longer_twice_moves_from_where_it_stood_each_time():
    made = longer((40, 140), (42, 242))  # while it still warmed up
    assert made.at(41) == longer((40, 140)).at(41)
    steps = [made.at(step).lr for step in range(39, 60)]
    largest = max(abs(b - a) for a, b in pairwise(steps))
    assert largest < 0.02 < abs(made.at(52).lr - made.at(39).lr)
    assert made.at(200) == replace(schedules(), total_steps=242).at(200)
