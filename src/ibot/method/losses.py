"""Cross-entropy between the sharpened teacher and the student (equations 2 and 3; spec 5.2, 5.3).

Pure functions of tensors, computed in float32 or wider. Both losses use -sum p log q = m *
logsumexp(s) - <p, s> for targets that sum to m, so that no log-softmax is stored (spec 5.7, I6,
I7); the tests hold the plain double loops. The sum m is taken, not assumed: a target of zeros must
cost nothing, not a bare logsumexp.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ibot.models.head import at_least_float32


def teacher_probs(logits: Tensor, center: Tensor, temp: float) -> Tensor:
    """Centre and sharpen teacher logits [..., K] with `center` [K]; sums to 1 over K."""
    return F.softmax((at_least_float32(logits) - center) / temp, dim=-1)


def hard_labels(probs: Tensor) -> Tensor:
    """All of each row [..., K] on its largest entry, the first of equal ones (table 18)."""
    return torch.zeros_like(probs).scatter_(-1, probs.argmax(dim=-1, keepdim=True), 1.0)


def cls_loss(student: Tensor, teacher: Tensor, student_temp: float) -> Tensor:
    """Mean cross-entropy over all (teacher, student) pairs of different views (equation 2).

    student: logits [V, B, K]; the first G views are the teacher's own. teacher: probabilities [G,
    B, K], no gradient. Returns a scalar in nats; uniform teacher and student give ln K.
    """
    num_student, num_teacher, batch = len(student), len(teacher), student.shape[1]
    scores = at_least_float32(student) / student_temp
    log_norm, mass = scores.logsumexp(dim=-1), teacher.sum(dim=-1)  # [V, B], [G, B]
    all_pairs = (mass.sum(dim=0) * log_norm).sum() - (scores * teacher.sum(dim=0)).sum()
    # A view must not predict itself: that would ask for identity, not for invariance.
    own = scores[:num_teacher]
    own_pairs = (mass * log_norm[:num_teacher]).sum() - (own * teacher).sum()
    return (all_pairs - own_pairs) / (num_teacher * (num_student - 1) * batch)


def patch_loss(
    student: Tensor, teacher: Tensor, weight: Tensor, num_views: int, student_temp: float
) -> Tensor:
    """Masked-patch cross-entropy (equation 3); each view counts once, whatever it hides.

    student: logits [M, K] of the masked patches of all global views. teacher: probabilities [M, K]
    at the same places of the whole view. weight: [M], one over the number of masked patches of the
    patch's view. num_views: G * B; views without a mask count as zero. Returns a scalar in nats.
    """
    scores = at_least_float32(student) / student_temp
    per_patch = teacher.sum(dim=-1) * scores.logsumexp(dim=-1) - (teacher * scores).sum(dim=-1)
    return (per_patch * weight).sum() / num_views


def koleo_loss(features: Tensor, eps: float = 1e-8) -> Tensor:
    """Minus the mean log distance of each feature to its nearest neighbour (KoLeo, see DINOv2).

    features: [G, B, D]; neighbours are sought among the images of one view. Spreads features over
    the sphere, which keeps their rank up. Zero for a single image.
    """
    batch = features.shape[1]
    if batch < 2:
        return features.sum() * 0.0
    unit = F.normalize(features, dim=-1)
    with torch.no_grad():
        cosine = unit @ unit.transpose(1, 2)
        cosine.diagonal(dim1=1, dim2=2).fill_(-2.0)
        nearest = cosine.argmax(dim=-1)  # [G, B]
    neighbour = unit.gather(1, nearest[..., None].expand_as(unit))
    # The clamp keeps duplicates in a batch finite, in value and in gradient.
    distance = (unit - neighbour).square().sum(dim=-1).clamp(min=eps).sqrt()
    return -distance.log().mean()


def entropy(probs: Tensor) -> Tensor:
    """Entropy in nats over the last dimension: [..., K] -> [...]."""
    return torch.special.entr(probs).sum(dim=-1)
