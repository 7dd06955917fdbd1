"""Parameters of the views of an image: random numbers in, boxes and colours out (spec 2.1, 2.2).

Vectorised over images and views. The recipes differ in three places: size and scale (global,
local), blur and solarization (first global view, other global views, local views).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ibot.config.schema import AugmentConfig
from ibot.rng import Purpose, uniform
from ibot.types import ViewParams

BOX_ATTEMPTS, FIRST_ATTEMPTS = 10, 2
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Operations of colour jitter, as `ViewParams.jitter_order` numbers them."""
NO_JITTER = 255
"""Value of `ViewParams.jitter_order` of a view without colour jitter."""


def num_views(config: AugmentConfig) -> int:
    """V, global and local views per image."""
    return config.num_global + config.num_local


def view_size(config: AugmentConfig, view: int) -> tuple[int, int]:
    """Height and width of view `view` in pixels; global views come first."""
    return config.global_size if view < config.num_global else config.local_size


def view_params(
    config: AugmentConfig,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    sizes: NDArray[np.int64],
    purposes: tuple[Purpose, Purpose] = (Purpose.BOX, Purpose.COLOR),
) -> ViewParams:
    """Parameters of all views of the images `index` [B] of `sizes` [B, 2] (height, width).

    purposes: of the boxes' numbers and of all others; those of a training by default.
    """
    views = np.arange(num_views(config))
    is_global = views < config.num_global
    scale = np.where(is_global[:, None], config.global_scale, config.local_scale)
    key = seed, epoch, index, views, purposes[0]
    box = _boxes(*key, sizes=sizes, scale=scale, aspect=config.aspect)
    color = uniform(seed, epoch, index[:, None], views, purposes[1], 16)
    recipe = np.where(is_global, np.minimum(views, 1), 2)
    order = np.argsort(color[..., 8:12], axis=-1, kind="stable").astype(np.uint8)
    order[color[..., 1] >= config.jitter] = NO_JITTER
    strength = np.asarray(config.jitter_strength)
    center = np.array([1.0, 1.0, 1.0, 0.0])
    blurred = color[..., 3] < np.asarray(config.blur)[recipe]
    low, high = config.blur_sigma
    return ViewParams(
        box=box,
        flip=color[..., 0] < config.flip,
        vertical_flip=color[..., 14] < config.vertical_flip,
        turn=_turns(color[..., 15], config.turn),
        jitter=(center + strength * (2 * color[..., 4:8] - 1)).astype(np.float32),
        jitter_order=order,
        gray=color[..., 2] < config.gray,
        blur_sigma=np.where(blurred, low + (high - low) * color[..., 12], 0.0).astype(np.float32),
        solarize=color[..., 13] < np.asarray(config.solarize)[recipe],
    )


def _turns(drawn: NDArray[np.float64], probability: float) -> NDArray[np.uint8]:
    """Quarter turns: 0, or below `probability` 1 to 3, each as likely."""
    turned = drawn < probability
    third = np.floor(3 * drawn / max(probability, 1e-12))
    return np.where(turned, 1 + np.minimum(third, 2), 0).astype(np.uint8)


def _boxes(
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    views: NDArray[np.int64],
    purpose: Purpose,
    *,
    sizes: NDArray[np.int64],
    scale: NDArray[np.float64],
    aspect: tuple[float, float],
) -> NDArray[np.int32]:
    """Random resized crop (spec 2.1): the first of ten boxes that fits, else the central one.

    sizes: [B, 2]. scale: [V, 2]. Returns int32 [B, V, 4]: top, left, height, width.
    """
    image, view = (row.ravel() for row in np.indices((len(index), len(views))))
    box = np.empty((len(image), 4), np.int32)
    missing = np.arange(len(image))
    # Most views have found theirs after two; the numbers of the others are drawn only then.
    for attempts in (FIRST_ATTEMPTS, BOX_ATTEMPTS):
        if not len(missing):
            break
        rows, columns = image[missing], view[missing]
        drawn = uniform(seed, epoch, index[rows], views[columns], purpose, 4 * attempts)
        box[missing], fits = _first_fitting(drawn, sizes[rows], scale[columns], aspect)
        missing = missing[~fits]
    for row in missing.tolist():
        height, width = sizes[image[row]].tolist()
        box[row] = _central_box(height, width, aspect)
    return box.reshape(len(index), len(views), 4)


def _first_fitting(
    drawn: NDArray[np.float64],
    sizes: NDArray[np.int64],
    scale: NDArray[np.float64],
    aspect: tuple[float, float],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of some boxes for each of n views the first that fits into its image, and whether one does.

    drawn: numbers in [0, 1) [n, 4 * boxes]. sizes: [n, 2]. scale: [n, 2].
    Returns [n, 4], top, left, height, width; and [n].
    """
    height, width = (sizes[:, i, None].astype(np.float64) for i in range(2))
    u = drawn.reshape(len(drawn), -1, 4)
    area = height * width * (scale[:, :1] + (scale[:, 1:] - scale[:, :1]) * u[..., 0])
    log_low, log_high = np.log(np.asarray(aspect, np.float32))
    ratio = np.exp(log_low + (log_high - log_low) * u[..., 1])
    box_w, box_h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (box_w > 0) & (box_h > 0) & (box_w <= width) & (box_h <= height)
    rows, first = np.arange(len(u)), fits.argmax(axis=1)
    h, w = box_h[rows, first], box_w[rows, first]
    top = np.floor(u[rows, first, 2] * (height[:, 0] - h + 1))
    left = np.floor(u[rows, first, 3] * (width[:, 0] - w + 1))
    return np.stack([top, left, h, w], axis=-1), fits[rows, first]


def _central_box(height: int, width: int, aspect: tuple[float, float]) -> NDArray[np.int64]:
    """The central box of the nearest allowed aspect, where ten boxes did not fit."""
    low, high = aspect
    box_h, box_w = height, width
    if width / height < low:
        box_h = round(width / low)
    elif width / height > high:
        box_w = round(height * high)
    return np.array([(height - box_h) // 2, (width - box_w) // 2, box_h, box_w])
