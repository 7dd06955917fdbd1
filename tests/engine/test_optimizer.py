"""Optimizers, clipping and freezing against their formulas written out."""

import numpy as np
import pytest
import torch
from torch import nn

from ibot.config.schema import HeadConfig, OptimConfig
from ibot.engine.optimizer import (
    LARS,
    apply_values,
    build_optimizer,
    clip_gradients,
    drop_gradients,
    drop_last_layer_gradients,
    parameter_groups,
)
from ibot.models.head import ProjectionHead
from ibot.types import StepValues

VALUES = StepValues(
    lr=0.01,
    weight_decay=0.3,
    momentum=0.9,
    teacher_temp=0.04,
    patch_temp=0.05,
    freeze_last_layer=False,
)


def network(seed=0):
    """A matrix and a vector that decay or not, a bias of two dimensions, and a frozen one."""
    torch.manual_seed(seed)
    made = nn.Module()
    made.weight, made.scale = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))
    made.layer = nn.Module()
    made.layer.bias, made.layer.table = (
        nn.Parameter(torch.randn(2, 2)),
        nn.Parameter(torch.randn(1, 2, 2)),
    )
    made.frozen = nn.Parameter(torch.randn(2, 2), requires_grad=False)
    return made.double()


def adamw(p, grads, decay, lr=0.01, betas=(0.8, 0.7)):
    first, second = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        p = p * (1 - lr * decay)
        first, second = (
            betas[0] * first + (1 - betas[0]) * g,
            betas[1] * second + (1 - betas[1]) * g * g,
        )
        p = p - lr * (first / (1 - betas[0] ** t)) / (np.sqrt(second / (1 - betas[1] ** t)) + 1e-8)
    return p


def sgd(p, grads, decay, lr=0.01, momentum=0.8):
    velocity = np.zeros_like(p)
    for g in grads:
        velocity = momentum * velocity + g + decay * p
        p = p - lr * velocity
    return p


def lars(p, grads, decay, lr=0.01, momentum=0.8):
    """Spec 6.6: vectors are neither decayed nor scaled; without a length the rate is not scaled."""
    velocity = np.zeros_like(p)
    for g in grads:
        if p.ndim > 1:
            g = g + decay * p
            lengths = np.sqrt((p * p).sum()), np.sqrt((g * g).sum())
            g = g * (0.001 * lengths[0] / lengths[1] if min(lengths) > 0 else 1.0)
        velocity = momentum * velocity + g
        p = p - lr * velocity
    return p


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_three_steps_follow_the_formula_with_the_momenta_of_the_settings(name):
    student = network()
    optimizer = build_optimizer(student, OptimConfig(name=name, betas=(0.8, 0.7)))
    apply_values(optimizer, VALUES)
    before = {key: p.detach().numpy().copy() for key, p in student.named_parameters()}
    g = torch.Generator().manual_seed(1)
    grads = {
        key: [torch.randn(p.shape, generator=g).double() for _ in range(3)]
        for key, p in student.named_parameters()
    }
    for step in range(3):
        for key, p in student.named_parameters():
            p.grad = grads[key][step].clone() if p.requires_grad else None
        optimizer.step()
    formula = {"adamw": adamw, "sgd": sgd, "lars": lars}[name]
    for key, p in student.named_parameters():
        decay = 0.0 if key in ("scale", "layer.bias") else 0.3
        given = [grad.numpy() for grad in grads[key]]
        want = before[key] if key == "frozen" else formula(before[key], given, decay)
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-7, atol=1e-10, err_msg=key)


def test_lars_leaves_parameters_without_gradient_and_does_not_scale_by_nothing():
    zero, none, still = (nn.Parameter(torch.full((2, 2), value)) for value in (0.0, 1.0, 2.0))
    optimizer = LARS([{"params": [zero, none, still]}])
    assert optimizer.defaults == {"lr": 0.0, "momentum": 0.9, "weight_decay": 0.0}
    optimizer.param_groups[0]["lr"] = 0.5
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(
        zero.data, torch.full((2, 2), -0.5)
    )  # a tensor of length 0 moves by the plain gradient
    assert torch.equal(none.data, torch.ones(2, 2)) and none not in optimizer.state
    assert torch.equal(still.data, torch.full((2, 2), 2.0))
    zero.grad = torch.zeros(2, 2)
    optimizer.step()
    assert torch.equal(zero.data, torch.full((2, 2), -0.95))  # by 0.9 of the step before


def test_biases_and_vectors_do_not_decay_and_frozen_tensors_are_in_no_group():
    student = network()
    decayed, plain = parameter_groups(student)
    assert {id(p) for p in decayed["params"]} == {id(student.weight), id(student.layer.table)}
    assert {id(p) for p in plain["params"]} == {id(student.scale), id(student.layer.bias)}
    assert "weight_decay" not in decayed and plain["weight_decay"] == 0.0
    optimizer = build_optimizer(student, OptimConfig())
    assert isinstance(optimizer, torch.optim.AdamW) and [
        g["lr"] for g in optimizer.param_groups
    ] == [0.0, 0.0]
    apply_values(optimizer, VALUES)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (0.01, 0.3),
        (0.01, 0.0),
    ]


@pytest.mark.parametrize("limit", [0.0, 0.5, 100.0])
def test_each_gradient_is_clipped_by_its_own_norm(limit):
    parameters = [nn.Parameter(torch.randn(n, 2, dtype=torch.float64)) for n in (1, 3, 5)]
    parameters.insert(1, nn.Parameter(torch.zeros(2)))  # has no gradient
    given = []
    for i, p in enumerate(parameters):
        if i != 1:
            p.grad = torch.randn(p.shape, dtype=torch.float64) * (0.01 if i == 0 else 5.0)
            given.append(p.grad.clone())
    norms = clip_gradients(iter(parameters), limit)
    assert norms.tolist() == pytest.approx([math_norm(g) for g in given])
    for p, g in zip([parameters[0], *parameters[2:]], given, strict=True):
        factor = min(1.0, limit / (math_norm(g) + 1e-6)) if limit else 1.0
        torch.testing.assert_close(p.grad, g * factor, rtol=1e-12, atol=0)


def math_norm(tensor):
    return sum(x * x for x in tensor.flatten().tolist()) ** 0.5


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("bottleneck", [0, 6])
def test_freezing_drops_the_gradients_of_the_prototypes_alone(shared, bottleneck):
    head = ProjectionHead(
        8, HeadConfig(out_dim=5, patch_out_dim=5, hidden_dim=7, bottleneck_dim=bottleneck), shared
    )
    for p in head.parameters():
        p.grad = torch.ones_like(p)
    drop_last_layer_gradients(head)
    dropped = {name for name, p in head.named_parameters() if p.grad is None}
    last = {name for name, _ in head.named_parameters() if name.startswith("last_layer")}
    assert dropped == (last if bottleneck else set()) and bool(last) == bool(bottleneck)


def test_dropped_gradients_are_none_so_that_the_optimizer_counts_no_step():
    student = network()
    optimizer = build_optimizer(student, OptimConfig())
    apply_values(optimizer, VALUES)
    before = student.layer.table.detach().clone()
    for p in student.parameters():
        p.grad = torch.ones_like(p)
    drop_gradients(student.layer)
    optimizer.step()
    assert (
        torch.equal(student.layer.table.detach(), before)
        and student.layer.table not in optimizer.state
    )
    assert student.weight in optimizer.state
