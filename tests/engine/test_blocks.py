"""Blocks that are recomputed and compiled, and views in one pass, give what they give plainly."""

import copy
from collections import Counter

import pytest
import torch
from torch._dynamo.utils import counters

from ibot.config.override import apply
from ibot.data.loader import Loader
from ibot.data.sets.scan import scan
from ibot.engine.blocks import _recomputed, prepare_blocks, recurring
from ibot.engine.loop import mask_grid, train
from ibot.engine.optimizer import build_optimizer
from ibot.engine.random_steps import VALUES
from ibot.engine.transfer import to_device
from ibot.engine.update import Update
from ibot.kernels import blocks
from ibot.kernels.choice import using
from ibot.method.model import StudentTeacher
from ibot.models import fused
from ibot.models.contract import Views
from ibot.models.layers import Block
from ibot.models.vit import VisionTransformer
from ibot.system.jsonl import read_jsonl
from ibot.types import Batch

CPU = torch.device("cpu")
SWIN = [
    *("model.kind=swin", "model.patch=4", "model.depths=(1,2)", "model.stage_heads=(2,2)"),
    *("model.width=16", "model.window=2", "head.bottleneck_dim=16"),
]


def first_batch(config, seed=0) -> Batch:
    """Real views in float64, with other masks for another seed."""
    config = apply(config, [f"train.seed={seed}"])
    rates = StudentTeacher(config).student.backbone.drop_rates
    source = scan(config.data.path)
    loader = Loader(config, source, grid=mask_grid(config), end_step=1, drop_rates=rates)
    batch = to_device(next(iter(loader))[0], CPU, config)
    local = None if batch.local_views is None else batch.local_views.double()
    return Batch(batch.global_views.double(), local, batch.masks, batch.index, drop=batch.drop)


def build(config, backend="") -> Update:
    """In float64; prepared as for training when there is a backend."""
    torch.manual_seed(0)
    model = StudentTeacher(config).double()
    if backend:
        prepare_blocks(model, config.system, CPU, backend=backend)
    return Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
    )


def gradients(update: Update, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a step."""
    out = update.step([batch], VALUES)
    found = update.model.student.named_parameters()
    return out.loss.item(), {name: p.grad for name, p in found if p.grad is not None}


def same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-12)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        torch.testing.assert_close(grad, other[1][name], rtol=1e-9, atol=1e-12, msg=name)


@pytest.fixture
def config(small):
    return apply(small, ["model.drop_path=0.4", "model.registers=1", "model.layer_scale=0.5"])


@pytest.mark.parametrize("kept", ["selective", "blocks"])
@pytest.mark.parametrize("network", [[], SWIN], ids=["vit", "swin"])
def test_recomputed_blocks_give_the_same_step_for_less_memory(small, network, kept):
    config = apply(small, ["model.drop_path=0.4", *network])
    batch, held = first_batch(config), {}
    plain = build(config)
    want = gradients(plain, batch)
    other = build(apply(config, [f"system.checkpoint_activations={kept}"]), "eager")
    same(gradients(other, batch), want)
    for name, update in (("plain", plain), ("recomputed", other)):
        held[name] = held_by_blocks(update, batch)
    assert held["recomputed"] < (0.75 if kept == "selective" else 0.3) * held["plain"]


@pytest.mark.parametrize("mode", ["require", "reference"])
@pytest.mark.skipif(not blocks.is_built(), reason="the kernels were not built")
def test_a_block_in_c_is_not_recomputed_selectively(mode, monkeypatch):
    block, passes = Block(32, 2, 64, 0.0, layer_scale=0.0, norm_eps=1e-6, act="gelu"), []
    if mode == "reference":
        block.norm1.register_forward_pre_hook(lambda *_: passes.append("plain"))
    once = fused._forward
    monkeypatch.setattr(fused, "_forward", lambda *given: passes.append("C") or once(*given))
    x = torch.randn(2, 5, 32, requires_grad=True)
    with using(mode):
        _recomputed(block.forward, selective=True)(x, drop=None).sum().backward()
    assert passes == (["C"] if mode == "require" else ["plain", "plain"])


def held_by_blocks(update: Update, batch: Batch) -> int:
    """Bytes that a forward pass leaves for the backward pass."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    # Patches that were cut for one product are no blocks'.
    with (
        using("auto", without=["patch embedding"]),
        torch.profiler.profile(activities=activities, profile_memory=True) as profile,
    ):
        out = update.model.student.backbone(batch.global_views.flatten(0, 1), None, None)
    events = profile.profiler.kineto_results.events()
    held = sum(event.nbytes() for event in events if event.name() == "[memory]")
    del out
    return held


def test_blocks_that_draw_for_themselves_draw_alike_when_recomputed(config):
    batch = first_batch(config)
    batch = Batch(batch.global_views, batch.local_views, batch.masks, batch.index)
    updates = (
        build(config),
        build(apply(config, ["system.checkpoint_activations=blocks"]), "eager"),
        build(apply(config, ["system.compile=on"]), "eager"),
    )
    found = []
    for update in updates:
        torch.manual_seed(3)
        found.append(gradients(update, batch))
    same(found[1], found[0])
    same(found[2], found[0])


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["off", "selective", "blocks"])
def test_compiled_blocks_give_the_same_step_under_the_same_names(config, kept):
    settings = ["system.compile=on", f"system.checkpoint_activations={kept}"]
    batch, plain = first_batch(config), build(config)
    torch._dynamo.reset()
    compiled = build(apply(config, settings), "aot_eager")
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    same(gradients(compiled, batch), gradients(plain, batch))


