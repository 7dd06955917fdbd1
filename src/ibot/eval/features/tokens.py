"""Features of images by a frozen backbone (spec_evaluation 8.0)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ibot.config.reading import PICTURES, RGB, WHOLE
from ibot.data.pixels import MEAN, STD, normalize
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.open import open_images
from ibot.data.sets.same_channels import require_channels
from ibot.errors import DataError, WeightsError
from ibot.eval.features.views import in_batches, view_batches, view_sized
from ibot.eval.request import windows_of
from ibot.models.contract import Backbone
from ibot.system.process_state import loaders_forgotten
from ibot.types import TokenOutput
from ibot.weights.read import load


@dataclass(frozen=True, slots=True)
class Feature:
    """Which tokens make the feature of an image: the published `n_last_blocks` and `avgpool`."""

    blocks: int = 1
    """The last blocks whose class tokens are joined."""
    mode: int = 0
    """0: class tokens; 1: mean of the last block's patches before the final norm; 2: class tokens,
    then the mean of the last block's normed patches."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.mode not in (0, 1, 2):
            raise ValueError(f"a feature of {self.blocks} blocks in mode {self.mode}")

    def __str__(self) -> str:
        return f"n{self.blocks}m{self.mode}"

    @classmethod
    def parse(cls, text: str) -> Feature:
        """Read "n4m0". Raises ValueError."""
        blocks, _, mode = text.removeprefix("n").partition("m")
        if not (text.startswith("n") and blocks.isdigit() and mode.isdigit()):
            raise ValueError(f"'{text}' is no feature; write n4m0: the last 4 blocks, mode 0")
        return cls(int(blocks), int(mode))


CLASS_TOKEN = Feature()

ATTENTION_IMAGES = 32
"""Images at a time where attention is held: [b, heads, 1 + N, 1 + N] is large."""


def probe_feature(backbone: Backbone) -> Feature:
    """What the paper feeds its linear probe: of a narrow network four class tokens.

    Of a wide one token and mean, unless its class token is the mean.
    """
    narrow = backbone.embed_dim < 768 or not backbone.has_class_token
    return Feature(min(4, backbone.num_blocks), 0) if narrow else Feature(1, 2)


def pooled(blocks: Sequence[TokenOutput], unnormed: TokenOutput | None, feature: Feature) -> Tensor:
    """The feature [B, d] from the outputs of the last blocks, the final one last.

    blocks: each through the final norm. unnormed: the last one without it, read by mode 1 alone.
    """
    if feature.mode == 1:
        assert unnormed is not None
        return unnormed.patches.mean(dim=1)
    parts = [block.cls for block in blocks[-feature.blocks :]]
    if feature.mode == 2:
        parts.append(blocks[-1].patches.mean(dim=1))
    return torch.cat(parts, dim=-1)


def compute(
    backbone: Backbone, images: Tensor, features: Sequence[Feature]
) -> dict[Feature, Tensor]:
    """All `features` of normalised `images` [B, 3, H, W] in one pass: float32 [B, d] each.

    Mode 1 alone costs a second one, as the norm is applied inside of the first. Raises WeightsError
    where an output is not finite.
    """
    deepest = max(feature.blocks for feature in features)
    plain = any(feature.mode == 1 for feature in features)
    unnormed = backbone.last_layers(images, 1, norm=False)[0] if plain else None
    if all(feature.mode == 1 for feature in features):
        blocks = []
    elif deepest == 1:
        blocks = [backbone(images)]
    else:
        blocks = backbone.last_layers(images, deepest)
    return {feature: finite(pooled(blocks, unnormed, feature).float()) for feature in features}


def finite(rows: Tensor) -> Tensor:
    """The same tensor [b, ...] of outputs. Raises WeightsError unless all are finite."""
    if not bool(rows.isfinite().all()):
        bad = int((~rows.flatten(1).isfinite().all(dim=1)).sum())
        raise WeightsError(
            "the network's outputs are not finite",
            why=f"for {bad} of {len(rows)} images: its weights are too large, or its training "
            "diverged",
            fix="use other weights, or an earlier checkpoint",
        )
    return rows


