"""The 19 corruptions of ImageNet-C and their mean errors (paper table 8, spec_evaluation 9.4).

The pixels come from the package `imagecorruptions-imaug`. It follows the published set, which was
stored as JPEG, but does not reproduce it: the draws are free, motion blur is a shifted sum, elastic
transform has no affine part, zoom trims at the lower right. Label results as 'generated'.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.errors import MissingExtra
from ibot.eval.robustness.settings import CorruptionSettings

CORRUPTIONS: Sequence[str] = CorruptionSettings().corruptions
"""All 19, in the published order."""

COMMON_CORRUPTIONS: Sequence[str] = CORRUPTIONS[:15]
"""Those of the standard mCE."""

SEVERITIES = CorruptionSettings().severities
MIN_SIDE = 32
"""Pixels; smaller images are refused by the package."""

ALEXNET_ERRORS = {
    "gaussian_noise": 88.6428,
    "shot_noise": 89.4468,
    "impulse_noise": 92.2640,
    "defocus_blur": 81.9880,
    "glass_blur": 82.6268,
    "motion_blur": 78.5948,
    "zoom_blur": 79.8360,
    "snow": 86.6816,
    "frost": 82.6572,
    "fog": 81.9324,
    "brightness": 56.4592,
    "contrast": 85.3204,
    "elastic_transform": 64.6056,
    "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}
"""Mean error of AlexNet over the five severities on ImageNet-C, per cent. None are verified for
the extra four."""

# The package draws from numpy's global state: two threads must not share it.
_GLOBAL_STATE = threading.Lock()


@dataclass(frozen=True, slots=True)
class CorruptionScore:
    """Errors in per cent, lower is better."""

    per_corruption: dict[str, float]
    """Mean over the five severities."""
    mean: float
    """Over the corruptions that are there, not normalised."""
    mean_15: float | None
    """Over the 15 common ones, not normalised; None unless all are there."""
    mean_19: float | None
    """Over all 19, as the published script prints, not normalised; None unless all are there."""
    mce: float | None
    """The standard mCE: over the 15 common ones, each relative to the baseline's error; or None."""


def corrupt(image: NDArray[np.uint8], name: str, severity: int, seed: int) -> NDArray[np.uint8]:
    """One corrupted copy of an image; the same seed gives the same pixels.

    Numpy's global state is left as it was. The first glass blur of a process takes some seconds, in
    which its loop is compiled.

    Args:
        image: uint8 [H, W, 3], RGB, at least 32 pixels on both sides; made for a centre crop of
            224.
        name: one of `CORRUPTIONS`.
        severity: 1..5.
        seed: 0..2^32 - 1, one per image.

    Returns:
        uint8 [H, W, 3].

    Raises:
        MissingExtra: the package is not installed.
        ValueError: another image, name, severity or seed.
    """
    is_rgb = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not is_rgb or min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(
            f"an image is uint8 [H, W, 3] of at least {MIN_SIDE} pixels, not {image.dtype} "
            f"{list(image.shape)}"
        )
    if name not in CORRUPTIONS:
        raise ValueError(f"unknown corruption '{name}', known are {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severities are 1 to 5, not {severity}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed lies between 0 and 2^32 - 1, not {seed}")
    library = _library()
    # These two draw from generators of their own, which only this argument reaches.
    own_seed: dict[str, Any] = {"seed": seed} if name in ("impulse_noise", "glass_blur") else {}
    with _seeded(seed):
        try:
            # On small images no drop of spatter may reach its threshold; the package then divides
            # zero by zero.
            with np.errstate(invalid="raise" if name == "spatter" else "warn"):
                return library.corrupt(np.ascontiguousarray(image), severity, name, **own_seed)
        except FloatingPointError:
            return image.copy()


def mean_corruption_error(
    errors: Mapping[str, Sequence[float]], baseline: Mapping[str, float] = ALEXNET_ERRORS
) -> CorruptionScore:
    """Averages over corruptions, normalised and not.

    The paper's figures for ImageNet-C (48.1 for iBOT, 51.7 for DINO) are most likely `mean_19`, not
    the mCE.

    Args:
        errors: top-1 error in per cent at each of the five severities, by corruption.
        baseline: mean error in per cent by corruption. AlexNet's makes sense for ImageNet-1K only;
            elsewhere take `per_corruption` of a run to compare with.

    Raises:
        ValueError: no corruption, an unknown one, other than five errors, or a baseline that lacks
            one of the 15 or has no error there.
    """
    unknown = [name for name in errors if name not in CORRUPTIONS]
    if unknown or not errors:
        raise ValueError(f"corruptions {sorted(errors)}, known are {', '.join(CORRUPTIONS)}")
    for name, row in errors.items():
        if len(row) != len(SEVERITIES):
            raise ValueError(
                f"'{name}' has {len(row)} errors, not one for each of {len(SEVERITIES)} severities"
            )
    means = {name: float(np.mean(errors[name])) for name in CORRUPTIONS if name in errors}
    mce = None
    if all(name in means for name in COMMON_CORRUPTIONS):
        lacking = [name for name in COMMON_CORRUPTIONS if not baseline.get(name, 0) > 0]
        if lacking:
            raise ValueError(f"the baseline has no error above zero for {', '.join(lacking)}")
        mce = float(np.mean([100 * means[name] / baseline[name] for name in COMMON_CORRUPTIONS]))
    return CorruptionScore(
        per_corruption=means,
        mean=float(np.mean(list(means.values()))),
        mean_15=_mean_of(means, COMMON_CORRUPTIONS),
        mean_19=_mean_of(means, CORRUPTIONS),
        mce=mce,
    )


def _mean_of(means: Mapping[str, float], names: Sequence[str]) -> float | None:
    if not all(name in means for name in names):
        return None
    return float(np.mean([means[name] for name in names]))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with _GLOBAL_STATE:
        before = np.random.get_state()
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)


def _library() -> ModuleType:
    try:
        return importlib.import_module("imagecorruptions")
    except ImportError:
        raise MissingExtra("imagecorruptions-imaug", "corruptions") from None