@pytest.mark.parametrize(("visible", "more"), [(0, 0), (1, 1)])
def test_other_masks_and_deeper_networks_compile_nothing_anew(config, visible, more):
    """With a loss on visible patches once, for other numbers of rows of the last block."""
    config = apply(config, ["model.depth=4", f"method.visible_weight={visible}"])
    torch._dynamo.reset()
    counters.clear()
    update = build(apply(config, ["system.compile=on"]), "eager")
    batch = first_batch(config)
    same(gradients(update, batch), gradients(build(config), batch))
    # Teacher; global and local views of the student, the last block, and the first, never dropped.
    assert counters["stats"]["unique_graphs"] == 7 and not counters["graph_break"]
    shown = []
    for seed in (1, 2, 3, 4):
        other = first_batch(config, seed)
        shown.append(len(other.masks.index))
        gradients(update, other)
    assert len({len(batch.masks.index), *shown}) >= 3
    assert counters["stats"]["unique_graphs"] == 7 + more


def test_numbers_of_rows_recur_and_are_an_eighth_more_on_average():
    padded = {n: recurring(n) for n in range(1, 9000)}
    assert all(n <= more for n, more in padded.items())
    assert len({more for n, more in padded.items() if 2500 < n <= 5000}) == 5
    extra = [more / n for n, more in padded.items() if n > 1000]
    assert max(extra) < 1.25 and sum(extra) / len(extra) < 1.13


def test_an_evaluation_and_a_copy_run_what_was_written(config):
    torch._dynamo.reset()
    counters.clear()
    update = build(apply(config, ["system.compile=on"]), "eager")
    backbone = update.model.teacher.backbone
    copied = copy.deepcopy(backbone)
    images = torch.randn(3, 3, 40, 24, dtype=torch.float64)
    with torch.no_grad():
        want = build(config).model.teacher.backbone.eval()(images).patches
        assert torch.equal(copied.train()(images).patches, want)
        with torch.no_grad():
            for block in copied.blocks:
                block.attn.proj.weight.zero_()
        assert torch.equal(backbone.eval()(images).patches, want)
        assert not torch.equal(copied(images).patches, want)
    assert not counters["stats"]


def test_a_run_that_recomputes_is_the_run_that_does_not(small, tmp_path):
    rows = []
    for kept in ("off", "selective"):
        settings = ["train.max_steps=4", "log.every=1", f"system.checkpoint_activations={kept}"]
        train(apply(small, settings), tmp_path / kept, quiet=True)
        rows.append(read_jsonl(tmp_path / kept / "metrics.jsonl"))
    assert len(rows[0]) == 4
    for plain, recomputed in zip(*rows, strict=True):
        assert [plain[name] for name in ("cls_loss", "grad_backbone")] == pytest.approx(
            [recomputed[name] for name in ("cls_loss", "grad_backbone")], rel=1e-6
        )


# Packed views.


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["mask.views=all"],
        ["head.bottleneck_dim=0"],
        ["model.act=silu"],
    ],
)
def test_views_of_both_sizes_in_one_pass_give_the_same_step(config, settings, monkeypatch):
    config = apply(config, settings)
    batch, passes = first_batch(config), Counter()
    assert batch.drop is not None and (batch.drop == 0).any()
    want = gradients(build(config), batch)
    monkeypatch.setattr(VisionTransformer, "_packs", lambda self, views, drop: len(views) > 1)
    update = build(config)
    update.model.student.backbone.blocks[0].register_forward_hook(
        lambda *_: passes.update(["packed"])
    )
    same(gradients(update, batch), want)
    assert passes["packed"] == 1


def test_packed_compiled_and_recomputed_together_give_the_same_step(config, monkeypatch):
    batch = first_batch(config)
    want = gradients(build(config), batch)
    monkeypatch.setattr(VisionTransformer, "_packs", lambda self, views, drop: len(views) > 1)
    torch._dynamo.reset()
    settings = ["system.compile=on", "system.checkpoint_activations=selective"]
    same(gradients(build(apply(config, settings), "eager"), batch), want)


def test_blocks_that_draw_for_themselves_are_not_packed(config, monkeypatch):
    monkeypatch.setattr("ibot.models.vit.chosen", lambda *_, **__: True)
    student, images = build(config).model.student, torch.empty(2, 3, 32, 32, device="meta")
    views = [Views(images, None, torch.arange(2))] * 2
    assert not student.backbone._packs(views, None)
    assert not student.eval().backbone._packs(views[:1], None)
