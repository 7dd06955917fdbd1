"""One picture of a training: its curves, and rows of pictures below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibot.show.plotting import pyplot

INK, QUIET, ACCENT, SECOND, THIRD = "#1f2430", "#8a91a0", "#1f6fb2", "#d1602b", "#3d8b4f"
LOSSES = {
    "cls_loss": ("class token", ACCENT),
    "patch_loss_masked": ("masked patches", SECOND),
    "visible_loss": ("visible patches", THIRD),
}
"""Keys of the rows -> what the curve is called, and its colour."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image for the rows of pictures."""

    pictures: Sequence[NDArray[np.uint8]]
    """[H, W, 3], one for each row, of any sizes."""
    words: str
    """Below them."""


def training_picture(
    metrics: Sequence[dict[str, Any]],
    knn: Sequence[tuple[int, float]],
    controls: dict[str, float],
    rows: Sequence[str],
    examples: Sequence[Example],
    out: Path,
    title: str,
) -> None:
    """Write a PNG: losses beside ln K, k-NN against images seen, and rows of pictures.

    Args:
        metrics: rows of metrics.jsonl.
        knn: (images seen, accuracy in per cent).
        controls: name -> accuracy, drawn as level lines.
        rows: what the rows of pictures show.
        examples: images for the lower part, a column each.
        out: the file to write.
        title: one line.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    plt = pyplot()
    columns = max(4, len(examples))
    curves, cell, margin = 2.9, 1.25, 1.1
    width, height = margin + cell * columns + 0.15, curves + cell * len(rows) + 0.75
    figure = plt.figure(figsize=(width, height), dpi=110, facecolor="white")
    left, right = margin / width, 1 - 0.1 / width
    figure.suptitle(title, x=left, y=1 - 0.12 / height, ha="left", va="top", fontsize=11, color=INK)
    top, bottom = 1 - 0.6 / height, 1 - (curves - 0.25) / height
    upper = figure.add_gridspec(1, 2, wspace=0.14, left=left, right=right, top=top, bottom=bottom)
    _losses(figure.add_subplot(upper[0]), metrics)
    _accuracy(figure.add_subplot(upper[1]), knn, controls)
    place = {"left": left, "right": right, "top": 1 - (curves + 0.2) / height}
    grid = figure.add_gridspec(
        len(rows), columns, hspace=0.04, wspace=0.04, bottom=0.5 / height, **place
    )
    for column, example in enumerate(examples):
        for row, picture in enumerate(example.pictures):
            _draw(figure.add_subplot(grid[row, column]), picture, "" if column else rows[row])
        axis = figure.axes[-1]
        axis.set_xlabel(example.words, fontsize=7, color=INK, labelpad=3)
    try:
        figure.savefig(out, format="png")
    finally:
        plt.close(figure)


def _draw(axis: Any, picture: NDArray[np.uint8], title: str) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if title:
        axis.set_ylabel(title, fontsize=8, color=INK)


def _losses(axis: Any, metrics: Sequence[dict[str, Any]]) -> None:
    seen = [row["images_seen"] / 1000 for row in metrics]
    for name, (label, color) in LOSSES.items():
        if any(name in row for row in metrics):
            values = [row.get(name, float("nan")) for row in metrics]
            axis.plot(seen, values, color=color, label=label)
    if metrics:
        # In the legend: beside its line a curve that stays there would cover it.
        words = "ln K: outputs say nothing"
        axis.axhline(metrics[-1]["ln_k"], color=QUIET, linewidth=0.8, linestyle=":", label=words)
        axis.legend(frameon=False, fontsize=8, labelcolor=INK)
    _style(axis, "loss, nats")


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
