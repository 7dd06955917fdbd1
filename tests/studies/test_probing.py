"""A probe takes the step that a run takes."""

import torch

from ibot import apply, recipe
from ibot.engine.random_steps import random_batch
from ibot.engine.update import Update
from ibot.kernels import choice
from ibot.studies.probing import probe

SMALL = [
    *("model.width=16", "model.depth=2", "model.heads=2", "model.drop_path=0.5"),
    *("head.hidden_dim=8", "head.bottleneck_dim=8", "head.out_dim=16", "head.patch_out_dim=16"),
    *("train.batch=8", "train.accumulate=2", "system.kernels=reference"),
]
CPU = torch.device("cpu")


def test_a_probe_takes_the_steps_paths_and_draws_that_a_run_would(monkeypatch):
    seen = []

    def step(self, batches, values, observe):
        seen.append((choice._current.mode, len(batches), batches[0]))

    monkeypatch.setattr(Update, "step", step)
    found = probe(apply(recipe("tiny32"), SMALL), 4, 1e-3)
    assert (found.images, found.step_seconds / found.per_image) == (8, 8) and found.steps >= 3
    for mode, _, batch in seen:
        images = batch.global_views.shape[1]
        assert mode == "reference" and batch.drop.shape == (2, 2, 4 * images)
    assert {parts for _, parts, _ in seen[-found.steps :]} == {2}


def test_without_stochastic_depth_nothing_is_drawn():
    config = apply(recipe("tiny32"), [*SMALL, "model.drop_path=0"])
    assert random_batch(config, 2, CPU).drop is None


def test_visible_patches_of_a_probe_that_predict_the_other_view_are_those_that_it_shows():
    own, other = (
        random_batch(apply(recipe("tiny32"), [*SMALL, f"method.visible_target={target}"]), 64, CPU)
        for target in ("own", "other")
    )
    assert torch.equal(own.masks.map, other.masks.map)
    visible = other.masks.visible
    assert own.masks.visible.target is None and len(visible.target) == len(visible.index)
    assert 0.6 < len(visible.index) / len(own.masks.visible.index) < 0.95
