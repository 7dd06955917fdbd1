"""What the explorer answers, against plain arithmetic on the same tables."""

import base64
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explored import (
    GRID,
    PATCHES,
    WORDS,
    client_of,
    drop,
    explorer_of,
    number_of,
    until_there,
)
from PIL import Image

from ibot.data.pixels import normalize
from ibot.explore.browser import answers_map
from ibot.explore.browser.networks import Networks
from ibot.vocabulary.assign import assign


def test_about_says_what_is_open(client, images):
    about = client.get("/api/about").json()
    assert about["state"] == "ready" and about["images"]["root"] == str(images)
    assert about["images"]["classes"] == ["a", "b"] and about["images"]["count"] == 16
    assert about["images"]["readable"] == 15  # one is broken
    assert about["view"] == [32, 32] and about["grid"] == [4, 4] and about["patch"] == 8
    assert about["words"] == about["class_words"] == WORDS and about["head"]
    assert about["class_attention"] and not about["exported"]
    assert [one["step"] for one in about["checkpoints"]] == [2, 4]
    assert all(view == {"available": True, "why": ""} for view in about["views"].values())


@pytest.mark.parametrize("kind", ["patch", "class"])
@pytest.mark.parametrize("c", [0, 1])
def test_words_are_counted_and_ordered_as_a_loop_would(client, explorer, kind, c):
    index = explorer.session.index(c)
    table = index.words if kind == "patch" else index.class_words[:, None]
    labels = np.asarray(explorer.session.images.labels)[index.index]
    answer = client.get(f"/api/words?c={c}&kind={kind}&limit=100").json()
    used = np.unique(table)
    assert answer["total"] == len(used) and answer["unused"] == WORDS - len(used)
    shown = answer["words"]
    assert [word["uses"] for word in shown] == sorted(word["uses"] for word in shown)[::-1]
    for word in shown:
        places = np.argwhere(table == word["word"])
        assert word["uses"] == len(places) and word["images"] == len(set(places[:, 0]))
        assert word["share"] == pytest.approx(len(places) / table.size, abs=1e-6)
        counts = np.bincount(labels[places[:, 0]], minlength=2)
        assert word["purity"] == pytest.approx(counts.max() / counts.sum(), abs=1e-4)
        assert word["label"] == "ab"[counts.argmax()]
        assert len(word["life"]) == 2 and word["life"][c] == word["uses"]
    for sort in ("images", "confidence", "entropy", "score", "purity", "born"):
        for desc in (0, 1):
            path = f"/api/words?c={c}&kind={kind}&sort={sort}&desc={desc}&limit=100"
            values = [word[sort] for word in client.get(path).json()["words"]]
            values = [-1 if value is None else value for value in values]
            assert values == sorted(values, reverse=bool(desc)), sort
    few = client.get(f"/api/words?c={c}&kind={kind}&offset=1&limit=2&min_images=2&label=a").json()
    wanted = [word for word in shown if word["images"] >= 2 and word["label"] == "a"]
    assert few["words"] == wanted[1:3] and few["total"] == len(wanted)


def test_a_word_is_told_with_its_best_patch_of_each_image(client, explorer):
    index = explorer.session.index(None)
    word = client.get("/api/words").json()["words"][0]["word"]
    answer = client.get(f"/api/word/{word}").json()
    best = {}
    for row, patch in np.argwhere(index.words == word).tolist():
        score = float(index.scores[row, patch])
        if row not in best or score > best[row][0]:
            best[row] = score, patch
    wanted = sorted(best.items(), key=lambda item: (-item[1][0], item[0], item[1][1]))
    found = answer["occurrences"]
    assert [one["image"] for one in found] == [int(index.index[row]) for row, _ in wanted]
    assert [one["patch"] for one in found] == [patch for _, (_, patch) in wanted]
    assert [one["row"] * GRID[1] + one["col"] for one in found] == [one["patch"] for one in found]
    assert answer["total"] == len(best) == answer["images"]
    part = client.get(f"/api/word/{word}?offset=1&limit=2").json()["occurrences"]
    assert part == found[1:3]
    assert sum(one["count"] for one in answer["labels"]) == answer["uses"]
    assert [one["c"] for one in answer["life"]] == [0, 1] and len(answer["neighbours"]) == WORDS - 1


