"""`ibot eval copy_detection` on small blocks, given and made."""

import numpy as np
import pytest
import torch
from blobs import blobs, save
from PIL import Image

import ibot
from ibot.errors import ConfigError, DataError
from ibot.eval.neighbours.copies import average_precisions
from ibot.weights.read import load_backbone

SMALL = "size=32"


@pytest.fixture
def copydays(tmp_path):
    """Six originals, the same as copies, and mirrored dark ones."""
    for i in range(6):
        pixels = blobs(i, 40 + 3 * i, 60)
        save(tmp_path / "data" / "original" / f"20{i:02d}00.png", pixels)
        save(tmp_path / "data" / "strong" / f"20{i:02d}01.png", pixels[:, ::-1] // 2)
        save(tmp_path / "data" / "same" / f"20{i:02d}00.png", pixels)
    return tmp_path / "data"


def by_row(records):
    return {record.row: record for record in records}


def test_scores_count_answers_up_to_the_last_that_counts():
    first = np.array([[3, 1, 2], [0, 3, 1], [2, 1, 0], [1, 2, 3]])
    found = average_precisions(first, np.array([3, 3, 0, 0]))
    assert found.tolist() == [1.0, 0.25, pytest.approx(1 / 6), 0.0]


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_identical_copies_are_found_first(networks, copydays, places, kind):
    found = by_row(
        ibot.evaluate("copy_detection", networks[kind], copydays, settings=SMALL, **places)
    )
    assert list(found) == ["original", "strong", "same"]
    assert found["original"].value == found["same"].value == 100 > found["strong"].value
    strong = found["strong"]
    assert (strong.num_train, strong.num_val) == (6, 6)
    assert strong.interval[0] <= strong.value <= strong.interval[1]
    again = ibot.evaluate("copy_detection", networks[kind], copydays, settings=SMALL, **places)
    assert all(record.extra["cached"] for record in again)


@pytest.mark.parametrize("mode", ["clean", "published"])
def test_scores_are_those_of_a_plain_loop(networks, copydays, places, tmp_path, mode):
    for i in range(60):
        save(tmp_path / "others" / f"{i:02d}.png", blobs(100 + i, 32, 32))
    given = [SMALL, f"whiten={tmp_path / 'others'}"]
    found = by_row(
        ibot.evaluate(
            "copy_detection", networks["vit"], copydays, settings=given, mode=mode, **places
        )
    )
    backbone = load_backbone(networks["vit"]).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in backbone.statistics)

    def features(folder):
        rows = []
        for file in sorted(folder.iterdir()):
            image = Image.open(file).resize((32, 32), Image.Resampling.BICUBIC)
            view = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std
            with torch.inference_mode():
                out = backbone(view[None])
            mean4 = (out.patches[0].clamp(min=1e-6) ** 4).mean(0) ** 0.25
            rows.append(torch.cat([out.cls[0], mean4]).double().numpy())
        return np.stack(rows)

    others = features(tmp_path / "others")
    centre = others.mean(0)
    matrix = others.T @ others / 60
    if mode == "clean":
        matrix = np.cov(others.T, bias=True)
    values, vectors = np.linalg.eigh(matrix)
    turn = vectors / np.sqrt(np.maximum(values, 1e-5 * values.max()))

    def whitened(folder):
        rows = (features(folder) - centre) @ turn
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    cosines = whitened(copydays / "strong") @ whitened(copydays / "original").T
    ranks = np.array([(row > row[i]).sum() for i, row in enumerate(cosines)])
    want = np.mean([((rank == 0) + 1 / (rank + 1)) / 2 for rank in ranks])
    assert found["strong"].value == pytest.approx(100 * want, abs=1e-6)
    assert found["strong"].extra["first"] == pytest.approx(100 * (ranks == 0).mean())


def test_copies_are_made_of_any_images_and_distractors_searched(networks, places, tmp_path):
    for i in range(8):
        save(tmp_path / "photos" / f"{i}.png", blobs(i, 30 + i, 44))
        save(tmp_path / "more" / f"{i}.png", blobs(50 + i, 40, 30))
    given = [SMALL, "attacks=jpeg30,mirror", "attacked=4", f"distractors={tmp_path / 'more'}"]
    run = {"settings": given, **places}
    found = by_row(ibot.evaluate("copy_detection", networks["vit"], tmp_path / "photos", **run))
    assert list(found) == ["jpeg30", "mirror"]
    assert found["jpeg30"].value > 90 and found["jpeg30"].extra["first"] > 90
    assert (found["mirror"].num_train, found["mirror"].num_val) == (16, 4)
    again = ibot.evaluate("copy_detection", networks["vit"], tmp_path / "photos", **run)
    assert all(record.extra["cached"] for record in again)


def test_only_the_nearest_count(networks, copydays, places):
    def value(count):
        given = [SMALL, f"nearest={count}"]
        found = ibot.evaluate("copy_detection", networks["vit"], copydays, settings=given, **places)
        return by_row(found)["strong"]

    one, all_of_them = value(1), value(20)
    assert one.value == pytest.approx(one.extra["first"]) and one.value < all_of_them.value


def test_an_original_that_cannot_be_read_takes_its_copies_along(networks, copydays, places):
    (copydays / "original" / "200000.png").write_bytes(b"no image")
    found = by_row(
        ibot.evaluate("copy_detection", networks["vit"], copydays, settings=SMALL, **places)
    )
    assert (found["strong"].num_train, found["strong"].num_val) == (5, 5)
    assert any("1 image cannot be read: 200000.png" in note for note in found["strong"].notes)


def test_what_cannot_be_is_refused(networks, copydays, places):
    def refused(kind, words, *given):
        with pytest.raises(kind, match=words) as caught:
            ibot.evaluate("copy_detection", networks["vit"], copydays, settings=given, **places)
        assert "\n" not in caught.value.what and caught.value.fix

    refused(ConfigError, "attacks=bur cannot be", "attacks=bur")
    for given in ("size=0", "nearest=0", "attacked=-1", "shown=-1"):
        refused(ConfigError, "cannot be", given)
    refused(DataError, "by themselves", SMALL, f"whiten={copydays / 'original'}")
    refused(DataError, "6 images are too few", SMALL, f"whiten={copydays / 'same'}")
