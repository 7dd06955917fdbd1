"""Detection and instance segmentation: Cascade Mask R-CNN, scored as COCO is (paper tables 6, 13;
spec_evaluation 8.9).
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

from ibot.errors import ConfigError
from ibot.eval.context import plain
from ibot.eval.dense.detection.context import DetectionContext
from ibot.eval.dense.detection.detector import Detector
from ibot.eval.dense.detection.settings import (
    WARMUP_STEPS,
    DetectionSettings,
    own_settings,
    published_settings,
)
from ibot.eval.dense.detection.training import (
    DetectionResult,
    Plan,
    plan_training,
    train_detector,
)
from ibot.eval.dense.pyramid import Pyramid
from ibot.eval.features.rows import unread
from ibot.eval.tune.finetune import nearest_architecture
from ibot.models.contract import Backbone
from ibot.types import ResultRecord
from ibot.words import counted

log = logging.getLogger("ibot")

LONG = 10**8
"""Pixels of all inputs of a training, above which a CPU may take hours; a network of a few blocks
sees some ten million in a minute."""
NAMES = {"bbox": "box", "segm": "mask"}
"""Of COCO's kinds in the records."""
METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
"""Figures with a record of their own, in per cent."""


def defaults(context: DetectionContext) -> DetectionSettings:
    """The recipe of COCO in published mode; else one in proportion to network and images."""
    backbone = context.loaded.backbone
    in_stages = len(backbone.depths) > 1
    published = published_settings(nearest_architecture(backbone.embed_dim), in_stages)
    if context.mode == "published":
        return published
    return own_settings(
        published,
        num_images=len(context.train),
        size=min(context.loaded.size),
        width=backbone.embed_dim,
    )


def run(context: DetectionContext, settings: DetectionSettings) -> list[ResultRecord]:
    """AP of boxes, and of masks where both sets have them, after the last step.

    Nothing is chosen, in neither mode. Checkpoints lie in a folder of `out` of their own; the same
    command resumes them. What is found lies there too, in COCO's format of results.
    """
    learned, judged = context.has_masks
    settings = replace(settings, masks=settings.masks and learned)
    masks = settings.masks and judged
    plan = plan_training(context.train, settings, context.processes.world_size)
    if settings.warmup_steps is None and context.mode == "clean":
        settings = replace(settings, warmup_steps=min(WARMUP_STEPS, plan.steps // 10))
    _warn_of_hours(context, settings, plan)
    _check(context.loaded.backbone)
    detector = Detector(
        copy.deepcopy(context.loaded.backbone),
        context.num_classes,
        settings,
        masks=settings.masks,
        seed=context.seed,
    ).to(context.device)
    folder = context.out / f"detection-{context.identity('detection', plain(settings))}"
    result = train_detector(
        detector,
        context.train,
        context.val,
        plan,
        device=context.device,
        folder=folder,
        masks=masks,
        processes=context.processes,
        seed=context.seed,
        workers=context.workers,
        progress=context.counter("steps"),
    )
    precision = result.found.precision(context.processes)
    files: list[str] = []
    if context.processes.is_main:
        files = [str(file) for file in result.found.write(folder)]
    notes = _notes(context, settings, plan, result)
    records: list[ResultRecord] = []
    for kind, (figures, by_class) in precision.items():
        shown = {name: value for name, value in figures.items() if name in METRICS}
        for name, value in shown.items():
            if value is None:
                continue
            # What belongs to a training stands in its first record.
            about = {"figures": figures, "by_class": by_class, "train_loss": result.train_loss}
            records.append(
                context.record(
                    "detection",
                    f"{NAMES[kind]}_{name.lower()}",
                    value,
                    plain(settings),
                    notes=notes,
                    **({**about, "files": files} if name == "AP" else {}),
                )
            )
    return records


def _check(backbone: Backbone) -> None:
    """Raise ConfigError for a network whose maps make no pyramid."""
    try:
        Pyramid.of(backbone)
    except ValueError as error:
        raise ConfigError(
            f"there are no detectors on {backbone.family}s like this one",
            why=str(error),
            fix="use a network whose patches have 8, 16 or 32 pixels, or one in stages",
        ) from None


def _warn_of_hours(context: DetectionContext, settings: DetectionSettings, plan: Plan) -> None:
    """Say before a long training on a CPU how long it is, and what shortens it."""
    pixels = plan.steps * plan.batch * settings.short**2
    if context.device.type == "cpu" and pixels > LONG and context.processes.is_main:
        log.warning(
            "%d steps of %d images with a shorter side of %d pixels may take hours on a CPU: "
            "steps=, batch= and short= make them less",
            plan.steps,
            plan.batch,
            settings.short,
        )


def _notes(
    context: DetectionContext, settings: DetectionSettings, plan: Plan, result: DetectionResult
) -> list[str]:
    notes = unread([(name, reason) for _, name, reason in result.bad])
    if settings.steps:
        passes = plan.steps * plan.batch / len(context.train)
        notes.append(
            f"trained for {counted(plan.steps, 'step')}, {counted(round(passes, 1), 'pass')} over "
            f"{counted(len(context.train), 'image')}"
        )
    notes.append(f"tested with a shorter side of {settings.short} pixels (short)")
    warmup = WARMUP_STEPS if settings.warmup_steps is None else settings.warmup_steps
    if plan.steps <= warmup:
        notes.append(
            f"the rate was in its warm-up of {counted(warmup, 'step')} to the end; "
            "warmup_steps= shortens it"
        )
    if settings.norm == "group":
        notes.append("group norm in the box heads, where the published ones have batch norm")
    elif plan.together < 8:
        notes.append(
            f"batch norm of {counted(plan.together, 'image')} at a time, published: 32 or 16"
        )
    return notes
