"""The picture of the demo: curves, and what the network makes of some shoals before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ibot.config.schema import Config
from ibot.data.reef import SPECIES, Shoal
from ibot.models.contract import Backbone
from ibot.show.attention import class_attention
from ibot.show.colours import between_ends, distinct_color, in_colors
from ibot.show.layout import enlarged
from ibot.show.training import Example, training_picture
from ibot.studies.demo_patches import Found, as_input
from ibot.studies.measured import knn_by_step
from ibot.system.files import write_named
from ibot.system.jsonl import read_jsonl
from ibot.weights.head import projection_head
from ibot.weights.read import load_weights

COLUMNS = (1, 21, 8, 28, 10, 30)
"""Images that are shown: two of each of three species."""
ROWS = (
    "a shoal",
    "fish cut out\nbefore training",
    "fish cut out\nafter training",
    "words of its\npatches, after",
    "attention\nbefore",
    "attention\nafter",
)
GROUND = np.array([246, 247, 249], np.float64)
"""Behind what is cut out."""


def write_picture(
    out: Path,
    config: Config,
    shoals: Sequence[Shoal],
    networks: tuple[Backbone, Backbone],
    found: tuple[Sequence[Found], Sequence[Found]],
    levels: dict[str, float],
    *,
    run: Path,
) -> None:
    """Draw curves and, of some shoals, what was cut out, words and attention.

    Args:
        out: the file.
        config: settings of the run.
        shoals: all that patches were judged on.
        networks: before and after the training.
        found: what their patches found in `shoals`.
        levels: name -> accuracy, beside the curve of k-NN.
        run: its folder.
    """
    shown = [shoals[i] for i in COLUMNS]
    tensor = as_input(shown, config.model.statistics)
    attention = [class_attention(net.eval(), tensor).mean(dim=1).numpy() for net in networks]
    words = words_of(run, networks[1], tensor)
    examples = []
    for column, (number, shoal) in enumerate(zip(COLUMNS, shown, strict=True)):
        before, after = (of_network[number] for of_network in found)
        pictures = [
            shoal.image,
            cut_out(shoal.image, before.fish),
            cut_out(shoal.image, after.fish),
            coloured(shoal.image, words[column]),
            *(smooth(maps[column], shoal.image.shape[0]) for maps in attention),
        ]
        said = f"{SPECIES[shoal.species]}\nnamed {before.named()} before,\n{after.named()} after"
        examples.append(Example(pictures, said))
    title = (
        f"iBOT on generated shoals: {config.train.length}, {config.model.depth} blocks of width "
        f"{config.model.width}; no label was used to train"
    )
    metrics = read_jsonl(run / "metrics.jsonl")
    knn = [(measured.step * config.train.batch, measured.knn) for measured in knn_by_step(run)]
    write_named(
        out,
        lambda path: training_picture(metrics, knn, levels, ROWS, examples, path, title),
    )


@torch.no_grad()
def words_of(run: Path, backbone: Backbone, images: Tensor) -> NDArray[np.int64]:
    """The most probable word of each patch: int64 [n, rows, columns]."""
    head = projection_head(load_weights(run), backbone.embed_dim, "teacher")
    assert head is not None
    tokens = backbone.eval()(images)
    z_cls, z_patches = head.project_both(tokens.cls, tokens.patches.flatten(0, 1))
    word = head.logits(z_cls[:0], z_patches)[1].argmax(dim=-1)
    return word.unflatten(0, (len(images), *tokens.grid)).numpy()


def cut_out(image: NDArray[np.uint8], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The pixels of uint8 [H, W, 3] where `kept` [H, W], on a pale ground."""
    return np.where(kept[..., None], image, GROUND).astype(np.uint8)


def coloured(image: NDArray[np.uint8], words: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Each patch in the colour of its word, the image in gray below it."""
    height, width = image.shape[:2]
    colors = np.array([distinct_color(int(word)) for word in words.ravel()], np.uint8)
    map_ = enlarged(colors.reshape(*words.shape, 3), height, width)
    gray = image.mean(axis=2, keepdims=True)
    return (0.65 * map_ + 0.35 * gray).astype(np.uint8)


def smooth(values: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """A map [h, w] between its ends in colours, enlarged: uint8 [side, side, 3]."""
    shown = Image.fromarray(in_colors(between_ends(values)))
    return np.asarray(shown.resize((side, side), Image.Resampling.BICUBIC))
