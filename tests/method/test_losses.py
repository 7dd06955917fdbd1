import math

import pytest
import torch
import torch.nn.functional as F

from ibot.method.losses import cls_loss, entropy, koleo_loss, patch_loss, teacher_probs


def loop_cls_loss(student, teacher, temp):
    """Equation 2 word by word: every teacher view against every other student view."""
    total, pairs = 0.0, 0
    for q in range(len(teacher)):
        for v in range(len(student)):
            if v == q:
                continue
            log_p = F.log_softmax(student[v] / temp, dim=-1)
            total += -(teacher[q] * log_p).sum(-1).mean()
            pairs += 1
    return total / pairs


def loop_patch_loss(student, teacher, mask, temp):
    """Equation 1 word by word, from all patches [V, N, K]."""
    total = 0.0
    for v in range(len(mask)):
        per_patch = -(teacher[v] * F.log_softmax(student[v] / temp, dim=-1)).sum(-1)
        total += (per_patch * mask[v]).sum() / max(1, int(mask[v].sum()))
    return total / len(mask)


@pytest.mark.parametrize(("num_global", "num_local"), [(2, 0), (2, 4), (1, 2), (3, 1)])
def test_cls_loss_and_gradient_equal_the_loop_over_pairs(num_global, num_local):
    g = torch.Generator().manual_seed(num_global)
    student = torch.randn(
        num_global + num_local, 5, 11, generator=g, dtype=torch.float64, requires_grad=True
    )
    teacher = F.softmax(
        torch.randn(num_global, 5, 11, generator=g, dtype=torch.float64) * 3, dim=-1
    )
    got, want = cls_loss(student, teacher, 0.1), loop_cls_loss(student, teacher, 0.1)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, student)[0] for loss in (got, want)), rtol=1e-11, atol=1e-14
    )


@pytest.mark.parametrize("num_masked", [[3, 5], [0, 4], [0, 0], [1, 8]])
def test_patch_loss_and_gradient_equal_the_loop_over_views(num_masked):
    g = torch.Generator().manual_seed(1)
    student = torch.randn(2, 8, 7, generator=g, dtype=torch.float64, requires_grad=True)
    teacher = F.softmax(torch.randn(2, 8, 7, generator=g, dtype=torch.float64), dim=-1)
    mask = torch.stack([torch.randperm(8, generator=g) < n for n in num_masked])
    weight = (1 / mask.sum(1, keepdim=True).clamp(min=1).double()).expand_as(mask)[mask]
    got = patch_loss(student[mask], teacher[mask], weight, len(mask), 0.1)
    want = loop_patch_loss(student, teacher, mask, 0.1)
    assert got.item() == pytest.approx(want.item() if num_masked != [0, 0] else 0.0, rel=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, student)[0] for loss in (got, want)), rtol=1e-11, atol=1e-14
    )


def test_uniform_outputs_give_ln_k():
    student, teacher = torch.zeros(4, 3, 16), torch.full((2, 3, 16), 1 / 16)
    assert cls_loss(student, teacher, 0.1).item() == pytest.approx(math.log(16), rel=1e-6)
    weight = torch.full((6,), 1 / 3)
    assert patch_loss(
        torch.zeros(6, 16), torch.full((6, 16), 1 / 16), weight, 2, 0.1
    ).item() == pytest.approx(math.log(16), rel=1e-6)


def test_a_view_without_mask_dilutes_the_patch_loss():
    student, teacher = torch.zeros(3, 16), torch.full((3, 16), 1 / 16)
    weight = torch.full((3,), 1 / 3)
    one, two = (patch_loss(student, teacher, weight, views, 0.1).item() for views in (1, 2))
    assert one == pytest.approx(2 * two)


def test_losses_stay_finite_for_huge_logits():
    student = torch.full((3, 2, 8), -1e4)
    student[..., 0] = 1e4
    teacher = teacher_probs(student[:2], torch.zeros(8), 0.04)
    assert cls_loss(student, teacher, 0.1).item() == pytest.approx(0.0, abs=1e-3)


