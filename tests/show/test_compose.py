"""Images by their most attended words: the choice against a loop, numbers against the network."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from random_weights import SWIN, VIT, write_random

from ibot.data.pixels import normalize
from ibot.data.sets.open import open_images
from ibot.eval.features.views import View
from ibot.eval.probes.correspondence import salience
from ibot.show.asked import Asked
from ibot.show.compose import distinct, draw
from ibot.show.pictures import PICTURES
from ibot.vocabulary.index import open_index
from ibot.weights.read import load


def test_patches_are_the_most_salient_ones_whose_words_differ():
    random = np.random.default_rng(0)
    for words in (random.integers(0, 5, 40), np.zeros(40, int), np.arange(40)):
        saliency = random.integers(0, 9, 40).astype(float)
        taken, seen = [], set()
        for patch in sorted(range(40), key=lambda i, s=saliency: -s[i]):
            if words[patch] not in seen and len(taken) < 4:
                seen.add(words[patch])
                taken.append(patch)
        assert distinct(saliency, words).tolist() == taken


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_the_table_names_the_words_that_the_network_attends_to(kind, tmp_path):
    settings = VIT if kind == "vit" else SWIN
    weights = write_random(tmp_path / "a.safetensors", *settings, times=4)
    photos, random = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    for number in range(4):
        coarse = Image.fromarray(random.integers(60, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((60, 44), Image.Resampling.BICUBIC).save(photos / f"{number}.png")
    own = {o.name.replace("-", "_"): o.default for o in PICTURES["compose"].options}
    done = draw(
        Asked(
            weights=str(weights),
            images=(str(photos),),
            out=tmp_path / "out",
            size=0,
            limit=3,
            device="cpu",
            quiet=True,
            options={**own, "index": str(tmp_path / "index")},
        )
    )
    with Image.open(done.files[0]) as sheet:
        assert sheet.height > 3 * 300
    with (tmp_path / "out" / "words.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["image"] for row in rows})
    assert len(names) == 3
    images, index = open_images(str(photos)), open_index(tmp_path / "index").indexes[0]
    backbone = load(weights).backbone
    numbers = {images.name(number): number for number in range(4)}
    for name in names:
        view = View((32, 32)).render(images.read(numbers[name]))
        pixels = normalize(torch.from_numpy(view.copy()).permute(2, 0, 1)[None])
        saliency = salience(backbone, pixels)[0][0].numpy()
        words = np.asarray(index.words[index.row_of(numbers[name])])
        want = distinct(saliency, words)
        own_rows = [row for row in rows if row["image"] == name]
        places = [int(row["row"]) * index.grid[1] + int(row["column"]) for row in own_rows]
        assert places == want.tolist()
        assert [int(row["word"]) for row in own_rows] == words[want].tolist()
        assert [int(row["order"]) for row in own_rows] == list(range(len(want)))