@dataclass(frozen=True, slots=True)
class Features:
    """Tokens of the readable images, in the order in which they were asked for."""

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
    backbone: nn.Module | str | Path,
    source: Images | str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    indices: Sequence[int] | None = None,
    patches: bool = False,
    batch: int = 256,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Class (and patch) tokens of the images of `source`, float32, not augmented, in memory.

    For features kept on disk and shared between evaluations see `ibot.eval.features.cache`.

    Args:
        backbone: a network, set to evaluation for the call and back afterwards, or what
            `load_backbone` reads. Images are normalised by its `statistics`, by ImageNet's where it
            has none, and are to have its `channels`.
        source: images, or what `open_images` opens, such as the folder that holds them, in windows
            where the network of a run was trained so; `indices` picks some of them.
        size: height and width of the view, or one number for both; None: as in the training of
            weights that are named by their path. Images of this size are taken as they are; others
            are resized (shorter side to 8/7 of the view's) and cropped at the centre.
        indices: positions in `source`, all by default.
        patches: also return patch tokens.
        batch: images per forward pass.
        device: where the backbone is; by default found out.
        workers: processes that decode.
        progress: called with images done and in all.

    Raises:
        DataError: none of the images can be read, a folder holds none, or they have other channels
            than the network.
        ValueError: a batch or size below 1, or indices of no image.
        WeightsError: the network's outputs are not finite, or a path holds no backbone.
    """
    loaded = None if isinstance(backbone, nn.Module) else load(backbone)
    network = backbone if loaded is None else loaded.backbone
    assert isinstance(network, nn.Module)
    statistics = getattr(network, "statistics", (MEAN, STD))
    channels = getattr(network, "channels", RGB)
    images = source
    if isinstance(images, str | Path):
        reading = PICTURES if loaded is None else loaded.reading
        images = open_images(
            str(images),
            channels=reading.of(channels, statistics[0]),
            windows=WHOLE if isinstance(backbone, nn.Module) else windows_of(backbone),
        )
    require_channels(images, channels)
    if size is None:
        if loaded is None:
            raise ValueError("a network does not say with which size it was trained: give size=")
        size = loaded.size
    view = view_sized(size)
    chosen = np.arange(len(images)) if indices is None else np.asarray(indices, np.int64)
    known = not len(chosen) or 0 <= chosen.min() <= chosen.max() < len(images)
    if batch < 1 or min(view.size) < 1 or not known:
        raise ValueError(
            f"batch {batch}, size {view.size}, indices {chosen} of {len(images)} images"
        )
    if device is None:
        device = next(network.parameters(), torch.empty(0)).device
    cls, patch, read, bad = [], [], [], []
    with loaders_forgotten(), evaluating(network), torch.inference_mode():
        for part in view_batches(images, view, in_batches(chosen, batch), workers):
            bad.extend((images.name(i), reason) for i, reason in part.bad)
            read.extend(part.positions.tolist())
            if len(part.positions):
                output = network(normalize(part.views.to(device), statistics))
                cls.append(finite(output.cls.float().cpu()))
                if patches:
                    patch.append(finite(output.patches.float().cpu()))
            if progress is not None:
                progress(len(read) + len(bad), len(chosen))
    if not cls:
        raise DataError(
            f"none of the {len(chosen)} images under '{images.root}' can be read",
            why=f"the first, '{bad[0][0]}': {bad[0][1]}" if bad else "",
            fix="look at the files, or name others",
        )
    labels = None
    if isinstance(images, LabelledImages):
        labels = torch.tensor([images.label(i) for i in read])
    return Features(
        # Copies outside of inference mode, so that others may train on them.
        cls=torch.cat(cls).clone(),
        patches=torch.cat(patch).clone() if patches else None,
        labels=labels,
        names=[images.name(i) for i in read],
        bad=bad,
    )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Every part of a network in evaluation mode, and afterwards in the mode in which it was."""
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
