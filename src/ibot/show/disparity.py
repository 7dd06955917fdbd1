"""Disparities of a stereo pair: where points of the left picture lie in the right one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.errors import DataError, UserError


def read_disparity(file: Path, size: tuple[int, ...]) -> NDArray[np.float64]:
    """Pixels by which each pixel of the left picture lies further left in the right one.

    Args:
        file: .npy, or .npz whose first array counts, as Middlebury's pairs are often shipped.
        size: height and width of the left picture.

    Returns:
        float64 [H, W], infinite or NaN where it is unknown.

    Raises:
        UserError: another shape. DataError: no such file, or one that holds no numbers.
    """
    try:
        held = np.load(file, allow_pickle=False)
        values = held if isinstance(held, np.ndarray) else held[held.files[0]]
        disparity = np.asarray(values, np.float64)
    except (OSError, ValueError, IndexError, EOFError, BadZipFile) as error:
        why = getattr(error, "strerror", None) or str(error)
        fix = "give a .npy or .npz file with an array [H, W]"
        raise DataError(f"no disparity can be read from '{file}'", why=why, fix=fix) from None
    if disparity.shape != tuple(size):
        raise UserError(
            f"the disparity in '{file}' does not belong to the left image",
            why=f"it has the shape {list(disparity.shape)}, the image {list(size)}",
        )
    return disparity


def moved_by(disparity: NDArray[np.float64]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What takes points [N, (row, column)] of the left picture, in pixels, to the right one.

    It gives float64 [N, 2], and bool [N]: whether the disparity of the pixel is known.
    """
    table = torch.from_numpy(disparity)

    def moved(points: Tensor) -> tuple[Tensor, Tensor]:
        last = torch.tensor(table.shape) - 1
        row, column = torch.minimum(points.floor().long().clamp(min=0), last).unbind(dim=-1)
        shift = table[row, column]
        known = shift.isfinite()
        left = points[:, 1] - shift.where(known, 0.0)
        return torch.stack([points[:, 0], left], dim=-1), known

    return moved
