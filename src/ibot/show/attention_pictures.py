"""Pictures of `ibot show attention`: a strip for each image, each head alone, all on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ibot.errors import UserError
from ibot.models.contract import Backbone
from ibot.show.asked import Asked
from ibot.show.attention import WORDS, Attention, attention_of, head_color
from ibot.show.canvas import Sheet, save_png
from ibot.show.colours import in_colors
from ibot.show.frames import Moving, moving_kind, open_frames, write_frames
from ibot.show.layout import (
    HIGH,
    THUMB,
    Panel,
    contact_sheet,
    enlarged,
    file_name,
    photo,
    row,
    rows,
    thumb_height,
)
from ibot.show.pictures import SHEET, Drawn
from ibot.words import counted

IN_LINE = 6
"""Heads side by side; more stand in further lines."""


def draw(asked: Asked) -> Drawn:
    """The pictures of all images; of a video or its frames another one."""
    backbone, mass = asked.loaded().backbone, asked.options["mass"]
    if kind := moving_kind(asked):
        return _draw_video(asked, backbone, kind)
    inputs, files = asked.inputs(), []
    small: list[Panel] = []
    progress, words = asked.counter("attention"), ""
    for done, viewed in enumerate(inputs, 1):
        found = found_in(asked, backbone, viewed.pixels)
        heads = chosen_heads(found, asked.options["only"])
        words, title = WORDS[found.source], Path(viewed.name).name
        what = "norms" if found.source == "norms" else "attention"
        name = file_name(viewed.index, viewed.name, f"_{what}")
        high = asked.options["height"]
        sheet = strip(found, viewed.shown, heads, mass, title=title, height=high)
        files.append(sheet.save(asked.out / f"{name}.{asked.format}"))
        if asked.options["each_head"]:
            for head in heads:
                file = asked.out / "heads" / f"{name}_head{head:02}.png"
                files.append(save_png(file, enlarged(found.coloured(head), *found.view.shape[:2])))
        small.append(Panel(title, _small(found, viewed.shown, heads)))
        if progress:
            progress(done, len(inputs))
    if len(small) > 1:
        page = contact_sheet(small, cell=(3 * THUMB, THUMB), note=f"image, heads, mean: {words}")
        files.insert(0, page.save(asked.out / f"{SHEET}.{asked.format}"))
    return Drawn(files, (f"shown:            {counted(len(small), 'image')}, {words}",))


def found_in(asked: Asked, backbone: Backbone, pixels: NDArray[np.uint8]) -> Attention:
    """What the network attends to in an image. Raises UserError for one without attention."""
    try:
        return attention_of(
            backbone,
            pixels,
            asked.view,
            mass=asked.options["mass"],
            norms=asked.options["norms"],
        )
    except ValueError as error:
        raise UserError(
            "these weights have no attention to show",
            why=str(error),
            fix="give weights of a ViT or a Swin, or draw the lengths of the tokens: --norms",
        ) from None


def chosen_heads(found: Attention, only: Sequence[int] | None) -> tuple[int, ...]:
    """Numbers of the heads to draw, in the order asked for. Raises UserError for others."""
    count = len(found.maps)
    for head in only or ():
        if head >= count:
            raise UserError(
                f"there is no head {head}",
                why="lengths of tokens are one map"
                if found.source == "norms"
                else f"the last block has {counted(count, 'head')}",
                fix=f"--only with numbers in 0..{count - 1}" if count > 1 else "leave out --only",
            )
    return tuple(dict.fromkeys(only)) if only else tuple(range(count))


def strip(
    found: Attention,
    image: NDArray[np.uint8],
    heads: Sequence[int],
    mass: float,
    *,
    title: str = "image",
    height: int = HIGH,
) -> Sheet:
    """Image, overlay, and each head; below them the mean, its mask, and each head within its mask.

    Args:
        found: what the network attends to.
        image: uint8 [H, W, 3], drawn with the aspect of the view.
        heads: numbers of those to draw.
        mass: as it was asked for.
        title: above the image.
        height: pixels of each picture.
    """
    picture = photo(image, height, found.view)

    def shown(words: str, head: int | None, masked: bool = False) -> Panel:
        share = f", {100 * mass:g} %" if masked else ""
        large = enlarged(found.coloured(head, masked), *picture.shape[:2])
        return Panel(words + share, large, None if head is None else head_color(head))

    if found.source == "norms":
        return row([Panel(title, picture), shown("lengths", None)], note=WORDS[found.source])
    lines: list[list[Panel | None]] = []
    for start in range(0, len(heads), IN_LINE):
        above: list[Panel | None] = [None, None]
        below: list[Panel | None] = [None, None]
        if start == 0:
            above = [
                Panel(title, picture),
                Panel("heads in colours", found.overlay(heads, picture)),
            ]
            below = [shown("mean", None), shown("mean", None, masked=True)]
        some = heads[start : start + IN_LINE]
        lines.append(above + [shown(f"head {head}", head) for head in some])
        lines.append(below + [shown(f"head {head}", head, masked=True) for head in some])
    return rows(lines, note=WORDS[found.source])


def _small(found: Attention, image: NDArray[np.uint8], heads: Sequence[int]) -> NDArray[np.uint8]:
    """Image, overlay and mean side by side, small, for the contact sheet."""
    small = photo(image, thumb_height(found.view, THUMB), found.view)
    mean = enlarged(found.coloured(None), *small.shape[:2])
    return np.concatenate([small, found.overlay(heads, small), mean], axis=1)


def _draw_video(asked: Asked, backbone: Backbone, kind: Moving) -> Drawn:
    """The mean over the heads of each frame in `inferno`.

    The colours keep their meaning over time: they run between the medians of the frames' ends
    (published: each frame between its own ends, which flickers).
    """
    frames, progress = open_frames(asked), asked.counter("frames")
    maps: list[NDArray[np.float16]] = []  # small, so that those of a long video fit
    size, words = (0, 0), ""
    for frame in frames:
        found = found_in(asked, backbone, frame)
        heads = chosen_heads(found, asked.options["only"])
        # A share of an even spread: attention to one of many patches is too little for 16 bits.
        even = found.maps[list(heads)].mean(0) * found.maps[0].size
        maps.append(even.astype(np.float16))
        size, words = size if maps[1:] else found.view.shape[:2], WORDS[found.source]
        if progress:
            progress(len(maps), max(frames.count, len(maps)))
    low, high = (float(np.median([end(one) for one in maps])) for end in (np.min, np.max))
    span = high - low if high > low else 1.0
    shown = (
        enlarged(in_colors((one.astype(np.float32) - low) / span, "inferno"), *size) for one in maps
    )
    file = write_frames(shown, asked.out, frames.name, "_attention", kind, frames.rate)
    said = f"{counted(len(maps), 'frame')} at {frames.rate:g} a second, mean over heads of the"
    return Drawn([file], (f"shown:            {said} {words}",))