def test_the_words_of_an_image_are_those_of_the_head(client, explorer):
    session = explorer.session
    number = number_of(client, "b/3.png")
    answer = client.get(f"/api/image/{number}").json()
    network = session.network(None)
    view = network.view.render(session.images.read(number))
    images = torch.from_numpy(view.copy()).permute(2, 0, 1)[None]
    output = network.loaded.backbone(normalize(images, network.loaded.backbone.statistics))
    of_class, of_patches = assign(network.head, output.cls, output.patches)
    assert answer["words"] == of_patches.word[0].tolist()
    assert answer["class_word"] == int(of_class.word[0])
    assert answer["scores"] == pytest.approx(of_patches.score[0].tolist(), abs=2e-2)  # float16
    assert answer["size"] == [35, 40] and answer["label"] == "b"
    # The file dropped on the page is the same image, and goes through the network.
    content = (session.images.root / "b" / "3.png").read_bytes()
    own = drop(client, content, "mine <b>.png").json()
    assert own["words"] == answer["words"] and own["name"] == "mine <b>.png"
    assert own["label"] is None and own["id"].startswith("drop-")
    patch = client.get(f"/api/patch?image={own['id']}&patch=3").json()
    assert patch["word"] == own["words"][3]
    assert patch["here"] == [i for i, word in enumerate(own["words"]) if word == patch["word"]]
    assert number in [one["image"] for one in patch["elsewhere"]]
    nearest = patch["similar"][0]
    assert nearest["image"] == number and nearest["patch"] == 3
    assert nearest["cosine"] == pytest.approx(1, abs=0.02)


def test_a_patch_is_told_where_else_its_word_is(client, explorer):
    index = explorer.session.index(None)
    answer = client.get("/api/patch?image=9&patch=6").json()
    row = index.row_of(9)
    word = int(index.words[row, 6])
    assert (
        answer["word"] == word
        and answer["here"] == np.flatnonzero(index.words[row] == word).tolist()
    )
    others = {int(index.index[r]) for r in np.argwhere(index.words == word)[:, 0]} - {9}
    assert {one["image"] for one in answer["elsewhere"]} == others
    assert 9 not in [one["image"] for one in answer["similar"]]
    cosines = [one["cosine"] for one in answer["similar"]]
    assert cosines == sorted(cosines, reverse=True)


def test_attention_is_that_of_the_last_block(client, explorer):
    session = explorer.session
    answer = client.get("/api/image/9/attention").json()
    backbone = session.network(None).loaded.backbone
    view = session.network(None).view.render(session.images.read(9))
    images = torch.from_numpy(view.copy()).permute(2, 0, 1)[None]
    whole = backbone.attention_maps(normalize(images, backbone.statistics))[0]
    maps = whole[:, 0, 1:]  # what the class token gives to the patches
    low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
    levels = torch.round((maps - low) / (high - low) * 255)
    shown = np.frombuffer(base64.b64decode(answer["maps"]), np.uint8).reshape(3, PATCHES)
    assert answer["heads"] == 3 and answer["grid"] == [4, 4]
    assert np.abs(shown.astype(int) - levels.int().numpy()).max() <= 1
    for head, coded in enumerate(answer["mass"]):
        kept = np.frombuffer(base64.b64decode(coded), np.uint8).astype(bool)
        share = maps[head] / maps[head].sum()
        inside = share[torch.from_numpy(kept)]
        assert inside.sum() >= 0.6 - 1e-6 and inside.sum() - inside.min() < 0.6 + 1e-6
    finer = client.get("/api/image/9/attention?scale=2").json()
    assert finer["grid"] == [8, 8]


@pytest.mark.parametrize("over", ["image", "set"])
def test_colours_come_with_their_foreground(client, over):
    answer = client.get(f"/api/image/9/features?over={over}").json()
    rgb = np.frombuffer(base64.b64decode(answer["rgb"]), np.uint8).reshape(PATCHES, 3)
    foreground = np.frombuffer(base64.b64decode(answer["foreground"]), np.uint8)
    assert set(foreground) <= {0, 1} and not rgb[foreground == 0].any()
    assert client.get(f"/api/image/9/features?over={over}").json() == answer


