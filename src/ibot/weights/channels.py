"""Patch embeddings for images of other channels than those of the weights.

The rule, for weights that read C channels and a network that shall read C':

- a channel that the weights know by its name takes its own kernel; red, green and blue are known by
  the names of bands too (`COLOURS`);
- every other channel takes the mean of the weights' kernels;
- all are scaled by C / C', so that the response keeps its size: of an image whose channels are
  alike it stays what it was, wherever all or none of the weights' channels are among the others.

For one channel that is the sum of the kernels. Names in the same order are the same network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ibot.words import counted

EMBEDDING = "patch_embed.proj.weight"
COLOURS = {
    **dict.fromkeys(("red", "r", "b04", "b4"), "red"),
    **dict.fromkeys(("green", "g", "b03", "b3"), "green"),
    **dict.fromkeys(("blue", "b", "b02", "b2"), "blue"),
}
"""Names of channels, in lower case, that are red, green and blue: bands of Sentinel-2 and Landsat 8
among them."""


def fitting_embedding(kernels: Tensor, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Kernels [D, C, p, p] of the channels `known` as those of `wanted`: [D, C', p, p]."""
    if tuple(known) == tuple(wanted):
        return kernels
    places = _places(known, wanted)
    average = kernels.mean(dim=1)
    chosen = [average if place is None else kernels[:, place] for place in places]
    return torch.stack(chosen, dim=1) * (len(known) / len(wanted))


def told_embedding(known: Sequence[str], wanted: Sequence[str]) -> str:
    """What `fitting_embedding` does, in words; empty where nothing changes."""
    if tuple(known) == tuple(wanted):
        return ""
    places = zip(wanted, _places(known, wanted), strict=True)
    own = [name for name, place in places if place is not None]
    others = len(wanted) - len(own)
    parts = [f"{', '.join(own)} with their own kernels"] if own else []
    parts += [f"{counted(others, 'channel')} with the mean of all"] if others else []
    return (
        f"its patch embedding of {counted(len(known), 'channel')} made one of {len(wanted)}: "
        f"{', '.join(parts)}, times {len(known)}/{len(wanted)}"
    )


def _places(known: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Where each wanted channel stands among the known ones."""
    named = {_plain(name): place for place, name in enumerate(known)}
    # By its own name first: a set may have a band B4 and a red one.
    exact = {name: place for place, name in enumerate(known)}
    return [exact.get(name, named.get(_plain(name))) for name in wanted]


def _plain(name: str) -> str:
    return COLOURS.get(name.lower(), name.lower())
