"""A trial of a few steps: what it runs and what it measures, with a clock that is set."""

import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ibot.config.override import apply
from ibot.data.sets.scan import scan
from ibot.engine import meter, trial
from ibot.engine.checkpoint import save_checkpoint
from ibot.engine.optimizer import build_optimizer
from ibot.engine.trial import run_trial
from ibot.method.model import StudentTeacher
from ibot.types import RunState

CPU = torch.device("cpu")


@pytest.fixture
def seen(monkeypatch):
    """Sizes of the batches of the steps; reading the k-th batch takes k + 1 seconds, a step 10
    times that.
    """
    sizes, now = [], [0.0]
    plain_step, plain_get = trial.Update.step, trial.MicroBatches.__getitem__

    def step(self, batches, values, observe=True):
        assert values.lr > 0 and observe
        sizes.append([len(batch.index) for batch in batches])
        now[0] += 10 * len(sizes)
        return plain_step(self, batches, values)

    def get(self, i):
        assert i == len(sizes)
        now[0] += i + 1
        return plain_get(self, i)

    monkeypatch.setattr(trial.Update, "step", step)
    monkeypatch.setattr(trial.MicroBatches, "__getitem__", get)
    for module in (trial, meter):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return sizes


@pytest.mark.parametrize(
    ("settings", "images", "size"),
    [
        (["train.batch=8"], 6, 6),
        (["train.batch=8"], 100, 8),
        (["train.batch=8", "train.accumulate=2"], 100, 4),
        (["train.batch=64"], 100, 48),
    ],
)
def test_a_trial_takes_no_more_images_than_a_micro_batch_or_the_folder_has(
    small, seen, settings, images, size
):
    measured = run_trial(apply(small, settings), scan(small.data.path), CPU, images)
    assert seen == [[size]] * 4 and measured.images == size
    stages = measured.stages  # of the middle one: the first step warms up
    assert (stages.step, stages.waited, stages.total) == (30.0, 3.0, 33.0)
    assert stages.images == size and stages.workers == 0
    assert 0 < stages.busy <= 1.1 * (stages.decode + stages.draw)


def test_a_trial_tells_parameters_memory_and_the_size_of_a_checkpoint(small, seen, tmp_path):
    measured = run_trial(small, scan(small.data.path), CPU, 4)
    model = StudentTeacher(small)
    optimizer = build_optimizer(model.student, small.optim)
    for p in model.student.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    final = save_checkpoint(tmp_path, model, optimizer, RunState(), config=small)
    written = sum(file.stat().st_size for file in final.iterdir())
    assert 0.8 * written < measured.checkpoint * 2**30 <= written  # but for names and settings
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert measured.parameters == sum(np.prod(p.shape) for p in trained)
    assert (
        0.1 < measured.memory <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 * 1.01
    )
    tensors = [*model.student.state_dict().values(), *model.teacher.state_dict().values()]
    floats = sum(t.numel() for t in tensors) + 2 * measured.parameters
    assert measured.checkpoint == pytest.approx(
        4 * floats / 2**30, rel=1e-3
    )  # and the count of steps


def test_an_image_that_cannot_be_read_ends_the_trial(small, monkeypatch):
    monkeypatch.setattr(trial.MicroBatches, "__getitem__", lambda self, i: ValueError("no image"))
    with pytest.raises(ValueError, match="no image"):
        run_trial(small, scan(small.data.path), CPU, 4)
