"""Records of video segmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ibot.data.annotated.object_masks import VideoObjects
from ibot.eval.context import plain
from ibot.eval.dense.video.context import VideosContext
from ibot.eval.dense.video.frame_tokens import input_size, soft_from_mask
from ibot.eval.dense.video.scores import ObjectScore, Series, summary
from ibot.eval.dense.video.settings import VideoSettings
from ibot.eval.scores import bootstrap_mean
from ibot.types import ResultRecord
from ibot.words import counted

ROWS = {
    "video_jf": "J&F",
    "video_j_mean": "J",
    "video_j_recall": "J recall",
    "video_j_decay": "J decay",
    "video_f_mean": "F",
    "video_f_recall": "F recall",
    "video_f_decay": "F decay",
}


def records_of(
    context: VideosContext,
    settings: VideoSettings,
    place: Path,
    objects: Mapping[str, VideoObjects],
    scores: Mapping[str, Mapping[int, ObjectScore]],
) -> list[ResultRecord]:
    """A record for each number of the table, in per cent over all objects; see `run`.

    Args:
        context: which network and frames.
        settings: of the evaluation.
        place: folder of the masks.
        objects: of each video.
        scores: of each object of each video; none for videos without masks to compare with.
    """
    grids, notes = _seen(context, settings, objects)
    by_object = {f"{name}/{i}": one for name, all_ in scores.items() for i, one in all_.items()}
    if without := [name for name, all_ in scores.items() if not all_]:
        notes.append(
            f"{counted(len(without), 'video')} of {len(scores)} without masks to compare with"
        )
    # Of a set of both kinds the one that says more.
    used = {**plain(settings), "year": max(found.year for found in objects.values())}
    about: dict[str, Any] = {"files": str(place), "grids": grids, "videos": len(scores)}
    if not by_object:
        return [
            context.record(
                "video_segmentation",
                "video_frames",
                float(context.num_images()[1]),
                used,
                row="frames done",
                notes=notes,
                **about,
            )
        ]
    about |= {"objects": len(by_object), "by_object": _by_object(by_object)}
    return [
        context.record(
            "video_segmentation",
            metric,
            100 * math.fsum(values) / len(values),
            used,
            row=ROWS[metric],
            interval=_interval(values, context.seed),
            notes=notes,
            **about,
        )
        for metric, values in summary(by_object).items()
    ]


def _by_object(scores: Mapping[str, ObjectScore]) -> dict[str, dict[str, float]]:
    """What the means are of, in per cent."""
    return {
        name: {
            "J&F": 100 * one.mean,
            "J": 100 * Series.of(one.region).mean,
            "F": 100 * Series.of(one.boundary).mean,
        }
        for name, one in scores.items()
    }


def _interval(values: list[float], seed: int) -> tuple[float, float] | None:
    """Of the mean over objects; None for a single one."""
    if len(values) < 2:
        return None
    return bootstrap_mean(100 * torch.tensor(values, dtype=torch.float64), seed)


def _seen(
    context: VideosContext, settings: VideoSettings, objects: Mapping[str, VideoObjects]
) -> tuple[dict[str, list[int]], list[str]]:
    """Rows and columns of tokens of each video, and what to say of them."""
    backbone, grids, notes = context.loaded.backbone, {}, {}
    for name, found in objects.items():
        height, width = found.first.shape
        size = input_size(height, width, settings.size, backbone.patch_size)
        grid = backbone.token_grid(*size)
        grids[name] = list(grid)
        seen = f"{width} x {height} pixels seen as {size[1]} x {size[0]}"
        notes[f"frames of {seen}: {grid[1]} x {grid[0]} tokens"] = None
        held = soft_from_mask(found.first, found.numbers, grid).amax((0, 1))[1:].tolist()
        lost = [str(i) for i, there in zip(found.numbers, held, strict=True) if not there]
        if lost:
            words = f"too small for any token of '{name}': object {', '.join(lost)}"
            notes[f"{words}; a larger size= would show it"] = None
    return grids, list(notes)
