"""Share of a training step that the health monitor takes: python -m benchmarks.health [RECIPE]

Times `observe` at every step and `report` at every log step, against the step itself, in one
process; and the numbers that `training_step` computes for the monitor alone.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial

import torch

from benchmarks.step import make_batch
from ibot.engine.health import HealthMonitor
from ibot.engine.optimizer import build_optimizer
from ibot.engine.random_steps import VALUES
from ibot.engine.schedule import Schedules
from ibot.engine.update import Update
from ibot.method import step as method_step
from ibot.method.losses import teacher_probs
from ibot.method.model import StudentTeacher
from ibot.recipes import recipe
from ibot.system.device import autocast, choose_precision


def main() -> None:
    config = recipe(sys.argv[1] if len(sys.argv) > 1 else "tiny32")
    device = torch.device("cpu")
    precision = partial(autocast, device, choose_precision("auto", device))
    model = StudentTeacher(config)
    update = Update(
        model=model,
        student=model.student,
        optimizer=build_optimizer(model.student, config.optim),
        config=config,
        autocast=precision,
    )
    monitor = HealthMonitor.of(
        config,
        Schedules(
            config=config,
            steps_per_epoch=100,
            total_steps=1000,
            warmup_steps=10,
            temp_warmup_steps=0,
            freeze_steps=0,
            mask_start=0,
        ),
        num_images=50000,
    )
    batch = make_batch(config)
    steps, observing, reporting, numbers = [], [], [], []
    with torch.no_grad():
        teacher = model.teacher(batch.global_views, batch.masks)
        student = model.student(batch.global_views, batch.masks, batch.local_views)
        target = teacher_probs(teacher.cls, model.cls_center.value, 0.04)
        patch_target = teacher_probs(teacher.patch, model.patch_center.value, 0.04)
    for number in range(30):
        began = time.perf_counter()
        out = update.step([batch], VALUES)
        middle = time.perf_counter()
        monitor.observe(number, out, [batch], 0.1, 0.0)
        steps.append(middle - began)
        observing.append(time.perf_counter() - middle)
        began = time.perf_counter()
        method_step._observations(teacher, student, target, patch_target, batch)
        numbers.append(time.perf_counter() - began)
        if number % 10 == 9:
            began = time.perf_counter()
            monitor.report()
            reporting.append(time.perf_counter() - began)
    step, observe, report, made = (
        statistics.median(x) for x in (steps, observing, reporting, numbers)
    )
    every = max(1, config.log.every // 5)
    cost = observe + made / every + report / config.log.every
    print(
        f"step {step * 1e3:.1f} ms; numbers {made * 1e3:.2f} ms every {every}, observe "
        f"{observe * 1e3:.2f} ms, "
        f"report {report * 1e3:.2f} ms every {config.log.every} steps: {100 * cost / step:.2f} % "
        "of the step"
    )


if __name__ == "__main__":
    main()
