"""A few pairs of views, kept as pictures and a JSON file from which `ibot.show.match_pairs` draws
what was found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ibot.data.false_colours import as_rgb
from ibot.data.pixels import Statistics, normalize
from ibot.data.sets.images import Images
from ibot.eval.probes.correspondence import Correspondence, Truth, correspond, true_places
from ibot.eval.probes.match_places import Cells, Placed, centres, published_overlap
from ibot.eval.probes.patch_tokens import PatchFeature
from ibot.eval.probes.view_pairs import pair_batches
from ibot.models.contract import Backbone
from ibot.system.jsonl import write_json

FILE = "pairs.json"
LEAST = 224
"""Pixels of the shorter side of a picture of a view, however few the network is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two pictures, and what the patches of the first find in the second."""

    names: tuple[str, ...]
    """Of the images: one, where both are views of it."""
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    """uint8 [h, w, 3] each, of any size: the patches share them out evenly."""
    found: Correspondence


def view_pairs(
    backbone: Backbone,
    images: Images,
    chosen: NDArray[np.int64],
    size: tuple[int, int],
    *,
    seed: int,
    feature: PatchFeature = "network",
    published: bool = False,
) -> Iterator[Pair]:
    """Pairs of views of the `chosen` images that can be read, as `ibot eval match` draws them.

    size: height and width of the views, which the pictures show with `LEAST` pixels at least.
    published: inner products, and the published overlap.
    """
    times = max(1, -(-LEAST // min(size)))
    larger = times * size[0], times * size[1]
    device, std = next(backbone.parameters()).device, backbone.statistics[1]
    for number in chosen:
        (pairs,) = pair_batches(images, size, [np.array([number])], seed, std=std)
        if not len(pairs.positions):
            continue
        first, second = (_input(view, backbone.statistics, device) for view in pairs.views)
        cells = Cells.of(backbone.token_grid(*size), size, backbone.patch_size)
        truth = true_places(pairs.placed, (cells, cells))
        if published:
            truth = _published(truth, pairs.placed, cells, pairs.sizes)
        found = correspond(
            backbone, first, second, feature=feature, cosine=not published, truth=truth
        )
        # The same boxes and colours: they do not depend on the size of the views.
        (shown,) = (
            pair_batches(images, larger, [np.array([number])], seed, std=std)
            if times > 1
            else [pairs]
        )
        left, right = (as_rgb(view[0].permute(1, 2, 0).numpy()) for view in shown.views)
        yield Pair(names=(images.name(int(number)),), pictures=(left, right), found=found)


def _input(view: Tensor, statistics: Statistics, device: torch.device) -> Tensor:
    return normalize(view.to(device), statistics)


def _published(truth: Truth, placed: tuple[Placed, Placed], cells: Cells, sizes: Tensor) -> Truth:
    """The same places with the published overlap."""
    points = centres(placed[0], cells)
    return Truth(truth.place, published_overlap(points, placed[1], cells, sizes)[0])


def keep_pairs(folder: Path, title: str, pairs: Iterator[Pair]) -> None:
    """Write what a picture needs into `folder`, in the place of what an earlier run left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, pair in enumerate(pairs):
        files = [f"{number:02}_{side}.jpg" for side in ("first", "second")]
        for file, view in zip(files, pair.pictures, strict=True):
            Image.fromarray(view).save(folder / file, quality=92, subsampling=0)
        rows.append({"names": pair.names, "pictures": files, **pair.found.as_plain()})
    write_json(folder / FILE, {"title": title, "pairs": rows})


def read_pairs(folder: Path) -> tuple[str, list[Pair]]:
    """Title and pairs that `keep_pairs` wrote."""
    kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
    pairs = []
    for row in kept["pairs"]:
        first, second = (np.asarray(Image.open(folder / file)) for file in row["pictures"])
        found = Correspondence.from_plain(row)
        pairs.append(Pair(names=tuple(row["names"]), pictures=(first, second), found=found))
    return kept["title"], pairs