def test_matches_are_the_nearest_patches_by_cosine(client, explorer):
    session = explorer.session
    answer = client.get("/api/match?a=9&b=10&c=0").json()
    one, other = (session.networks.seen(session.place(0), image) for image in ("9", "10"))
    cosine = np.array(
        [[float(F.cosine_similarity(x, y, dim=0)) for y in other.patches] for x in one.patches]
    )
    assert answer["match"] == cosine.argmax(axis=1).tolist()
    assert answer["cosine"] == pytest.approx(cosine.max(axis=1), abs=1e-4)
    back = cosine.argmax(axis=0)
    assert answer["mutual"] == [back[j] == i for i, j in enumerate(answer["match"])]
    assert len(answer["saliency"]) == PATCHES
    # An image at one checkpoint against itself at another.
    both = client.get("/api/match?a=9&b=9&c=0&cb=1").json()
    same = client.get("/api/match?a=9&b=9&c=1").json()
    assert same["match"] == list(range(PATCHES)) and both["cosine"] != same["cosine"]


def picture(client, path, **parameters):
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg", answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content))).astype(int)


def test_the_pair_that_is_shown_first_is_the_nearest(client, explorer):
    index = explorer.session.index(None)
    rows = np.asarray(index.cls, np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ rows.T - 4 * np.eye(len(rows))
    refused = index.row_of(number_of(client, "way_out.png"))
    cosine[refused] = cosine[:, refused] = -4  # it leads out of the folder

    def nearest(row):
        return index.index[np.flatnonzero(cosine[row] > cosine[row].max() - 1e-6)]

    found = client.get("/api/pair").json()
    row = index.row_of(found["a"])
    assert found["b"] in nearest(row) and cosine[row].max() > cosine.max() - 1e-6
    for a in (0, 9):
        found = client.get(f"/api/pair?a={a}").json()
        assert found["a"] == a and found["b"] in nearest(index.row_of(a))
    own = drop(client, Path(explorer.session.images.root, "b", "3.png").read_bytes()).json()["id"]
    found = client.get(f"/api/pair?a={own}").json()
    assert found == {"a": own, "b": number_of(client, "b/3.png")}


def test_pictures_have_the_sizes_that_are_asked_for(client, explorer):
    assert picture(client, "/api/window.jpg", image=9, patch=5, px=60).shape == (60, 60, 3)
    assert picture(client, "/api/thumbs.jpg", ids="9,10,11", px=32).shape == (32, 96, 3)
    nine = ",".join(map(str, range(9)))
    assert picture(client, "/api/thumbs.jpg", ids=nine, px=16).shape == (32, 128, 3)
    assert picture(client, "/api/image/9/pixels.jpg", view=0).shape == (32, 37, 3)
    shown = picture(client, "/api/image/9/pixels.jpg", view=1)
    view = explorer.session.view(None).enlarged(explorer.session.images.read(9), 14)
    assert shown.shape == (448, 448, 3)
    assert np.abs(shown - view).mean() < 4  # JPEG


def test_small_pictures_are_squares_without_margins(client):
    number = number_of(client, "b/3.png")  # 40 x 35: its middle is what is shown
    sheet = picture(client, "/api/thumbs.jpg", ids=number, px=35).astype(int)
    whole = picture(client, f"/api/image/{number}/pixels.jpg", view=0).astype(int)
    assert whole.shape == (35, 40, 3)
    middle = whole[:, 2:37]
    near = np.abs(sheet - middle).mean()
    assert near < 6 < np.abs(sheet - whole[:, 5:40]).mean()


def test_the_windows_of_a_word_stand_apart_on_a_clear_sheet(client):
    words = client.get("/api/words?limit=500").json()["words"]
    for word in words:
        answer = client.get(f"/api/mosaic/{word['word']}.webp?count=9&px=40")
        assert answer.headers["content-type"] == "image/webp"
        shown = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))[..., 3] > 0
        assert shown.shape == (120, 120)
        tiles = min(9, word["images"])
        columns = math.ceil(math.sqrt(tiles))
        tile = (120 - 2 * (columns - 1)) // columns
        assert shown.sum() == tiles * tile**2
        assert columns == 1 or not shown[:, tile : tile + 2].any()
    assert min(word["images"] for word in words) < 9