def test_teacher_probs_subtracts_the_center_before_the_temperature():
    logits = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    want = torch.softmax(torch.tensor([[0.5 / 0.1, -1.0 / 0.1]], dtype=torch.float64), -1)
    torch.testing.assert_close(
        teacher_probs(logits, torch.tensor([0.5, 3.0], dtype=torch.float64), 0.1), want
    )


@pytest.mark.parametrize("mass", [0.0, 0.3, 1.0, 2.0])
def test_a_target_counts_by_its_sum(mass):
    """A row of zeros costs nothing; it must not cost a bare logsumexp."""
    g = torch.Generator().manual_seed(3)
    student = torch.randn(3, 4, 9, generator=g, dtype=torch.float64)
    teacher = mass * F.softmax(torch.randn(2, 4, 9, generator=g, dtype=torch.float64), dim=-1)
    teacher[0, 1] = 0.0
    assert cls_loss(student, teacher, 0.1).item() == pytest.approx(
        loop_cls_loss(student, teacher, 0.1).item()
    )
    weight = torch.full((4,), 0.25, dtype=torch.float64)
    want = -(teacher[1] * F.log_softmax(student[0] / 0.1, dim=-1)).sum() / 4
    assert patch_loss(student[0], teacher[1], weight, 1, 0.1).item() == pytest.approx(want.item())
    assert patch_loss(student[0], torch.zeros(4, 9), weight, 1, 0.1).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_raised_before_temperatures(dtype):
    g = torch.Generator().manual_seed(4)
    logits = (torch.randn(4, 3, 16, generator=g) * 3000).to(
        dtype
    )  # over 0.04 beyond the range of float16
    probs = teacher_probs(logits[:2], torch.zeros(16), 0.04)
    assert probs.dtype == torch.float32 and probs.isfinite().all()
    small = logits / 3000
    probs = teacher_probs(small[:2], torch.zeros(16), 0.04)
    assert cls_loss(small, probs, 0.1).item() == pytest.approx(
        cls_loss(small.float(), probs, 0.1).item(), rel=1e-6
    )
    rows, weight = small.flatten(0, 1)[:6], torch.full((6,), 1 / 6)
    got, want = (
        patch_loss(x, probs.flatten(0, 1), weight, 1, 0.1).item() for x in (rows, rows.float())
    )
    assert got == pytest.approx(want, rel=1e-6)


def test_koleo_equals_the_search_for_nearest_neighbours():
    features = torch.randn(2, 6, 5, dtype=torch.float64)
    unit = F.normalize(features, dim=-1)
    total = 0.0
    for view in unit:
        for i in range(6):
            distances = [(view[i] - view[j]).norm() for j in range(6) if j != i]
            total -= torch.stack(distances).min().log()
    assert koleo_loss(features).item() == pytest.approx(total.item() / 12, rel=1e-10)


def test_koleo_of_a_single_image_is_zero_and_of_two_is_their_distance():
    one = torch.randn(2, 1, 5, requires_grad=True)
    loss = koleo_loss(one)
    loss.backward()
    assert loss.item() == 0.0 and one.grad.abs().max() == 0.0
    assert koleo_loss(torch.tensor([[[2.0], [-3.0]]])).item() == pytest.approx(-math.log(2.0))
    pair = torch.tensor([[[1.0, 0.0], [0.0, 5.0]]], dtype=torch.float64)
    assert koleo_loss(pair).item() == pytest.approx(-math.log(2.0) / 2)


def test_koleo_of_duplicates_has_a_finite_value_and_gradient():
    features = torch.ones(1, 4, 3, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert loss.isfinite() and features.grad.isfinite().all()


def test_entropy_of_certain_and_uniform_rows():
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25] * 4])
    assert entropy(rows).tolist() == pytest.approx([0.0, math.log(4)])
