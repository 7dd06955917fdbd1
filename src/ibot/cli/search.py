"""`ibot search`: what resembles what among the images of a folder."""

from __future__ import annotations

import argparse
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.cli.results import counted, printable
from ibot.errors import DataError, UserError, WeightsError
from ibot.system.progress import counter, print_notes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from ibot.data.sets.files import FileImages
    from ibot.data.sets.images import Images
    from ibot.eval.context import Counter
    from ibot.eval.features.cache import FeatureSet
    from ibot.eval.features.views import View
    from ibot.explore.page import Duplicates, Findings, Nearest, Picture, Square
    from ibot.models.backbone import BackboneModule
    from ibot.types import TokenOutput
    from ibot.weights.read import Loaded

PAGE, TABLE = "search.html", "search.csv"
TITLE = "ibot search in"
"""Start of the page's title, by which the page of an earlier search is known."""
THRESHOLD = 0.95
"""Cosine from which two images are near-duplicates. Measured with a tiny32 run (400,000 images
seen) on 4,167 images of CIFAR-10: of copies saved again as JPEG 75, resized to 3/4 and back or made
a tenth brighter, 99 % are above it; the nearest other image is above 0.94 for one image in a
thousand. Networks that find all images alike need a higher one."""
EXACT = 0.9999
"""The highest threshold in use: rounding takes exact copies below 1."""
MANY = 0.05
"""Share of images in groups above which the threshold or the network is in doubt: real folders
hold few copies."""
QUERIES = 4
"""Images of the folder whose neighbours are shown where no image is given."""
NEIGHBOURS = 5
"""Whose mean similarity says how strange an image is; more than one, so that a strange image
with a copy stays so."""
BATCH = 64
"""Images whose patch tokens are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Query:
    """An image whose neighbours are sought."""

    name: str
    index: int
    """Number in the folder; below 0 for a file outside of it."""
    view: NDArray[np.uint8]
    """[H, W, 3], as the network sees it."""


@dataclass(frozen=True, slots=True)
class Searched:
    """The images of a folder and the network that compares them."""

    backbone: BackboneModule
    """In evaluation mode on `device`."""
    source: FileImages
    view: View
    device: torch.device
    workers: int
    counter: Callable[[str], Counter]
    """Makes a progress counter for a named part of the work."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        return self.backbone.token_grid(*self.view.size)

    def read(self, index: int) -> NDArray[np.uint8]:
        """View of an image of the folder, [H, W, 3]. Raises UnreadableImage."""
        return self.view.render(self.source.read(index))

    def tokens(self, views: Tensor) -> TokenOutput:
        """Tokens, float32, of `views` uint8 [b, 3, H, W]."""
        import torch

        from ibot.data.pixels import normalize

        with torch.inference_mode():
            output = self.backbone(normalize(views.to(self.device), self.backbone.statistics))
        return replace(output, cls=output.cls.float(), patches=output.patches.float())

    def vectors(self, queries: Sequence[Query], patch: int | None = None) -> Tensor:
        """Class tokens of queries, or their tokens of one patch, [q, D]."""
        import numpy as np
        import torch

        found = []
        for start in range(0, len(queries), BATCH):
            views = np.stack([query.view for query in queries[start : start + BATCH]])
            tokens = self.tokens(torch.from_numpy(views).permute(0, 3, 1, 2).contiguous())
            found.append(tokens.cls if patch is None else tokens.patches[:, patch])
        return torch.cat(found)

    def picture(self, index: int, similarity: float, square: Square | None = None) -> Picture:
        """An image of the folder on the page."""
        from ibot.explore.page import Picture

        return Picture(index, self.source.name(index), similarity, square)


