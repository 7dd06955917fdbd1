import threading
from types import SimpleNamespace

import pytest
import torch

from ibot.method.center import Center, sinkhorn_probs, update_centers
from ibot.system import distributed


def test_center_moves_by_the_mean_of_all_rows_added():
    center = Center(3, momentum=0.9)
    first, second = torch.randn(4, 3), torch.randn(2, 3)
    center.add(first.mean(0), 4)
    center.add(second.mean(0), 2)
    update_centers([center])
    torch.testing.assert_close(center.value, 0.1 * torch.cat([first, second]).mean(0))
    center.add(torch.ones(3), 1)
    update_centers([center])
    torch.testing.assert_close(center.value, 0.09 * torch.cat([first, second]).mean(0) + 0.1)


def test_a_center_without_new_rows_stays():
    center = Center(3, momentum=0.9)
    center.value.copy_(torch.tensor([1.0, 2.0, 3.0]))
    update_centers([center])
    torch.testing.assert_close(center.value, torch.tensor([1.0, 2.0, 3.0]))


def test_centers_of_several_processes_move_by_the_rows_of_all_in_one_collective(monkeypatch):
    g = torch.Generator().manual_seed(0)
    centers, rows = (
        [Center(3, 0.9), Center(5, 0.5)],
        [torch.randn(4, 3, generator=g), torch.randn(7, 5, generator=g)],
    )
    others = [torch.randn(2, 3, generator=g), torch.randn(1, 5, generator=g)]
    start = [torch.randn(n, generator=g) for n in (3, 5)]
    for center, own, value in zip(centers, rows, start, strict=True):
        center.value.copy_(value)
        center.add(own.mean(0), len(own))
    calls = []

    def all_reduce(packed):
        calls.append(len(packed))
        packed += torch.cat(
            [torch.cat([other.sum(0), torch.tensor([float(len(other))])]) for other in others]
        )

    monkeypatch.setattr(distributed, "several_processes", lambda: True)
    monkeypatch.setattr(distributed, "dist", SimpleNamespace(all_reduce=all_reduce))
    update_centers(centers)
    assert calls == [4 + 6]
    for center, own, other, value in zip(centers, rows, others, start, strict=True):
        mean = torch.cat([own, other]).mean(0)
        torch.testing.assert_close(
            center.value, center.momentum * value + (1 - center.momentum) * mean
        )
        assert center.pending.eq(0).all()


def test_a_center_without_rows_stays():
    center = Center(3, 0.9)
    center.value.fill_(2.0)
    update_centers([center])
    assert center.value.tolist() == [2.0] * 3


def loop_sinkhorn(logits, temp, iterations=3):
    """SwAV's algorithm as it is usually written, with the doubly normalised matrix."""
    q = torch.exp(logits / temp).T
    q = q / q.sum()
    num_prototypes, num_rows = q.shape
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / num_prototypes
        q = q / q.sum(dim=0, keepdim=True) / num_rows
    return (q * num_rows).T


def test_sinkhorn_equals_the_textbook_form():
    logits = torch.randn(12, 5, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn_probs(logits, 0.3), loop_sinkhorn(logits, 0.3))


def test_sinkhorn_balances_prototypes_and_keeps_rows_normalised():
    probs = sinkhorn_probs(torch.randn(400, 8) + torch.arange(8), 0.5, iterations=50)
    torch.testing.assert_close(probs.sum(1), torch.ones(400))
    assert probs.sum(0).tolist() == pytest.approx([50.0] * 8, rel=0.02)


def test_sinkhorn_survives_huge_logits_and_no_rows():
    assert sinkhorn_probs(torch.randn(6, 4) * 1e4, 0.04).isfinite().all()
    assert sinkhorn_probs(torch.zeros(0, 4), 0.04).shape == (0, 4)


