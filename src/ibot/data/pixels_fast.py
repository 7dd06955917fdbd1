"""Pixels of the views of a batch as fast as one core makes them, from the same parameters as
`pixels`.

The kernel in C (`ibot.kernels.views`) gives Pillow's pixels but for hues, which differ by a level
here and there. Where it was not built, and for channels other than red, green and blue in bytes,
`pixels_plain` does the same in torch. Here it is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ibot.config.schema import AugmentConfig
from ibot.data import pixels_plain
from ibot.data.pixels import STD, Pixels
from ibot.kernels import views as kernel
from ibot.types import ViewParams


def maker() -> str:
    """What makes the views of colour pictures."""
    return "the kernel in C" if kernel.is_built() else f"torch {torch.__version__} and Pillow"


def render_batch(
    images: Sequence[Pixels],
    params: ViewParams,
    config: AugmentConfig,
    std: Sequence[float] = STD,
) -> tuple[Tensor, Tensor | None]:
    """Global views [G, B, C, h, w] and local views [L, B, C, h', w'] (None without) of B images.

    images: [H, W, C], uint8 with three channels or float32. std: deviation of each channel in the
    data, for brightness of float channels. Returns uint8 or float32 likewise, contiguous.
    Raises ValueError for parameters that lead out of an image.
    """
    sizes = config.num_global, config.global_size, config.local_size
    if images[0].dtype == np.uint8 and kernel.is_built():
        views = [torch.from_numpy(part) for part in kernel.make_views(images, params, *sizes)]
        return views[0], views[1] if config.num_local else None
    kernel.check(images, params, *sizes)
    views = pixels_plain.render_batch(images, params, config, std)
    first = config.num_global
    return torch.stack(views[:first]), torch.stack(views[first:]) if config.num_local else None
