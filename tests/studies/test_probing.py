"""A probe takes the step that a run takes."""

import torch

from ibot import apply, recipe
from ibot.engine.update import Update
from ibot.kernels import choice
from ibot.studies.probing import probe, random_batch

SMALL = [
    *("model.width=16", "model.depth=2", "model.heads=2", "model.drop_path=0.5"),
    *("head.hidden_dim=8", "head.bottleneck_dim=8", "head.out_dim=16", "head.patch_out_dim=16"),
    *("train.batch=8", "system.kernels=reference"),
]
CPU = torch.device("cpu")


def test_a_probe_takes_the_paths_and_draws_that_a_run_would(monkeypatch):
    seen = []

    def step(self, batches, values, observe):
        seen.append((choice._current.mode, batches[0]))

    monkeypatch.setattr(Update, "step", step)
    found = probe(apply(recipe("tiny32"), SMALL), CPU, 1e-3)
    assert found.steps > 1
    for mode, batch in seen:
        images = batch.global_views.shape[1]
        assert mode == "reference" and batch.drop.shape == (2, 2, 4 * images)


def test_without_stochastic_depth_nothing_is_drawn():
    config = apply(recipe("tiny32"), [*SMALL, "model.drop_path=0"])
    assert random_batch(config, 2, CPU).drop is None
