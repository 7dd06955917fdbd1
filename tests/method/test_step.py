"""The loss of a micro-batch and its numbers against loops over views, images and patches."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ibot.config.schema import MethodConfig
from ibot.data.masks import masks_from_map
from ibot.method.center import Center
from ibot.method.model import StudentOutput, TeacherOutput
from ibot.method.step import training_step
from ibot.types import Batch, StepValues

G, L, B, N, N_LOCAL, D, K, K_PATCH = 2, 3, 4, 6, 5, 5, 7, 9
VALUES = StepValues(
    lr=0.3,
    weight_decay=0.2,
    momentum=0.9,
    teacher_temp=0.5,
    patch_temp=0.8,
    freeze_last_layer=False,
)
METHOD = MethodConfig(student_temp=0.6, cls_weight=0.7, patch_weight=1.9, momentum=0.5)
SINKHORN = MethodConfig(student_temp=0.6, cls_weight=0.7, patch_weight=1.9, targets="sinkhorn")
KOLEO = MethodConfig(student_temp=0.6, cls_weight=0.7, patch_weight=1.9, koleo_weight=0.3)
HARD = MethodConfig(student_temp=0.6, cls_weight=0.7, patch_weight=1.9, patch_labels="hard")
VARIANTS = pytest.mark.parametrize("variant", ["", "tokenizer", "local masks"])
METHODS = pytest.mark.parametrize(
    "method", [METHOD, SINKHORN, KOLEO, HARD], ids=["center", "sinkhorn", "koleo", "hard"]
)


class Case:
    """Random outputs of both networks, the first image's second view without a mask."""

    def __init__(self, seed=0, variant=""):
        g = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        hidden = torch.rand(G, B, N, generator=g) < 0.5
        hidden[0, 0, :2], hidden[1, 0] = True, False
        self.masks = masks_from_map(hidden, dtype=torch.float64)
        self.hidden = [
            int(n) for n in hidden.sum(-1).flatten()
        ]  # of each view, in the order of the loss
        if variant == "local masks":
            hidden_local = torch.rand(L, B, N_LOCAL, generator=g) < 0.5
            hidden_local[0, 1] = False
            self.masks = replace(
                self.masks, local=masks_from_map(hidden_local, dtype=torch.float64)
            )
            self.hidden += [int(n) for n in hidden_local.sum(-1).flatten()]
        count = sum(self.hidden)
        self.batch = Batch(draw(G, B, 3, 2, 2), draw(L, B, 3, 2, 2), self.masks, np.arange(B))
        self.teacher = TeacherOutput(
            draw(G, B, K), draw(count, K_PATCH), draw(K), draw(K_PATCH), draw(G, B, D)
        )
        self.student = StudentOutput(
            draw(G + L, B, K).requires_grad_(),
            draw(count, K_PATCH).requires_grad_(),
            draw(G, B, D).requires_grad_(),
        )
        self.fixed = draw(count, K_PATCH).softmax(-1)
        self.asked = []
        self.model = SimpleNamespace(
            student=SimpleNamespace(head=SimpleNamespace(normalized=False)),
            teacher=self._teacher,
            tokenizer=SimpleNamespace(targets=self._targets) if variant == "tokenizer" else None,
            cls_center=Center(K, 0.9).double(),
            patch_center=Center(K_PATCH, 0.9).double(),
        )
        self.model.cls_center.value.copy_(draw(K))
        self.model.patch_center.value.copy_(draw(K_PATCH))

    def _teacher(self, global_views, masks, local_views):
        assert global_views is self.batch.global_views and masks is self.masks
        assert local_views is self.batch.local_views
        return self.teacher

    def _student(self, global_views, masks, local_views, drop):
        assert global_views is self.batch.global_views and masks is self.masks
        assert local_views is self.batch.local_views
        return self.student

    def _targets(self, global_views, masks, temp):
        assert global_views is self.batch.global_views and masks is self.masks
        self.asked.append(temp)
        return self.fixed

    def step(self, method, observe=True):
        return training_step(self.model, self._student, self.batch, VALUES, method, observe)

    def targets(self, method):
        """Class targets [G * B, K] and patch targets [M, K']."""
        found = []
        for logits, center, temp in (
            (self.teacher.cls.reshape(-1, K), self.model.cls_center.value, 0.5),
            (self.teacher.patch, self.model.patch_center.value, 0.8),
        ):
            if method.targets == "center":
                found.append(torch.stack([((row - center) / temp).softmax(0) for row in logits]))
                continue
            probs = (logits / temp).exp()
            for _ in range(3):
                probs = probs / probs.sum(0)
                probs = probs / probs.sum(1, keepdim=True)
            found.append(probs)
        patch = self.fixed if self.model.tokenizer else found[1]
        if method.patch_labels == "hard":
            patch = torch.stack(
                [torch.eye(K_PATCH, dtype=torch.float64)[int(row.argmax())] for row in patch]
            )
        return found[0], patch

    def losses(self, method):
        """Class loss, patch loss and KoLeo, word by word."""
        cls_target, patch_target = self.targets(method)
        student = self.student.cls
        pairs = [
            -(cls_target.view(G, B, K)[q, i] * (student[v, i] / 0.6).log_softmax(0)).sum()
            for q in range(G)
            for v in range(G + L)
            for i in range(B)
            if q != v
        ]
        patch, m = 0.0, 0
        for hidden in self.hidden:
            for _ in range(hidden):
                log_p = (self.student.patch[m] / 0.6).log_softmax(0)
                patch = patch - (patch_target[m] * log_p).sum() / hidden / len(self.hidden)
                m += 1
        unit = self.student.features / self.student.features.norm(dim=-1, keepdim=True)
        spread = [
            -torch.stack([(unit[g, i] - unit[g, j]).norm() for j in range(B) if j != i]).min().log()
            for g in range(G)
            for i in range(B)
        ]
        return torch.stack(pairs).mean(), patch, torch.stack(spread).mean()


