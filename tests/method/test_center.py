import pytest
import torch

from ibot.method.center import Center, sinkhorn_probs, update_centers


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
