"""Patch tokens of images as colours: `ibot show features`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.false_colours import as_rgb
from ibot.models.contract import Backbone
from ibot.show.asked import Asked
from ibot.show.canvas import Sheet
from ibot.show.colours import between_ends, in_colors
from ibot.show.components import Colours, Components, border_of, fit_components
from ibot.show.frames import Moving, moving_kind, open_frames, write_frames
from ibot.show.inputs import Viewed, WholeView, network_input
from ibot.show.layout import (
    HIGH,
    THUMB,
    Panel,
    contact_sheet,
    enlarged,
    file_name,
    photo,
    row,
    thumb_height,
)
from ibot.show.pictures import SHEET, Drawn
from ibot.words import counted

MOST_FITTED = 2**16
"""Patches that components are fitted to: of more, evenly spaced ones of each image."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The patches of one image."""

    view: NDArray[np.uint8]
    """uint8 [H, W, 3], as the network sees it."""
    patches: Tensor
    """float32 [h * w, D], on the CPU."""
    grid: tuple[int, int]


@torch.no_grad()
def tokens_of(backbone: Backbone, image: NDArray[Any], view: WholeView | None = None) -> Tokens:
    """Patch tokens after the final norm of an image [H, W], [H, W, C] of any levels.

    Args:
        backbone: in evaluation mode.
        image: as it is in its file; float32 of as many channels as the network reads are levels,
            other than three channels become colours as `show.colours` says.
        view: how the network sees it; None: its shorter side with 480 pixels.
    """
    pixels = (view or WholeView()).render(image, backbone.patch_size, len(backbone.channels))
    tokens = backbone(network_input(pixels, backbone))
    return Tokens(as_rgb(pixels), tokens.patches[0].float().cpu(), tokens.grid)


def features_of(
    backbone: Backbone,
    images: Iterable[NDArray[Any]],
    view: WholeView | None = None,
    *,
    foreground: bool = True,
) -> tuple[list[NDArray[np.float32]], Components]:
    """Colours [h, w, 3] in 0..1 of the patches of each image, fitted to all together.

    Arguments as of `tokens_of`; foreground: colour it alone. Black is background. Of the fit
    `steps` says what was done. Raises ValueError for no images.
    """
    found = [tokens_of(backbone, image, view) for image in images]
    fitted = fit_over(found, len(found), foreground=foreground)
    colours = [fitted.colours(one.patches).rgb.unflatten(0, one.grid) for one in found]
    return [one.numpy() for one in colours], fitted


