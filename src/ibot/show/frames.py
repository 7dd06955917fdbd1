"""Videos, read and written: a file by OpenCV, or images as frames; for pictures that move."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.errors import DataError, MissingExtra, UserError, printable
from ibot.show.asked import Asked
from ibot.show.canvas import save_png
from ibot.show.inputs import Inputs
from ibot.show.layout import file_name
from ibot.show.pictures import VIDEO_ENDINGS
from ibot.system.files import write_named

Moving = Literal["mp4", "avi", "webp", "frames"]
RATE = 30.0
"""Frames a second where the source does not say, as published."""
MOST_IN_WEBP = 600
"""Frames of a WebP: it is put together in memory."""
_CODES = {"mp4": "mp4v", "avi": "MJPG"}


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of one video; each iteration reads them anew."""

    name: str
    count: int
    """As far as the source says; a video file may hold fewer."""
    rate: float
    source: Path | Inputs
    """A video file, or images."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """uint8 [H, W, 3]. Raises DataError where none can be read."""
        if isinstance(self.source, Inputs):
            yield from (viewed.pixels for viewed in self.source)
            return
        with _opened(self.source) as video:
            read, frame = video.read()
            if not read:
                raise _no_video(self.source)
            while read:
                yield np.ascontiguousarray(frame[..., ::-1])  # OpenCV has blue first
                read, frame = video.read()


def is_video(named: str) -> bool:
    """Whether a user named a video file."""
    return Path(named).suffix.lower() in VIDEO_ENDINGS and Path(named).is_file()


def open_frames(asked: Asked) -> Frames:
    """The video that was named: one file, or images in the order of the numbers in their names.

    Raises UserError for several files, DataError for what cannot be read, MissingExtra without
    OpenCV.
    """
    rate = asked.options["rate"]
    files = [Path(named) for named in asked.images if is_video(named)]
    if not files:
        inputs = replace(asked, limit=0).inputs(frames=True)
        return Frames(Path(asked.images[0]).name, len(inputs), rate or RATE, inputs)
    if len(asked.images) > 1:
        raise UserError(
            f"'{printable(files[0].name)}' is a video, and more is named beside it",
            fix="draw one video at a time",
        )
    with _opened(files[0]) as video:
        import cv2

        said = float(video.get(cv2.CAP_PROP_FPS))
        count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    known = said if 0 < said < 1000 else RATE  # NaN and nonsense too
    return Frames(files[0].name, count, rate or known, files[0])


def write_frames(
    frames: Iterable[NDArray[np.uint8]],
    out: Path,
    name: str,
    ending: str,
    kind: Moving,
    rate: float,
) -> Path:
    """Write pictures uint8 [h, w, 3] as a video file or a folder of PNG; returns its place.

    All get the size of the first one. Raises UserError for a WebP of too many frames, MissingExtra
    without OpenCV where that is needed.
    """
    place = out / (file_name(0, name, ending) + ("" if kind == "frames" else f".{kind}"))
    alike = _of_one_size(frames)
    if kind == "frames":
        for number, frame in enumerate(alike):
            save_png(place / f"{number:05}.png", frame)
    elif kind == "webp":
        write_named(place, lambda path: _write_webp(path, alike, rate), "--out")
    else:
        write_named(place, lambda path: _write_video(path, alike, kind, rate), "--out")
    return place


def _of_one_size(frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    size = None
    for frame in frames:
        size = size or (frame.shape[1], frame.shape[0])
        same = frame.shape[1::-1] == size
        yield frame if same else np.asarray(Image.fromarray(frame).resize(size))


def _write_webp(path: Path, frames: Iterator[NDArray[np.uint8]], rate: float) -> None:
    pictures = [Image.fromarray(frame) for frame in islice(frames, MOST_IN_WEBP + 1)]
    if len(pictures) > MOST_IN_WEBP:
        raise UserError(
            f"more than {MOST_IN_WEBP} frames are too many for a WebP",
            fix="--video mp4, or --video frames",
        )
    pictures[0].save(
        path,
        format="WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / rate),
        loop=0,
        quality=80,
        method=2,
    )


def _write_video(
    path: Path, frames: Iterator[NDArray[np.uint8]], kind: Moving, rate: float
) -> None:
    cv2 = _cv2()
    # OpenCV takes the container from the ending.
    place = path.with_name(f"{path.name}.{kind}")
    writer = None
    try:
        for frame in frames:
            if writer is None:
                code = cv2.VideoWriter.fourcc(*_CODES[kind])
                size = frame.shape[1], frame.shape[0]
                writer = cv2.VideoWriter(str(place), code, rate, size)
                if not writer.isOpened():
                    raise UserError(
                        f"OpenCV writes no {kind} here", fix="--video webp, or --video frames"
                    )
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        if writer is not None:
            writer.release()
            place.replace(path)
    finally:
        place.unlink(missing_ok=True)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """OpenCV's reader of a video file. Raises DataError and MissingExtra."""
    video = _cv2().VideoCapture(str(file))
    try:
        if not video.isOpened():
            raise _no_video(file)
        yield video
    finally:
        video.release()


def _no_video(file: Path) -> DataError:
    return DataError(
        f"the video '{printable(str(file))}' cannot be read",
        why="OpenCV finds no frames in it",
        fix="convert it to MP4, or give a folder of its frames with --video",
    )


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise MissingExtra("opencv-python-headless", "show") from None
    return cv2


def moving_kind(asked: Asked) -> Moving | None:
    """What a video is to be written as; None where none is asked for and none is named."""
    return asked.options["video"] or ("mp4" if any(map(is_video, asked.images)) else None)
