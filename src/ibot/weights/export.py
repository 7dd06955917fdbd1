"""Backbones for other projects: written, loaded again there, compared token by token."""

from __future__ import annotations

import copy
import math
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ibot.data.pixels import center_crop, cut, normalize, resize_shorter, shorter_side
from ibot.data.scenes import draw_scene
from ibot.errors import UserError, WeightsError
from ibot.system.places import make_writable
from ibot.weights.libraries import Forward, Prepare
from ibot.weights.read import Loaded
from ibot.weights.suffixes import SUFFIXES, require_new
from ibot.weights.targets import TARGETS

TOLERANCE = 1e-4
"""Largest difference of any token between this project and the target, float32."""
INPUT_TOLERANCE = 0.05
"""Largest relative difference of what the target's own preprocessing makes of a picture. Libraries
round the levels of a resized picture in their ways (some 0.01); another crop or another mean is
far above."""
OF_LIBRARIES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError)
"""What libraries raise for networks that they cannot take."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Largest absolute differences of tokens at one size; infinite for no numbers."""

    size: tuple[int, int]
    cls: float
    patches: float
    cosine: float | None = None
    """Of pictures that the target itself resized, cropped and normalised: the least cosine of
    the class tokens."""


def export_backbone(
    loaded: Loaded, target: str, out: Path, size: tuple[int, int] | None = None
) -> list[Difference]:
    """Write a backbone for `target`, load it there, and compare at three sizes, and on pictures
    that it prepares.

    Args:
        loaded: the backbone and its settings.
        target: a key of `TARGETS`.
        out: the file or folder to write; must not exist. Missing folders above it are created.
        size: height and width for which a file that serves one size is written; default: that of
            the training.

    Returns:
        The differences at the size written, at another one, and at one that is not square. A target
        that serves one size is written once more for each of the others. Last, where the target has
        a preprocessing of its own that can do what evaluations here do, the difference on pictures
        that went through it.

    Raises:
        UserError: `out` exists, has the wrong suffix or cannot be written, or a size is named for a
            file that serves all.
        MissingExtra: the target's library is absent.
        WeightsError: the target cannot hold this network, a difference of tokens is above
            `TOLERANCE`, one of prepared pictures above `INPUT_TOLERANCE`, or outputs are not
            finite; nothing is left.
    """
    kind = TARGETS[target]
    require_new(out, target)
    if kind.kinds is not None and loaded.config.kind not in kind.kinds:
        raise WeightsError(
            f"{target} has no {loaded.backbone.family}",
            why=f"it takes networks of the kinds {', '.join(kind.kinds)}",
            fix="export to safetensors or onnx",
        )
    one_size = kind.one_size is None or loaded.config.kind in kind.one_size
    if size and not one_size:
        raise UserError(
            f"a {loaded.config.kind} exported to {target} serves every size", fix="leave out --size"
        )
    loaded = replace(loaded, backbone=copy.deepcopy(loaded.backbone).float().eval())
    native = (
        at_size(loaded, size or loaded.size) if one_size else replace(loaded, size=loaded.built_for)
    )
    created = create_parents(out)
    try:
        kind.write(native, out)
        served = kind.open(out, native)
        differences = [_compare(native, served, native.size)]
        for other in other_sizes(native, target):
            differences.append(
                _compare_at(loaded, target, other) if one_size else _compare(native, served, other)
            )
        check_tokens(differences, target)
        prepare = kind.prepare(out, native)
        if prepare is not None:
            differences.append(_compare_pictures(native, served, prepare))
        return differences
    except BaseException as error:
        remove(out, created)
        if isinstance(error, OF_LIBRARIES):
            raise WeightsError(
                f"{target} cannot use this network",
                why=(str(error).strip().splitlines() or [type(error).__name__])[0],
                fix="nothing was kept; export to safetensors or onnx instead",
            ) from error
        raise


def check_tokens(differences: Sequence[Difference], target: str) -> None:
    """Raises WeightsError unless all are within `TOLERANCE`."""
    worst = max(differences, key=lambda d: max(d.cls, d.patches))
    if not max(worst.cls, worst.patches) <= TOLERANCE:
        raise WeightsError(
            f"the export to {target} does not reproduce the network",
            why=f"at {worst.size[0]}x{worst.size[1]} the class token differs by {worst.cls:.1e}, "
            f"patches by {worst.patches:.1e}; {TOLERANCE:g} is allowed",
            fix="nothing was kept; export to safetensors or onnx instead",
        )


def at_size(loaded: Loaded, size: tuple[int, int]) -> Loaded:
    """The same network for images of one size: a ViT's position table is resampled for good."""
    if size == loaded.built_for or loaded.config.kind != "vit":
        return replace(loaded, config=replace(loaded.config, pos_size=loaded.built_for), size=size)
    resized = copy.deepcopy(loaded.backbone)
    resized.resize_positions(size)
    config = replace(loaded.config, pos_size=size)
    return replace(loaded, backbone=resized, config=config, size=size)


