"""Cross-entropy of rows of scores in place: the loss of each row, and its gradient where the scores
were.

Two steps of a chunk of the losses (`method/fused.py`): the teacher's logits become probabilities,
then the student's scores become gradients. The functions here are torch operations, for any device
and type; `cross_entropy_triton.py` holds the same two as one kernel each.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_rows(logits: Tensor, center: Tensor, temp: float) -> None:
    """Teacher logits [N, K] -> probabilities, in place: softmax((logits - center [K]) / temp)."""
    logits.sub_(center).div_(temp)
    logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    logits.div_(logits.sum(dim=1, keepdim=True))


def cross_entropy_rows(
    scores: Tensor, probs: Tensor, scale: Tensor, temp: float, own: bool
) -> Tensor:
    """Losses [V, R] of the student's rows; their gradient takes the place of the scores.

    With s = scores / temp and the targets summed to q, of mass m: scale * (m * logsumexp(s) -
    <q, s>), by the scores (m * softmax(s) - q) * scale / temp (spec 5.7, I6, I7).

    Args:
        scores: [V, R, K] of V student views, overwritten.
        probs: [G, R, K] of G teacher views.
        scale: [R], of each row in the loss.
        temp: the student's temperature.
        own: the first G student views are the teacher's own: each of them is compared with the
            others alone. Else every student view with every teacher view.
    """
    losses = scores.new_empty(scores.shape[:2])
    for view, part in enumerate(scores):
        target = _sum([p for t, p in enumerate(probs) if not (own and t == view)])
        if target is None:  # nobody teaches it
            part.zero_()
            losses[view] = scale * 0.0
            continue
        part.div_(temp)
        log_norm, mass = part.logsumexp(dim=1), target.sum(dim=1)
        agreement = (target[:, None] @ part[..., None]).flatten()
        losses[view] = (mass * log_norm - agreement) * scale
        part.sub_(log_norm[:, None]).exp_().mul_(mass[:, None]).sub_(target)
        part.mul_((scale / temp)[:, None])
    return losses


def _sum(tensors: list[Tensor]) -> Tensor | None:
    if len(tensors) > 1:
        return torch.stack(tensors).sum(dim=0)
    return tensors[0] if tensors else None
