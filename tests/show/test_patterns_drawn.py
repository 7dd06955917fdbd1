"""`ibot show patterns` on a network with a head: pictures and table agree with the logits."""

import csv
import shutil

import numpy as np
import pytest
import torch
from commands import ibot
from PIL import Image
from random_weights import VIT, write_random

from ibot.data.decode import UnreadableImage
from ibot.data.pixels import normalize
from ibot.data.sets.open import open_images
from ibot.errors import UserError, WeightsError
from ibot.eval.features.views import View
from ibot.show.asked import Asked
from ibot.show.patterns import brightness, covered, window_around
from ibot.show.patterns_drawn import draw, indexed, mosaic
from ibot.show.pictures import PICTURES
from ibot.weights.head import projection_head
from ibot.weights.read import load, load_weights

ODD = "<b>=1,\n\U0001f600.png"
SIZE = (32, 48)


def asked(weights, data, out, **changes):
    own = {o.name.replace("-", "_"): o.default for o in PICTURES["patterns"].options}
    given = {key: changes.pop(key) for key in ("format",) if key in changes}
    options = {**own, "index": str(out.parent / "index"), "top_k": 4, "show": 3, **changes}
    return Asked(
        weights=str(weights),
        images=(str(data),),
        out=out,
        size=0,
        device="cpu",
        quiet=True,
        options=options,
        **given,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    settings = (f"augment.global_size={SIZE[0]},{SIZE[1]}", "method.patch_residual=false")
    return write_random(file, *VIT, *settings, times=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes, an odd name, one picture that is dark, one that is cut."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(10):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        place = folder / ("cat" if number < 4 else "dog")
        place.mkdir(exist_ok=True)
        picture = coarse.resize((90, 60), Image.Resampling.BICUBIC)
        if number == 2:
            picture = picture.point(lambda level: level // 10)
        picture.save(place / (ODD if number == 5 else f"{number}.png"))
    (folder / "cat" / "cut.png").write_bytes((folder / "cat" / "0.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def logits(weights, photos):
    """Words and scores [n, N] of the readable images straight from the head, by name."""
    loaded, images = load(weights), open_images(str(photos))
    head = projection_head(load_weights(weights), loaded.backbone.embed_dim, "teacher")
    words, scores = {}, {}
    for number in range(len(images)):
        try:
            view = View(SIZE).render(images.read(number))
        except UnreadableImage:
            continue
        pixels = normalize(torch.from_numpy(view.copy()).permute(2, 0, 1)[None])
        with torch.no_grad():
            tokens = loaded.backbone(pixels)
            _, found = head.logits(*head.project_both(tokens.cls, tokens.patches[0]))
        scores[images.name(number)], words[images.name(number)] = (
            part.numpy() for part in found.max(dim=1)
        )
    return words, scores


def rows_of(table):
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_the_best_patch_of_each_image_as_the_logits_say(
    weights, photos, logits, tmp_path
):
    words, scores = logits
    draw(asked(weights, photos, tmp_path / "out", show=10, top_k=9))
    rows = rows_of(tmp_path / "out" / "patterns.csv")
    counts = np.bincount(np.concatenate(list(words.values())), minlength=10)
    order = np.argsort(-counts, kind="stable")
    images = open_images(str(photos))
    numbers = {images.name(number): number for number in range(len(images))}
    assert ODD in {row["image"].split("/")[-1] for row in rows}
    for rank, word in enumerate(order[counts[order] > 0].tolist()):
        best = []
        for name, own in words.items():
            if (own == word).any():
                score = np.where(own == word, scores[name], -np.inf)
                best.append((score.max(), name, int(score.argmax())))
        best.sort(key=lambda one: -one[0])
        kept = []
        for score, name, patch in best[:18]:
            view = View(SIZE).enlarged(images.read(numbers[name]), 2)
            if brightness(window_around(view, divmod(patch, 6), 16, 5)) > 40:
                kept.append((name, patch, score))
        drawn = [row for row in rows if int(row["rank"]) == rank]
        assert all(int(row["word"]) == word for row in drawn)
        assert len(drawn) == min(9, len(kept))
        for row, (name, patch, score) in zip(drawn, kept, strict=False):
            assert float(row["score"]) == pytest.approx(score, abs=2e-3)  # of float16
            assert (row["image"], int(row["row"]), int(row["column"])) == (name, *divmod(patch, 6))


@pytest.mark.parametrize("centre", ["cover", "frame"])
def test_pictures_have_the_published_names_and_show_the_patches_of_the_table(
    weights, photos, tmp_path, centre
):
    done = draw(asked(weights, photos, tmp_path / "out", centre=centre))
    rows = rows_of(tmp_path / "out" / "patterns.csv")
    sheet, *pictures = done.files
    assert sheet.name == "contact_sheet.png" and len(pictures) == 3
    images = open_images(str(photos))
    numbers = {images.name(number): number for number in range(len(images))}
    for rank, picture in enumerate(pictures):
        own = [row for row in rows if row["rank"] == str(rank)]
        assert picture.name == f"cpatch_crank{rank}_cid{own[0]['word']}_top4.png"
        pixels = np.asarray(Image.open(picture))
        assert pixels.shape == (80 if len(own) < 3 else 162, 162, 3)
        for place, row in enumerate(own):
            view = View(SIZE).enlarged(images.read(numbers[row["image"]]), 2)
            window = window_around(view, (int(row["row"]), int(row["column"])), 16, 5)
            y, x = (82 * side for side in divmod(place, 2))
            got, middle = pixels[y : y + 80, x : x + 80], slice(32, 48)
            want = covered(window, 16) if centre == "cover" else window
            np.testing.assert_array_equal(got[middle, middle], want[middle, middle])
            np.testing.assert_array_equal(got[:28], want[:28])


def test_class_words_show_whole_views_and_purity_ranks_by_labels(weights, photos, tmp_path):
    one = asked(weights, photos, tmp_path / "out", type="class", rank_by="purity", min_images=1)
    draw(one)
    with indexed(one) as (_, patterns):
        ranking = patterns.ranking("purity", 1)
        found = list(patterns.of(ranking.tolist(), range(len(ranking))))
    shares = [pattern.purity for pattern in found]
    assert shares == sorted(shares, reverse=True) and sum(one.uses for one in found) == 10
    for pattern in found:
        names = [member.name for member in pattern.members]
        assert all(window.shape == (128, 192, 3) for window in pattern.windows)
        assert len(set(names)) == len(names) <= pattern.uses
        if len(names) == pattern.uses:
            share = sum(name.startswith(pattern.label) for name in names) / len(names)
            assert pattern.purity == pytest.approx(share)
    assert mosaic(found[0], 4).shape[1] == 2 * 192 + 2


def test_words_can_be_named_and_a_second_call_reads_no_network_output(
    weights, photos, tmp_path, monkeypatch
):
    draw(asked(weights, photos, tmp_path / "one"))
    word = int(rows_of(tmp_path / "one" / "patterns.csv")[-1]["word"])
    monkeypatch.setattr("ibot.vocabulary.index.assign", None)  # nothing is assigned again
    done = draw(asked(weights, photos, tmp_path / "two", word=(word,), format="svg"))
    assert [file.suffix for file in done.files] == [".svg", ".svg"]
    assert f"_cid{word}_" in done.files[1].name and "<image" in done.files[1].read_text()
    with pytest.raises(UserError, match="no word 99"):
        draw(asked(weights, photos, tmp_path / "two", word=(99,)))
    with pytest.raises(UserError, match="--window 4"):
        draw(asked(weights, photos, tmp_path / "two", window=4))
    with pytest.raises(UserError, match="1000 images or more"):
        draw(asked(weights, photos, tmp_path / "two", min_images=1000))


def test_what_cannot_be_is_said(weights, photos, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(photos / "dog", plain)
    with pytest.raises(UserError, match="no labels"):
        draw(asked(weights, plain, tmp_path / "a" / "out", rank_by="purity"))
    loaded = load(weights)
    headless = tmp_path / "headless.pth"
    torch.save(loaded.backbone.state_dict(), headless)
    with pytest.raises(WeightsError, match="no projection head"):
        draw(asked(headless, photos, tmp_path / "b" / "out"))


def test_the_command_makes_an_index_and_draws(weights, photos, tmp_path):
    arguments = ("--index", tmp_path / "index", "--out", tmp_path / "out", "--show", 2)
    done = ibot("show", "patterns", weights, "--data", photos, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "words:            2 of" in done.stdout and "contact_sheet.png and 2 more" in done.stdout
    assert (tmp_path / "index" / "index.json").is_file()
