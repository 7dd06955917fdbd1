"""The picture of the demo: curves, and what the network makes of some shoals before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ibot.config.schema import Config
from ibot.data.reef import SPECIES, Shoal
from ibot.data.sets.images import LabelledImages
from ibot.eval.features.tokens import extract_features
from ibot.eval.features.views import evenly
from ibot.models.contract import Backbone
from ibot.show.attention import class_attention
from ibot.show.colours import between_ends, distinct_color, in_colors
from ibot.show.components import fit_components
from ibot.show.layout import enlarged
from ibot.show.training import Example, training_picture
from ibot.studies.comparison import Sets
from ibot.studies.demo_patches import Found, as_input
from ibot.studies.measured import knn_by_step
from ibot.system.files import write_named
from ibot.system.jsonl import read_jsonl
from ibot.vocabulary.assign import assign
from ibot.weights.head import projection_head
from ibot.weights.read import load_weights

COLUMNS = (1, 21, 8, 28, 10, 30, 17, 37)
"""Shoals that are shown: two of each of four species."""
LEARNT_FROM = 2000
"""Training images among which the most similar one is sought."""
ROWS = (
    "an image",
    "most similar,\nbefore training",
    "most similar,\nafter",
    "a larger shoal",
    "fish cut out,\nbefore",
    "fish cut out,\nafter",
    "its patches as\ncolours, before",
    "its patches as\ncolours, after",
    "their words,\nafter",
    "attention,\nafter",
)
GROUND = np.array([246, 247, 249], np.float64)
"""Behind what is cut out."""
RIGHT, WRONG = (40, 160, 70), (225, 45, 45)
FRAME = 3
"""Pixels around an image of `reef.SIDE` that was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the picture shows."""

    sets: Sets
    shoals: Sequence[Shoal]
    """All that patches were judged on."""
    networks: tuple[Backbone, Backbone]
    """Before and after the training."""
    found: tuple[Sequence[Found], Sequence[Found]]
    """What their patches found in `shoals`."""
    levels: dict[str, float]
    """Name -> accuracy, beside the curve of k-NN."""


def write_picture(out: Path, config: Config, seen: Seen, run: Path) -> None:
    """Draw curves, images with the most similar ones, and what patches make of larger shoals.

    Args:
        out: the file.
        config: settings of the run.
        seen: what is shown.
        run: its folder.
    """
    shown = [seen.shoals[i] for i in COLUMNS]
    side = shown[0].image.shape[0]
    tensor = as_input(shown, config.model.statistics)
    similar = _similar(config, seen.sets, [shoal.species for shoal in shown], seen.networks)
    colors = [_components(net, tensor) for net in seen.networks]
    attention = class_attention(seen.networks[1].eval(), tensor).mean(dim=1).numpy()
    words = words_of(run, seen.networks[1], tensor)
    examples = []
    for column, (number, shoal) in enumerate(zip(COLUMNS, shown, strict=True)):
        before, after = (of_network[number] for of_network in seen.found)
        pictures = [
            *similar[column],
            shoal.image,
            cut_out(shoal.image, before.fish),
            cut_out(shoal.image, after.fish),
            *(smooth(of_network[column], side) for of_network in colors),
            worded(shoal.image, words[column]),
            smooth(in_colors(between_ends(attention[column])), side),
        ]
        said = f"{SPECIES[shoal.species]}\nbefore: {before.named()}\nafter: {after.named()}"
        examples.append(Example(pictures, said))
    title = (
        f"iBOT on generated shoals: {config.train.length}, {config.model.depth} blocks of width "
        f"{config.model.width}; no label was used to train"
    )
    metrics = read_jsonl(run / "metrics.jsonl")
    knn = [(measured.step * config.train.batch, measured.knn) for measured in knn_by_step(run)]
    write_named(
        out,
        lambda path: training_picture(metrics, knn, seen.levels, ROWS, examples, path, title),
    )


def _similar(
    config: Config, sets: Sets, species: Sequence[int], networks: tuple[Backbone, Backbone]
) -> list[list[NDArray[np.uint8]]]:
    """Of each species in turn an image, others where it repeats, and by each network the most
    similar training image, framed by whether it is of the same species.
    """
    train, val = sets
    chosen: list[int] = []
    for number in species:
        label = val.classes.index(SPECIES[number])
        chosen.append(next(i for i in of_label(val, label) if i not in chosen))
    bank = evenly(len(train), LEARNT_FROM).tolist()
    found = [[val.read(i)] for i in chosen]
    for net in networks:
        rows, queries = (
            extract_features(net, part, size=config.augment.global_size, indices=places).unit()
            for part, places in ((train, bank), (val, chosen))
        )
        for images, i, place in zip(
            found, chosen, (queries @ rows.T).argmax(dim=1).tolist(), strict=True
        ):
            same = train.label(bank[place]) == val.label(i)
            images.append(framed(train.read(bank[place]), RIGHT if same else WRONG))
    return found


def of_label(images: LabelledImages, label: int) -> list[int]:
    """Positions of the images of a class."""
    return [i for i in range(len(images)) if images.label(i) == label]


def framed(image: NDArray[np.uint8], color: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The image uint8 [H, W, 3] with its border in a colour."""
    image = image.copy()
    for side in (np.s_[:FRAME], np.s_[-FRAME:], np.s_[:, :FRAME], np.s_[:, -FRAME:]):
        image[side] = color
    return image


@torch.no_grad()
def _components(backbone: Backbone, images: Tensor) -> NDArray[np.uint8]:
    """The first three principal components of all patches together: uint8 [n, rows, columns, 3]."""
    tokens = backbone.eval()(images)
    rows = tokens.patches.float().flatten(0, 1)
    rgb = fit_components(rows, foreground=False).colours(rows).rgb
    grid = rgb.unflatten(0, (len(images), *tokens.grid))
    return (255 * grid).round().byte().numpy()


@torch.no_grad()
def words_of(run: Path, backbone: Backbone, images: Tensor) -> NDArray[np.int64]:
    """The most probable word of each patch: int64 [n, rows, columns]."""
    head = projection_head(load_weights(run), backbone.embed_dim, "teacher")
    assert head is not None
    tokens = backbone.eval()(images)
    _, found = assign(head, tokens.cls, tokens.patches)
    return found.word.unflatten(1, tokens.grid).numpy()


def cut_out(image: NDArray[np.uint8], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The pixels of uint8 [H, W, 3] where `kept` [H, W], on a pale ground."""
    return np.where(kept[..., None], image, GROUND).astype(np.uint8)


def worded(image: NDArray[np.uint8], words: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Each patch in the colour of its word, the image in gray below it."""
    height, width = image.shape[:2]
    colors = np.array([distinct_color(int(word)) for word in words.ravel()], np.uint8)
    patches = enlarged(colors.reshape(*words.shape, 3), height, width)
    return (0.65 * patches + 0.35 * image.mean(axis=2, keepdims=True)).astype(np.uint8)


def smooth(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A grid uint8 [h, w, 3] enlarged: [side, side, 3]."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
