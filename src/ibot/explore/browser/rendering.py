"""The part of an image that a network sees, in more pixels than it sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ibot.eval.features.views import View


def render(view: View, pixels: NDArray[np.uint8], scale: int = 1) -> NDArray[np.uint8]:
    """The view of an image [H, W, 3] at `scale` times the usual size: uint8 [h, w, 3].

    Raises UnreadableImage for a strip too thin to be cropped.
    """
    if scale == 1:
        return view.render(pixels)
    height, width = view.size
    if view.keep and pixels.shape[:2] == view.size:
        # Taken whole at its own size, so it is at others.
        size = (width * scale, height * scale)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    larger = replace(view, size=(height * scale, width * scale), resize=view.resize * scale)
    return larger.render(pixels)
