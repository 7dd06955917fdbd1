"""What resembles what among the images of a folder.

`search("runs/photos", "photos", queries=["dog.jpg"], out="found")` gives findings and a page.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from ibot.config.schema import MAX_PIXELS
from ibot.data.decode import Orientation
from ibot.data.sets.images import Images
from ibot.data.sets.open import open_images
from ibot.errors import UserError, WeightsError
from ibot.eval.context import Counter
from ibot.eval.features.cache import cached_features, weights_hash
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import View
from ibot.eval.opened import cache_folder
from ibot.eval.request import FEATURE_CACHE
from ibot.explore.comparisons import find_duplicates, find_images, find_outliers, find_patches
from ibot.explore.findings import Compared, Findings
from ibot.explore.page import write_page
from ibot.explore.resemblance import unscalable
from ibot.explore.searched import Query, Searched
from ibot.explore.table import Row, csv_rows, write_csv
from ibot.system.device import choose_device
from ibot.system.progress import no_counter
from ibot.weights.read import Loaded, load

PAGE, TABLE = "search.html", "search.csv"
TITLE = "ibot search in"
"""Start of the page's title, by which the page of an earlier search is known."""
THRESHOLD = 0.95
"""Cosine from which two images are near-duplicates. Measured with a tiny32 run (400,000 images
seen) on 4,167 images of CIFAR-10: of copies saved again as JPEG 75, resized to 3/4 and back or made
a tenth brighter, 99 % are above it; the nearest other image is above 0.94 for one image in a
thousand. Networks that find all images alike need a higher one."""
QUERIES = 4
"""Images of the folder whose neighbours are shown where no image is given."""


def search(
    weights: Loaded | str | Path,
    images: Images | str | Path,
    *,
    queries: Sequence[str | Path] = (),
    patch: tuple[int, int] | None = None,
    k: int = 10,
    duplicates: float = THRESHOLD,
    outliers: int = 12,
    size: tuple[int, int] | None = None,
    out: str | Path | None = None,
    cache: str | Path = FEATURE_CACHE,
    device: torch.device | str = "auto",
    workers: int = 0,
    exif_orientation: Orientation = "apply",
    max_pixels: int = MAX_PIXELS,
    counter: Callable[[str], Counter] = no_counter,
) -> Findings:
    """Nearest images and patches, near-duplicates and outliers, exact, by class and patch tokens.

    Args:
        weights: a network, or the run, checkpoint or file to read it from.
        images: a folder, a list, tar files or a set by name, labelled or not; or opened images.
        queries: files whose neighbours are sought, in the folder or not; none: a few of the folder.
        patch: row and column, from 0 on the view's grid; then also patches like this one of each
            query are sought.
        k: answers to each query.
        duplicates: cosine of near-duplicates, 0..1.
        outliers: images to name as outliers; 0: none.
        size: height and width of the view in pixels; None: as in training.
        out: folder for search.html and search.csv; None: nothing is written.
        cache: folder of features.
        device: where to compute.
        workers: processes that decode images.
        exif_orientation: whether pictures are turned upright by their EXIF tags.
        max_pixels: larger images are not read.
        counter: makes a progress counter for a named part of the work.

    Raises:
        UserError: a patch outside of the grid, or places that cannot be written. DataError: images
            that cannot be read. WeightsError: weights that cannot be used.
    """
    chosen = device if isinstance(device, torch.device) else choose_device(device)
    source = (
        images
        if isinstance(images, Images)
        else open_images(str(images), exif_orientation=exif_orientation, max_pixels=max_pixels)
    )
    loaded = weights if isinstance(weights, Loaded) else load(weights)
    searched = Searched(
        backbone=loaded.backbone.to(chosen),
        source=source,
        view=View(size or loaded.size),
        device=chosen,
        workers=workers,
        counter=counter,
        exif_orientation=exif_orientation,
        max_pixels=max_pixels,
    )
    searched.check(patch)
    asked = searched.queries(queries)
    folder = None if out is None else Path(out)
    if folder is not None:
        _prepare(folder)  # what fails shall fail before the work
    features = _class_tokens(searched, loaded, cache_folder(str(cache), folder or Path()))
    index = features.index
    asked = asked or searched.evenly(index, QUERIES)
    # A GPU holds the features; a CPU reads them where they lie, in the file of the cache.
    rows = features.rows.to(chosen)
    nearest = find_images(searched, rows, index, asked, k)
    if patch is not None:
        nearest += find_patches(searched, index, asked, patch, k)
    findings = Findings(
        nearest,
        find_duplicates(searched, rows, index, duplicates),
        find_outliers(searched, rows, index, outliers),
        Compared(str(source.root), len(index), features.bad, features.cached),
    )
    if folder is not None:
        _write(findings, searched, asked, folder)
    return findings


def _class_tokens(searched: Searched, loaded: Loaded, cache: Path) -> FeatureSet:
    """Class tokens of all readable images, from the cache where they are there.

    Raises UserError for a cache that cannot be written, and WeightsError for outputs that have no
    direction.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        features = cached_features(
            searched.backbone,
            weights_hash(loaded),
            searched.source,
            searched.view,
            [CLASS_TOKEN],
            cache,
            device=searched.device,
            workers=searched.workers,
            progress=searched.counter("images"),
        )[CLASS_TOKEN]
    except OSError as error:
        raise UserError(
            f"features cannot be kept in '{cache}'",
            why=error.strerror or str(error),
            fix="name another --cache",
        ) from None
    wrong = unscalable(features.rows)
    if len(wrong):
        name = searched.source.name(int(features.index[int(wrong[0])]))
        raise WeightsError(
            "the network's outputs are not finite, or all zero",
            why=f"seen for '{name}'",
            fix="use other weights",
        )
    return features


def _prepare(out: Path) -> None:
    """Make the folder.

    Raises UserError where that cannot be done, or where other files have the names of ours.
    """
    # Tables of earlier versions begin alike and have fewer columns.
    columns = ",".join(field.name for field in fields(Row)[:2]) + ","
    for name, mark in {PAGE: f"<title>{TITLE} ", TABLE: columns}.items():
        file = out / name
        if os.path.lexists(file) and not _holds(file, mark):
            raise UserError(
                f"'{file}' is in the way",
                why="it was not written by a search",
                fix="name another folder with --out",
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the folder '{out}' cannot be made",
            why=error.strerror or str(error),
            fix="name another one with --out",
        ) from None


def _holds(file: Path, mark: str) -> bool:
    """Whether the mark is near the start of the file."""
    try:
        with file.open("rb") as content:
            return mark.encode() in content.read(1000)
    except OSError:
        return False


def _write(findings: Findings, searched: Searched, queries: Sequence[Query], out: Path) -> None:
    """Write page and table. Raises UserError."""
    outside = {query.index: query.view for query in queries if query.index < 0}

    def read(index: int) -> np.ndarray:
        return outside[index] if index < 0 else searched.read(index)

    try:
        write_page(findings, read, out / PAGE, f"{TITLE} {searched.source.root}")
        write_csv(csv_rows(findings), out / TABLE)
    except OSError as error:
        raise UserError(
            f"nothing can be written into '{out}'",
            why=error.strerror or str(error),
            fix="name another --out",
        ) from None