def log_sinkhorn(logits, temp, iterations=3):
    """The same in logarithms and float64: nothing can underflow."""
    scores = logits.double() / temp
    for _ in range(iterations):
        scores = scores - scores.logsumexp(dim=0)
        scores = scores - scores.logsumexp(dim=1, keepdim=True)
    return scores.exp()


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INFINITE = torch.inf
LOGITS = {
    "rows far apart": torch.tensor([[0.0, 1.0], [-10.0, -9.0]]),
    "usual": _random(40, 12),
    "huge": _random(60, 16) * 1e4,
    "at the end of float32": _random(9, 5) * 1e37,
    "a level for each row": _random(20, 8) + torch.arange(20)[:, None] * 8.0,
    "a level for each prototype": _random(20, 8) + 300.0 * torch.arange(8),
    "equal rows": torch.tensor([[1.0, 2.0, 3.0]]).expand(5, 3),
    "equal logits": torch.full((4, 6), 7.0),
    "one row": _random(1, 9),
    "one prototype": _random(9, 1),
    "float16": _random(20, 8).half() * 100,
    "bfloat16": _random(20, 8).bfloat16(),
    "float64": _random(20, 8).double() * 50,
    "some at -inf": torch.tensor(
        [[-INFINITE, 1.0, 2.0], [3.0, -INFINITE, 0.0], [0.0, 0.0, -INFINITE]]
    ),
}


@pytest.mark.parametrize("iterations", [1, 3, 20])
@pytest.mark.parametrize("name", LOGITS)
def test_sinkhorn_is_exact_for_any_logits(name, iterations):
    logits = LOGITS[name]
    probs = sinkhorn_probs(logits, 0.04, iterations)
    assert probs.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(len(logits), dtype=probs.dtype))
    # A logit of 100 is known to 4e-6 in float32, its score to 1e-4.
    torch.testing.assert_close(
        probs.double(), log_sinkhorn(logits, 0.04, iterations), rtol=0, atol=1e-4
    )
    if name in ("usual", "huge", "bfloat16", "float64"):
        torch.testing.assert_close(
            probs.double(), log_sinkhorn(logits, 0.04, iterations), rtol=0, atol=2e-6
        )


def test_sinkhorn_gives_nothing_to_what_is_ruled_out():
    low = -INFINITE
    unused = sinkhorn_probs(torch.tensor([[low, 1.0, 0.0], [low, 3.0, 3.0]]), 0.04)
    assert unused[:, 0].tolist() == [0, 0] and unused.sum(dim=1).tolist() == pytest.approx([1, 1])
    without = sinkhorn_probs(torch.tensor([[low, low], [low, low]]), 0.04)
    assert without.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    mixed = sinkhorn_probs(torch.tensor([[low, low], [0.0, low]]), 0.04, iterations=20)
    assert mixed.sum(dim=1).tolist() == pytest.approx([1, 1]) and mixed[1, 1] == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_sinkhorn_does_not_hide_logits_that_are_no_numbers(value):
    logits = torch.zeros(3, 4)
    logits[1, 2] = value
    assert sinkhorn_probs(logits, 0.04).isnan().all()


def test_sinkhorn_multiplies_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probs = sinkhorn_probs(_random(200, 50), 0.04)
    torch.testing.assert_close(
        probs.double(), log_sinkhorn(_random(200, 50), 0.04), rtol=0, atol=2e-6
    )


class TwoProcesses:
    """`torch.distributed` of two threads."""

    class ReduceOp:
        SUM, MAX = torch.add, torch.maximum

    def __init__(self):
        self.seen, self.wait = {}, threading.Barrier(2, timeout=60)

    def all_reduce(self, tensor, op=ReduceOp.SUM):
        self.seen[threading.get_ident()] = tensor.clone()
        self.wait.wait()
        tensor.copy_(op(*self.seen.values()))
        self.wait.wait()


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_sinkhorn_balances_the_rows_of_all_processes_together(monkeypatch, cut):
    logits = (
        _random(20, 8) + torch.arange(20)[:, None] * 5.0
    )  # the second process holds the larger ones
    monkeypatch.setattr(distributed, "dist", TwoProcesses())
    monkeypatch.setattr(distributed, "several_processes", lambda: True)
    parts, found = (logits[:cut], logits[cut:]), {}

    def work(rank):
        found[rank] = sinkhorn_probs(parts[rank], 0.04)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = torch.cat([found[0], found[1]])
    torch.testing.assert_close(together.double(), log_sinkhorn(logits, 0.04), rtol=0, atol=1e-4)
