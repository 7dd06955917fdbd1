"""Masks of a video over its frames: moving, and some frames side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.data.decode import decode
from ibot.show.canvas import save_png
from ibot.system.files import write_atomically
from ibot.types import ResultRecord

SIDE = 480
"""Pixels of the longer side of a picture."""
MOST_FRAMES, MILLISECONDS = 120, 80
"""Of a moving picture; of longer videos evenly spaced frames are shown."""
IN_STRIP = 5
"""Frames side by side."""
SHARE = 0.5
"""Of the colour over an object."""


def draw(records: Sequence[ResultRecord], out: Path) -> list[Path]:
    """For each video of an evaluation an animated WebP and a PNG of some frames, in `overlays`
    beside the masks; those that are there are left.
    """
    place = Path(records[0].extra["files"])
    about = json.loads((place / "videos.json").read_text(encoding="utf-8"))
    folder, drawn = place / "overlays", []
    folder.mkdir(exist_ok=True)
    for name, video in about["videos"].items():
        moving, strip = folder / f"{name}.webp", folder / f"{name}.png"
        drawn += [moving, strip]
        if moving.exists() and strip.exists():
            continue
        count = len(video["frames"])
        chosen = np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int)
        pictures = [
            overlay_of(video["frames"][i], place / video["masks"][i], about["exif_orientation"])
            for i in chosen
        ]
        few = np.linspace(0, len(pictures) - 1, min(len(pictures), IN_STRIP)).round().astype(int)
        row = np.concatenate([pictures[i] for i in few], axis=1)
        save_png(strip, row)
        write_atomically(moving, lambda path, all_=pictures: _save_moving(path, all_))
    return drawn


def overlay_of(frame: str | Path, mask: str | Path, exif_orientation: str) -> NDArray[np.uint8]:
    """The picture of one frame and its mask, two files, with `SIDE` pixels at most."""
    orientation = "ignore" if exif_orientation == "ignore" else "apply"
    pixels = Image.fromarray(decode(frame, orientation, max_pixels=2**62))
    with Image.open(mask) as image:
        palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        scale = min(1.0, SIDE / max(pixels.size))
        width, height = (max(1, round(scale * side)) for side in pixels.size)
        numbers = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
    small = pixels.resize((width, height), Image.Resampling.BICUBIC)
    return overlay(np.asarray(small), numbers, palette)


def overlay(
    pixels: NDArray[np.uint8], mask: NDArray[np.uint8], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] with the objects of a mask [H, W] in the colours of palette [n, 3].

    Inner pixels are mixed with the colour, those at the edge of an object have it alone.
    """
    colours = palette[np.minimum(mask, len(palette) - 1)]
    padded = np.pad(mask, 1, mode="edge")
    edge = np.zeros(mask.shape, bool)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        edge |= other != mask
    mixed = (SHARE * colours + (1 - SHARE) * pixels).astype(np.uint8)
    inside = np.where(edge[..., None], colours, mixed)
    return np.where((mask > 0)[..., None], inside, pixels)


def _save_moving(path: Path, pictures: Sequence[NDArray[np.uint8]]) -> None:
    first, *others = map(Image.fromarray, pictures)
    first.save(
        path,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=MILLISECONDS,
        loop=0,
        quality=75,
        method=2,
    )
