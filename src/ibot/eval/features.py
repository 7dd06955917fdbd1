"""Features of images by a frozen backbone (spec_evaluation 8.0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ibot.data.decode import UnreadableImage, decode
from ibot.data.pixels import evaluation_view, normalize
from ibot.data.sources import ImageSource
from ibot.errors import DataError

RESIZE_OVER_CROP = 256 / 224
"""The shorter side is resized to this times the view before the central crop."""


@dataclass(frozen=True, slots=True)
class Features:
    """Tokens of images, in the order in which they were asked for; unreadable images are left out."""

    cls: Tensor
    """float32 [n, D], class token after the final norm."""
    patches: Tensor | None
    """float32 [n, N, D] or None."""
    labels: Tensor | None
    """int64 [n] or None."""
    names: list[str]
    """Paths relative to the source's root."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """(path, reason) of images that could not be read."""

    def unit(self) -> Tensor:
        """Class tokens of length 1."""
        return nn.functional.normalize(self.cls, dim=-1)


def extract_features(
    backbone: nn.Module,
    source: ImageSource,
    *,
    size: tuple[int, int],
    indices: Sequence[int] | None = None,
    patches: bool = False,
    batch: int = 256,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Class tokens (and patch tokens) of the images of `source`, float32, without augmentation.

    Args:
        backbone: set to evaluation for the call and back afterwards; must be on `device`.
        source: images; `indices` picks some of them.
        size: height and width of the view. Images of this size are taken as they are; others are resized (shorter side
            to 8/7 of the view's) and cropped at the centre.
        indices: positions in `source`, all by default.
        patches: also return patch tokens.
        batch: images per forward pass.
        device: where the backbone is.
        workers: processes that decode.
        progress: called with images done and in all.

    Raises:
        DataError: none of the images can be read.
    """
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices)
    loader = DataLoader(
        _Views(source, chosen, size), batch_size=batch, num_workers=workers, collate_fn=list, shuffle=False
    )
    was_training = backbone.training
    backbone.eval()
    cls, patch, names, labels, bad = [], [], [], [], []
    try:
        with torch.inference_mode():
            done = 0
            for items in loader:
                bad.extend((source.name(i), view) for i, view in items if isinstance(view, str))
                read = [(i, view) for i, view in items if not isinstance(view, str)]
                if read:
                    views = torch.from_numpy(np.stack([view for _, view in read])).permute(0, 3, 1, 2)
                    output = backbone(normalize(views.to(device)))
                    cls.append(output.cls.float().cpu())
                    if patches:
                        patch.append(output.patches.float().cpu())
                names.extend(source.name(i) for i, _ in read)
                labels.extend(source.label(i) for i, _ in read)
                done += len(items)
                if progress is not None:
                    progress(done, len(chosen))
    finally:
        backbone.train(was_training)
    if not cls:
        raise DataError(f"none of the {len(chosen)} images under '{source.root}' can be read", why=str(bad[:1]))
    return Features(
        # Copies outside of inference mode, so that others may train on them.
        cls=torch.cat(cls).clone(),
        patches=torch.cat(patch).clone() if patches else None,
        labels=None if source.labels is None else torch.tensor(labels),
        names=names,
        bad=bad,
    )


class _Views(Dataset[tuple[int, "np.ndarray | str"]]):
    """Index and evaluation view uint8 [h, w, 3] of each image, or the reason why it cannot be read."""

    def __init__(self, source: ImageSource, indices: np.ndarray, size: tuple[int, int]) -> None:
        self.source, self.indices, self.size = source, indices, size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, np.ndarray | str]:
        index = int(self.indices[position])
        try:
            image = decode(self.source.path(index))
        except UnreadableImage as error:
            return index, error.reason
        if image.shape[:2] != self.size:
            image = evaluation_view(image, round(max(self.size) * RESIZE_OVER_CROP), self.size)
        return index, np.array(image)
