"""Stochastic depth in a run: alike for any cutting of its steps, and in older runs as it was."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ibot.config.override import apply
from ibot.engine import trainer
from ibot.engine.checkpoint import find_checkpoint
from ibot.engine.loop import train
from ibot.models.backbone import build_backbone
from ibot.system.jsonl import read_jsonl
from ibot.types import RunState

SWIN = [
    *("model.kind=swin", "model.width=12", "model.depths=2,2", "model.stage_heads=1,2"),
    *("model.window=2", "model.patch=4"),
]
KINDS = {"vit": ["model.depth=3"], "swin": SWIN}


@pytest.fixture
def dropping(small):
    more = ["model.drop_path=0.4", "log.every=1", "train.max_steps=4", "augment.num_local=2"]
    # No part of the loss that hangs on what else is in a micro-batch.
    whole = ["method.targets=center", "method.koleo_weight=0"]
    return apply(small, [*more, *whole, "evaluate.match=0", "checkpoint.every=0 steps"])


def losses(run):
    rows = read_jsonl(run / "metrics.jsonl")
    return np.array([[row["cls_loss"], row["patch_loss"]] for row in rows])


def weights(run):
    return load_file(find_checkpoint(run) / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_micro_batches_drops_alike(dropping, tmp_path, monkeypatch, kind):
    for accumulate in (1, 2, 4):
        config = apply(dropping, [*KINDS[kind], f"train.accumulate={accumulate}"])
        train(config, tmp_path / str(accumulate), quiet=True)
    want = losses(tmp_path / "1")
    assert want.shape == (4, 2)
    for accumulate in (2, 4):
        np.testing.assert_allclose(losses(tmp_path / str(accumulate)), want, rtol=1e-4)
    before(monkeypatch)
    train(apply(dropping, KINDS[kind]), tmp_path / "before", quiet=True)
    assert np.abs(losses(tmp_path / "before") / want - 1).max() > 1e-3


def before(monkeypatch):
    """Runs begin by the first rule from now on."""
    monkeypatch.setattr(trainer, "RunState", partial(RunState, draws=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_the_first_rule_goes_on_by_it_bit_by_bit(dropping, tmp_path, monkeypatch, kind):
    config = apply(dropping, ["train.accumulate=2", "train.precision=bfloat16", *KINDS[kind]])
    half = apply(config, ["train.max_steps=2"])
    train(config, tmp_path / "new", quiet=True)
    with monkeypatch.context() as patched:
        before(patched)  # there were no fast paths then
        plain = ["system.kernels=reference"]
        train(apply(config, plain), tmp_path / "whole", quiet=True)
        train(apply(half, plain), tmp_path / "halves", quiet=True)
    file = find_checkpoint(tmp_path / "halves") / "state.json"
    state = json.loads(file.read_text())
    assert state.pop("draws") == 1
    file.write_text(json.dumps(state))  # as a version wrote it that knew no other rule
    state = train(config, tmp_path / "halves", quiet=True)
    assert (state.step, state.draws) == (4, 1)
    said = (tmp_path / "halves" / "log.txt").read_text()
    assert "kernels: the plain forms alone (with which this run began;" in said
    want, got = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())
    other = weights(tmp_path / "new")
    assert any(not torch.equal(other[name], tensor) for name, tensor in want.items())


def test_a_resumed_run_draws_as_one_that_never_stopped(dropping, tmp_path):
    train(dropping, tmp_path / "whole", quiet=True)
    train(apply(dropping, ["train.max_steps=3"]), tmp_path / "parts", quiet=True)
    torch.manual_seed(1)  # whatever torch drew in between
    assert train(dropping, tmp_path / "parts", quiet=True).draws == 2
    want, got = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(got[name], tensor) for name, tensor in want.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_treated_by_its_own_factors_whatever_is_beside_it(dropping, kind):
    """Also in unequal parts."""
    model = apply(dropping, KINDS[kind]).model
    net = build_backbone(model, (32, 32), drop_path=0.4, masked=True).double().train()
    images, mask = (
        torch.randn(6, 3, 32, 32, dtype=torch.float64),
        torch.rand(6, net_cells(net)) < 0.4,
    )
    rates = torch.tensor(net.drop_rates)[:, None, None]
    drop = torch.where(torch.rand(len(rates), 2, 6) < 0.4, 0, 1 / (1 - rates)) * 1.0
    rows = torch.arange(0, 6 * (1 + net_cells(net)), 2)
    whole, some = net(images, mask, drop), net.forward_rows(images, mask, rows, drop)
    tokens = torch.cat([whole.cls[:, None], whole.patches], dim=1)
    torch.testing.assert_close(some, tokens.flatten(0, 1)[rows])
    start = 0
    for size in (1, 2, 3):
        own = slice(start, start + size)
        got = net(images[own], mask[own], drop[..., own])
        torch.testing.assert_close(got.patches, whole.patches[own])
        start += size
    kept = net(images, mask, torch.ones_like(drop)).patches
    torch.testing.assert_close(net.eval()(images, mask).patches, kept)


def net_cells(net):
    rows, columns = net.token_grid(32, 32)
    return rows * columns