def run(options: argparse.Namespace) -> int:
    """Search, write the page and the table, and say in a line each what was found."""
    patch = _checked(options)
    from ibot.data.sets.scan import scan
    from ibot.eval.features.views import View
    from ibot.eval.opened import cache_folder, default_out
    from ibot.explore.page import csv_rows, write_csv, write_page
    from ibot.system.device import choose_device
    from ibot.weights.read import load

    device = choose_device(options.device)
    source = replace(
        scan(options.data), exif_orientation=options.exif_orientation, max_pixels=options.max_pixels
    )
    loaded = load(
        options.weights, options.key, heads=options.heads, allow_partial=options.allow_partial
    )
    print_notes(source.notes, options.quiet)
    size = (options.size, options.size) if options.size else loaded.size
    searched = Searched(
        loaded.backbone.to(device),
        source,
        View(size),
        device,
        options.workers,
        (lambda name: None) if options.quiet else counter,
    )
    _check_grid(searched, patch)
    queries = [
        _query(searched, file, -1 - number)
        for number, file in enumerate(dict.fromkeys(options.image))
    ]
    out = Path(options.out) if options.out else default_out(Path(options.weights)) / "search"
    _prepare(out)
    features = _features(searched, loaded, cache_folder(options.cache, out))
    queries = queries or _evenly(searched, features)
    findings = _search(searched, features, queries, patch, options)
    outside = {query.index: query.view for query in queries if query.index < 0}
    try:
        write_page(
            findings,
            lambda index: outside[index] if index < 0 else searched.read(index),
            out / PAGE,
            f"{TITLE} {source.root}",
        )
        write_csv(csv_rows(findings), out / TABLE)
    except OSError as error:
        raise UserError(
            f"nothing can be written into '{out}'",
            why=error.strerror or str(error),
            fix="name another --out",
        ) from None
    print(printable("\n".join(_summary(findings, features, source))))
    print(printable(f"page:             {out / PAGE}\ntable:            {out / TABLE}"))
    print(
        "next:             open the page in a browser, or search with --image FILE and --patch "
        "ROW,COLUMN"
    )
    return 0


def _checked(options: argparse.Namespace) -> tuple[int, int] | None:
    """The patch asked for. Raises UserError for options that make no sense with any network and
    images.
    """
    if options.out and Path(options.out).exists() and not Path(options.out).is_dir():
        raise UserError(f"'{options.out}' is a file", fix="name a folder with --out")
    if not options.patch:
        return None
    numbers = options.patch.split(",")
    if len(numbers) != 2 or not all(number.strip().isdecimal() for number in numbers):
        raise UserError(
            f"'{options.patch}' is no patch",
            fix="--patch ROW,COLUMN, counted from 0, as in --patch 0,3",
        )
    return int(numbers[0]), int(numbers[1])


def _check_grid(searched: Searched, patch: tuple[int, int] | None) -> None:
    """Raise UserError for a view without patches or a patch outside of the grid."""
    (height, width), (rows, columns) = searched.view.size, searched.grid
    if not rows or not columns:
        raise UserError(
            f"a view of {height}x{width} pixels holds no patch",
            why=f"a patch has {searched.backbone.patch_size} pixels",
            fix="give a larger --size, or leave it out: as in training",
        )
    if patch is not None and not (patch[0] < rows and patch[1] < columns):
        raise UserError(
            f"patch {patch[0]},{patch[1]} is outside of the grid",
            why=f"a view of {height}x{width} pixels has {rows} x {columns} patches",
            fix=f"give a row in 0..{rows - 1} and a column in 0..{columns - 1}, or a larger --size",
        )


def _query(searched: Searched, file: str, number: int) -> Query:
    """The image of a file; `number` is its index where it is not in the folder. Raises
    DataError.
    """
    from ibot.data.decode import UnreadableImage, decode

    try:
        source = searched.source
        view = searched.view.render(decode(file, source.exif_orientation, source.max_pixels))
    except UnreadableImage as error:
        raise DataError(
            f"the image '{file}' cannot be read",
            why=str(error),
            fix="check the path, or convert it to JPEG or PNG",
        ) from None
    index = _number_in(searched.source, file)
    return (
        Query(file, number, view)
        if index is None
        else Query(searched.source.name(index), index, view)
    )


def _number_in(source: Images, file: str) -> int | None:
    """Index of a file among the images of the folder, None for others."""
    # As written first: a link that lies in the folder is the folder's image, wherever it leads.
    for path in (os.path.abspath, os.path.realpath):
        name = os.path.relpath(path(file), path(source.root)).replace(os.sep, "/")
        index = bisect_left(range(len(source)), name, key=source.name)
        if index < len(source) and source.name(index) == name:
            return index
    return None


def _evenly(searched: Searched, features: FeatureSet) -> list[Query]:
    """A few readable images of the folder, evenly spaced."""
    import numpy as np

    count = min(QUERIES, len(features.index))
    chosen = features.index[
        np.linspace(0, len(features.index) - 1, count).astype(np.int64)
    ].tolist()
    return [Query(searched.source.name(i), i, searched.read(i)) for i in chosen]


