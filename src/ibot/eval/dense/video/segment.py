"""Objects of a video's first frame found again in all others (spec_evaluation 8.12)."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ibot
from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD
from ibot.data.annotated.frames import Video, VideoFrames
from ibot.data.annotated.object_masks import (
    VideoObjects,
    open_objects,
    read_numbers,
    write_numbers,
)
from ibot.eval.context import plain
from ibot.eval.dense.rescale import opencv
from ibot.eval.dense.video.context import VideosContext
from ibot.eval.dense.video.frame_tokens import (
    PUBLISHED_STD,
    frame_tokens,
    input_size,
    mask_from_soft,
    soft_from_mask,
)
from ibot.eval.dense.video.propagate import Rule, Source, propagate
from ibot.eval.dense.video.report import records_of
from ibot.eval.dense.video.scores import ObjectScore, boundary_accuracy, region_similarity
from ibot.eval.dense.video.settings import VideoSettings
from ibot.system.distributed import check_equal, gather
from ibot.system.files import sync, write_atomically
from ibot.types import ResultRecord

VIDEOS, MASKS = "videos.json", "masks"
"""Which frames the masks belong to, with J and F of each; and the folder of the masks beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenter:
    """How masks are made from frames."""

    see: Callable[[NDArray[np.uint8]], Tensor]
    """Tokens [h, w, D] of length 1 of a frame [H, W, 3]."""
    rule: Rule
    context_frames: int
    patch: int
    """Pixels of a token of the frame as the network sees it."""

    @torch.no_grad()
    def masks(
        self, frames: Iterator[NDArray[np.uint8]], objects: VideoObjects
    ) -> Iterator[NDArray[np.uint8]]:
        """The mask [H, W] of each frame, the given one of the first included.

        One frame is in memory, and the tokens and soft maps of those that are propagated.
        """
        tokens = self.see(next(frames))
        soft = soft_from_mask(objects.first, objects.numbers, (tokens.shape[0], tokens.shape[1]))
        first = Source(tokens, soft.to(tokens.device))
        yield objects.first
        recent: deque[Source] = deque(maxlen=self.context_frames)
        for frame in frames:
            tokens = self.see(frame)
            soft = propagate(tokens, [first, *recent], self.rule)
            recent.append(Source(tokens, soft))
            yield mask_from_soft(soft, objects.numbers, self.patch, frame.shape[:2])


def run(context: VideosContext, settings: VideoSettings) -> list[ResultRecord]:
    """A record for each number of the table; without masks to compare with one of the frames done.

    Processes share the videos; what an interrupted evaluation has written is not made again.
    Raises DataError, and MissingExtra.
    """
    opencv()  # what is missing is told before the work
    frames = context.frames
    videos = frames.listed(settings.year)
    context = replace(context, videos=tuple(videos))
    objects = {video.name: open_objects(frames, video, settings.year) for video in videos}
    about = {**plain(settings), "ibot": ibot.__version__}
    place = context.out / "video_segmentation" / context.identity("video_segmentation", about)
    check_equal({"the folder of the masks": str(place)})
    (place / MASKS).mkdir(parents=True, exist_ok=True)
    # Each process takes long and short ones.
    by_length = sorted(videos, key=lambda video: -len(video.numbers))
    mine = by_length[context.processes.rank :: context.processes.world_size]
    done, total, show = 0, sum(len(video.numbers) for video in mine), context.counter("frames")
    found: dict[str, dict[int, ObjectScore]] = {}
    for video in mine:
        segmenter = _segmenter(context, settings, objects[video.name].first.shape)
        folder = place / MASKS / video.name
        if not folder.is_dir():
            for _ in _write(segmenter, frames, video, objects[video.name], folder):
                done += 1
                if show:
                    show(done, total)
        else:
            total -= len(video.numbers)
        found[video.name] = score(frames, video, objects[video.name], folder)
    merged = {name: scores for part in gather(found) for name, scores in part.items()}
    in_order = {video.name: merged[video.name] for video in videos}
    if context.processes.is_main:
        _describe(place, context, in_order)
    return records_of(context, settings, place, objects, in_order)


def _segmenter(context: VideosContext, settings: VideoSettings, size: tuple[int, ...]) -> Segmenter:
    """For frames of `size` pixels."""
    backbone = context.loaded.backbone
    statistics = backbone.statistics
    if context.mode == "published" and statistics == (IMAGENET_MEAN, IMAGENET_STD):
        statistics = IMAGENET_MEAN, PUBLISHED_STD
    patch = backbone.patch_size
    see = partial(
        frame_tokens,
        size=input_size(size[0], size[1], settings.size, patch),
        backbone=backbone,
        statistics=statistics,
        features=settings.features,
    )
    rule = Rule(settings.radius, settings.topk, settings.temperature)
    return Segmenter(see=see, rule=rule, context_frames=settings.context_frames, patch=patch)


def mask_names(frames: VideoFrames, video: Video) -> list[str]:
    """Files of the masks of a video, in its folder."""
    return [f"{Path(frames.name(number)).stem}.png" for number in video.numbers]


def _write(
    segmenter: Segmenter, frames: VideoFrames, video: Video, objects: VideoObjects, folder: Path
) -> Iterator[None]:
    """Write the masks of a video, one at each step; the folder is there once all of them are."""
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    read = (frames.frame(number) for number in video.numbers)
    for name, mask in zip(mask_names(frames, video), segmenter.masks(read, objects), strict=True):
        write_atomically(
            unfinished / name, lambda path, m=mask: write_numbers(path, m, objects.palette)
        )
        yield
    unfinished.replace(folder)
    sync(folder.parent)


def scored(video: Video) -> list[int]:
    """Which frames of a video count: those with a true mask but the first and the last one."""
    return [i for i in range(1, len(video.masks) - 1) if video.masks[i]]


def score(
    frames: VideoFrames, video: Video, objects: VideoObjects, folder: Path
) -> dict[int, ObjectScore]:
    """J and F of each object of the masks in `folder`; none where no frame counts."""
    scores = {number: ObjectScore([], []) for number in objects.numbers}
    names, counting = mask_names(frames, video), scored(video)
    for i in counting:
        truth = objects.read(str(video.masks[i]))
        mask, _ = read_numbers(folder / names[i])
        for number, values in scores.items():
            values.region.append(region_similarity(mask == number, truth == number))
            values.boundary.append(boundary_accuracy(mask == number, truth == number))
    return scores if counting else {}


def _describe(
    place: Path,
    context: VideosContext,
    scores: dict[str, dict[int, ObjectScore]],
) -> None:
    """Write which frames the masks belong to, for pictures and for people."""
    frames = context.frames
    about = {
        "exif_orientation": context.exif_orientation,
        "videos": {
            video.name: {
                "frames": [str(frames.path(number).absolute()) for number in video.numbers],
                "masks": [f"{MASKS}/{video.name}/{name}" for name in mask_names(frames, video)],
                "scored": scored(video),
                "objects": {
                    str(number): {"J": values.region, "F": values.boundary}
                    for number, values in scores[video.name].items()
                },
            }
            for video in context.videos
        },
    }
    text = json.dumps(about, indent=1)
    write_atomically(place / VIDEOS, lambda path: path.write_text(text, encoding="utf-8"))
