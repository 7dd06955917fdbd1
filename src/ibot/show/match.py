"""`ibot show match`: what the patches of one picture find in another (spec_evaluation 10.3)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ibot.data.decode import UnreadableImage
from ibot.data.false_colours import as_rgb
from ibot.data.sets.images import Images, LabelledImages
from ibot.errors import DataError, UserError, printable
from ibot.eval.probes.correspondence import RADII, Correspondence, Truth, correspond, true_places
from ibot.eval.probes.kept_pairs import Pair, view_pairs
from ibot.eval.probes.match_places import Cells, Placed
from ibot.models.contract import Backbone
from ibot.rng import permutation
from ibot.show.asked import Asked
from ibot.show.disparity import moved_by, read_disparity
from ibot.show.inputs import Viewed, WholeView, network_input
from ibot.show.layout import file_name
from ibot.show.match_pairs import HEIGHT, chosen, pair_sheet
from ibot.show.pictures import Drawn
from ibot.system.jsonl import write_json
from ibot.words import counted

log = logging.getLogger("ibot")


def draw(asked: Asked) -> Drawn:
    """A picture and a JSON file for each pair of images, or of views of one image.

    Options: `pairs`, `style`, `lines`, `mutual`, `attention`, `features`, `published`, `disparity`;
    see `show.pictures`.

    Raises:
        UserError: images or options that do not belong together. DataError: images that are
            missing or cannot be read. WeightsError: the network.
    """
    options = asked.options
    # Before the network, which takes longer to read.
    labelled = labelled_images(asked) if options["pairs"] == "classes" else None
    loaded = asked.loaded()
    asked = replace(asked, size=asked.size or min(loaded.size))
    files: list[Path] = []
    scores: list[Correspondence] = []
    for number, pair in enumerate(_pairs(asked, loaded.backbone, loaded.size, labelled)):
        patches = chosen(pair.found, options["lines"], mutual=options["mutual"])
        sheet = pair_sheet(
            pair,
            patches,
            style=options["style"],
            attention=options["attention"],
        )
        stem = "_".join(Path(name).stem for name in pair.names)
        file = asked.out / file_name(number, stem, f".{asked.format}")
        files.append(sheet.save(file))
        about = {"names": pair.names, "drawn": patches.tolist(), **pair.found.as_plain()}
        write_json(file.with_suffix(".json"), about)
        scores.append(pair.found)
    return Drawn(files, tuple(_summary(scores)))


def _pairs(
    asked: Asked,
    backbone: Backbone,
    trained: tuple[int, int],
    labelled: LabelledImages | None,
) -> Iterator[Pair]:
    """What is asked for, the pairs that can be read.

    trained: height and width of the views of the training. labelled: the images of pairs of a
    class. Raises DataError where there are none.
    """
    wanted = asked.options["pairs"]
    if wanted == "auto":
        two = len(asked.images) == 2 and all(Path(name).is_file() for name in asked.images)
        wanted = "given" if two else "views"
    if asked.options["disparity"] and wanted != "given":
        raise UserError(
            "a disparity belongs to two images", fix="name the left and the right one, in order"
        )
    if wanted == "given":
        yield _given(asked, backbone)
        return
    if labelled is None:
        found = _of_views(asked, backbone, trained)
    else:
        found = _of_classes(asked, backbone, labelled)
    count = 0
    for count, pair in enumerate(found, 1):  # noqa: B007 - counted
        yield pair
    if not count:
        raise DataError("no pair of images can be read", fix="name other images behind the weights")


def _given(asked: Asked, backbone: Backbone) -> Pair:
    """Two images that were named."""
    inputs = asked.inputs()
    if len(inputs) != 2:
        raise UserError(
            f"{counted(len(inputs), 'image')} are named, a pair has two",
            fix="name two files, or --pairs views or classes",
        )
    read = list(inputs)
    if len(read) < 2:
        name, reason = next(iter(inputs.bad.values()))
        raise DataError(f"'{name}' cannot be read", why=reason)
    disparity = None
    if asked.options["disparity"]:
        disparity = read_disparity(Path(asked.options["disparity"]), read[0].pixels.shape[:2])
    return whole_pair(asked, backbone, (read[0], read[1]), disparity)


def whole_pair(
    asked: Asked,
    backbone: Backbone,
    images: tuple[Viewed, Viewed],
    disparity: NDArray[np.float64] | None = None,
) -> Pair:
    """Two whole images as `asked.view` shows them to the network.

    disparity: float64 [H, W], pixels by which those of the first lie further left in the second;
    not finite where that is unknown.
    """
    patch = backbone.patch_size
    channels = len(backbone.channels)
    views = [asked.view.render(image.pixels, patch, channels) for image in images]
    inputs = [network_input(view, backbone) for view in views]
    truth = None if disparity is None else _stereo(asked, backbone, images, disparity)
    found = _found(asked, backbone, inputs[0], inputs[1], truth)
    pictures = [_picture(asked.view, image.pixels, patch) for image in images]
    return Pair(
        names=tuple(image.name for image in images),
        pictures=(pictures[0], pictures[1]),
        found=found,
    )


def _picture(view: WholeView, pixels: NDArray[Any], patch: int) -> NDArray[np.uint8]:
    """What the network is shown, with what the image has to show instead of its few pixels."""
    if view.fit != "squash":
        return as_rgb(pixels)
    times = max(1, -(-HEIGHT // view.short))
    return WholeView(times * view.short, "squash").render(pixels, times * patch)


def _found(
    asked: Asked, backbone: Backbone, first: torch.Tensor, second: torch.Tensor, truth: Truth | None
) -> Correspondence:
    return correspond(
        backbone,
        first,
        second,
        feature=asked.options["features"],
        cosine=not asked.options["published"],
        truth=truth,
    )


def _stereo(
    asked: Asked,
    backbone: Backbone,
    images: tuple[Viewed, Viewed],
    disparity: NDArray[np.float64],
) -> Truth:
    """Where patches of the left image lie in the right one."""
    if asked.view.fit == "squash":
        raise UserError("with --fit squash a part of the images is cut off", fix="--fit keep")
    placed, cells = [], []
    for image in images:
        height, width = image.pixels.shape[:2]
        size = asked.view.size(height, width, backbone.patch_size)
        placed.append(Placed(torch.tensor([[0, 0, height, width]]), torch.tensor([False])))
        cells.append(Cells.of(backbone.token_grid(*size), size, backbone.patch_size))
    return true_places((placed[0], placed[1]), (cells[0], cells[1]), moved_by(disparity))


def _of_views(asked: Asked, backbone: Backbone, trained: tuple[int, int]) -> Iterator[Pair]:
    """Two random views of each image, as `ibot eval match` draws them.

    Of the training's size, unless another was asked for: then they are square.
    """
    size = trained if asked.size == min(trained) else (asked.size, asked.size)
    inputs = asked.inputs()
    progress, done = asked.counter("pairs of views"), 0
    for images, numbers in inputs.parts():
        for number in numbers.tolist():
            pairs = list(
                view_pairs(
                    backbone,
                    images,
                    np.array([number]),
                    size,
                    seed=asked.seed,
                    feature=asked.options["features"],
                    published=asked.options["published"],
                )
            )
            if not pairs:
                log.warning("passed over: %s cannot be read", printable(images.name(number)))
            yield from pairs
            done += 1
            if progress is not None:
                progress(done, len(inputs))


def labelled_images(asked: Asked) -> LabelledImages:
    """The one set that is named. Raises UserError for several, and for one without labels."""
    every = replace(asked, limit=0).inputs()
    images = every.sets[0]
    if len(every.sets) != 1 or not isinstance(images, LabelledImages):
        raise UserError(
            "pairs of a class need one set of images with labels",
            why="no class folders, and no list with a column 'label', are named",
            fix="name a folder with a folder for each class, or --pairs views",
        )
    return images


def _of_classes(asked: Asked, backbone: Backbone, images: LabelledImages) -> Iterator[Pair]:
    """Pairs of images of one class; of one that cannot be read nothing is drawn."""
    pairs = class_pairs(images.labels, asked.seed)[: asked.limit or None]
    if not pairs:
        raise DataError(f"no class of '{images.root}' has two images")
    progress = asked.counter("pairs of a class")
    for done, (one, other) in enumerate(pairs, 1):
        try:
            both = _read(images, one), _read(images, other)
        except UnreadableImage as error:
            log.warning("passed over: a pair with an image that cannot be read: %s", error)
            continue
        finally:
            if progress is not None:
                progress(done, len(pairs))
        yield whole_pair(asked, backbone, both)


def _read(images: Images, number: int) -> Viewed:
    return Viewed(number, images.name(number), images.read(number))


def class_pairs(labels: NDArray[np.integer], seed: int) -> list[tuple[int, int]]:
    """Consecutive pairs of images of one class in an order drawn by `seed`, a pair of each class in
    turn; the last image of an odd class has no partner, as published.

    labels: int [n]. Returns pairs of numbers of images; none occurs twice.
    """
    order = permutation(seed, 0, len(labels))
    waiting: dict[int, int] = {}
    rounds: dict[int, int] = {}
    found: list[tuple[int, int, int, int]] = []
    for number in order.tolist():
        label = int(labels[number])
        partner = waiting.pop(label, None)
        if partner is None:
            waiting[label] = number
            continue
        rounds[label] = rounds.get(label, 0) + 1
        found.append((rounds[label], label, partner, number))
    return [(one, other) for _, _, one, other in sorted(found)]


def _summary(found: list[Correspondence]) -> Iterator[str]:
    """What is said of all pairs: the mean over those of which the truth is known."""
    known = [one for about in found if (one := about.accuracy()) and one["patches"]]
    yield f"{'pairs:':18}{len(found)}"
    if not known:
        return
    shares = []
    for radius in map(str, RADII):
        means = {
            name: 100 * sum(one["within"][radius][name] for one in known) / len(known)
            for name in ("found", "chance")
        }
        shares.append(f"{means['found']:.1f} % within {radius} (chance {means['chance']:.2f})")
    yield f"{'found:':18}{', '.join(shares)}"
