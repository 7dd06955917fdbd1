"""Rates, groups and the cut of a training; killed and resumed, alone and in two processes."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from coco_folder import write_coco
from commands import start_script
from drawn_objects import SMALL, SWIN, VIT, drawn_batch, small_detector
from several import run_forked

from ibot.data.annotated.coco_folders import open_coco
from ibot.errors import ConfigError
from ibot.eval.dense.detection.assign import Draws
from ibot.eval.dense.detection.settings import (
    DetectionSettings,
    own_settings,
    published_settings,
)
from ibot.eval.dense.detection.target import Batch, Target
from ibot.eval.dense.detection.training import (
    Plan,
    detection_lr,
    parameter_groups,
    plan_training,
    precision_of,
    train_detector,
)
from ibot.eval.fit import CHECKPOINT
from ibot.system.distributed import init_processes, shutdown, wrap_student
from ibot.system.processes import Processes

CPU = torch.device("cpu")
TINY = replace(
    SMALL, short=64, long=107, steps=6, checkpoint_steps=2, drop_path=0.2, precision="float32"
)


def test_rates_warm_up_and_drop_twice():
    settings = DetectionSettings()
    rates = [detection_lr(step, settings, 12000) for step in (0, 250, 499, 500, 7999, 8000, 10999)]
    assert rates == pytest.approx([1e-7, 5.005e-5, 9.98e-5, 1e-4, 1e-4, 1e-5, 1e-5], rel=1e-4)
    assert detection_lr(11000, settings, 12000) == pytest.approx(1e-6)
    # Warm-up and drops meet in a short training; the drops keep their share of it.
    assert detection_lr(66, settings, 100) == pytest.approx(1e-4 * (1 - 434 / 500 * 0.999))
    assert detection_lr(67, settings, 100) == pytest.approx(1e-5 * (1 - 433 / 500 * 0.999))


def by_name(detector, settings):
    """Factor of the rate and weight decay of each parameter that is trained."""
    names = {p: name for name, p in detector.named_parameters()}
    return {
        names[p]: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(detector, settings)
        for p in group["params"]
    }


def test_lower_blocks_of_a_vit_move_less_and_positions_decay():
    settings = replace(SMALL, layer_decay=0.8)
    detector = small_detector(settings=settings)
    found = by_name(detector, settings)
    trained = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    d = 0.8
    # Block j of 4 has d^(4 - j); published: d^(12 - j) of 12.
    for j in range(4):
        scale = pytest.approx(d ** (4 - j))
        assert found[f"backbone.blocks.{j}.mlp.fc1.weight"] == (scale, 0.05)
        assert found[f"backbone.blocks.{j}.mlp.fc1.bias"] == (scale, 0)
        assert found[f"backbone.blocks.{j}.norm1.weight"] == (scale, 0)
    for name in ("pos_embed", "cls_token", "patch_embed.proj.weight"):
        assert found[f"backbone.{name}"] == (pytest.approx(d**5), 0.05)
    for name in (
        "pyramid.steps.0.0.weight",
        "fpn.lateral.3.weight",
        "rpn.score.weight",
        "cascade.box_heads.2.fc.weight",
    ):
        assert found[name] == (1, 0.05)
    for name in (
        "pyramid.steps.0.1.weight",
        "fpn.lateral.3.bias",
        "cascade.mask_heads.0.twice.bias",
    ):
        assert found[name] == (1, 0)


def test_norms_and_bias_tables_of_a_swin_do_not_decay():
    settings = replace(SMALL, layer_decay=1.0)
    found = by_name(small_detector(SWIN, settings=settings), settings)
    assert {scale for scale, _ in found.values()} == {1}
    still = {name for name, (_, decay) in found.items() if not decay}
    assert "backbone.layers.0.blocks.0.attn.relative_position_bias_table" in still
    assert "pyramid.steps.2.weight" in still  # the new norm of a stage
    rest = {
        name for name in still if "norm" not in name and not name.endswith("position_bias_table")
    }
    assert rest == {f"pyramid.steps.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    for name in (
        "backbone.layers.0.blocks.0.mlp.fc1.bias",
        "rpn.conv.bias",
        "cascade.box_heads.0.convs.0.1.weight",
    ):
        assert found[name] == (1, 0.05)


def test_published_recipes():
    small, base = (published_settings(name, False) for name in ("small", "base"))
    assert (small.batch, small.micro_batch, small.layer_decay, small.drop_path) == (32, 4, 0.8, 0.1)
    assert (base.batch, base.micro_batch, base.layer_decay, base.drop_path) == (16, 2, 0.75, 0.2)
    assert (small.table, base.table) == ((800, 1008), (672, 1092))
    assert published_settings("large", False) == base
    tiny, wide = (published_settings(name, True) for name in ("small", "base"))
    assert (tiny.epochs, tiny.drops, tiny.layer_decay) == (36, (27, 33), 1)
    assert (tiny.drop_path, wide.drop_path) == (0.2, 0.3)


def test_ones_own_images_are_seen_in_proportion_to_the_network():
    published = published_settings("small", False)
    same = own_settings(published, num_images=117_266, size=224, width=384)
    assert same == replace(published, table=(800, 1024))
    own = own_settings(published, num_images=22, size=64, width=192)
    assert (own.steps, own.batch, own.short, own.channels) == (3000, 8, 224, 128)
    assert own.long == 373 and own.table == (224, 288) and own.hidden == 512
    assert own_settings(published, num_images=7999, size=224, width=384).steps == 3000
    assert own_settings(published, num_images=8000, size=224, width=384).steps == 0


@pytest.mark.parametrize(
    ("world", "micro", "expected"),
    [(1, 4, (4, 2)), (2, 4, (4, 2)), (4, 4, (2, 4)), (8, 4, (1, 8)), (1, 3, (2, 4))],
)
def test_a_batch_is_shared_in_micro_batches_as_large_as_allowed(sets, world, micro, expected):
    settings = replace(SMALL, batch=8, micro_batch=micro, steps=5)
    assert plan_training(sets[0], settings, world) == Plan(5, *expected)


def test_a_batch_that_processes_cannot_share_is_refused(sets):
    with pytest.raises(ConfigError, match="batch=8 cannot be shared by 3") as refused:
        plan_training(sets[0], replace(SMALL, batch=8), 3)
    assert "batch=6" in refused.value.fix


def test_passes_become_steps_of_both_groups(sets):
    images = sets[0]  # four are wider than high, or five
    groups = [(images.sizes[:, 1] > images.sizes[:, 0]).sum()]
    groups.append(len(images) - groups[0])
    steps = sum(-(-int(count) // 2) for count in groups)
    assert plan_training(images, replace(SMALL, epochs=3)).steps == 3 * steps


def test_a_cpu_computes_in_float32_unless_told_otherwise():
    assert precision_of(SMALL, CPU) == torch.float32
    assert precision_of(replace(SMALL, precision="bfloat16"), CPU) == torch.bfloat16


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return opened(write_coco(tmp_path_factory.mktemp("coco"), train=8, val=3))


def opened(folder):
    train, val = open_coco(str(folder))
    return train.to_train(), val


def train(sets, folder, config=VIT, settings=TINY, masks=True, **options):
    detector = small_detector(config, len(sets[0].categories), settings, masks=masks)
    plan = plan_training(sets[0], settings)
    return train_detector(detector, *sets, plan, device=CPU, folder=folder, masks=masks, **options)


def stored(folder):
    return torch.load(folder / CHECKPOINT, weights_only=True)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[name])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
        else:
            assert name == "params" or value == b[name], name


def killed_at_three(coco, folder):
    """A training that ends itself for good after its third step."""

    def progress(done, total):
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)  # as in the process that goes on
    train(opened(coco), Path(folder), progress=progress)


@pytest.mark.usefixtures("one_thread")
def test_a_training_killed_and_resumed_ends_bit_by_bit_the_same(sets, tmp_path):
    whole = train(sets, tmp_path / "whole")
    done = start_script(__file__, sets[0].root.parent, tmp_path / "cut").ended()
    assert done.returncode == -signal.SIGKILL, done
    assert stored(tmp_path / "cut")["step"] == 2  # the third is lost
    resumed = train(sets, tmp_path / "cut")
    a, b = stored(tmp_path / "whole"), stored(tmp_path / "cut")
    assert a["step"] == 6 and a["identity"] == b["identity"]
    assert_same(a["model"], b["model"])
    assert_same(a["optimizer"]["state"], b["optimizer"]["state"])
    assert resumed.found.results == whole.found.results and whole.found.read == {0, 1, 2}
    assert resumed.train_loss == whole.train_loss
    # What is done is not done again.
    again = train(sets, tmp_path / "cut", progress=lambda *_: pytest.fail("a step was repeated"))
    assert again.found.results == whole.found.results


def test_sets_without_masks_train_no_mask_heads(tmp_path):
    sets = opened(write_coco(tmp_path / "coco", train=4, val=2, masks=False))
    result = train(sets, tmp_path / "run", SWIN, replace(TINY, steps=2), masks=False)
    assert not any("mask" in name for name in stored(tmp_path / "run")["model"] if "heads" in name)
    assert not result.found.results["segm"] and result.found.read == {0, 1}
    assert result.train_loss > 2


def equal_images(numbers):
    """A micro-batch in float64, as for a sum in another order to change the last bits alone."""
    sizes = [(90, 120)] * len(numbers)
    batch = drawn_batch(numbers, [number % 3 for number in numbers], sizes)
    targets = [Target(t.boxes.double(), t.labels, t.masks) for t in batch.targets]
    return replace(batch, images=batch.images.double(), targets=targets)


def followed(processes, steps):
    """Losses of each step and the last weights, the images shared by the processes."""
    settings = replace(SMALL, drop_path=0.0, checkpointing=True, layer_decay=0.8)
    detector = small_detector(settings=settings).double().train()
    network = wrap_student(detector, processes, CPU)
    optimizer = torch.optim.AdamW(parameter_groups(detector, settings), lr=1e-3)
    losses = []
    for step in range(steps):
        numbers = tuple(range(4 * step, 4 * step + 4))[processes.rank :: processes.world_size]
        batch: Batch = equal_images(numbers)
        total = torch.stack(list(network(batch, Draws(0, step)).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses, detector.state_dict()


def compare(tmp_path, steps):
    """Two processes with half of the images each, and one with all."""

    def work(rank):
        processes = init_processes(CPU)
        torch.save(followed(processes, steps), tmp_path / f"{rank}.pt")
        shutdown()

    whole, weights = followed(Processes(), steps)
    codes, errors = run_forked(work, tmp_path, seconds=300)
    assert codes == [0, 0], errors
    (first, one), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    means = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert means == pytest.approx(whole, rel=1e-5) and first != pytest.approx(second, rel=1e-3)
    assert whole[-1] != pytest.approx(whole[0], rel=0.01)  # it trains
    for name, tensor in weights.items():
        assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.distributed
@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_the_numbers_of_one(tmp_path):
    compare(tmp_path, steps=3)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_the_numbers_of_one_for_20_steps(tmp_path):
    compare(tmp_path, steps=20)


if __name__ == "__main__":
    killed_at_three(*sys.argv[1:])
