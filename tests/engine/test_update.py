"""One optimizer step: order, reductions, precision. Values are compared in tests/method and
tests/paper.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ibot.config.override import apply
from ibot.data.masks import masks_from_map
from ibot.engine import update as update_module
from ibot.engine.optimizer import build_optimizer
from ibot.engine.update import Update
from ibot.method.model import StudentTeacher
from ibot.types import Batch, StepValues

VALUES = StepValues(
    lr=0.01,
    weight_decay=0.04,
    momentum=0.9,
    teacher_temp=0.04,
    patch_temp=0.05,
    freeze_last_layer=False,
)


@pytest.fixture
def config(small):
    return apply(small, ["optim.clip=0", "method.koleo_weight=0.1", "model.drop_path=0"])


def batches(count, seed=0):
    """Micro-batches of two images."""
    g = torch.Generator().manual_seed(seed)
    for i in range(count):
        masks = masks_from_map(torch.rand(2, 2, 16, generator=g) < 0.3)
        views = [torch.randn(n, 2, 3, size, size, generator=g) for n, size in ((2, 32), (2, 16))]
        yield Batch(*views, masks, np.arange(2 * i, 2 * i + 2))


def build(config, **changes):
    torch.manual_seed(0)
    model = StudentTeacher(config)
    return Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
        **changes,
    )


class Wrapper(nn.Module):
    """Stands for the distributed student: notes when gradients would be averaged over processes."""

    def __init__(self, module):
        super().__init__()
        self.module, self.local, self.averaged = module, False, []

    def forward(self, *inputs, **named):
        self.averaged.append(not self.local)
        return self.module(*inputs, **named)

    @contextmanager
    def no_sync(self):
        self.local = True
        yield
        self.local = False


@pytest.mark.parametrize("count", [1, 3])
def test_gradients_are_averaged_over_processes_at_the_last_micro_batch_alone(config, count):
    made = build(config)
    made.student = Wrapper(made.model.student)
    made.step(list(batches(count)), VALUES)
    assert made.student.averaged == [False] * (count - 1) + [True]
    assert not made.student.local


def test_a_loss_that_is_not_finite_on_another_process_fails_here_too(config, monkeypatch):
    made = build(config)
    assert made.step(list(batches(1)), VALUES).failed.item() == 0

    monkeypatch.setattr(update_module, "sum_in_place", lambda flag: flag + 1)  # another has failed
    assert made.step(list(batches(1)), VALUES).failed.item() == 1


def test_one_micro_batch_that_is_not_finite_fails_the_step(config):
    made, (first, second) = build(config), batches(2)
    broken = replace(second, global_views=second.global_views * torch.nan)
    assert made.step([first, broken], VALUES).failed.item() == 1


def test_micro_batches_are_averaged_and_counts_summed(config):
    parts = list(batches(3))
    singles = [build(config).step([part], VALUES) for part in parts]
    together, last = build(config).step(parts, VALUES), singles[-1].metrics
    assert together.loss.item() == pytest.approx(
        np.mean([out.loss.item() for out in singles]), rel=1e-6
    )
    assert together.metrics.keys() == last.keys()
    for name, value in together.metrics.items():
        seen = torch.stack([out.metrics[name].double() for out in singles])
        want = {
            "features": seen[-1],
            "cls_prototypes": seen.sum(0),
            "patch_prototypes": seen.sum(0),
        }
        torch.testing.assert_close(
            value.double(), want.get(name, seen.mean(0)), rtol=1e-5, atol=1e-7
        )
    assert set(build(config).step(parts, VALUES, observe=False).metrics) == {
        "cls_loss",
        "patch_loss",
        "koleo_loss",
    }


def test_the_gradient_is_the_mean_over_micro_batches_and_nothing_of_the_step_before(config):
    parts, singles = list(batches(2)), []
    for part in parts:
        made = build(config)
        made.step([part], VALUES)
        singles.append([p.grad for p in made.model.student.parameters()])
    made = build(config)
    for p in made.model.student.parameters():
        p.grad = torch.full_like(p, 1e3)
    made.step(parts, VALUES)
    for p, a, b in zip(made.model.student.parameters(), *singles, strict=True):
        if p.requires_grad and a is not None:
            torch.testing.assert_close(p.grad, (a + b) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_norms_are_those_of_backbone_mlp_and_prototypes_before_clipping(config, shared):
    config = apply(config, [f"head.shared={shared}", f"head.shared_teacher={shared}"])
    free, clipped = build(config), build(apply(config, ["optim.clip=1e-3"]))
    out = free.step(list(batches(1)), VALUES)
    squares = {"backbone": 0.0, "head_mlp": 0.0, "last_layer": 0.0}
    for name, p in free.model.student.named_parameters():
        if p.grad is not None:
            part = (
                "backbone"
                if name.startswith("backbone.")
                else "head_mlp"
                if ".mlp." in name
                else "last_layer"
            )
            squares[part] += p.grad.square().sum().item()
    want = {part: square**0.5 for part, square in squares.items()}
    assert min(want.values()) > 0
    for got in (out.grad_norms, clipped.step(list(batches(1)), VALUES).grad_norms):
        assert {part: norm.item() for part, norm in got.items()} == pytest.approx(want, rel=1e-4)
    for p in clipped.model.student.parameters():
        assert p.grad is None or p.grad.norm().item() <= 1e-3 * (1 + 1e-5)


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(("last_layer", "backbone"), [(True, False), (False, True), (False, False)])
def test_what_is_frozen_stays_and_the_rest_moves(config, last_layer, backbone):
    made = build(config)
    before = {name: p.detach().clone() for name, p in made.model.student.named_parameters()}
    made.step(
        list(batches(1)), replace(VALUES, freeze_last_layer=last_layer, freeze_backbone=backbone)
    )
    changed = moved(before, dict(made.model.student.named_parameters()))
    assert any(name.startswith("backbone.") for name in changed) == (not backbone)
    assert any(name.startswith("head.last_layer") for name in changed) == (not last_layer)
    assert any(name.startswith("head.mlp") for name in changed)


def test_the_teacher_follows_the_student_as_it_is_after_the_step(config):
    made = build(config)
    old = {name: p.detach().clone() for name, p in made.model.teacher.named_parameters()}
    centers = made.model.cls_center.value.clone(), made.model.patch_center.value.clone()
    made.step(list(batches(1)), replace(VALUES, lr=0.1, momentum=0.75))
    student = dict(made.model.student.named_parameters())
    for name, p in made.model.teacher.named_parameters():
        torch.testing.assert_close(p.detach(), 0.75 * old[name] + 0.25 * student[name].detach())
    assert all(g["lr"] == 0.1 for g in made.optimizer.param_groups)
    for center, start in zip(
        (made.model.cls_center, made.model.patch_center), centers, strict=True
    ):
        assert not torch.equal(center.value, start) and center.pending.eq(0).all()


class Scaler:
    """float16's scaler: notes the calls; overflows or not."""

    def __init__(self, overflow, calls):
        self.overflow, self.calls, self.scale_now = overflow, calls, 8.0

    def scale(self, loss):
        self.calls.append("scale")
        return loss * self.scale_now

    def unscale_(self, optimizer):
        self.calls.append("unscale")
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad /= self.scale_now

    def step(self, optimizer):
        self.calls.append("step")
        if not self.overflow:
            optimizer.step()

    def update(self):
        self.calls.append("update")
        self.scale_now *= 0.5 if self.overflow else 2.0

    def get_scale(self):
        return self.scale_now


