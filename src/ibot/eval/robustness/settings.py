"""Settings of the evaluations of robustness (9.2 to 9.6), `key=value` on their command lines.

The defaults are the paper's where a field names no other. One flat, frozen dataclass for each;
units and sources stand with the fields.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackgroundSettings:
    """Backgrounds challenge, ImageNet-9 (9.2)."""

    root: str = ""
    """Folder with the variants original, only_fg, mixed_same, ...; `--data` is what the head was or
    will be fitted on."""
    challenge: bool = False
    """Also paste each foreground on all backgrounds; needs fg_mask and takes long."""


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """Calibration of a classifier (9.3)."""

    bin_size: int = 100
    """Images per bin, at most a tenth of all."""


@dataclass(frozen=True, slots=True)
class NaturalAdversarialSettings:
    """Images chosen to be hard, ImageNet-A (9.3)."""

    root: str = ""
    """Their class folders."""
    classes: tuple[str, ...] = ()
    """Classes that compete; none: those that have a folder, as published."""
    bin_size: int = 100
    """Images per bin of the calibration error, at most a tenth of all."""


@dataclass(frozen=True, slots=True)
class CorruptionSettings:
    """Corrupted images, ImageNet-C (9.4)."""

    root: str = ""
    """Folder of stored images, CORRUPTION/SEVERITY/CLASS/*; none: made of the validation images."""
    corruptions: tuple[str, ...] = (
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "snow",
        "frost",
        "fog",
        "brightness",
        "contrast",
        "elastic_transform",
        "pixelate",
        "jpeg_compression",
        "speckle_noise",
        "gaussian_blur",
        "spatter",
        "saturate",
    )
    """The 15 common ones and the extra four."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    baseline: str = ""
    """results.jsonl of the run whose errors count as 100 %."""


@dataclass(frozen=True, slots=True)
class OcclusionSettings:
    """Images with patches dropped (9.5)."""

    steps: int = 10
    """Random curve: the shares 0, 1 / steps, ... below one."""
    masses: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Salient curves: shares of the attention that count as foreground."""
    head: int = -1
    """Attention head; -1: mean over heads. Published: 1."""
    saliency: str = ""
    """Weights whose attention decides; none: the evaluated ones. Published: DINO's ViT-S/16."""


@dataclass(frozen=True, slots=True)
class ShuffleSettings:
    """Images with blocks shuffled (9.6)."""

    grids: tuple[tuple[int, int], ...] = (
        (2, 2),
        (2, 4),
        (4, 4),
        (4, 8),
        (8, 8),
        (14, 14),
        (16, 16),
    )
    """Rows and columns of blocks, written 2:2,4:4."""
