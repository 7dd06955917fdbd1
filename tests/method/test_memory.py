"""Memory by formula against what torch's profiler counts in a step."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.peaks import held_at_most

from ibot import apply, recipe
from ibot.engine.trial import VALUES, build_update
from ibot.kernels.choice import using
from ibot.kernels.library import has_blocks
from ibot.method.memory import Parameters, step_memory
from ibot.models.parameters import largest_block
from ibot.studies.probing import random_batch

CPU, MIB = torch.device("cpu"), 2**20
SIZES = {
    "sixteen tokens a view": ("tiny32", ["train.batch=32"]),
    "many tokens, many local views": (
        "tiny32",
        [
            *("train.batch=4", "augment.global_size=64", "augment.local_size=32"),
            *("augment.num_local=6", "model.patch=4", "model.depth=4", "head.out_dim=512"),
            *("head.patch_out_dim=512", "method.targets=center"),
        ],
    ),
    "few images, so that gradients count": (
        "tiny32",
        ["train.batch=8", "model.width=256", "model.depth=6", "model.heads=4"],
    ),
    "wide scores, no local views": (
        "vit_s16",
        [
            *("train.batch=8", "augment.num_local=0", "augment.global_size=96", "model.depth=4"),
            *("model.width=192", "model.heads=3", "model.drop_path=0", "head.hidden_dim=512"),
            *("head.out_dim=4096", "head.patch_out_dim=4096"),
        ],
    ),
}


def step_of(config):
    """An optimizer step of random images."""
    torch.manual_seed(0)
    update = build_update(config, CPU)
    rates = update.model.student.backbone.drop_rates
    batch = random_batch(config, config.train.batch, CPU, rates)
    return partial(update.step, [batch], VALUES, observe=False)


KERNELS = [
    "reference",
    pytest.param("auto", marks=pytest.mark.skipif(not has_blocks(), reason="no C was built")),
]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "settings"), SIZES.values(), ids=SIZES)
def test_the_peak_of_a_step_is_within_a_tenth_of_the_formula(name, settings, kind, kernels):
    own = [f"train.precision={kind}", f"system.kernels={kernels}"]
    config = apply(recipe(name), [*settings, *own])
    formula = step_memory(config, config.train.batch, half=kind == "bfloat16")
    with using(kernels):
        held = held_at_most(step_of(config)) * MIB
    # The profiler counts neither what was there before the step nor that gradients of the step
    # before are freed; the views are there before.
    by_formula = formula.peak - formula.views
    assert by_formula == pytest.approx(formula.states + held, rel=0.1)
    assert by_formula > 1.2 * formula.states, "else it shows nothing"


def test_a_step_that_is_measured_again_holds_the_same():
    kept, many = [], 64  # MiB: so large a block is put where the last one was

    def step():
        kept.clear()
        kept.append(torch.empty(many * MIB, dtype=torch.uint8))

    # From the second on, the step frees a block whose place was measured before.
    assert [held_at_most(step) for _ in range(3)] == [many] * 3


def test_parts_scale_as_they_should():
    config = apply(recipe("vit_s16"), ["train.accumulate=2"])
    one, four = step_memory(config, 16), step_memory(config, 64)
    assert four.activations == pytest.approx(4 * one.activations)
    assert (four.weights, four.optimizer, four.teacher) == (one.weights, one.optimizer, one.teacher)
    shared = step_memory(config, 16, shards=8)
    assert shared.states == pytest.approx(one.states / 8) and shared.activations == one.activations
    block, depth = largest_block(config.model), config.model.depth
    whole = Parameters.of(config).student - (depth - 1) * block
    assert shared.gathered == 16 * whole and one.gathered == 0
    assert one.accumulates and one.peak == sum(one.parts().values())
    assert not step_memory(recipe("vit_s16"), 16).accumulates
    assert step_memory(recipe("vit_s16"), 16, flat_gradients=True).accumulates