@VARIANTS
@METHODS
def test_the_loss_and_its_gradient_are_the_weighted_sum_of_loops(method, variant):
    case = Case(variant=variant)
    out = case.step(method)
    cls, patch, koleo = case.losses(method)
    want = 0.7 * cls + 1.9 * patch + method.koleo_weight * koleo
    assert out.loss.item() == pytest.approx(want.item(), rel=1e-9)
    inputs = (case.student.cls, case.student.patch, case.student.features)
    got = torch.autograd.grad(out.loss, inputs, allow_unused=True)
    for a, b in zip(got, torch.autograd.grad(want, inputs, allow_unused=True), strict=True):
        if method.koleo_weight or a is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
    metrics = {name: out.metrics[name].item() for name in ("cls_loss", "patch_loss")}
    assert metrics == pytest.approx({"cls_loss": cls.item(), "patch_loss": patch.item()}, rel=1e-9)
    assert ("koleo_loss" in out.metrics) == bool(method.koleo_weight)
    if method.koleo_weight:
        assert out.metrics["koleo_loss"].item() == pytest.approx(koleo.item(), rel=1e-9)
    assert not any(value.requires_grad for value in out.metrics.values())
    assert out.student is case.student and out.teacher is case.teacher
    assert case.asked == ([0.8] if variant == "tokenizer" else [])


def test_before_the_masks_start_nothing_is_hidden_and_the_class_loss_is_left():
    case, seen = Case(), []

    def hiding_nothing(output):
        def forward(views, masks, *rest):
            seen.append(masks)
            return replace(output, patch=output.patch[:0])

        return forward

    case.model.teacher = hiding_nothing(case.teacher)
    early = replace(VALUES, hides_patches=False)
    student = hiding_nothing(case.student)
    output = training_step(case.model, student, case.batch, early, METHOD)
    assert len(seen) == 2 and not any(m.map.any() or len(m.index) for m in seen)
    assert output.metrics["patch_loss"] == 0 and output.metrics["masked_fraction"] == 0
    torch.testing.assert_close(output.loss.detach(), 0.7 * output.metrics["cls_loss"])


