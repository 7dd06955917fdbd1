"""Rows of the losses in place: the torch operations and the kernels, against the formula."""

import os
import subprocess
import sys

import pytest
import torch

from ibot.kernels import cross_entropy, cross_entropy_triton

# The kernels run on a GPU where there is one, else in their interpreter (tests/conftest.py).
DEVICES = {
    cross_entropy: "cpu",
    cross_entropy_triton: "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda",
}
FORMS = pytest.mark.parametrize("form", DEVICES, ids=["torch", "triton"])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@FORMS
@pytest.mark.parametrize(("rows", "size", "block"), [(1, 5, 8192), (3, 257, 64), (2, 1000, 8192)])
def test_teacher_rows_become_probabilities(form, rows, size, block, monkeypatch):
    monkeypatch.setattr(cross_entropy_triton, "LARGEST_BLOCK", block)
    logits, center = 5 * drawn(rows, size), drawn(size, seed=1)
    logits[0, 1:] = -torch.inf  # all on the first one
    want = ((logits.double() - center) / 0.04).softmax(-1)
    got = logits.to(DEVICES[form])
    form.softmax_rows(got, center.to(got.device), 0.04)
    torch.testing.assert_close(got.double().cpu(), want, rtol=2e-5, atol=1e-7)


@FORMS
@pytest.mark.parametrize("own", [True, False], ids=["of others", "of all"])
@pytest.mark.parametrize(
    ("views", "teachers", "rows", "size", "block"),
    [(2, 2, 1, 257, 64), (12, 2, 1, 5, 8192), (1, 1, 3, 1000, 8192), (3, 1, 0, 5, 8192)],
)
def test_student_rows_become_gradients(form, own, views, teachers, rows, size, block, monkeypatch):
    monkeypatch.setattr(cross_entropy_triton, "LARGEST_BLOCK", block)
    logits = 3 * drawn(views, rows, size)
    probs, scale = drawn(teachers, rows, size, seed=1).mul(4).softmax(-1), drawn(rows, seed=2).abs()
    probs[0] *= 0.5  # targets count by their mass
    scores = logits.double().requires_grad_()
    log_p = (scores / 0.1).log_softmax(-1)
    want = torch.zeros(views, rows, dtype=torch.float64)
    for v in range(views):
        for t in range(teachers):
            if not (own and v == t):
                want[v] = want[v] - (probs[t].double() * log_p[v]).sum(-1) * scale
    gradient = torch.zeros_like(scores)
    if want.requires_grad:
        (gradient,) = torch.autograd.grad(want.sum(), scores)
    given = [tensor.to(DEVICES[form]) for tensor in (logits, probs, scale)]
    losses = form.cross_entropy_rows(*given, 0.1, own)
    torch.testing.assert_close(losses.double().cpu(), want.detach(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(given[0].double().cpu(), gradient, rtol=1e-4, atol=2e-5)


@FORMS
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_found_in_the_loss_of_its_row_alone(form, value, monkeypatch):
    monkeypatch.setattr(cross_entropy_triton, "LARGEST_BLOCK", 4)
    place, tensors = 9, (drawn(2, 3, 10), drawn(1, 3, 10).softmax(-1), torch.ones(3))
    for broken in (0, 1):
        given = [tensor.clone().to(DEVICES[form]) for tensor in tensors]
        given[broken][0, 1, place] = value
        losses = form.cross_entropy_rows(*given, 0.1, False)
        assert (
            losses[0].isfinite() == torch.tensor([True, False, True], device=losses.device)
        ).all()
    logits = tensors[0][0].to(DEVICES[form])
    logits[1, place] = value
    form.softmax_rows(logits, torch.zeros_like(logits[0]), 0.1)
    assert logits[1].isnan().all() and logits[[0, 2]].isfinite().all()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ibot.kernels import cross_entropy_triton as kernels

TYPES = {"temp": "fp32", "size": "i32", "num_rows": "i32"}
GIVEN = {"block": 8192, "num_teachers": 2, "own": True}
for kernel in (kernels._softmax_kernel, kernels._cross_entropy_kernel):
    given = {name: GIVEN[name] for name in kernel.arg_names if name in GIVEN}
    types = {name: TYPES.get(name, "*fp32") for name in kernel.arg_names}
    types |= dict.fromkeys(given, "constexpr")
    for arch in (80, 90):
        source = ASTSource(fn=kernel, signature=types, constexprs=given)
        target = GPUTarget("cuda", arch, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": 8})
        print(len(compiled.asm["cubin"]))
"""


@pytest.mark.slow
def test_the_kernels_compile_for_gpus_that_are_not_there(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    # From a file: the compiler reads the source of what it compiles.
    (tmp_path / "compile.py").write_text(COMPILE)
    done = subprocess.run(
        [sys.executable, tmp_path / "compile.py"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len([size for size in done.stdout.split() if int(size) > 1000]) == 4
