"""Self-attention of the last block over an image (spec_evaluation 10.1), as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.false_colours import as_rgb
from ibot.models.attention import foreground
from ibot.models.contract import Backbone
from ibot.show.colours import PALETTE, between_ends, in_colors
from ibot.show.inputs import WholeView, network_input
from ibot.show.layout import enlarged

MASS = 0.6
"""Share of a head's attention that its mask holds, as published."""
LEAST_COVER = 0.2
"""Between 0 and 1 of a head's own range, below which it does not colour a pixel."""
DARK = 0.1
"""The overlay's ground: the gray image times this."""

Source = Literal["class", "windows", "norms"]
WORDS: dict[Source, str] = {
    "class": "attention of the class token in the last block",
    "windows": "no class token: attention that patches receive in the windows of the last block",
    "norms": "length of the patch tokens, no attention",
}
"""What maps hold, as it stands on pictures."""


@dataclass(frozen=True, slots=True)
class Attention:
    """What a network attends to in one image."""

    view: NDArray[np.uint8]
    """uint8 [H, W, 3], as the network sees it."""
    maps: NDArray[np.float32]
    """[heads, h, w]; of norms one map."""
    mass: NDArray[np.bool_]
    """[heads, h, w], True for the fewest patches with the share of the mass that was asked for."""
    mean_mass: NDArray[np.bool_]
    """[h, w], the same of the mean."""
    source: Source
    """What the maps are: `WORDS`."""

    @property
    def mean(self) -> NDArray[np.float32]:
        """Mean over the heads, [h, w]."""
        return self.maps.mean(axis=0)

    def overlay(
        self, heads: Sequence[int] | None = None, image: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Heads in their colours over the dark image, as `overlay` does: uint8 [H, W, 3].

        heads: numbers; None: all. image: what to lay them on; None: the view.
        """
        chosen = list(range(len(self.maps)) if heads is None else heads)
        shown = self.maps[chosen] * self.mass[chosen]
        return overlay(self.view if image is None else image, shown, list(map(head_color, chosen)))

    def coloured(
        self, head: int | None, masked: bool = False, colors: str = "viridis"
    ) -> NDArray[np.uint8]:
        """A head between its own ends in a colour map: uint8 [h, w, 3]; None: the mean.

        masked: black outside of its mass. Raises MissingExtra without matplotlib.
        """
        shown = in_colors(between_ends(self.mean if head is None else self.maps[head]), colors)
        if not masked:
            return shown
        return shown * (self.mean_mass if head is None else self.mass[head])[..., None]


def head_color(head: int) -> tuple[int, int, int]:
    """The colour of a head, by its number."""
    return PALETTE[head % len(PALETTE)]


@torch.no_grad()
def class_attention(backbone: Backbone, images: Tensor) -> Tensor:
    """Attention of the class token to the patches in the last block, as maps: [B, heads, h, w].

    images: normalised [B, 3, H, W]. Raises ValueError for a backbone without such attention.
    """
    tokens, attention = backbone.tokens_and_attention(images)
    return attention.unflatten(-1, tokens.grid)


@torch.no_grad()
def attention_maps(
    backbone: Backbone, images: Tensor, norms: bool = False
) -> tuple[Tensor, Source]:
    """Maps [B, heads, h, w] of normalised images [B, 3, H, W], and what they are.

    Of the class token where there is one; else what patches receive in their windows.
    norms: lengths of the patch tokens after the final norm instead, [B, 1, h, w].
    Raises ValueError for a network without any attention.
    """
    if norms:
        tokens = backbone(images)
        return tokens.patches.norm(dim=-1).unflatten(-1, tokens.grid)[:, None], "norms"
    if backbone.class_heads:
        return class_attention(backbone, images), "class"
    return backbone.received_attention(images), "windows"


def attention_of(
    backbone: Backbone,
    image: NDArray[Any],
    view: WholeView | None = None,
    *,
    mass: float = MASS,
    norms: bool = False,
) -> Attention:
    """What a network attends to in an image [H, W], [H, W, C] of any levels.

    Args:
        backbone: in evaluation mode.
        image: as it is in its file; float32 of as many channels as the network reads are levels,
            other than three channels become colours as `show.colours` says.
        view: how the network sees it; None: its shorter side with 480 pixels.
        mass: share of the attention that the masks hold, 0..1.
        norms: lengths of the patch tokens instead.

    Raises:
        ValueError: a network without attention, or a mass that is no share.
    """
    pixels = (view or WholeView()).render(image, backbone.patch_size, len(backbone.channels))
    found, source = attention_maps(backbone, network_input(pixels, backbone), norms)
    maps = found[0].float().cpu()
    flat = torch.cat([maps, maps.mean(0, keepdim=True)]).flatten(1)
    masks = foreground(flat, mass).unflatten(1, maps.shape[1:]).numpy()
    return Attention(as_rgb(pixels), maps.numpy(), masks[:-1], masks[-1], source)


def overlay(
    image: NDArray[np.uint8], maps: NDArray[np.floating], colors: Sequence[tuple[int, int, int]]
) -> NDArray[np.uint8]:
    """Maps in their colours over the dark gray image, as published.

    At each place only the strongest map stays (of equal ones the first). Each is then spread
    between its ends; above 0.2 its colour covers the square root of its value.

    Args:
        image: uint8 [H, W, 3].
        maps: [n, h, w], 0 or more, 0 outside of their masks.
        colors: of each map.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = image.shape[:2]
    gray = (192 + 64 * between_ends(image)).mean(axis=-1)
    picture = np.repeat(DARK * gray[..., None], 3, axis=-1)
    strongest = maps.argmax(axis=0)
    for i, color in enumerate(colors):
        # A map that is nowhere the strongest is zero throughout, and colours nothing.
        own = between_ends(np.where(strongest == i, maps[i], 0))
        cover = enlarged(np.where(own > LEAST_COVER, np.sqrt(own), 0), height, width)[..., None]
        picture = picture * (1 - cover) + cover * np.array(color)
    return np.rint(picture).astype(np.uint8)