def test_the_map_shows_every_readable_image(client, explorer):
    index = explorer.session.index(None)
    about = client.get("/api/map/about").json()
    assert about["ids"] == index.index.tolist() and about["count"] == 15
    labels = np.asarray(explorer.session.images.labels)
    assert about["labels"] == labels[index.index].tolist() and about["classes"] == ["a", "b"]
    assert about["class_words"] == index.class_words.tolist()
    rows = F.normalize(torch.from_numpy(np.array(index.cls)), dim=1)
    nearest = (rows @ rows.T).fill_diagonal_(-2).topk(5, dim=1).values
    assert about["outlier"] == pytest.approx((1 - nearest.mean(dim=1)).tolist(), abs=1e-3)
    answer = client.get("/api/map?method=pca")
    points = np.frombuffer(answer.content, "<f4").reshape(-1, 2)
    assert answer.headers["x-count"] == "15" and len(points) == 15
    assert points.min() >= 0 and points.max() <= 1
    centred = (rows - rows.mean(dim=0)).double()
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    wanted = (centred @ axes[:2].T).numpy()
    for axis in (0, 1):
        assert abs(np.corrcoef(points[:, axis], wanted[:, axis])[0, 1]) > 0.9999


def test_the_neighbour_map_is_made_once_and_kept(run, images, monkeypatch):
    made = []

    class Embedding:
        def __call__(self, rows, file, progress):
            made.append(file)
            file.parent.mkdir()
            np.save(file, 3 * rows[:, :2])
            return 3 * rows[:, :2]

    monkeypatch.setattr(answers_map, "Embedding", Embedding)
    answers = []
    for _ in range(2):
        client = client_of(explorer_of(run, images))
        answers.append(until_there(client, "/api/map?method=neighbours"))
        assert answers[-1].status_code == 200 and "openTSNE" in answers[-1].headers["x-method"]
    points = np.frombuffer(answers[0].content, "<f4").reshape(-1, 2)
    assert len(points) == 15 and points.min() == 0 and points.max() == 1
    assert answers[1].content == answers[0].content
    (file,) = made
    assert file.parent == run / "index" / "maps"
    shutil.rmtree(file.parent)


def test_what_cannot_be_answered_says_why(client):
    for path, status in {
        "/api/words?c=7": 404,
        "/api/words?sort=length": 400,
        "/api/words?limit=0": 400,
        "/api/words?label=zebra": 404,
        "/api/words?kind=letter": 400,
        "/api/word/10": 404,
        "/api/word/x": 400,
        "/api/image/99": 404,
        "/api/image/drop-77": 404,
        "/api/patch?image=9&patch=16": 404,
        "/api/patch?image=9": 400,
        "/api/patch?patch=1": 400,
        "/api/window.jpg?image=9&patch=1&side=4": 400,
        "/api/mosaic/10.webp": 404,
        "/api/image/9/attention?scale=3": 400,
        "/api/match?a=9": 400,
        "/api/map?method=umap": 400,
        "/api/thumbs.jpg?ids=" + ",".join(["1"] * 65): 400,
        "/api/thumbs.jpg": 400,
        "/api/nothing": 404,
    }.items():
        answer = client.get(path)
        assert answer.status_code == status and answer.json()["error"], path
    broken = client.get(f"/api/image/{number_of(client, 'broken.png')}")
    assert broken.status_code == 415 and broken.json()["why"]


def test_a_mistake_of_ours_leaves_the_page_alive(client, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(Networks, "seen", fails)
    answer = client.get("/api/image/9/attention")
    assert answer.status_code == 500 and "a mistake" in answer.json()["why"]
    assert client.get("/api/about").json()["state"] == "ready"
