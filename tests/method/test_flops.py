"""Products by formula against torch's counter, on tensors without memory."""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.published_step import PublishedStep

from ibot import apply, recipe
from ibot.config.override import diff
from ibot.config.schema import Config
from ibot.engine.random_steps import VALUES
from ibot.kernels.choice import using
from ibot.method.flops import Rows, patches, published_flops, step_flops
from ibot.method.model import StudentTeacher
from ibot.method.step import training_step
from ibot.recipes import RECIPES
from ibot.types import Batch, Masks

NETWORKS = {
    "tiny32": [],
    "demo": [],
    "tiny64": [],
    "vit_s16": ["one_gpu", "adapt"],
    "vit_s16_k1000": [],
    "ablation_base": [],
    "vit_b16": ["vit_b16_rand", "vit_b16_in22k"],
    "vit_l16": ["vit_l16_rand", "vit_l16_in22k"],
    "swin_t7": [],
    "swin_t14": [],
}
"""Recipes whose products differ, and those that share them: masks are set here, lengths are not
counted."""
COUNTED = [
    name if name in ("tiny32", "vit_s16") else pytest.param(name, marks=pytest.mark.slow)
    for name in NETWORKS
]
"""Counting takes a second of processor for a small network, six for a Swin."""
SHAPES = ("model.", "head.", "augment.num", "augment.global_size", "augment.local_size")
MASKED = 20
"""Patches of the one image in the loss."""


@pytest.fixture(autouse=True)
def no_precision(monkeypatch):
    """There is none for tensors without memory."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())


def masks_of(num_views, places, masked):
    index = torch.zeros(masked, dtype=torch.int64, device="meta")
    hidden = torch.zeros(num_views, 1, places, dtype=torch.bool, device="meta")
    return Masks(hidden, index, torch.ones(masked, device="meta"))


def batch_of(config, masked, masked_local=0):
    """One image without pixels."""
    augment = config.augment
    masks = masks_of(augment.num_global, patches(config, augment.global_size), masked)
    if masked_local:
        local = masks_of(augment.num_local, patches(config, augment.local_size), masked_local)
        masks = Masks(masks.map, masks.index, masks.weight, None, local)
    views = [
        torch.zeros(count, 1, 3, *size, device="meta")
        for count, size in (
            (augment.num_global, augment.global_size),
            (augment.num_local, augment.local_size),
        )
    ]
    return Batch(views[0], views[1] if augment.num_local else None, masks, np.arange(1))


def counted(loss_of):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        loss_of().backward()
    return counter.get_total_flops()


def counted_step(config, batch):
    with torch.device("meta"):
        model = StudentTeacher(config)
    step = partial(training_step, model, model.student, batch, VALUES, config.method, observe=False)
    with using("reference"):  # fast paths have products of their own
        return counted(lambda: step().loss)


@pytest.mark.parametrize("name", COUNTED)
def test_products_of_a_step_are_those_that_the_counter_finds(name):
    config = recipe(name)
    counter = counted_step(config, batch_of(config, MASKED))
    assert step_flops(config, MASKED).total == pytest.approx(counter, rel=0.01)


@pytest.mark.parametrize("name", COUNTED)
def test_products_of_the_published_step_are_those_that_the_counter_finds(name):
    config = recipe(name)
    with torch.device("meta"):
        published = PublishedStep(config)
    batch = batch_of(config, MASKED)
    counter = counted(lambda: published.loss(batch, VALUES))
    assert published_flops(config).total == pytest.approx(counter, rel=0.01)


def test_every_recipe_is_among_those_that_were_counted():
    named = [*NETWORKS, *(other for others in NETWORKS.values() for other in others)]
    assert sorted(named) == sorted(RECIPES)
    for name, others in NETWORKS.items():
        for other in others:
            differing = [key for key, _, _ in diff(recipe(name), recipe(other))]
            # The rate of stochastic depth and whether lengths are trained change no product.
            differing = [key for key in differing if key.startswith(SHAPES)]
            assert not differing, (name, other)


SETTINGS = {
    "own last layers": ["head.shared=false", "head.shared_teacher=false", "head.patch_out_dim=512"],
    "batch norm in the head": ["head.norm=bn"],
    "no bottleneck": ["head.bottleneck_dim=0"],
    "mean pooling": ["model.mean_pooling=true"],
    "registers": ["model.registers=4"],
    "no square": ["augment.global_size=32,48"],
    "one global view": ["augment.num_global=1"],
    "all patches balanced": ["method.patch_balance=all"],
    "a Swin whose maps are padded": [
        *("model.kind=swin", "model.width=16", "model.depths=1,2", "model.stage_heads=1,2"),
        *("model.window=3", "model.patch=4", "augment.local_size=20"),
    ],
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_products_follow_the_settings(settings):
    config = apply(recipe("tiny32"), ["model.depth=2", *settings])
    counter = counted_step(config, batch_of(config, 6))
    assert step_flops(config, 6).total == pytest.approx(counter, rel=0.01)


def test_all_patches_are_in_a_loss_with_visible_ones():
    plain, visible = (
        Rows.of(apply(recipe("tiny32"), [f"method.visible_weight={weight}", "mask.views=first"]))
        for weight in (0, 1)
    )
    assert visible.masked == 2 * plain.places > plain.masked


def test_masks_of_local_views_make_the_teacher_see_them():
    config = apply(recipe("tiny32"), ["mask.views=all", "augment.num_local=4", "model.depth=1"])
    rows = Rows.of(config, 12)
    assert rows.masked_local == 4 and rows.masked == 12  # in proportion to the patches: 32 and 16
    counter = counted_step(config, batch_of(config, 8, 4))
    assert step_flops(config, 12).total == pytest.approx(counter, rel=0.01)


def test_published_totals_are_those_that_were_measured():
    small = ["augment.global_size=32", "augment.local_size=16", "augment.num_local=4"]
    small += ["model.width=192", "model.heads=3", "model.patch=4"]
    small += ["head.out_dim=4096", "head.patch_out_dim=4096"]
    totals = [published_flops(apply(Config(), settings)).total / 1e9 for settings in ([], small)]
    assert totals == pytest.approx([159.5, 16.69], abs=0.05)
    assert Rows.of(Config()).masked == pytest.approx(0.15 * 2 * 196)