def _prepare(out: Path) -> None:
    """Make the folder. Raises UserError where that cannot be done, or where other files have the
    names of ours.
    """
    from ibot.explore.page import Row

    # Tables of earlier versions begin alike and have fewer columns.
    marks = {
        PAGE: f"<title>{TITLE} ",
        TABLE: ",".join(field.name for field in fields(Row)[:2]) + ",",
    }
    for name, mark in marks.items():
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


def _features(searched: Searched, loaded: Loaded, cache: Path) -> FeatureSet:
    """Class tokens of all readable images, from the cache where they are there.

    Raises UserError for a cache that cannot be written, and WeightsError for outputs that have no
    direction.
    """
    from ibot.eval.features.cache import cached_features, weights_hash
    from ibot.eval.features.tokens import CLASS_TOKEN
    from ibot.explore.resemblance import unscalable

    source = searched.source
    try:
        cache.mkdir(parents=True, exist_ok=True)
        features = cached_features(
            searched.backbone,
            weights_hash(loaded),
            source,
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
        name = source.name(int(features.index[int(wrong[0])]))
        raise WeightsError(
            "the network's outputs are not finite, or all zero",
            why=f"seen for '{name}'",
            fix="use other weights",
        )
    return features


def _search(
    searched: Searched,
    features: FeatureSet,
    queries: Sequence[Query],
    patch: tuple[int, int] | None,
    options: argparse.Namespace,
) -> Findings:
    """All that is asked for."""
    from ibot.explore.page import Findings
    from ibot.explore.resemblance import outliers

    # A GPU holds the features; a CPU reads them where they lie, in the file of the cache.
    rows, index = features.rows.to(searched.device), features.index
    nearest = _nearest(searched, rows, index, queries, options.k)
    if patch is not None:
        nearest += _nearest_patches(searched, index, queries, patch, options.k)
    duplicates = _duplicates(searched, rows, index, min(options.duplicates, EXACT))
    strange = None
    if options.outliers and len(rows) > 1:
        similarity, places = outliers(
            rows, NEIGHBOURS, options.outliers, scale=True, progress=searched.counter("outliers")
        )
        strange = _pictures(searched, index[places.cpu().numpy()], similarity)
    return Findings(nearest, duplicates, strange)


def _nearest(
    searched: Searched, rows: Tensor, index: NDArray[np.int64], queries: Sequence[Query], k: int
) -> list[Nearest]:
    """The k most similar other images of each query; rows: [n, D], index: [n], their numbers in the
    folder, rising.
    """
    import numpy as np
    import torch

    from ibot.explore.page import Nearest, Picture
    from ibot.explore.resemblance import nearest_images

    vectors = searched.vectors(queries)
    own = [np.flatnonzero(index == query.index) for query in queries]
    answers: dict[int, list[Picture]] = {}
    # All at once, as every call reads the whole file: first those with a row to be left out, then
    # the others.
    for has_row in (True, False):
        asked = [place for place, row in enumerate(own) if bool(len(row)) == has_row]
        if asked:
            exclude = torch.from_numpy(np.concatenate([own[place] for place in asked])).to(
                rows.device
            )
            found = nearest_images(
                rows, vectors[asked], k, exclude if has_row else None, scale=True
            )
            for place, similarity, numbers in zip(asked, *found, strict=True):
                answers[place] = _pictures(searched, index[numbers.cpu().numpy()], similarity)
    return [
        Nearest(Picture(query.index, query.name), answers[place])
        for place, query in enumerate(queries)
    ]


def _nearest_patches(
    searched: Searched,
    index: NDArray[np.int64],
    queries: Sequence[Query],
    patch: tuple[int, int],
    k: int,
) -> list[Nearest]:
    """The k images with the patches most similar to one of each query; patch tokens of a few images
    exist at a time.
    """
    import numpy as np
    import torch

    from ibot.eval.features.views import in_batches, view_batches
    from ibot.explore.page import Nearest, Picture
    from ibot.explore.resemblance import nearest_patches

    number = patch[0] * searched.grid[1] + patch[1]
    wanted = searched.vectors(queries, number)
    progress = searched.counter("patches")
    none = (torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    best = [none] * len(queries)
    done = 0
    for part in view_batches(
        searched.source, searched.view, in_batches(index, BATCH), searched.workers
    ):
        patches = searched.tokens(part.views).patches if len(part.positions) else None
        for place, query in enumerate(queries if patches is not None else ()):
            assert patches is not None
            own = np.flatnonzero(part.positions == query.index).tolist()
            image, where, similarity = nearest_patches(
                patches, wanted[place], k, own[0] if own else None
            )
            image = torch.from_numpy(part.positions)[image.cpu()]
            best[place] = _best(best[place], (image, where.cpu(), similarity.cpu()), k)
        done += len(part.positions) + len(part.bad)
        if progress is not None:
            progress(done, len(index))
    square = _square(number, searched)
    return [
        Nearest(
            Picture(query.index, query.name, square=square),
            [
                searched.picture(i, value, _square(place, searched))
                for i, place, value in zip(*(part.tolist() for part in answers), strict=True)
            ],
        )
        for query, answers in zip(queries, best, strict=True)
    ]


def _best(
    first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The k answers (image, patch, cosine) of two lists with the largest cosines; of equal ones,
    the first.
    """
    import torch

    image, patch, similarity = (torch.cat(pair) for pair in zip(first, second, strict=True))
    order = similarity.argsort(descending=True, stable=True)[:k]
    return image[order], patch[order], similarity[order]


def _square(patch: int, searched: Searched) -> Square:
    """Place of a patch on the view: what the patches do not cover, right and below, is no part of
    the grid.
    """
    from ibot.explore.page import Square

    row, column = divmod(patch, searched.grid[1])
    height, width = (searched.backbone.patch_size / side for side in searched.view.size)
    top, left = row * height, column * width
    # The last patches of a Swin network may reach beyond the view, into its padding.
    return Square(row, column, top, left, min(height, 1 - top), min(width, 1 - left))


def _duplicates(
    searched: Searched, rows: Tensor, index: NDArray[np.int64], threshold: float
) -> Duplicates:
    """Groups of near-duplicates."""
    from ibot.explore.page import Duplicates, Group
    from ibot.explore.resemblance import near_duplicates

    groups = [
        Group(_pictures(searched, index[group.index.cpu().numpy()], group.similarity))
        for group in near_duplicates(
            rows, threshold, scale=True, progress=searched.counter("duplicates, pairs")
        )
    ]
    return Duplicates(threshold, groups)


def _pictures(searched: Searched, index: NDArray[np.int64], similarity: Tensor) -> list[Picture]:
    return [
        searched.picture(i, value)
        for i, value in zip(index.tolist(), similarity.tolist(), strict=True)
    ]


def _summary(findings: Findings, features: FeatureSet, source: Images) -> list[str]:
    """One line for each kind of finding."""
    count = len(features.index)
    lines = [
        f"images:           {count} of {source.root}"
        + (", features from the cache" if features.cached else "")
    ]
    if features.bad:
        name, reason = features.bad[0]
        lines.append(
            f"not read:         {counted(len(features.bad), 'image')}, the first: {name}: {reason}"
        )
    for title, patches in (("nearest images", False), ("nearest patches", True)):
        found = [
            nearest for nearest in findings.nearest if (nearest.query.square is not None) == patches
        ]
        values = [
            answer.similarity
            for nearest in found
            for answer in nearest.answers
            if answer.similarity is not None
        ]
        if found:
            span = f", similarities {min(values):.3f} to {max(values):.3f}" if values else ""
            answers, asked = counted(len(values), "answer"), counted(len(found), "query")
            lines.append(f"{title + ':':18}{answers} to {asked}{span}")
    if findings.duplicates is not None:
        groups, threshold = findings.duplicates.groups, findings.duplicates.threshold
        alike = sum(len(group.pictures) for group in groups)
        of = f"{counted(len(groups), 'group')} of {counted(alike, 'image')}"
        lines.append(f"near-duplicates:  {of} at {threshold:g} or more")
        if alike > MANY * count:
            higher = "a higher --duplicates or " if threshold < EXACT else ""
            lines.append(
                f"advice:           {alike / count:.1%} of the images are in groups; "
                f"if they are no copies, use {higher}a better trained network"
            )
    if findings.outliers:
        first = findings.outliers[0]
        lines.append(
            f"outliers:         {len(findings.outliers)}, the strangest: {first.name} "
            f"({first.similarity:.3f})"
        )
    return lines
