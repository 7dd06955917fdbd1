"""One picture of a training: its curves, and what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.errors import MissingExtra

INK, QUIET, ACCENT, SECOND = "#1f2430", "#8a91a0", "#1f6fb2", "#d1602b"
HIDDEN = np.array([0.82, 0.83, 0.86])


@dataclass(frozen=True, slots=True)
class Example:
    """One image for the row of pictures."""

    image: NDArray[np.uint8]
    """[H, W, 3]."""
    mask: NDArray[np.bool_]
    """[h, w], patches hidden from the student."""
    before: NDArray[np.float32]
    """[h, w], attention of the class token with the initial weights."""
    after: NDArray[np.float32]
    """The same after training."""


def training_picture(
    metrics: Sequence[dict[str, Any]],
    knn: Sequence[tuple[int, float]],
    controls: dict[str, float],
    examples: Sequence[Example],
    out: Path,
    title: str,
) -> None:
    """Write a PNG with loss curves beside ln K, k-NN against images seen, and images with mask and
    attention.

    Args:
        metrics: rows of metrics.jsonl.
        knn: (images seen, accuracy in per cent).
        controls: name -> accuracy, drawn as level lines.
        examples: images for the lower part.
        out: the file to write.
        title: one line.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl

        mpl.use("agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise MissingExtra("matplotlib", "show") from None
    columns = max(4, len(examples))
    figure = plt.figure(figsize=(1.35 * columns + 1.2, 7.6), dpi=130, facecolor="white")
    figure.suptitle(title, x=0.09, ha="left", fontsize=11, color=INK)
    upper = figure.add_gridspec(1, 2, wspace=0.2, left=0.09, right=0.985, top=0.9, bottom=0.62)
    _losses(figure.add_subplot(upper[0]), metrics)
    _accuracy(figure.add_subplot(upper[1]), knn, controls)
    grid = figure.add_gridspec(
        4, columns, hspace=0.08, wspace=0.08, left=0.09, right=0.985, top=0.5, bottom=0.02
    )
    caption = "images, what the student sees of them, attention of the class token before and after"
    figure.text(0.09, 0.515, caption, fontsize=9, color=INK)
    rows = ("image", "masked", "before", "after")
    for column, example in enumerate(examples):
        pictures = (
            example.image,
            masked_image(example.image, example.mask),
            example.before,
            example.after,
        )
        for row, picture in enumerate(pictures):
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(picture, cmap="viridis", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if column == 0:
                axis.set_ylabel(rows[row], fontsize=8, color=INK)
    figure.savefig(out)
    plt.close(figure)


def masked_image(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The image with its hidden patches in gray: float64 [H, W, 3] in 0..1."""
    height, width = image.shape[0] // mask.shape[0], image.shape[1] // mask.shape[1]
    hidden = np.kron(mask, np.ones((height, width), bool))
    shown = image[: hidden.shape[0], : hidden.shape[1]] / 255
    return np.where(hidden[..., None], HIDDEN, shown)


def _losses(axis: Any, metrics: Sequence[dict[str, Any]]) -> None:
    seen = [row["images_seen"] / 1000 for row in metrics]
    axis.plot(seen, [row["cls_loss"] for row in metrics], color=ACCENT, label="class token")
    axis.plot(
        seen, [row["patch_loss_masked"] for row in metrics], color=SECOND, label="masked patches"
    )
    if metrics:
        level = metrics[-1]["ln_k"]
        axis.axhline(level, color=QUIET, linewidth=0.8, linestyle=":")
        axis.text(
            seen[0], level, " ln K: outputs say nothing", fontsize=7, color=QUIET, va="bottom"
        )
    _style(axis, "loss, nats")
    axis.legend(frameon=False, fontsize=8, labelcolor=INK)


def _accuracy(axis: Any, knn: Sequence[tuple[int, float]], controls: dict[str, float]) -> None:
    axis.plot(
        [seen / 1000 for seen, _ in knn],
        [value for _, value in knn],
        color=ACCENT,
        marker="o",
        markersize=3,
    )
    for name, value in controls.items():
        axis.axhline(value, color=QUIET, linewidth=0.8, linestyle=":")
        axis.text(
            knn[-1][0] / 1000,
            value,
            f"{name} {value:.1f} ",
            fontsize=7,
            color=QUIET,
            va="bottom",
            ha="right",
        )
    if knn:
        axis.annotate(
            f"{knn[-1][1]:.1f}",
            (knn[-1][0] / 1000, knn[-1][1]),
            fontsize=9,
            color=ACCENT,
            ha="right",
            va="bottom",
        )
    _style(axis, "k-NN accuracy of the teacher, %")


def _style(axis: Any, label: str) -> None:
    axis.set_title(label, fontsize=9, color=INK, loc="left")
    axis.set_xlabel("thousand images seen", fontsize=8, color=INK, labelpad=1)
    axis.tick_params(labelsize=7, colors=INK, length=2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.margins(x=0.02, y=0.12)
