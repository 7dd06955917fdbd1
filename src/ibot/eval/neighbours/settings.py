"""Settings of retrieval and copy detection (spec_evaluation 8.13, 8.14), `key=value` on their
command lines; the defaults are the published values where a field names no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Features = Literal["network", "pixels"]
"""Those of the network, or as a control the pixels themselves: 32 x 32, of mean 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalSettings:
    """Image retrieval (8.13)."""

    size: int = 512
    """Pixels of the longer side: larger images are reduced to it, smaller ones stay."""
    scales: tuple[float, ...] = (1.0, 0.5**0.5, 0.5)
    """Of the image; features are the mean over them."""
    features: Features = "network"
    crop: bool = False
    """Whether queries are cut to their box, as the official protocol of the sets does; the paper's
    figures are of whole queries."""
    k: tuple[int, ...] = (1, 5, 10)
    """First answers among which precision and recall are counted."""
    distractors: str = ""
    """Further images to be searched, none of them right; in any form that holds images."""
    shown: int = 12
    """Queries whose first answers are kept for the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopySettings:
    """Copy detection (8.14)."""

    size: int = 224
    """Side in pixels of the square that images are resized to, without regard to the aspect."""
    features: Features = "network"
    nearest: int = 20
    """Answers that count; originals behind them are not found."""
    distractors: str = ""
    """Further images among the originals, in any form that holds images."""
    whiten: str = ""
    """Images by whose features all are whitened: others than those here, and more of them than a
    feature has numbers."""
    attacks: tuple[str, ...] = (
        "strong",
        "crop20",
        "crop50",
        "crop80",
        "jpeg10",
        "jpeg3",
        "overlay",
        "blur",
        "rotate",
        "mirror",
    )
    """How copies are made where there are none."""
    attacked: int = 200
    """Images of which copies are made then, evenly spaced; 0: all."""
    shown: int = 12
    """Copies whose first answers are kept for the picture."""
