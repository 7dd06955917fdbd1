"""One picture of a training: its curves, and what the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.show.layout import masked_image
from ibot.show.plotting import pyplot

INK, QUIET, ACCENT, SECOND = "#1f2430", "#8a91a0", "#1f6fb2", "#d1602b"


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
    """Write a PNG: losses beside ln K, k-NN against images seen, images with mask and attention.

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
    plt = pyplot()
    size = (1.35 * max(4, len(examples)) + 1.2, 7.6)
    figure = plt.figure(figsize=size, dpi=130, facecolor="white")
    figure.suptitle(title, x=0.09, ha="left", fontsize=11, color=INK)
    upper = figure.add_gridspec(1, 2, wspace=0.2, left=0.09, right=0.985, top=0.9, bottom=0.62)
    _losses(figure.add_subplot(upper[0]), metrics)
    _accuracy(figure.add_subplot(upper[1]), knn, controls)
    caption = "images, what the student sees of them, attention of the class token before and after"
    figure.text(0.09, 0.515, caption, fontsize=9, color=INK)
    _draw_examples(figure, examples)
    try:
        figure.savefig(out, format="png")
    finally:
        plt.close(figure)


def _draw_examples(figure: Any, examples: Sequence[Example]) -> None:
    """A column for each image, in the lower part."""
    space = {"hspace": 0.08, "wspace": 0.08, "left": 0.09, "right": 0.985}
    grid = figure.add_gridspec(4, max(4, len(examples)), **space, top=0.5, bottom=0.02)
    rows = ("image", "masked", "before", "after")
    for column, example in enumerate(examples):
        masked = masked_image(example.image, example.mask)
        pictures = (example.image, masked, example.before, example.after)
        for row, picture in enumerate(pictures):
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(picture, cmap="viridis", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if column == 0:
                axis.set_ylabel(rows[row], fontsize=8, color=INK)


def _losses(axis: Any, metrics: Sequence[dict[str, Any]]) -> None:
    seen = [row["images_seen"] / 1000 for row in metrics]
    cls_loss = [row["cls_loss"] for row in metrics]
    patch_loss = [row["patch_loss_masked"] for row in metrics]
    axis.plot(seen, cls_loss, color=ACCENT, label="class token")
    axis.plot(seen, patch_loss, color=SECOND, label="masked patches")
    if metrics:
        level, words = metrics[-1]["ln_k"], " ln K: outputs say nothing"
        axis.axhline(level, color=QUIET, linewidth=0.8, linestyle=":")
        axis.text(seen[0], level, words, fontsize=7, color=QUIET, va="bottom")
    _style(axis, "loss, nats")
    axis.legend(frameon=False, fontsize=8, labelcolor=INK)


def _accuracy(axis: Any, knn: Sequence[tuple[int, float]], controls: dict[str, float]) -> None:
    seen, scores = [images / 1000 for images, _ in knn], [value for _, value in knn]
    axis.plot(seen, scores, color=ACCENT, marker="o", markersize=3)
    place = {"ha": "right", "va": "bottom"}
    for name, value in controls.items():
        axis.axhline(value, color=QUIET, linewidth=0.8, linestyle=":")
        axis.text(seen[-1], value, f"{name} {value:.1f} ", fontsize=7, color=QUIET, **place)
    if knn:
        end = (seen[-1], scores[-1])
        axis.annotate(f"{end[1]:.1f}", end, fontsize=9, color=ACCENT, **place)
    _style(axis, "k-NN accuracy of the teacher, %")


def _style(axis: Any, label: str) -> None:
    axis.set_title(label, fontsize=9, color=INK, loc="left")
    axis.set_xlabel("thousand images seen", fontsize=8, color=INK, labelpad=1)
    axis.tick_params(labelsize=7, colors=INK, length=2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.margins(x=0.02, y=0.12)
