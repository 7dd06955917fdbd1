"""Semantic segmentation of a set of images with label maps (paper tables 6, 13, 14; 8.10, 8.11)."""

from __future__ import annotations

import copy
from pathlib import Path

from ibot.eval.context import plain
from ibot.eval.dense.segmentation.frozen import train_on_cells
from ibot.eval.dense.segmentation.network import Segmenter
from ibot.eval.dense.segmentation.plan import RateImages, plan, rate_images
from ibot.eval.dense.segmentation.settings import SegmentationSettings
from ibot.eval.dense.segmentation.training import NO_RESULT, train_segmenter
from ibot.eval.dense.segmentation.validation import PREDICTIONS, SegmentationResult
from ibot.eval.features.rows import unread
from ibot.eval.opened import batch_of
from ibot.eval.segmented import SegmentedContext
from ibot.types import ResultRecord


def run(context: SegmentedContext, settings: SegmentationSettings) -> list[ResultRecord]:
    """Records of mIoU, mAcc and aAcc after the last step, of the best of several learning rates.

    Checkpoints and the label maps that were found lie in a folder of `out` of their own; the same
    command resumes them. Raises as `plan` and `train_segmenter`.
    """
    context = context.with_coding(settings.classes, settings.ignore)
    made = plan(settings, context)
    settings = made.settings
    decisive = {k: v for k, v in plain(settings).items() if k not in NO_RESULT}
    folder = context.out / f"segmentation-{context.identity('segmentation', decisive)}"
    shared = rate_images(len(context.train), settings, context.mode)
    if settings.augment == "none":
        result, view = train_on_cells(context, settings, shared, folder)
        seen = {"size": list(view.size), "fit": view.fit, "interpolation": view.interpolation}
        row = "linear, cached" if settings.features == "network" else "linear, raw pixels"
    else:
        result, seen, row = _trained(context, settings, shared, folder), {}, settings.head
    chosen, rates = "the last step", {f"{lr:g}": miou for lr, miou in result.rate_mious.items()}
    notes = [*made.notes, *unread([(name, reason) for _, name, reason in result.bad])]
    if rates:
        chosen = f"lr={result.scores[-1]['lr']:g} after {chosen}, on {shared.judged_on}"
        listed = ", ".join(f"{lr} {miou:.1f}" for lr, miou in rates.items())
        notes.insert(1, f"mIoU by learning rate, on {shared.judged_on}: {listed}")
    return context.scores(
        "segmentation",
        result.areas,
        {**plain(settings), **seen},
        row=row,
        num_train=len(shared.fit),
        chosen=chosen,
        notes=notes,
        validations=[dict(score) for score in result.scores],
        rates=rates,
        predictions=str(folder / PREDICTIONS),
    )


def _trained(
    context: SegmentedContext, settings: SegmentationSettings, shared: RateImages, folder: Path
) -> SegmentationResult:
    """A head on augmented images, with the network below UPerNet."""
    assert settings.crop is not None and settings.drop_path is not None
    backbone = copy.deepcopy(context.loaded.backbone)
    backbone.resize_positions((settings.crop, settings.crop), "exact")
    model = Segmenter(
        backbone,
        settings.head,
        context.num_classes,
        rates=len(settings.lr),
        channels=settings.channels,
        drop_path=settings.drop_path,
        checkpointing=settings.checkpointing,
        seed=context.seed,
    ).to(context.device)
    return train_segmenter(
        model,
        context.train.taken(shared.fit),
        context.val,
        settings,
        judge=context.train.taken(shared.judge) if len(shared.judge) else None,
        device=context.device,
        folder=folder,
        processes=context.processes,
        windows=max(1, batch_of(backbone, (settings.crop, settings.crop)) // 4),
        seed=context.seed,
        workers=context.workers,
        progress=context.counter("steps"),
    )
