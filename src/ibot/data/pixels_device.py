"""Pixels of the views of a whole batch on the training device, from pictures as decoded.

The same views as `pixels.render` means, some grey levels off: crops and resizes are one gather and
two batched products, blurs two more (`filters`), colours run on all views together
(`device_colors`). Nothing is read back from the device, and bytes do not depend on what stands
beside them in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.reading import IMAGENET_STD, RGB
from ibot.config.schema import AugmentConfig
from ibot.data import device_colors, filters
from ibot.data.params import HUE, num_views, view_size
from ibot.types import ViewParams

CROPPED = {"cpu": 2**20, "cuda": 2**25}
"""Pixels of crops and views that are worked on at a time: some 12 MB on a CPU, which its cache
nearly holds, and a GB on a GPU."""


@torch.no_grad()
def render(
    pictures: Tensor,
    sizes: NDArray[np.int64],
    params: ViewParams,
    config: AugmentConfig,
    device: torch.device,
    std: Sequence[float] = IMAGENET_STD,
    reduced: NDArray[np.int64] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """All views of a batch of pictures.

    Args:
        pictures: uint8 [P, 3] or float32 [P, C], the pixels of all pictures, row by row, one
            picture after the other; page-locked where the copy is to run beside other work.
        sizes: int64 [B, 2], height and width of each picture.
        params: what each view does.
        config: numbers and sizes of the views.
        device: where they are made.
        std: deviation of each channel, by which float channels are brightened.
        reduced: int64 [B], how much smaller each picture was made than what its boxes are measured
            in; None: not at all.

    Returns:
        Global views [G, B, C, h, w] and local views [L, B, C, h', w'], None without any: of the
        type of the pictures, on the device.
    """
    pictures = pictures.to(device, non_blocking=True)
    first, last = config.num_global, num_views(config)
    factors = np.ones(len(sizes), np.int64) if reduced is None else reduced
    made = [
        _views(pictures, _Crops.of(sizes, factors, params, views), view_size(config, views[0]), std)
        for views in (range(first), range(first, last))
        if views
    ]
    stacked = [many.unflatten(0, (-1, len(sizes))) for many in made]
    return stacked[0], stacked[1] if len(stacked) > 1 else None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Crops:
    """What is done to n views, as arrays over them."""

    start: NDArray[np.int64]
    """Of the picture in the pixels."""
    stride: NDArray[np.int64]
    """Its width."""
    box: NDArray[np.int64]
    """[n, 4], the pixels that are read: top, left, height, width."""
    place: NDArray[np.float32]
    """[n, 4], the view's own box within these."""
    mirrored: NDArray[np.bool_]
    """Left to right, with what the turn adds."""
    upended: NDArray[np.bool_]
    """Top to bottom, with what the turn adds."""
    transposed: NDArray[np.bool_]
    """Rows become columns, after the flips: with them a quarter turn."""
    order: NDArray[np.uint8]
    jitter: NDArray[np.float32]
    gray: NDArray[np.bool_]
    sigma: NDArray[np.float32]
    solarize: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        sizes: NDArray[np.int64],
        factors: NDArray[np.int64],
        params: ViewParams,
        views: Sequence[int],
    ) -> _Crops:
        """Those of the `views` of all images, view-major; pictures are smaller by `factors` [B]."""

        def flat(values: NDArray[Any]) -> NDArray[Any]:
            return np.swapaxes(values[:, list(views)], 0, 1).reshape(-1, *values.shape[2:])

        ends = np.cumsum(sizes.prod(axis=1))
        turn = flat(params.turn)
        box, smaller = flat(params.box).astype(np.int64), np.tile(factors, len(views))[:, None]
        corner, extent = box[:, :2], box[:, 2:]
        first, end = corner // smaller, -(-(corner + extent) // smaller)
        place = np.concatenate([corner / smaller - first, extent / smaller], axis=1)
        return cls(
            start=np.tile(ends - sizes.prod(axis=1), len(views)),
            stride=np.tile(sizes[:, 1], len(views)),
            box=np.concatenate([first, end - first], axis=1),
            place=place.astype(np.float32),
            mirrored=flat(params.flip) ^ np.isin(turn, (1, 2)),
            upended=flat(params.vertical_flip) ^ np.isin(turn, (2, 3)),
            transposed=turn % 2 == 1,
            order=flat(params.jitter_order),
            jitter=flat(params.jitter),
            gray=flat(params.gray),
            sigma=flat(params.blur_sigma),
            solarize=flat(params.solarize),
        )

    def chosen(self, rows: NDArray[np.int64]) -> _Crops:
        """Those of some rows."""
        return _Crops(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def chunks(self, view: int, most: int) -> Iterator[NDArray[np.int64]]:
        """Rows that go together, of like sizes: at most `most` pixels of crops and views each.

        view: pixels of one view.
        """
        height, width = self.box[:, 2], self.box[:, 3]
        rows = np.lexsort((width, height))
        begin = 0
        while begin < len(rows):
            rest = rows[begin:]
            area = np.maximum.accumulate(height[rest]) * np.maximum.accumulate(width[rest])
            fitting = np.arange(1, len(rest) + 1) * np.maximum(area, view) <= most
            count = max(1, int(fitting.sum()))
            yield rest[:count]
            begin += count


def _views(pictures: Tensor, crops: _Crops, size: tuple[int, int], std: Sequence[float]) -> Tensor:
    """Views [n, C, h, w] of the pictures [P, C]."""
    out = pictures.new_empty(len(crops.start), pictures.shape[1], *size)
    colored = pictures.dtype is torch.uint8 and pictures.shape[1] == len(RGB)
    most = CROPPED.get(pictures.device.type, CROPPED["cuda"])
    for rows in crops.chunks(size[0] * size[1], most):
        some = crops.chosen(rows)
        views = _resized(pictures, some, size)
        views = _colored(views, some) if colored else _scaled(views, some, std)
        (places,) = _sent(views.device, rows)
        out[places] = views.transpose(1, 2).to(out.dtype)
    return out


def _resized(pictures: Tensor, crops: _Crops, size: tuple[int, int]) -> Tensor:
    """Crops of all views, resized, flipped and turned: [n, h, C, w]; bytes as whole levels."""
    device, whole = pictures.device, pictures.dtype is torch.uint8
    start, stride, box, place = _sent(device, crops.start, crops.stride, crops.box, crops.place)
    (flips,) = _sent(device, np.stack([crops.mirrored, crops.upended, crops.transposed]))
    top, left, height, width = box.unbind(1)
    tall, wide = crops.box[:, 2:].max(axis=0).tolist()
    row = torch.minimum(torch.arange(tall, device=device), height[:, None] - 1) + top[:, None]
    column = torch.minimum(torch.arange(wide, device=device), width[:, None] - 1) + left[:, None]
    index = (start[:, None] + row * stride[:, None])[:, :, None] + column[:, None, :]
    kind = _operands(device, whole)
    pixels = pictures[index].transpose(2, 3).to(kind, memory_format=torch.contiguous_format)
    grain = filters.GRAIN if whole else filters.FINE
    rows = filters.Rows(place[:, 0], place[:, 2], height, tall)
    columns = filters.Rows(place[:, 1], place[:, 3], width, wide)
    across = filters.resize_weights(columns, size[1], flips[0], grain).to(kind)
    down = filters.resize_weights(rows, size[0], flips[1], grain).to(kind)
    count, channels = len(index), pictures.shape[1]
    views = filters.product(pixels.flatten(1, 2), across.transpose(1, 2))
    views = _whole(views, whole)
    views = filters.product(down, views.view(count, tall, channels * size[1]).to(kind))
    views = _whole(views, whole).view(count, size[0], channels, size[1])
    if crops.transposed.any():
        views = torch.where(flips[2][:, None, None, None], views.transpose(1, 3), views)
    return views


def _colored(views: Tensor, crops: _Crops) -> Tensor:
    """Colours, blur and solarization of levels 0..255 [n, h, 3, w]."""
    for step in device_colors.blends(crops.order, crops.jitter):
        views = device_colors.blend(
            views, *_sent(views.device, step.factor, step.with_gray, step.with_mean)
        )
        if len(step.hue_rows):
            levels = np.trunc(crops.jitter[step.hue_rows, HUE].astype(float) * 255)
            rows, shift = _sent(views.device, step.hue_rows, levels.astype(np.int64))
            views[rows] = device_colors.hue(views[rows], shift)
    if crops.gray.any():
        (rows,) = _sent(views.device, np.flatnonzero(crops.gray))
        views[rows] = device_colors.luma(views[rows]).expand(-1, -1, len(RGB), -1)
    views = _blurred(views, crops.sigma, whole=True)
    if crops.solarize.any():
        (rows,) = _sent(views.device, np.flatnonzero(crops.solarize))
        views[rows] = device_colors.solarize(views[rows])
    return views


def _scaled(views: Tensor, crops: _Crops, std: Sequence[float]) -> Tensor:
    """Brightness, contrast and blur of levels [n, h, C, w] of any channels."""
    (deviation,) = _sent(views.device, np.asarray(std, np.float32))
    for factor, shift in device_colors.channel_blends(crops.order, crops.jitter):
        scale, moved = _sent(views.device, factor, shift)
        views = device_colors.blend_channels(views, scale, moved, deviation)
    return _blurred(views, crops.sigma, whole=False)


def _blurred(views: Tensor, sigma: NDArray[np.float32], whole: bool) -> Tensor:
    """Views [n, h, C, w] blurred by `sigma` [n], those above 0; whole: levels stay bytes."""
    wanted = np.flatnonzero(sigma > 0)
    if not len(wanted):
        return views
    rows, steps = _sent(views.device, wanted, filters.blur_steps(sigma[wanted]))
    count, (height, channels, width) = len(wanted), views.shape[1:]
    kind = _operands(views.device, whole)
    across, down = (filters.blur_weights(steps, side).to(kind) for side in (width, height))
    some = views[rows].to(kind).flatten(1, 2)
    some = _whole(filters.product(some, across.transpose(1, 2)), whole)
    some = filters.product(down, some.view(count, height, channels * width).to(kind))
    views[rows] = _whole(some, whole).view(count, height, channels, width)
    return views


def _operands(device: torch.device, whole: bool) -> torch.dtype:
    """Type of what is multiplied: bytes and weights are exact in halves, which GPUs are fast at."""
    return torch.float16 if whole and device.type == "cuda" else torch.float32


def _whole(levels: Tensor, whole: bool = True) -> Tensor:
    """Levels rounded to bytes, 0..255; others as they are."""
    # Rounds and clips in one pass over the memory, of which there is much.
    return torch.fake_quantize_per_tensor_affine(levels, 1.0, 0, 0, 255) if whole else levels


def _sent(device: torch.device, *arrays: NDArray[Any]) -> list[Tensor]:
    """Arrays on the device; a GPU takes them while its work goes on."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type == "cuda":
        tensors = [tensor.pin_memory() for tensor in tensors]
    return [tensor.to(device, non_blocking=True) for tensor in tensors]
