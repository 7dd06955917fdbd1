"""Masks on what the teacher attends to: AttMask-High (Kakogeorgiou et al. 2022; beyond the paper).

The loader says how many patches of each view are hidden, the teacher which: nothing is drawn, so
that processes and resumed runs agree.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ibot.types import Masks


def most_attended(masks: Masks, attention: Tensor) -> Masks:
    """Hide as many patches of each global view as `masks` does: those with the most attention.

    attention: [G, B, N] of the class token to the patches; of equal ones the first are hidden.
    Numbers of patches are known from `masks`: a GPU is not waited for.
    """
    count = masks.map.sum(dim=-1, keepdim=True)
    order = attention.argsort(dim=-1, descending=True, stable=True)
    hidden = order.argsort(dim=-1) < count
    # Hidden places, then visible ones, each in the order of the views, as are their weights.
    places = hidden.flatten().byte().argsort(descending=True, stable=True)
    num_hidden, visible = len(masks.index), masks.visible
    if visible is not None:
        rest = places[num_hidden : num_hidden + len(visible.index)]
        visible = replace(visible, map=~hidden, index=rest)
    return replace(masks, map=hidden, index=places[:num_hidden], visible=visible)
