"""Blocks by the kernels in C against their plain form: values and gradients."""

import pytest
import torch

from ibot.kernels import blocks
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
    for other, tokens in [
        (a_block(act="relu"), x),
        (a_block(width=36), x[..., :36]),
        (a_block().double(), x.double()),
    ]:
        with using("auto") as choices, torch.no_grad():
            other(tokens)
        assert not choices.taken and choices.plain


def test_what_is_not_finite_stays_that():
    block, x = a_block(), torch.randn(2, 5, 48)
    x[0, 1, 3] = float("nan")
    with using("require"), torch.no_grad():
        out = block(x)
    assert out[0].isnan().all() and out[1].isfinite().all()
