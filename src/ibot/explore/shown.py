"""The pictures of a page: whole images, views on which squares lie, and links to the files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ibot.data.false_colours import as_rgb
from ibot.explore.page import THUMBNAIL
from ibot.explore.searched import Query, Searched


@dataclass(frozen=True, slots=True)
class ShownImages:
    """Images as a page shows them."""

    searched: Searched
    outside: dict[int, Query]
    """Queries that are not in the folder, by their number."""
    page: Path
    """Absolute path of the folder where the page is to lie."""

    @classmethod
    def of(cls, searched: Searched, queries: Sequence[Query], page: Path) -> ShownImages:
        """Those of a search for a page in a folder."""
        outside = {query.index: query for query in queries if query.index < 0}
        return cls(searched, outside, page.absolute())

    def _pixels(self, index: int) -> NDArray[np.generic]:
        whole = self.outside[index].whole if index < 0 else self.searched.source.read(index)
        assert whole is not None
        return whole

    def whole(self, index: int) -> NDArray[np.uint8]:
        """All of an image, uint8 [H, W, 3]. Raises UnreadableImage."""
        return as_rgb(self._pixels(index))

    def view(self, index: int) -> NDArray[np.uint8]:
        """What the network sees of it, uint8 [h, w, 3], with the pixels of the image itself.

        Raises UnreadableImage.
        """
        view = self.searched.view
        times = max(1, math.ceil(THUMBNAIL / max(view.size)))
        return as_rgb(view.enlarged(self._pixels(index), times))

    def link(self, index: int) -> str:
        """Address of an image's file relative to the page; empty for one that is no file."""
        source = self.searched.source
        file = Path(self.outside[index].name) if index < 0 else source.root / source.name(index)
        if not file.is_file():
            return ""
        # Not resolved: a browser goes up by names, whatever links lie on the way.
        file = file.absolute()
        try:
            way = os.path.relpath(file, self.page)
        except ValueError:  # on another drive
            return file.as_uri()
        # "./" keeps a colon in a name from being read as a protocol.
        return "./" + quote(os.fsencode(way.replace(os.sep, "/")))