@pytest.mark.parametrize("overflow", [False, True])
def test_float16_is_unscaled_before_clipping_and_an_overflow_skips_the_optimizer_alone(
    config, monkeypatch, overflow
):
    calls, config = [], apply(config, ["optim.clip=0.3"])
    clip = update_module.clip_gradients
    monkeypatch.setattr(
        update_module, "clip_gradients", lambda *args: (calls.append("clip"), clip(*args))[1]
    )
    made, plain = build(config, scaler=Scaler(overflow, calls)), build(config)
    before = {name: p.detach().clone() for name, p in made.model.student.named_parameters()}
    out, want = (each.step(list(batches(2)), VALUES) for each in (made, plain))
    assert calls[:6] == ["scale", "scale", "unscale", "clip", "step", "update"]
    assert out.skipped == overflow and not want.skipped
    assert out.loss.item() == pytest.approx(want.loss.item(), rel=1e-6)
    assert out.grad_norms["backbone"].item() == pytest.approx(
        want.grad_norms["backbone"].item(), rel=1e-4
    )
    after = dict(made.model.student.named_parameters())
    if overflow:
        assert not moved(before, after)
    else:
        for name, p in plain.model.student.named_parameters():
            torch.testing.assert_close(after[name], p, rtol=0, atol=1e-5)
    torch.testing.assert_close(made.model.cls_center.value, plain.model.cls_center.value)


def test_the_forward_pass_of_every_micro_batch_runs_in_the_precision_given(config):
    entered = []

    def autocast():
        entered.append(1)
        return torch.autocast("cpu", dtype=torch.bfloat16)

    made, plain = build(config, autocast=autocast), build(config)
    assert plain.autocast is nullcontext and plain.scaler is None
    low, full = (each.step(list(batches(2)), VALUES).loss for each in (made, plain))
    assert (
        len(entered) == 2
        and low.item() != full.item()
        and low.item() == pytest.approx(full.item(), rel=0.05)
    )
