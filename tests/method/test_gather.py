"""What several processes compute of rows that they share, one after the other in this process."""

import pytest
import torch
import torch.distributed as dist

from ibot.method.gather import gather_rows
from ibot.method.losses import koleo_loss
from ibot.models.layers import DropPath, set_part


@pytest.fixture
def as_rank(monkeypatch):
    """Pretend to be one of the processes that hold `parts`."""

    def pretend(rank, parts):
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: len(parts))
        monkeypatch.setattr(
            dist,
            "all_gather",
            lambda out, own: [o.copy_(p) for o, p in zip(out, parts, strict=True)],
        )

    return pretend


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_koleo_and_its_gradient_are_the_same_for_any_number_of_processes(as_rank, processes):
    torch.manual_seed(0)
    images, weight = (
        torch.randn(2, 12, 5, dtype=torch.float64),
        torch.randn(5, 4, dtype=torch.float64),
    )
    images[1, 3] = images[1, 8] + 1e-3  # close neighbours in different processes
    whole = weight.clone().requires_grad_()
    loss = koleo_loss(images @ whole)
    loss.backward()
    parts = [images[:, rank::processes] @ weight for rank in range(processes)]
    gradients = []
    for rank in range(processes):
        as_rank(rank, parts)
        own = weight.clone().requires_grad_()
        shared = koleo_loss(gather_rows(images[:, rank::processes] @ own))
        assert torch.equal(shared, loss)
        shared.backward()
        gradients.append(own.grad)
    # As DistributedDataParallel does.
    torch.testing.assert_close(sum(gradients) / processes, whole.grad, rtol=1e-12, atol=1e-12)


def test_rows_of_a_single_process_stay_as_they_are():
    rows = torch.randn(2, 3, 4, requires_grad=True)
    assert gather_rows(rows) is rows


def test_stochastic_depth_draws_for_the_images_of_all_processes():
    images = torch.ones(2 * 6, 3)  # two views of six images, one view after the other
    drop = DropPath(0.5)
    torch.manual_seed(1)
    whole = drop(images, 12).view(2, 6, 3)
    for rank in range(3):
        set_part(drop, rank, 3)
        torch.manual_seed(1)
        assert torch.equal(drop(torch.ones(4, 3), 4).view(2, 2, 3), whole[:, rank::3])
