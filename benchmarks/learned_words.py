"""Whether the words of a teacher are worth predicting for patches: entropy, agreement, place."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.data.sets.images import Images
from ibot.eval.features.views import in_batches
from ibot.eval.probes.match import MatchPlan
from ibot.eval.probes.match_places import Cells, cells_apart, centres, most_similar, places_in
from ibot.eval.probes.view_pairs import PairBatch, pair_batches
from ibot.models.contract import Backbone
from ibot.models.head import ProjectionHead

TEMPERATURE = 0.04


@torch.inference_mode()
def agreement(
    backbone: Backbone,
    head: ProjectionHead,
    images: Images,
    chosen: NDArray[np.int64],
    plan: MatchPlan,
) -> dict[str, float]:
    """Of pairs of views of the `chosen` images, by the words of their patches:

    words_same: per cent of overlapping patches with the word of the patch at their place in the
    other view. words_chance: the same for a patch of any image. words_match_r1: per cent whose most
    similar projection there is at most a patch away. words_used: exp of the entropy of how often
    words are taken. words_per_image: how many differ in a view. words_entropy: mean entropy in nats
    of softmax(score / 0.04).
    """
    same = near = count = 0.0
    every, entropies, kinds = [], [], []
    batches = in_batches(chosen, plan.batch)
    for pairs in pair_batches(images, plan.size, batches, plan.seed, 0, plan.statistics[1]):
        rows, grid = _projected(backbone, head, pairs, plan)
        scores = _scores(head, rows)
        words = scores.argmax(dim=-1)
        entropies.append(torch.special.entr((scores / TEMPERATURE).softmax(-1)).sum(-1).mean())
        every.append(words.flatten())
        kinds += [len(row.unique()) for row in words]
        cells = Cells.of(grid, plan.size, plan.patch)
        true, held = places_in(centres(pairs.placed[0], cells), pairs.placed[1], cells)
        first, second = rows.chunk(2)
        of_first, of_second = words.chunk(2)
        there = of_second.gather(1, true[..., 0] * grid[1] + true[..., 1])
        same += ((of_first == there) & held).sum().item()
        apart = cells_apart(most_similar(first, second), true, grid[1])
        near += ((apart <= 1) & held).sum().item()
        count += held.sum().item()
    shares = torch.cat(every).bincount(minlength=scores.shape[-1]).double()
    shares /= shares.sum()
    return {
        "words_same": 100 * same / count,
        "words_chance": 100 * shares.square().sum().item(),
        "words_match_r1": 100 * near / count,
        "words_used": torch.special.entr(shares).sum().exp().item(),
        "words_per_image": sum(kinds) / len(kinds),
        "words_entropy": torch.stack(entropies).mean().item(),
    }


def _projected(
    backbone: Backbone, head: ProjectionHead, pairs: PairBatch, plan: MatchPlan
) -> tuple[Tensor, tuple[int, int]]:
    """Rows [2 b, N, d] of the patches before the last layer, and the grid."""
    output = backbone(normalize(torch.cat(pairs.views), plan.statistics))
    return head.patch_rows(output.patches), output.grid


def _scores(head: ProjectionHead, rows: Tensor) -> Tensor:
    """[..., K] before any temperature."""
    flat = rows.flatten(0, -2)
    return head.logits(flat[:0], flat)[1].unflatten(0, rows.shape[:-1])
