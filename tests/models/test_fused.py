"""Blocks by the kernels in C against their plain form: values and gradients."""

import os
import signal

import pytest
import torch

from ibot.kernels import blocks, library
from ibot.kernels.choice import using
from ibot.models.layers import Block

pytestmark = pytest.mark.skipif(not blocks.is_built(), reason="the kernels were not built")


def a_block(width=48, heads=3, hidden=80, drop_path=0.0, act="gelu"):
    torch.manual_seed(0)
    block = Block(width, heads, hidden, drop_path, layer_scale=0.0, norm_eps=1e-6, act=act)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return block


def results(block, x, mode, rows=None, drop=None, dtype=None):
    """Output and gradients in a mode, float64."""
    x = x.detach().requires_grad_(x.is_floating_point())
    block.zero_grad()
    with using(mode), torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        out = block(x, rows, drop)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape))  # the layouts may differ
    return [out, x.grad, *(p.grad for p in block.parameters())]


def assert_close(ours, theirs, tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        assert (mine - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("images, tokens", [(1, 1), (2, 17), (3, 50), (1, 97)])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_gradients_are_those_of_the_plain_block(images, tokens, threads):
    block, x = a_block(), torch.randn(images, tokens, 48)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        fast = results(block, x, "require")
    finally:
        torch.set_num_threads(before)
    assert_close(fast, results(block, x, "reference"), 2e-6)


def test_chosen_rows_and_dropped_branches():
    block, x = a_block(drop_path=0.5), torch.randn(4, 19, 48)
    rows = torch.tensor([0, 19, 38, 57, 75, 3, 20])
    drop = torch.tensor([[2.0, 0, 2, 0], [0, 0, 2, 2]])
    for chosen in (rows, None, rows[:1]):
        fast, plain = (results(block, x, mode, chosen, drop) for mode in ("require", "reference"))
        assert_close(fast, plain, 2e-6)
    assert block(x, rows[:0]).shape == (0, 48)


def test_without_factors_the_same_ones_are_drawn():
    block, x = a_block(drop_path=0.5), torch.randn(6, 5, 48)
    outputs = []
    for mode in ("require", "reference"):
        torch.manual_seed(7)
        with using(mode), torch.no_grad():
            outputs.append(block.train()(x))
    assert (outputs[0] - outputs[1]).abs().max() < 1e-5
    with torch.no_grad():
        assert not outputs[0].equal(block.eval()(x))


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("tokens", [5, 32, 33, 70])
def test_bfloat16_differs_from_float32_no_more_than_the_plain_form_does(tokens, level, monkeypatch):
    monkeypatch.setattr(blocks, "BEST", level)
    block, x = a_block(96, 3, 192), torch.randn(3, tokens, 96)
    exact = results(block, x, "reference")
    fast, plain = (
        results(block, x, mode, dtype=torch.bfloat16) for mode in ("require", "reference")
    )
    for a, b, c in zip(fast, plain, exact, strict=True):
        assert a.dtype == b.dtype
        assert (a - c).norm() < 1.5 * (b - c).norm() + 1e-3 * c.norm()


def test_tokens_that_do_not_lie_in_order_and_other_forms_of_blocks():
    block, x = a_block(), torch.randn(17, 3, 48).transpose(0, 1)
    assert_close(results(block, x, "require"), results(block, x, "reference"), 2e-6)
    hooked, slow, mixed, spread = (a_block() for _ in range(4))
    hooked.mlp.fc1.register_forward_hook(lambda *_: None)
    slow.attn.proj = torch.nn.utils.parametrizations.weight_norm(slow.attn.proj)
    mixed.norm2.bfloat16()
    spread.norm1.weight = torch.nn.Parameter(torch.rand(96)[::2])
    for other, tokens in [
        (a_block(act="relu"), x),
        (a_block(width=36), x[..., :36]),
        (a_block().double(), x.double()),
        (hooked, x),
        (slow, x),
        (spread, x),
    ]:
        with using("auto") as choices, torch.no_grad():
            other(tokens)
        assert not choices.taken and choices.plain
    with using("require") as choices, pytest.raises(RuntimeError, match="type"):
        mixed(x)
    assert not choices.taken


@pytest.mark.parametrize("trained", ["x", "norm1.weight", "mlp.fc2.bias", "attn.qkv.weight"])
@pytest.mark.parametrize("rows", [None, [5, 0, 9], []])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same_one(trained, rows):
    block, found = a_block(), []
    x = torch.randn(2, 5, 48, requires_grad=trained == "x")
    for name, p in block.named_parameters():
        p.requires_grad_(name == trained)
    rows = None if rows is None else torch.tensor(rows, dtype=torch.int64)
    for mode in ("require", "reference"):
        x.grad = None
        block.zero_grad()
        with using(mode):
            block(x, rows).square().sum().backward()
        found.append([t.grad for t in (x, *block.parameters()) if t.grad is not None])
    assert len(found[0]) == 1
    assert_close(*found, 2e-6)


def test_gradients_of_gradients_are_refused_and_a_graph_serves_twice():
    block, x = a_block(), torch.randn(1, 3, 48, requires_grad=True)
    with using("require"):
        out = block(x).square().sum()
    (first,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward(retain_graph=True)
    assert torch.autograd.grad(out, x)[0].equal(first)


def test_transformations_of_torch_func_take_the_plain_form():
    block, x = a_block(), torch.randn(2, 3, 48)
    with using("require"):
        each = torch.func.vmap(torch.func.grad(lambda t: block(t[None]).sum()))(x)
    assert_close([each], [results(block, x, "reference")[1]], 10)


def test_the_default_type_changes_nothing():
    block, x = a_block(), torch.randn(2, 5, 48)
    want = results(block, x, "require")
    try:
        torch.set_default_dtype(torch.float64)
        x = x.detach().requires_grad_()
        block.zero_grad()
        with using("require"):
            out = block(x)
        torch.manual_seed(1)
        out.backward(torch.randn(out.shape, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_close([out, x.grad, *(p.grad for p in block.parameters())], want, 0.0)


def test_a_library_of_other_sources_is_not_called():
    assert library._function("blocks", library.BLOCKS_INTERFACE, [], None)
    assert library._function("blocks", library.BLOCKS_INTERFACE + 1, [], None) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_that_has_one_thread_does_not_hang():
    block, x = a_block(), torch.randn(8, 64, 48)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.no_grad():
            want = block(x)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            signal.alarm(10)  # ends this process
            with torch.no_grad():
                same = torch.allclose(block(x), want, rtol=1e-5, atol=1e-5)
            os._exit(0 if same else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_that(value, dtype, level, monkeypatch):
    monkeypatch.setattr(blocks, "BEST", level)
    block, x = a_block(96, 3), torch.randn(2, 5, 96)
    x[0, 1, 3] = value
    out, gradient, *others = results(block, x, "require", dtype=dtype)
    assert out[0].isnan().all() and out[1].isfinite().all()
    assert gradient[0].isnan().all() and gradient[1].isfinite().all()
    assert all(not other.isfinite().all() for other in others[:-1])  # the last bias sees no token
    block.attn.qkv.weight.data[5, 7] = value
    assert not results(block, x.nan_to_num(0, 0, 0), "require", dtype=dtype)[0].isfinite().any()


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_far_from_all_keys_have_gradients(dtype, level, monkeypatch):
    """Scores from -75 to -115: e to the power of +88 is as much as float32 holds."""
    monkeypatch.setattr(blocks, "BEST", level)
    dims, tokens = 32, 81
    q, k, v = torch.randn(3, tokens, dims)
    q[:, :16], k[:, :16] = torch.linspace(75, 115, tokens)[:, None] * dims**0.5 / 64, -4
    qkv, gradient = torch.cat([q, k, v], dim=1).to(dtype), torch.randn(tokens, dims).to(dtype)
    out, norms = blocks.attend(qkv, torch.zeros(3 * dims), tokens, 1)
    assert norms.min() < -100 and norms.max() > -85
    got, _ = blocks.attend_backward(gradient, qkv, torch.zeros(3 * dims), out, norms, tokens, 1)
    exact = qkv.float().requires_grad_()
    q, k, v = exact.chunk(3, dim=1)
    ((q @ k.T / dims**0.5).softmax(-1) @ v).backward(gradient.float())
    for mine, other in zip(got.float().split(16, 1), exact.grad.split(16, 1), strict=True):
        # What all keys have in common moves no query, and is rounded away at its own size.
        assert (mine - other).norm() < (
            1e-4 if dtype is torch.float32 else 0.05
        ) * exact.grad.norm()
