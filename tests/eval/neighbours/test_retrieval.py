"""`ibot eval retrieval` on small tasks with known answers."""

import json

import numpy as np
import pytest
import torch
from blobs import blobs, save
from PIL import Image

import ibot
from ibot.errors import ConfigError, DataError
from ibot.weights.read import load_backbone

SHAPES = [(40, 70), (70, 40), (33, 33), (5, 60), (150, 90)]


@pytest.fixture
def landmarks(tmp_path):
    """Five landmarks: each query lies in the database itself (easy), cut (hard) and dark (junk)."""
    names, gnd = [], []
    for i, shape in enumerate(SHAPES):
        pixels = blobs(i, *shape)
        cut = pixels[: max(4, shape[0] // 2), : shape[1] // 2]
        for kind, image in {"easy": pixels, "hard": cut, "junk": pixels // 2}.items():
            save(tmp_path / "data" / "jpg" / f"{kind}_{i}.png", image)
            names.append(f"{kind}_{i}")
        save(tmp_path / "data" / "jpg" / f"q_{i}.png", pixels)
        at = 3 * i
        box = [0, 0, shape[1] // 2, max(4, shape[0] // 2)]
        gnd.append({"easy": [at], "hard": [at + 1], "junk": [at + 2], "bbx": box})
    content = {"imlist": names, "qimlist": [f"q_{i}" for i in range(len(SHAPES))], "gnd": gnd}
    (tmp_path / "data" / "gnd_toy.json").write_text(json.dumps(content))
    return tmp_path / "data"


def by_row(records):
    return {record.row: record for record in records}


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_identical_copies_rank_first_whatever_their_shape(networks, landmarks, places, kind):
    found = by_row(
        ibot.evaluate("retrieval", networks[kind], landmarks, settings="size=64", **places)
    )
    assert found["easy mAP"].value == found["easy mP@1"].value == 100
    assert found["easy recall@1"].value == 100
    hard = found["hard mAP"]
    assert 0 < hard.value < 100 and hard.interval[0] <= hard.value <= hard.interval[1]
    assert (hard.num_train, hard.num_val, hard.settings["size"]) == (15, 5, [64, 64])
    assert hard.settings["feature"] == "cls at 1,0.707107,0.5" and not hard.extra["cached"]
    assert len(found) == 21


def test_scores_are_those_of_a_plain_loop(networks, landmarks, places):
    given = ["size=64", "scales=1", "k=2"]
    found = by_row(ibot.evaluate("retrieval", networks["vit"], landmarks, settings=given, **places))
    backbone = load_backbone(networks["vit"]).eval()
    content = json.loads((landmarks / "gnd_toy.json").read_text())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in backbone.statistics)

    def feature(name):
        image = Image.open(landmarks / "jpg" / f"{name}.png")
        image.thumbnail((64, 64), Image.Resampling.LANCZOS)
        view = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std
        if min(view.shape[1:]) < 8:
            view = torch.nn.functional.interpolate(
                view[None], size=[max(8, side) for side in view.shape[1:]], mode="bilinear"
            )[0]
        with torch.inference_mode():
            row = backbone(view[None]).cls[0]
        return row / row.norm()

    bank = torch.stack([feature(name) for name in content["imlist"]])
    total = 0.0
    for query, row in zip(content["qimlist"], content["gnd"], strict=True):
        order = (bank @ feature(query)).argsort(descending=True).tolist()
        order = [image for image in order if image not in row["junk"] + row["easy"]]
        rank = order.index(row["hard"][0])
        total += ((0 if rank else 1) + 1 / (rank + 1)) / 2
    assert found["hard mAP"].value == pytest.approx(100 * total / 5, abs=1e-4)


def test_a_second_run_computes_nothing_and_a_cut_one_goes_on(networks, landmarks, places):
    given = {"settings": "size=64", **places}
    first = ibot.evaluate("retrieval", networks["vit"], landmarks, **given)
    (rows,) = {file for file in places["cache"].glob("*/rows.npy") if np.load(file).shape[0] == 15}
    table = np.load(rows).copy()
    again = ibot.evaluate("retrieval", networks["vit"], landmarks, **given)
    assert all(record.extra["cached"] for record in again)
    assert [record.value for record in again] == [record.value for record in first]
    # As a run leaves it that was killed behind the first nine images.
    (rows.parent / "done").unlink()
    state = np.load(rows.parent / "state.npy", mmap_mode="r+")
    state[9:] = 0
    np.load(rows, mmap_mode="r+")[9:] = 0
    resumed = ibot.evaluate("retrieval", networks["vit"], landmarks, **given)
    np.testing.assert_array_equal(np.load(rows), table)
    assert [record.value for record in resumed] == [record.value for record in first]


def test_distractors_are_searched_too_and_never_right(networks, landmarks, places, tmp_path):
    plain = by_row(
        ibot.evaluate("retrieval", networks["vit"], landmarks, settings="size=64", **places)
    )
    # One that every query finds first, beside its junk and itself.
    for i, shape in enumerate(SHAPES):
        save(tmp_path / "more" / f"{i}.png", blobs(i, *shape))
    given = ["size=64", f"distractors={tmp_path / 'more'}"]
    found = by_row(ibot.evaluate("retrieval", networks["vit"], landmarks, settings=given, **places))
    assert found["hard mAP"].num_train == 20 and found["hard recall@1"].value == 0
    assert found["hard mAP"].value < plain["hard mAP"].value


def test_pixels_are_the_control_and_do_not_ask_the_network(networks, landmarks, places):
    values = [
        by_row(
            ibot.evaluate(
                "retrieval", networks[kind], landmarks, settings="features=pixels", **places
            )
        )
        for kind in ("vit", "swin")
    ]
    for row in values[0]:
        assert values[0][row].value == values[1][row].value
    easy = values[0]["easy mAP (pixels)"]
    assert easy.value == 100 and easy.settings["feature"] == "pixels"
    assert easy.settings["size"] == [32, 32]


def test_queries_are_cut_to_their_box_on_demand(networks, landmarks, places):
    given = ["size=64", "crop=true"]
    found = by_row(ibot.evaluate("retrieval", networks["vit"], landmarks, settings=given, **places))
    assert found["hard mAP"].value == 100, "the box is what the hard image shows"
    assert found["easy mAP"].value < 100


def test_each_image_of_a_class_is_sought_among_all_others(networks, places, tmp_path):
    for name, count in (("a", 3), ("b", 2), ("alone", 1)):
        for i in range(count):
            save(tmp_path / "data" / name / f"{i}.png", blobs(ord(name[0]), 40, 56))
    found = ibot.evaluate("retrieval", networks["vit"], tmp_path / "data", settings="k=1", **places)
    rows = by_row(found)
    assert list(rows) == ["mAP", "mP@1", "recall@1"]
    assert rows["mAP"].num_val == 5 and rows["mAP"].num_train == 6
    assert any("1 of 6 queries have no right answer" in note for note in rows["mAP"].notes)
    few = ibot.evaluate(
        "retrieval", networks["vit"], tmp_path / "data", settings="k=1", max_val=2, **places
    )
    assert few[0].num_val == 2 and few[0].num_train == 6


def test_images_that_cannot_be_read_are_left_out_and_named(networks, landmarks, places):
    (landmarks / "jpg" / "easy_1.png").write_bytes(b"no image")
    (landmarks / "jpg" / "q_3.png").write_bytes(b"no image")
    found = by_row(
        ibot.evaluate("retrieval", networks["vit"], landmarks, settings="size=64", **places)
    )
    assert found["easy mAP"].num_val == 3 and found["medium mAP"].num_val == 4
    notes = " ".join(found["easy mAP"].notes)
    assert "2 images cannot be read" in notes
    assert "1 of 4 queries have no right answer at the level easy" in notes


def test_what_cannot_be_is_refused(networks, landmarks, places, tmp_path):
    def refused(kind, words, data=landmarks, **options):
        with pytest.raises(kind, match=words) as caught:
            ibot.evaluate("retrieval", networks["vit"], data, **{**places, **options})
        assert "\n" not in caught.value.what and caught.value.fix

    for given in ("size=0", "k=0", "k=", "scales=", "scales=0", "shown=-1"):
        refused(ConfigError, "cannot be", settings=given)
    content = json.loads((landmarks / "gnd_toy.json").read_text())
    for row in content["gnd"]:
        row.update(easy=[], hard=[])
        del row["bbx"]
    (landmarks / "gnd_toy.json").write_text(json.dumps(content))
    refused(ConfigError, "no boxes", settings="crop=true")
    refused(DataError, "no query has a right answer", settings="size=32")
    assert not (places["out"] / "results.jsonl").exists()
