"""The losses joined with the last layer against those of logits that exist as a whole."""

import pytest
import torch
from torch.nn.functional import normalize

from ibot.config.schema import HeadConfig
from ibot.kernels.choice import using
from ibot.method.fused import PLAIN, fused_cls_loss, fused_patch_loss, fusing, triton_rows
from ibot.method.losses import cls_loss, entropy, hard_labels, patch_loss, teacher_probs
from ibot.method.observed import TargetSums
from ibot.method.targets import Targets
from ibot.models.head import ProjectionHead, Scored

TEMP, TEACHER_TEMP = 0.1, 0.05
KINDS = pytest.mark.parametrize("kind", ["rows", "logits", "probabilities", "hard"])


class Problem:
    """Random unit rows of student and teacher and prototypes of each, in float64."""

    def __init__(self, student: tuple[int, ...], teacher: tuple[int, ...], size: int, width=6):
        g = torch.Generator().manual_seed(size)

        def unit(*shape):
            return normalize(torch.randn(*shape, width, generator=g, dtype=torch.float64), dim=-1)

        self.z, self.weight = unit(*student), unit(size)
        self.teacher = Scored(unit(*teacher), unit(size))
        self.center = torch.randn(size, generator=g, dtype=torch.float64) / 5
        self.probs = teacher_probs(self.teacher.logits(), self.center, TEACHER_TEMP)

    def targets(self, kind: str, dtype=torch.float64) -> Targets:
        center, teacher = self.center.to(dtype), Scored(*(t.to(dtype) for t in self.teacher))
        if kind == "probabilities":
            return Targets(source=self.probs.to(dtype))
        source = teacher.logits() if kind == "logits" else teacher
        return Targets(source=source, center=center, temp=TEACHER_TEMP, hard=kind == "hard")

    def compare(self, plain, fused, kind, dtype=torch.float64, rows=torch.float64, tolerance=1e-9):
        """Loss and gradients of `plain(logits, probs)` against `fused(Scored, Targets)`."""
        probs = hard_labels(self.probs) if kind == "hard" else self.probs
        z = self.z.to(rows)  # rounded alike
        results = []
        for loss_of, of in ((plain, torch.float64), (fused, dtype)):
            z_own = z.to(rows if loss_of is fused else torch.float64).requires_grad_()
            weight = self.weight.to(of).requires_grad_()
            scored = Scored(z_own, weight)
            if loss_of is plain:
                loss = plain(scored.logits(), probs)
            else:
                loss = fused(scored, self.targets(kind, dtype))
            # Not 1: what follows the loss scales its gradient.
            results.append((loss, *torch.autograd.grad(3 * loss, (z_own, weight))))
        for want, got in zip(*results, strict=True):
            scale = want.abs().max().item() if want.numel() else 0.0
            torch.testing.assert_close(
                got.double(), want, rtol=0, atol=tolerance * max(scale, 1e-3), equal_nan=True
            )
        return results


@KINDS
@pytest.mark.parametrize("chunk", [1, 120, 0])
@pytest.mark.parametrize(
    ("student", "teacher", "batch"), [(2, 2, 3), (12, 2, 5), (3, 1, 1), (4, 3, 7)]
)
def test_class_loss_and_gradients_are_those_of_whole_logits(student, teacher, batch, chunk, kind):
    problem = Problem((student, batch), (teacher, batch), 13)
    problem.compare(
        lambda logits, probs: cls_loss(logits, probs, TEMP),
        lambda rows, targets: fused_cls_loss(rows, targets, TEMP, chunk=chunk),
        kind,
    )


def weights(rows: int) -> torch.Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def of_patches(rows: int, functions=PLAIN, chunk=0):
    """The plain and the joined patch loss of some rows, of four views."""
    weight = weights(rows)
    return (
        lambda logits, probs: patch_loss(logits, probs, weight, 4, TEMP),
        lambda student, targets: fused_patch_loss(
            student, targets, weight, 4, TEMP, functions=functions, chunk=chunk
        ),
    )


@KINDS
@pytest.mark.parametrize(("rows", "chunk"), [(1, 0), (3, 5), (130, 1000), (130, 0), (0, 0)])
def test_patch_loss_and_gradients_are_those_of_whole_logits(rows, chunk, kind):
    Problem((rows,), (rows,), 57).compare(*of_patches(rows, chunk=chunk), kind)