@pytest.mark.parametrize("method", [METHOD, SINKHORN], ids=["center", "sinkhorn"])
def test_the_centers_remember_the_means_with_the_number_of_views(method):
    case = Case()
    for observe in (True, False):
        case.step(method, observe)
    for center, mean in (
        (case.model.cls_center, case.teacher.cls_mean),
        (case.model.patch_center, case.teacher.patch_mean),
    ):
        torch.testing.assert_close(center.pending[:-1], 2 * G * B * mean)
        assert center.pending[-1] == 2 * G * B


def entropy(row):
    return -sum(p * math.log(p) for p in row.tolist() if p > 0)


@VARIANTS
@METHODS
def test_observations_equal_loops_over_views_and_patches(method, variant):
    case = Case(seed=1, variant=variant)
    case.student.cls.data[G - 1, :2] = case.teacher.cls[0, :2]  # these two agree
    metrics = case.step(method).metrics
    cls_target, patch_target = case.targets(method)
    rows = iter(map(entropy, patch_target))
    per_view = [sum(next(rows) for _ in range(hidden)) / hidden for hidden in case.hidden if hidden]
    agree = [
        int(case.teacher.cls[0, i].argmax()) == int(case.student.cls[G - 1, i].argmax())
        for i in range(B)
    ]
    want = {
        "teacher_entropy": sum(map(entropy, cls_target)) / (G * B),
        "patch_entropy": sum(per_view) / len(per_view),
        "patch_views": len(case.hidden) / len(per_view),
        "marginal_entropy": entropy(cls_target.mean(0)),
        "patch_marginal_entropy": entropy(patch_target.mean(0)),
        "agreement": sum(agree) / B,
        "masked_fraction": case.masks.map.double().mean().item(),
    }
    assert 0 < want["agreement"] < 1 and len(per_view) < len(case.hidden)
    assert {name: metrics[name].item() for name in want} == pytest.approx(want, rel=1e-9)
    for name, rows, size in (("cls", cls_target, K), ("patch", patch_target, K_PATCH)):
        chosen = [int(row.argmax()) for row in rows]
        assert metrics[f"{name}_prototypes"].tolist() == [chosen.count(k) for k in range(size)]
    assert torch.equal(metrics["features"], case.teacher.features.reshape(-1, D))
    losses = {"cls_loss", "patch_loss"} | ({"koleo_loss"} if method.koleo_weight else set())
    assert set(case.step(method, observe=False).metrics) == losses


def test_observations_of_processes_that_see_the_same_are_those_of_one(monkeypatch):
    """Their means over processes are logged, so none may count the others twice."""
    alone = Case(seed=1).step(METHOD).metrics
    monkeypatch.setattr(
        "ibot.method.observed.sum_over_processes", lambda sums: [2 * part for part in sums]
    )
    shared = Case(seed=1).step(METHOD).metrics
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, msg=name)


def test_without_hidden_patches_the_observations_are_zero_and_finite():
    case = Case()
    case.masks = masks_from_map(torch.zeros(G, B, N, dtype=torch.bool), dtype=torch.float64)
    case.batch = Batch(
        case.batch.global_views, case.batch.local_views, case.masks, case.batch.index
    )
    none = torch.zeros(0, K_PATCH, dtype=torch.float64)
    case.teacher = TeacherOutput(
        case.teacher.cls,
        none,
        case.teacher.cls_mean,
        case.teacher.patch_mean,
        case.teacher.features,
    )
    case.student = StudentOutput(case.student.cls, none.requires_grad_(), case.student.features)
    metrics = case.step(METHOD).metrics
    for name in ("patch_loss", "patch_entropy", "patch_marginal_entropy", "masked_fraction"):
        assert metrics[name].item() == 0.0, name
    assert (
        metrics["patch_prototypes"].tolist() == [0] * K_PATCH
        and metrics["patch_views"].item() == G * B
    )
