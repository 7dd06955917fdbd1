"""Does a classifier know when it is wrong? RMS calibration error and AURRA (spec_evaluation 9.3).

Published for ImageNet-A with logits restricted to its 200 classes; both measures serve any
classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor


def confidence_and_correct(
    logits: Tensor, labels: Tensor, subset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Largest softmax value and whether its class is the label, over all classes or a `subset`.

    Args:
        logits: [n, C], any float type; 16 bits are raised to float32 before the softmax.
        labels: int64 [n]. With a subset they count within it (0..len(subset) - 1), as a folder that
            holds only those classes does; without one they are classes (0..C - 1).
        subset: int64 [S], the classes that compete, in the order that `labels` uses; None for all.

    Returns:
        Confidence [n] in 1/S..1 and correct bool [n]. The first of equally large logits decides.

    Raises:
        ValueError: shapes that do not fit, or a subset or labels that name classes which are not
            there.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} do not fit labels of shape "
            f"{tuple(labels.shape)}"
        )
    if subset is not None:
        _check_range("subset", subset, logits.shape[1])
        logits = logits[:, subset]
    _check_range("labels", labels, logits.shape[1])
    probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1)
    # Not the arg-max of the probabilities: those of two unequal logits may round to the same value.
    chosen = logits.argmax(dim=1)
    return probs.gather(1, chosen[:, None])[:, 0], chosen == labels


def rms_calibration_error(
    confidence: Tensor, correct: Tensor, bin_size: int, drop_last: bool = False
) -> float:
    """Root mean square gap between confidence and accuracy, over bins of like confidence.

    sqrt(sum over bins of n_b / n * (mean confidence - mean correctness)^2). A bin is `bin_size`
    consecutive samples in the order of confidence, the last one takes the rest; fewer than
    `bin_size` samples are one bin. With few samples of one's own, min(100, n / 10) is a sensible
    size.

    Args:
        confidence: [n], 0..1; equal ones keep their order.
        correct: bool [n].
        bin_size: samples per bin. Published: 100.
        drop_last: leave out the last, most confident bin while n still counts all. The published
            loop does so, which understates the error; with a single bin nothing remains and the
            error is 0.

    Returns:
        The error as a share, 0..1.

    Raises:
        ValueError: no samples, shapes that differ, or a bin size below one.
    """
    _check_samples(confidence, correct)
    if bin_size < 1:
        raise ValueError(f"a bin holds at least one sample, not {bin_size}")
    order = confidence.argsort(stable=True)
    gap = confidence.double()[order] - correct.double()[order]
    num_samples = len(gap)
    num_bins = max(1, num_samples // bin_size)
    member = (torch.arange(num_samples, device=gap.device) // bin_size).clamp(max=num_bins - 1)
    total = gap.new_zeros(num_bins).index_add_(0, member, gap)
    count = torch.bincount(member, minlength=num_bins)
    # n_b * (total / n_b)^2
    parts = total.square() / count
    return (parts[: num_bins - drop_last].sum() / num_samples).sqrt().item()


def aurra(confidence: Tensor, correct: Tensor) -> float:
    """Area under the accuracy of the most confident samples, against the share that is answered.

    The mean over r = 1..n of the accuracy of the r most confident samples.

    Args:
        confidence: [n]; equal ones keep their order.
        correct: bool [n].

    Returns:
        The area as a share, 0..1.

    Raises:
        ValueError: no samples, or shapes that differ.
    """
    _check_samples(confidence, correct)
    hits = correct.double()[confidence.argsort(descending=True, stable=True)].cumsum(dim=0)
    answered = torch.arange(1, len(hits) + 1, device=hits.device)
    return (hits / answered).mean().item()


def _check_samples(confidence: Tensor, correct: Tensor) -> None:
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        raise ValueError(
            "confidence and correctness are two lists [n] with n > 0, not of shapes "
            f"{tuple(confidence.shape)} "
            f"and {tuple(correct.shape)}"
        )


def _check_range(name: str, index: Tensor, num_classes: int) -> None:
    low, high = (int(index.min()), int(index.max())) if len(index) else (0, -1)
    if low < 0 or high >= num_classes:
        raise ValueError(f"{name} between {low} and {high}, but there are {num_classes} classes")
