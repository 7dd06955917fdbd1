"""A trial of some seconds: what it runs and what it measures, with a clock that is set."""

import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ibot.config.override import apply
from ibot.data.loader import MicroBatches
from ibot.data.sets.scan import scan
from ibot.engine import meter, random_steps, trial
from ibot.engine.checkpoint import save_checkpoint
from ibot.engine.optimizer import build_optimizer
from ibot.engine.random_steps import LONGEST, StepSize, affordable
from ibot.engine.trial import run_trial
from ibot.engine.update import Update
from ibot.errors import DataError
from ibot.method.model import StudentTeacher
from ibot.types import RunState

CPU = torch.device("cpu")


@pytest.fixture
def seen(monkeypatch):
    """Steps of real images: the sizes of their micro-batches, and whether they look closer. Reading
    a micro-batch takes a second; a step 10, a first one 1000.
    """
    steps, now = [], [0.0]
    plain_step, plain_get = Update.step, MicroBatches.__getitem__

    def step(self, batches, values, observe=True):
        assert values.lr > 0
        if batches[0].made is not None:
            now[0] += 10 if steps else 1000
            steps.append(([len(batch.index) for batch in batches], observe))
        return plain_step(self, batches, values, observe)

    def get(self, i):
        now[0] += 1
        return plain_get(self, i)

    monkeypatch.setattr(Update, "step", step)
    monkeypatch.setattr(MicroBatches, "__getitem__", get)
    for module in (trial, meter, random_steps):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(random_steps.RandomSteps, "seconds", lambda self, size: 0.01 * size.images)
    return steps


@pytest.mark.parametrize(
    ("whole", "sizes"),
    [
        (StepSize(8), [8]),
        (StepSize(4, 2), [4, 4]),
        (StepSize(64), [48]),
        (StepSize(32, 2), [32]),
        (StepSize(5, 1000), [5]),
    ],
)
def test_a_trial_takes_the_steps_of_the_run_as_far_as_images_and_time_go(small, seen, whole, sizes):
    config = apply(small, ["system.workers=0", "log.every=10", "train.batch=99"])
    measured = run_trial(config, scan(small.data.path), CPU, whole)
    assert all(step == sizes for step, _ in seen)
    assert measured.size == StepSize(sizes[0], len(sizes))
    # One step warms up for longer than all that follow; of these a run looks closer at every other.
    assert measured.steps == len(seen) - 1 == 3
    assert [observe for _, observe in seen] == [True, False, True, False]
    stages, parts = measured.stages, len(sizes)
    assert (stages.step, stages.waited, stages.total) == (10.0, parts, 10.0 + parts)
    assert stages.images == sum(sizes) and stages.workers == 0
    assert 0 < stages.busy <= 1.1 * (stages.decode + stages.draw)


def test_a_trial_has_the_loader_processes_of_a_run(small, monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 0.0)
    measured = run_trial(
        apply(small, ["system.workers=2"]), scan(small.data.path), CPU, StepSize(8)
    )
    assert measured.stages.workers == 2 and measured.stages.decode > 0


@pytest.mark.parametrize(
    ("per_image", "whole", "expected"),
    [
        (0.001, StepSize(128), StepSize(128)),
        (0.001, StepSize(128, 4), StepSize(128, 4)),
        (0.02, StepSize(128, 4), StepSize(128)),
        (0.1, StepSize(128), StepSize(32)),
        (9.0, StepSize(128), StepSize(2)),
        (9.0, StepSize(1, 8), StepSize(1)),
    ],
)
def test_a_step_is_the_whole_one_or_what_the_time_allows(per_image, whole, expected):
    taken = []

    def seconds(size):
        taken.append(size)
        return per_image * size.images

    found = affordable(seconds, whole)
    assert found == expected
    assert taken[0] == taken[1] and all(size.parts == 1 for size in taken)
    assert per_image * found.images <= LONGEST or found.images <= 2


def test_a_trial_tells_parameters_memory_and_the_size_of_a_checkpoint(small, seen, tmp_path):
    measured = run_trial(
        apply(small, ["system.workers=0"]), scan(small.data.path), CPU, StepSize(4)
    )
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
    monkeypatch.setattr(MicroBatches, "__getitem__", lambda self, i: DataError("no image"))
    with pytest.raises(DataError, match="no image"):
        run_trial(small, scan(small.data.path), CPU, StepSize(4))
