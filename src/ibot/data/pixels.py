"""Pixels of the views on the CPU: the reference, equal to Pillow bit by bit (spec 2.2).

One image at a time and easy to read; training renders whole batches with `pixels_batch`, which
gives the same bytes. Colour pictures are bytes; images of other channels are float levels, of which
`pixels_channels` makes the views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD
from ibot.config.schema import AugmentConfig
from ibot.data import pixels_channels
from ibot.data.params import NO_JITTER, num_views, view_size
from ibot.data.sets.images import Pixels
from ibot.types import ViewParams

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and deviation of the levels of each channel; `ModelConfig.statistics` of a network."""
RESIZE_OVER_CROP = 256 / 224
"""The shorter side is resized to this times the crop before the central crop."""
TURNS = {
    1: Image.Transpose.ROTATE_90,
    2: Image.Transpose.ROTATE_180,
    3: Image.Transpose.ROTATE_270,
}
"""Quarter turns counter-clockwise, by `ViewParams.turn`."""
_SOLARIZE = [v if v < 128 else 255 - v for v in range(256)] * 3


def render(
    image: Pixels,
    params: ViewParams,
    row: int,
    config: AugmentConfig,
    std: Sequence[float] = STD,
) -> list[Pixels]:
    """All views of one image.

    image: uint8 [H, W, 3], or float32 [H, W, C]. params: of a whole batch, `row` is the image's
    place in it. std: deviation of each channel, which tells how much brighter float levels become.
    Returns V arrays [h, w, C] of the same type, global views first.
    """
    if image.dtype != np.uint8:
        return [
            pixels_channels.render_view(image, params, row, view, view_size(config, view), std)
            for view in range(num_views(config))
        ]
    whole = Image.fromarray(image)
    return [
        np.asarray(render_view(whole, params, row, view, view_size(config, view)))
        for view in range(num_views(config))
    ]


def render_view(
    image: Image.Image, params: ViewParams, row: int, view: int, size: tuple[int, int]
) -> Image.Image:
    """One view (height, width) of a colour picture, which stands at `row` of the parameters."""
    top, left, height, width = params.box[row, view].tolist()
    out = resized_crop(image, top, left, height, width, size)
    if params.flip[row, view]:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if params.vertical_flip[row, view]:
        out = out.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if turn := int(params.turn[row, view]):
        out = out.transpose(TURNS[turn])
    order = params.jitter_order[row, view].tolist()
    if order[0] != NO_JITTER:
        factors = params.jitter[row, view].tolist()
        for operation in order:
            out = JITTER[operation](out, factors[operation])
    if params.gray[row, view]:
        out = grayscale(out)
    sigma = float(params.blur_sigma[row, view])
    if sigma > 0:
        out = blur(out, sigma)
    return solarize(out) if params.solarize[row, view] else out


def resized_crop(
    image: Image.Image, top: int, left: int, height: int, width: int, size: tuple[int, int]
) -> Image.Image:
    """Cut a box, then resize it bicubically with antialiasing to `size` (height, width).

    Not `resize(box=...)`: that reads neighbours outside the box at its border.
    """
    return cut(image, left, top, width, height).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def cut(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """A box of an image; outside of the image it is black.

    Not `crop`: that refuses large boxes by a limit of the whole process, which others may have set.
    """
    box = Image.new(image.mode, (width, height))
    box.paste(image, (-left, -top))
    return box


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blend with black: v = factor * v, clipped and truncated."""
    return Image.blend(Image.new("RGB", image.size), image, factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the rounded mean gray level."""
    histogram = np.asarray(image.convert("L").histogram())
    mean = int(float(histogram @ np.arange(256)) / float(histogram.sum()) + 0.5)
    return Image.blend(Image.new("RGB", image.size, (mean, mean, mean)), image, factor)


def saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the gray image."""
    return Image.blend(grayscale(image), image, factor)


def hue(image: Image.Image, shift: float) -> Image.Image:
    """Shift the 8-bit hue by trunc(255 * shift), modulo 256; converting rounds, even at 0."""
    h, s, v = image.convert("HSV").split()
    offset = int(shift * 255)
    return Image.merge(
        "HSV", (h.point([(level + offset) % 256 for level in range(256)]), s, v)
    ).convert("RGB")


def grayscale(image: Image.Image) -> Image.Image:
    """Luma in all three channels."""
    gray = image.convert("L")
    return Image.merge("RGB", (gray, gray, gray))


def blur(image: Image.Image, sigma: float) -> Image.Image:
    """Pillow's Gaussian blur: three box blurs each way; `sigma` in pixels."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def solarize(image: Image.Image) -> Image.Image:
    """Invert levels of 128 and more."""
    return image.point(_SOLARIZE)


JITTER = (brightness, contrast, saturation, hue)
"""Operations of colour jitter by their number in `ViewParams.jitter_order`."""


def shorter_side(crop: tuple[int, int]) -> int:
    """Pixels of the shorter side of a picture before evaluations take a central crop of it."""
    return round(max(crop) * RESIZE_OVER_CROP)


def by_pillow(image: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """An image [H, W, C] after what Pillow does to pictures: bytes of three channels at once, float
    levels channel by channel (its mode F, which neither rounds nor clips).
    """
    if image.dtype == np.uint8:
        return np.asarray(change(Image.fromarray(image)))
    return pixels_channels.by_channel(image, change)


def evaluation_view(
    image: Pixels,
    resize: int,
    crop: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Pixels:
    """Shorter side to `resize`, then a central crop (height, width): [H, W, C] -> [h, w, C]."""
    return by_pillow(
        image, lambda picture: center_crop(resize_shorter(picture, resize, resample), crop)
    )


def resize_shorter(
    image: Image.Image, side: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Resize so that the shorter side is `side`; the longer is truncated (torchvision's rule)."""
    width, height = image.size
    if min(width, height) == side:
        return image
    size = (
        (side, int(side * height / width))
        if width <= height
        else (int(side * width / height), side)
    )
    return image.resize(size, resample)


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Central box of `size` (height, width); outside of the image is black."""
    left, top = round((image.width - size[1]) / 2), round((image.height - size[0]) / 2)
    return cut(image, left, top, size[1], size[0])


def normalize(views: Tensor, statistics: Statistics = (MEAN, STD)) -> Tensor:
    """Views [..., C, H, W] -> float32: mean subtracted, divided by the deviation.

    Bytes are divided by 255 before; float levels are taken as they are.
    statistics: those of the network that reads the images; ImageNet's by default.
    """
    mean, std = _planes(statistics, views)
    levels = views.float() if views.is_floating_point() else views.float() / 255
    return (levels - mean) / std


def renormalize(images: Tensor, given: Statistics, wanted: Statistics) -> Tensor:
    """Images [b, C, H, W] normalised by `given`, as `wanted` would have normalised them."""
    if given == wanted:
        return images
    (mean, std), (new_mean, new_std) = (_planes(pair, images) for pair in (given, wanted))
    return (images * std + mean - new_mean) / new_std


def _planes(statistics: Statistics, views: Tensor) -> list[Tensor]:
    """Mean and deviation [C, 1, 1] where the views are. Raises ValueError for another number."""
    if any(len(values) != views.shape[-3] for values in statistics):
        raise ValueError(
            f"mean and deviation of {len(statistics[0])} and {len(statistics[1])} channels for "
            f"views of {views.shape[-3]}"
        )
    # A tensor that is made on a GPU waits for what its stream has to do; a copy does not.
    planes = (torch.tensor(values).view(-1, 1, 1) for values in statistics)
    return [plane.to(views.device, non_blocking=True) for plane in planes]