@pytest.mark.parametrize("functions", ["torch", "triton"])
@pytest.mark.parametrize("rows", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_every_type_are_raised_to_float32(rows, functions):
    how = PLAIN if functions == "torch" else triton_rows()
    plain, fused = of_patches(3, how, chunk=600)
    tolerance = 1e-5 if rows is torch.float32 else 1e-2  # of the gradient's own type
    results = Problem((3,), (3,), 257).compare(plain, fused, "rows", torch.float32, rows, tolerance)
    assert results[1][1].dtype is rows and results[1][0].dtype is torch.float32
    assert results[1][0].item() == pytest.approx(results[0][0].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "batch", "size", "kind"),
    [
        (2, 2, 3, 5, "rows"),
        (12, 2, 1, 257, "rows"),
        (3, 1, 2, 1000, "logits"),
        (4, 3, 2, 7, "probabilities"),
        (2, 1, 2, 9, "hard"),
    ],
)
def test_kernels_give_the_class_loss(student, teacher, batch, size, kind):
    Problem((student, batch), (teacher, batch), size).compare(
        lambda logits, probs: cls_loss(logits, probs, TEMP),
        lambda rows, targets: fused_cls_loss(
            rows, targets, TEMP, functions=triton_rows(), chunk=student * size
        ),
        kind,
        torch.float32,
        torch.float32,
        1e-5,
    )


@pytest.mark.parametrize(
    ("rows", "size", "kind"),
    [(1, 1000, "rows"), (130, 5, "rows"), (3, 257, "hard"), (0, 5, "rows")],
)
def test_kernels_give_the_patch_loss(rows, size, kind):
    plain, fused = of_patches(rows, triton_rows())
    Problem((rows,), (rows,), size).compare(plain, fused, kind, torch.float32, torch.float32, 1e-5)


def test_a_single_view_has_no_pair_as_before():
    problem = Problem((1, 2), (1, 2), 5)
    plain = cls_loss(Scored(problem.z, problem.weight).logits(), problem.probs, TEMP)
    fused = fused_cls_loss(Scored(problem.z, problem.weight), problem.targets("rows"), TEMP)
    assert plain.isnan() and fused.isnan()


@pytest.mark.parametrize("chunk", [30, 0])
def test_what_is_seen_of_the_targets_is_that_of_all_rows(chunk):
    problem = Problem((3, 4), (2, 4), 11)
    seen = TargetSums(11, problem.z)
    rows = Scored(problem.z, problem.weight)
    fused_cls_loss(rows, problem.targets("rows"), TEMP, seen=seen, chunk=chunk)
    flat = problem.probs.flatten(0, 1)
    torch.testing.assert_close(seen.mass, flat.sum(0))
    torch.testing.assert_close(seen.entropy, entropy(flat).sum())
    assert seen.num_rows == 8
    assert seen.prototypes.tolist() == flat.argmax(-1).bincount(minlength=11).tolist()
    weight, patches = weights(8), Problem((8,), (8,), 11)
    seen = TargetSums(11, patches.z, weight)
    fused_patch_loss(
        Scored(patches.z, patches.weight),
        patches.targets("rows"),
        weight,
        2,
        TEMP,
        seen=seen,
        chunk=chunk,
    )
    torch.testing.assert_close(seen.entropy, (entropy(patches.probs) * weight).sum())


@pytest.mark.parametrize("fixed", [0, 1])
def test_what_needs_no_gradient_gets_none(fixed):
    problem = Problem((5,), (5,), 9)
    tensors = [problem.z, problem.weight]
    tensors[1 - fixed].requires_grad_()
    _, fused = of_patches(5)
    fused(Scored(*tensors), problem.targets("rows")).backward()
    assert tensors[fixed].grad is None and tensors[1 - fixed].grad.abs().sum() > 0


def test_nothing_of_rows_times_prototypes_is_allocated(monkeypatch):
    """Neither for the forward pass nor for the backward one; by the largest tensor of each call."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.untyped_storage().nbytes() // 8)
            return out

    rows, size = 300, 40
    plain, fused = of_patches(rows, chunk=10 * size)
    problem = Problem((rows,), (rows,), size)
    with Watch():
        z = problem.z.requires_grad_()
        fused(Scored(z, problem.weight), problem.targets("rows")).backward()
    assert largest == rows * 6  # the rows themselves
    with Watch():
        plain(Scored(z, problem.weight).logits(), problem.probs).backward()
    assert largest >= rows * size


def test_autocast_does_not_reach_the_products():
    problem = Problem((9,), (9,), 21)
    tensors = Scored(problem.z.float().requires_grad_(), problem.weight.float().requires_grad_())
    targets, weight = problem.targets("rows", torch.float32), weights(9)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = fused_patch_loss(tensors, targets, weight, 2, TEMP)
        results.append((loss, *torch.autograd.grad(loss, tensors)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_heads_without_prototypes_take_the_plain_form_and_it_is_said():
    normal, plain = (
        ProjectionHead(4, HeadConfig(out_dim=8, patch_out_dim=8, bottleneck_dim=d), shared=True)
        for d in (6, 0)
    )
    x = torch.zeros(1)
    with using("auto") as choices:
        assert fusing(normal, x) is PLAIN and fusing(plain, x) is None
    assert choices.text() == "kernels: losses (in chunks)"
    with using("auto") as choices:
        assert fusing(plain, x) is None
    assert choices.text() == "kernels: none; not losses, the head has no bottleneck"
    with using("reference"):
        assert fusing(normal, x) is None