def other_sizes(loaded: Loaded, target: str) -> list[tuple[int, int]]:
    """Another size and an oblong one, at which the target's rules give what ours give.

    A Swin there follows rules of its own: timm pads after the shift, so whole windows are needed,
    which twice the size has; Hugging Face shifts in the last stage where the image is larger than
    in training.
    """
    height, width = loaded.size
    if loaded.config.kind == "swin":
        if target == "timm":
            return [(2 * height, 2 * width), (height, 2 * width)]
        if target == "huggingface":
            # The last stage keeps its size.
            fewer = max(loaded.config.patch, loaded.config.stride // 2)
            return [(height - fewer, width - fewer), (height - fewer, width)]
    step = loaded.config.stride
    return [(height + 2 * step, width + 2 * step), (height, width + 3 * step)]


def create_parents(path: Path) -> list[Path]:
    """Create the folders above a path; returns those that were absent, the innermost first.

    Raises UserError where that is impossible, or where nothing can be written.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        make_writable(path.parent)
        with suppress(FileNotFoundError):
            path.lstat()  # a name that is too long
    except OSError as error:
        verb = "written" if path.parent.is_dir() else "created"
        raise UserError(
            f"the folder '{path.parent}' cannot be {verb}",
            why=error.strerror or str(error),
            fix="name another --out",
        ) from None
    return missing


def remove(path: Path, parents: Sequence[Path] = ()) -> None:
    """Delete what an export left, and those folders above it that it created."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    for folder in parents:
        if any(folder.iterdir()):  # somebody else uses it by now
            break
        folder.rmdir()


@torch.no_grad()
def _compare(loaded: Loaded, forward: Forward, size: tuple[int, int]) -> Difference:
    generator = torch.Generator().manual_seed(0)
    cls_error = patch_error = 0.0
    for batch in (2, 3):  # a batch size frozen into the export would show
        images = torch.randn(batch, len(loaded.config.channels), *size, generator=generator)
        ours = loaded.backbone(images)
        cls, patches = forward(images)
        cls_error = max(cls_error, largest_difference(cls, ours.cls))
        patch_error = max(patch_error, largest_difference(patches, ours.patches))
    return Difference(size, cls_error, patch_error)


def largest_difference(theirs: Tensor, ours: Tensor) -> float:
    """Of any number; infinite for tokens of another shape or type, none, or any that is no number.

    Raises WeightsError where `ours` are not finite: nothing can be compared with them.
    """
    if not ours.isfinite().all():
        raise WeightsError(
            "the network's outputs are not finite",
            why="its weights are too large, or its training diverged",
            fix="use other weights, or an earlier checkpoint",
        )
    if theirs.shape != ours.shape or theirs.dtype != ours.dtype or not ours.numel():
        return math.inf
    difference = (theirs - ours).abs().max().item()
    return difference if math.isfinite(difference) else math.inf


@torch.no_grad()
def _compare_pictures(loaded: Loaded, forward: Forward, prepare: Prepare) -> Difference:
    """Pictures that are not square, prepared by the target and as evaluations here do.

    Raises WeightsError where the target's preprocessing is another one.
    """
    pictures = [picture(loaded.size, tall) for tall in (False, True)]
    theirs = torch.stack([prepare(image) for image in pictures])
    ours = torch.stack([views(image, loaded) for image in pictures], dim=1)
    apart = math.inf
    if theirs.shape == ours.shape[1:]:
        error, length = ((theirs - ours).flatten(2).norm(dim=2), ours.flatten(2).norm(dim=2))
        apart = (error / length).amin(dim=0).max().item()
    if not apart <= INPUT_TOLERANCE:
        raise WeightsError(
            "the target does not prepare pictures as evaluations here do",
            why=f"inputs {tuple(theirs.shape)} differ by {apart:.2g} of their length; "
            f"{INPUT_TOLERANCE:g} is allowed",
            fix="nothing was kept; export to safetensors or onnx instead",
        )
    tokens, (cls, patches) = loaded.backbone(ours[0]), forward(theirs)
    cosine = F.cosine_similarity(cls, tokens.cls).min().item()
    errors = largest_difference(cls, tokens.cls), largest_difference(patches, tokens.patches)
    return Difference(loaded.size, *errors, cosine)


def picture(size: tuple[int, int], tall: bool) -> NDArray[np.uint8]:
    """A generated scene [H, W, 3], wide or tall, larger than the crop `size` of it."""
    short = 2 * shorter_side(size)
    scene = Image.fromarray(draw_scene(0, int(tall), size=96, objects=4, color=1.0).image)
    edge = short * 3 // 2
    whole = np.asarray(scene.resize((edge, edge), Image.Resampling.BICUBIC))
    return whole[:, :short] if tall else whole[:short]


def views(image: NDArray[np.uint8], loaded: Loaded) -> Tensor:
    """A picture as evaluations give it to the network, then with the corner of the crop rounded
    down and up.

    float32 [3, 3, h, w]: half a pixel belongs to either side, and libraries choose differently.
    """
    height, width = loaded.size
    resized = resize_shorter(Image.fromarray(image), shorter_side(loaded.size))
    crops = [center_crop(resized, loaded.size)]
    for whole in (math.floor, math.ceil):
        left, top = whole((resized.width - width) / 2), whole((resized.height - height) / 2)
        crops.append(cut(resized, left, top, width, height))
    pixels = torch.from_numpy(np.stack([np.asarray(crop) for crop in crops])).permute(0, 3, 1, 2)
    return normalize(pixels, loaded.config.statistics)


def _compare_at(loaded: Loaded, target: str, size: tuple[int, int]) -> Difference:
    """Write once more, for another size, and compare there."""
    with tempfile.TemporaryDirectory() as folder:
        kind, other = TARGETS[target], Path(folder) / f"other{SUFFIXES[target]}"
        resized = at_size(loaded, size)
        kind.write(resized, other)
        return _compare(loaded, kind.open(other, resized), size)
