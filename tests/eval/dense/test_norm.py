"""Batch norm over processes."""

import os

import pytest
import torch
from several import run_forked
from torch import nn
from torch.nn.functional import layer_norm

from ibot.eval.dense.norm import BatchNorm, MapNorm, conv_norm
from ibot.system.distributed import init_processes, shutdown, wrap_student

CHANNELS = 3
CPU = torch.device("cpu")


def network(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, CHANNELS, 3), norm(CHANNELS), nn.Conv2d(CHANNELS, 2, 1))


def parts():
    """Images of two sizes, as two processes see them."""
    generator = torch.Generator().manual_seed(1)
    return [5 + torch.randn(2, 2, 6, 8, generator=generator) for _ in range(2)]


@pytest.mark.distributed
def test_two_processes_compute_what_one_does_with_all_images(tmp_path):
    whole = network(nn.BatchNorm2d)
    whole(torch.cat(parts())).square().mean().backward()

    def work(rank):
        torch.set_num_threads(1)  # those of the parent do not survive the fork
        processes = init_processes(CPU)
        model = network(BatchNorm)
        wrapped = wrap_student(model, processes, CPU)
        wrapped(parts()[rank]).square().mean().backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        torch.save((found, model.state_dict()), tmp_path / f"{rank}.pt")
        del wrapped
        shutdown()

    codes, errors = run_forked(work, tmp_path)
    assert codes == [0, 0], errors
    for rank in range(2):
        grads, state = torch.load(tmp_path / f"{rank}.pt")
        for name, parameter in whole.named_parameters():
            torch.testing.assert_close(grads[name], parameter.grad, atol=1e-6, rtol=1e-5)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(state[name], value, atol=1e-6, rtol=1e-5)


def test_alone_it_is_the_norm_of_torch():
    maps = torch.randn(2, 2, 5, 5)
    torch.testing.assert_close(network(BatchNorm)(maps), network(nn.BatchNorm2d)(maps))
    assert "WORLD_SIZE" not in os.environ


def test_maps_are_normed_over_their_channels():
    maps = torch.randn(2, 4, 3, 5)
    expected = layer_norm(maps.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(MapNorm(4)(maps), expected)


def test_a_convolution_before_a_norm_keeps_the_size_and_has_no_bias():
    layer = conv_norm(2, 5, 3)
    assert layer(torch.randn(2, 2, 7, 4)).shape == (2, 5, 7, 4)
    assert layer[0].bias is None
    assert layer(torch.randn(2, 2, 7, 4)).min() == 0
    assert conv_norm(2, 5, 1, act=False)(torch.randn(2, 2, 7, 4)).min() < 0
