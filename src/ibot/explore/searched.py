"""The images of a folder and the network that compares them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.reading import PICTURES
from ibot.data.channels.opening import with_channels
from ibot.data.decode import UnreadableImage, decode
from ibot.data.pixels import normalize
from ibot.data.sets.files import file_images
from ibot.data.sets.images import Images, Pixels
from ibot.data.sets.same_channels import require_channels
from ibot.data.sets.window_places import parse_window
from ibot.errors import DataError, UserError
from ibot.eval.context import ImagesContext
from ibot.eval.features.views import View, ViewBatch, in_batches, view_batches
from ibot.explore.findings import Picture, Square
from ibot.models.contract import Backbone
from ibot.types import TokenOutput

BATCH = 64
"""Images whose patch tokens are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Query:
    """An image whose neighbours are sought."""

    name: str
    index: int
    """Number in the folder; below 0 for a file outside of it."""
    view: Pixels
    """[H, W, C], as the network sees it."""
    whole: Pixels | None = None
    """[H, W, C] of a file outside of the folder."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What is searched, and by which network."""

    context: ImagesContext

    @property
    def backbone(self) -> Backbone:
        """In evaluation mode on the context's device."""
        return self.context.loaded.backbone

    @property
    def source(self) -> Images:
        """The images."""
        return self.context.images

    @property
    def view(self) -> View:
        """How they become inputs."""
        return self.context.view

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        return self.backbone.token_grid(*self.view.size)

    def check(self, patch: tuple[int, int]) -> None:
        """Raise UserError for a patch outside of the grid."""
        (height, width), (rows, columns) = self.view.size, self.grid
        if not (patch[0] < rows and patch[1] < columns):
            inside = f"a row in 0..{rows - 1} and a column in 0..{columns - 1}"
            raise UserError(
                f"patch {patch[0]},{patch[1]} is outside of the grid",
                why=f"a view of {height}x{width} pixels has {rows} x {columns} patches",
                fix=f"give {inside}, or a larger --size",
            )

    def read(self, index: int) -> Pixels:
        """View of an image of the folder, [H, W, C]. Raises UnreadableImage."""
        return self.view.render(self.source.read(index))

    def queries(self, files: Iterable[str | Path]) -> list[Query]:
        """The images of files; those that are not in the folder have numbers below 0.

        Raises DataError.
        """
        wanted = list(dict.fromkeys(files))
        number = {self.source.name(i): i for i in range(len(self.source))} if wanted else {}
        found = []
        for place, file in enumerate(wanted):
            name = next(filter(number.__contains__, _names_in(self.source.root, file)), None)
            named = (str(file), -1 - place) if name is None else (name, number[name])
            # A window is no file.
            is_window = name is not None and parse_window(name) is not None
            if is_window:
                found.append(Query(*named, self.read(named[1])))
            else:
                view, whole = self._pixels_of(file)
                found.append(Query(*named, view, whole if name is None else None))
        return found

    def _pixels_of(self, file: str | Path) -> tuple[Pixels, Pixels]:
        """View of an image of any file, and all of it, [H, W, C]. Raises DataError."""
        context = self.context
        try:
            if context.reading == PICTURES:
                pixels = decode(file, context.exif_orientation, context.max_pixels)
            else:
                alone = with_channels(file_images(Path(), [str(file)]), context.reading)
                require_channels(alone, self.backbone.channels)
                pixels = alone.read(0)
            return self.view.render(pixels), pixels
        except UnreadableImage as error:
            raise DataError(
                f"the image '{file}' cannot be read",
                why=str(error),
                fix="check the path, or convert it to JPEG or PNG",
            ) from None

    def evenly(self, index: NDArray[np.int64], count: int) -> list[Query]:
        """At most `count` of the images of the folder numbered int64 [n], evenly spaced."""
        places = np.linspace(0, len(index) - 1, min(count, len(index))).astype(np.int64)
        return [Query(self.source.name(i), i, self.read(i)) for i in index[places].tolist()]

    def tokens(self, views: Tensor) -> TokenOutput:
        """Tokens, float32, of `views` [b, C, H, W]."""
        with torch.inference_mode():
            output = self.backbone(
                normalize(views.to(self.context.device), self.backbone.statistics)
            )
        return replace(output, cls=output.cls.float(), patches=output.patches.float())

    def vectors(self, queries: Sequence[Query], patch: int | None = None) -> Tensor:
        """Class tokens of queries, or their tokens of one patch, [q, D]."""
        found = []
        for start in range(0, len(queries), BATCH):
            views = np.stack([query.view for query in queries[start : start + BATCH]])
            tokens = self.tokens(torch.from_numpy(views).permute(0, 3, 1, 2).contiguous())
            found.append(tokens.cls if patch is None else tokens.patches[:, patch])
        return torch.cat(found)

    def views(self, index: NDArray[np.int64]) -> Iterator[ViewBatch]:
        """Views of the images of the folder with these numbers, a few at a time."""
        yield from view_batches(
            self.source, self.view, in_batches(index, BATCH), self.context.workers
        )

    def picture(self, index: int, similarity: float, square: Square | None = None) -> Picture:
        """An image of the folder on the page."""
        return Picture(index, self.source.name(index), similarity, square)

    def pictures(self, index: NDArray[np.int64], similarity: Tensor) -> list[Picture]:
        """Images of the folder on the page, each with its similarity."""
        values = zip(index.tolist(), similarity.tolist(), strict=True)
        return [self.picture(i, value) for i, value in values]

    def square(self, patch: int) -> Square:
        """Place of a patch on the view.

        What the patches do not cover, right and below, is no part of the grid.
        """
        row, column = divmod(patch, self.grid[1])
        height, width = (self.backbone.patch_size / side for side in self.view.size)
        top, left = row * height, column * width
        # The last patches of a Swin network may reach beyond the view, into its padding.
        return Square(row, column, top, left, min(height, 1 - top), min(width, 1 - left))


def _names_in(root: Path, file: str | Path) -> Iterator[str]:
    """What a file is called relative to a folder.

    As written first: a link that lies in the folder is the folder's image, wherever it leads.
    """
    for path in (os.path.abspath, os.path.realpath):
        yield os.path.relpath(path(file), path(root)).replace(os.sep, "/")