def fit_over(tokens: Iterable[Tokens], count: int, *, foreground: bool = True) -> Components:
    """Components of the patches of `count` images together, `MOST_FITTED` patches at most.

    Raises ValueError for none.
    """
    most = max(1, MOST_FITTED // max(1, count))
    rows, borders = [], []
    for one in tokens:
        total = len(one.patches)
        taken = torch.linspace(0, total - 1, min(most, total)).round().long()
        rows.append(one.patches[taken])
        borders.append(border_of(one.grid)[taken])
    if not rows:
        raise ValueError("there are no images to fit components to")
    return fit_components(torch.cat(rows), torch.cat(borders), foreground=foreground)


def draw(asked: Asked) -> Drawn:
    """Image, first component and colours of each image; of frames their colours, moving."""
    backbone = asked.loaded().backbone
    if kind := moving_kind(asked):
        return _draw_video(asked, backbone, kind)
    inputs, over_set = asked.inputs(), asked.options["over"] == "set"
    store = _Store(asked, backbone, len(inputs))
    fitted = store.fit("fit", inputs) if over_set else None
    files: list[Path] = []
    small: list[Panel] = []
    bare = 0
    for viewed in inputs:
        tokens = store.tokens(viewed)
        own = fitted or fit_over([tokens], 1, foreground=not asked.options["whole"])
        colours, title = own.colours(tokens.patches), Path(viewed.name).name
        sheet = strip(
            tokens, colours, own, viewed.shown, title=title, height=asked.options["height"]
        )
        name = file_name(viewed.index, viewed.name, f"_features.{asked.format}")
        files.append(sheet.save(asked.out / name))
        bare += not colours.foreground.any()
        small.append(Panel(title, _small(tokens, colours, viewed.shown)))
    many = f"fitted to {counted(len(small), 'image')} together"
    told = (many if len(small) > 1 else "fitted to it alone") if over_set else "each fitted alone"
    steps = fitted.steps if fitted else ()
    if len(small) > 1:
        page = contact_sheet(
            small, cell=(2 * THUMB, THUMB), note=f"image, components of its patches: {told}"
        )
        files.insert(0, page.save(asked.out / f"{SHEET}.{asked.format}"))
    lines = [f"shown:            {counted(len(small), 'image')}, {told}"]
    if bare:
        lines.append(f"all background:   {counted(bare, 'image')}; --over image parts each alone")
    return Drawn(files, (*lines, *(f"colours:          {step}" for step in steps)))


def strip(
    tokens: Tokens,
    colours: Colours,
    fitted: Components,
    image: NDArray[np.uint8],
    *,
    title: str = "image",
    height: int = HIGH,
) -> Sheet:
    """Image, the component that parts the foreground if there is one, and the colours.

    image: uint8 [H, W, 3], drawn with the aspect of the view. height: pixels of each picture.
    """
    picture = photo(image, height, tokens.view)
    size = picture.shape[:2]
    panels = [Panel(title, picture)]
    if fitted.split_axis is not None:
        first = between_ends(colours.first.unflatten(0, tokens.grid).numpy())
        panels.append(Panel("first component", enlarged(in_colors(first, "cividis"), *size)))
    lacking = "" if bool(colours.foreground.any()) else ": no foreground here"
    panels.append(Panel(f"components 1 to 3{lacking}", enlarged(_bytes(tokens, colours), *size)))
    return row(panels, note="\n".join(fitted.steps))


def _bytes(tokens: Tokens, colours: Colours) -> NDArray[np.uint8]:
    """Colours as uint8 [h, w, 3]."""
    return np.rint(255 * colours.rgb.unflatten(0, tokens.grid).numpy()).astype(np.uint8)


def _small(tokens: Tokens, colours: Colours, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Image and colours side by side, for the contact sheet."""
    small = photo(image, thumb_height(tokens.view, THUMB), tokens.view)
    return np.concatenate([small, enlarged(_bytes(tokens, colours), *small.shape[:2])], axis=1)


class _Store:
    """Tokens of images, kept while they are few, so that two passes cost one."""

    def __init__(self, asked: Asked, backbone: Backbone, count: int) -> None:
        self.asked, self.backbone, self.count = asked, backbone, count
        self._kept: dict[int, Tokens] = {}
        self._patches = 0

    def tokens(self, viewed: Viewed) -> Tokens:
        """Of an image, computed unless they are kept."""
        if viewed.index in self._kept:
            return self._kept[viewed.index]
        tokens = tokens_of(self.backbone, viewed.pixels, self.asked.view)
        self._patches += len(tokens.patches)
        if self._patches <= MOST_FITTED:
            self._kept[viewed.index] = tokens
        return tokens

    def fit(self, name: str, images: Iterable[Viewed]) -> Components:
        """Components of all images together."""
        progress = self.asked.counter(name)

        def each() -> Iterator[Tokens]:
            for done, viewed in enumerate(images, 1):
                yield self.tokens(viewed)
                if progress:
                    progress(done, max(done, self.count))

        return fit_over(each(), self.count, foreground=not self.asked.options["whole"])


def _draw_video(asked: Asked, backbone: Backbone, kind: Moving) -> Drawn:
    """The colours of each frame, fitted to all frames together: they keep their meaning."""
    frames = open_frames(asked)
    store = _Store(asked, backbone, frames.count)

    def viewed() -> Iterator[Viewed]:
        return (Viewed(i, frames.name, frame) for i, frame in enumerate(frames))

    fitted, count = store.fit("fit", viewed()), 0

    def pictures() -> Iterator[NDArray[np.uint8]]:
        nonlocal count
        for frame in viewed():
            tokens = store.tokens(frame)
            count += 1
            yield enlarged(_bytes(tokens, fitted.colours(tokens.patches)), *tokens.view.shape[:2])

    file = write_frames(pictures(), asked.out, frames.name, "_features", kind, frames.rate)
    said = f"shown:            {counted(count, 'frame')} at {frames.rate:g} a second"
    return Drawn([file], (said, *(f"colours:          {step}" for step in fitted.steps)))
