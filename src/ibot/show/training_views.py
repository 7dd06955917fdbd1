"""What a training sees of an image: its views, what is hidden, and what there is to predict.

By the functions and random numbers of the training itself (`data.params`, `data.pixels`,
`data.masks`): the same seed, epoch and number of an image give the same views as its loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.config.schema import Config
from ibot.data.borders import without_border
from ibot.data.masks import make_masks
from ibot.data.params import NO_JITTER, view_params
from ibot.data.pixels import render
from ibot.engine.loop import mask_grid
from ibot.method.losses import teacher_probs
from ibot.models.contract import Backbone
from ibot.models.head import ProjectionHead
from ibot.show.inputs import network_input
from ibot.types import ViewParams


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingViews:
    """The views of one image in one epoch."""

    image: NDArray[np.uint8]
    """uint8 [H, W, 3], whole."""
    number: int
    """In the training set: it says which random numbers are used."""
    epoch: int
    views: tuple[NDArray[np.uint8], ...]
    """uint8 [h, w, 3] each, global ones first."""
    num_global: int
    hidden: NDArray[np.bool_]
    """[G, rows, columns], patches of the global views that the student does not see."""
    local_hidden: NDArray[np.bool_] | None
    """[L, rows, columns], those of the local views in trainings that have some."""
    params: ViewParams
    """What was done, of a batch of one image."""

    def box(self, view: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a view in the image, in pixels."""
        top, left, height, width = self.params.box[0, view].tolist()
        return top, left, height, width

    def done(self, view: int) -> str:
        """What was done to a view after it was cut, in words."""
        return ", ".join(_done(self.params, view))

    def hidden_in(self, view: int) -> NDArray[np.bool_] | None:
        """[rows, columns], what the student does not see of a view; None: nothing."""
        if view < self.num_global:
            return self.hidden[view]
        return None if self.local_hidden is None else self.local_hidden[view - self.num_global]


@dataclass(frozen=True, slots=True)
class Targets:
    """What the teacher makes of the patches of the whole global views."""

    word: NDArray[np.int64]
    """[G, rows, columns], the most probable of the K' words."""
    share: NDArray[np.float32]
    """[G, rows, columns], its probability."""


def training_views(
    config: Config, image: NDArray[np.uint8], number: int, epoch: int
) -> TrainingViews:
    """The views of an image uint8 [H, W, 3] as image `number` of an epoch, counted from 0; of one
    without its border, where the training cuts that off.

    Pairs of patches that an ablation predicts in place of hidden ones hide nothing, nor does an
    epoch before the first masks; and what a teacher's attention hides is not known here.
    """
    image = without_border(image) if config.data.trim_border else image
    seed, augment, index = config.train.seed, config.augment, np.array([number])
    params = view_params(augment, seed, epoch, index, np.array([image.shape[:2]]))
    grid, num_global = mask_grid(config), augment.num_global
    hidden = np.zeros((num_global, *grid), bool)
    local_hidden = None
    drawn = config.method.patch_match == "hidden" and config.mask.shape != "attention"
    if drawn and epoch >= epochs_unmasked(config):
        masks = make_masks(config.mask, grid, num_global, seed, epoch, index)
        hidden = masks.map[:, 0].unflatten(1, grid).numpy()
        if config.mask.views == "all":
            stride = config.model.stride
            small = augment.local_size[0] // stride, augment.local_size[1] // stride
            masks = make_masks(
                config.mask, small, augment.num_local, seed, epoch, index, first_view=num_global
            )
            local_hidden = masks.map[:, 0].unflatten(1, small).numpy()
    return TrainingViews(
        image=image,
        number=number,
        epoch=epoch,
        views=tuple(render(image, params, 0, augment, config.model.std)),
        num_global=num_global,
        hidden=hidden,
        local_hidden=local_hidden,
        params=params,
    )


def epochs_unmasked(config: Config) -> float:
    """Epochs of a training before its first masks; 0 where only its images could tell."""
    start, length = config.mask.start, config.train.length
    if start.unit == "epochs":
        return start.value
    share = start.value / 100 if start.unit == "percent" and length.unit == "epochs" else 0.0
    return share * length.value


@torch.no_grad()
def targets_of(
    seen: TrainingViews, backbone: Backbone, head: ProjectionHead, center: Tensor, temp: float
) -> Targets:
    """Word and probability of each patch, as the loss has them: softmax((logits - center) / temp).

    Args:
        seen: the views.
        backbone: the teacher's, in evaluation mode.
        head: the teacher's.
        center: [K'], of the patch logits; zeros: not centred.
        temp: the teacher's temperature of the patches.
    """
    words, shares = [], []
    device = next(backbone.parameters()).device
    for view in seen.views[: seen.num_global]:
        tokens = backbone(network_input(view, backbone))
        rows = head.to(device).patch_rows(tokens.patches)[0]
        logits = head.logits(rows[:0], rows)[1]
        share, word = teacher_probs(logits, center.to(device), temp).max(dim=-1)
        words.append(word.unflatten(0, tokens.grid).cpu().numpy())
        shares.append(share.unflatten(0, tokens.grid).float().cpu().numpy())
    return Targets(np.stack(words), np.stack(shares))


def _done(params: ViewParams, view: int) -> Iterator[str]:
    if params.flip[0, view]:
        yield "flipped"
    if params.vertical_flip[0, view]:
        yield "flipped top to bottom"
    if turn := int(params.turn[0, view]):
        yield f"turned by {90 * turn} degrees"
    if params.jitter_order[0, view, 0] != NO_JITTER:
        yield "colours changed"
    if params.gray[0, view]:
        yield "gray"
    if (sigma := float(params.blur_sigma[0, view])) > 0:
        yield f"blurred {sigma:.1f}"
    if params.solarize[0, view]:
        yield "solarized"
