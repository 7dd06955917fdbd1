"""`ibot eval retrieval` and `copy_detection` as commands, in one process and two."""

import json
import tarfile

import numpy as np
import pytest
from blobs import blobs, save
from commands import ibot, ibot_in_two
from PIL import Image

from ibot.system.records import read_records


def unpacked(shared_data, archive, folder):
    with tarfile.open(shared_data / archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def values(out):
    return {record.row: record.value for record in read_records(out / "results.jsonl")}


@pytest.mark.parametrize("name", ["retrieval", "copy_detection"])
def test_two_processes_find_what_one_finds(name, small_weights, tmp_path):
    data = tmp_path / "data"
    for i in range(14):
        where = f"class{i % 3}" if name == "retrieval" else "original"
        save(data / where / f"{i:02d}00xx.png", blobs(i, 60 - 2 * i, 40 + 4 * i))
        altered = where.replace("original", "strong")
        save(data / altered / f"{i:02d}00xx_1.png", blobs(i, 20, 50) // 2)
    command = ["eval", name, small_weights, "--data", data, "size=48", "--device", "cpu"]
    command += ["--baselines", "none"]
    places = [["--out", tmp_path / part, "--cache", tmp_path / f"cache_{part}"] for part in "ab"]
    alone = ibot(*command, *places[0])
    assert alone.returncode == 0 and f"pictures: {tmp_path / 'a' / name}" in alone.stdout
    seen = {"retrieval": "longer side at most 48", "copy_detection": "48x48"}
    assert f"clean, {seen[name]}\n" in alone.stdout
    both = ibot_in_two(*command, *places[1])
    assert [done.returncode for done in both] == [0, 0], both[1].stderr
    assert values(tmp_path / "a") == values(tmp_path / "b")
    kept = [json.loads(next((tmp_path / p).rglob("answers.json")).read_text()) for p in "ab"]
    assert kept[0] == kept[1] and len(kept[0]["rows"]) == 12


@pytest.mark.slow
def test_real_landmarks_and_groups_give_their_tables(small_weights, shared_data, tmp_path):
    data = unpacked(shared_data, "retrieval/crop_landmarks.tar", tmp_path / "data")
    data = next(data.rglob("gnd_crops.json")).parent
    places = ["--out", tmp_path / "out", "--cache", tmp_path / "cache", "--device", "cpu"]
    done = ibot("eval", "retrieval", small_weights, "--data", data, "size=96", *places)
    assert done.returncode == 0 and "12 queries, 136 images searched" in done.stdout
    (picture,) = (tmp_path / "out").glob("retrieval-*/*.png")
    assert picture.name == "gnd_crops_network.png" and Image.open(picture).width > 1000
    assert len(values(tmp_path / "out")) == 21 and values(tmp_path / "out")["medium mAP"] > 5
    groups = unpacked(shared_data, "retrieval/davis_groups.tar", tmp_path / "groups")
    groups = next(groups.rglob("groups.json")).parent
    done = ibot("eval", "retrieval", small_weights, "--data", groups, "size=64", "k=5", *places)
    assert done.returncode == 0 and "96 queries" in done.stdout
    assert values(tmp_path / "out")["mAP"] > 10
    table = ibot("results", tmp_path / "out")
    assert "medium mAP" in table.stdout and "mP@5" in table.stdout


@pytest.mark.slow
def test_the_real_copies_give_their_table(small_weights, shared_data, tmp_path):
    data = unpacked(shared_data, "copy_detection/copydays_mini.tar", tmp_path / "data")
    data = next(data.rglob("original")).parent
    places = ["--out", tmp_path / "out", "--cache", tmp_path / "cache", "--device", "cpu"]
    done = ibot("eval", "copy_detection", small_weights, "--data", data, "size=64", *places)
    assert done.returncode == 0 and "15 originals, 330 copies in 20 blocks" in done.stdout
    found = values(tmp_path / "out")
    assert found["original"] == 100 > found["strong"] and found["jpegqual/75"] > 95


def test_mistakes_are_one_line_with_a_remedy(small_weights, tmp_path):
    (tmp_path / "jpg").mkdir()
    pixels = np.zeros((20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "jpg" / "a.png")
    row = {"easy": [7], "hard": [], "junk": []}
    content = {"imlist": ["a"], "qimlist": ["a"], "gnd": [row]}
    (tmp_path / "gnd_x.json").write_text(json.dumps(content))
    (tmp_path / "original").mkdir()
    Image.fromarray(pixels).save(tmp_path / "original" / "b.png")
    for name, words in {
        "retrieval": "query 'a' names image 7 of 1",
        "copy_detection": "jpg/a.png' is a copy of no original",
    }.items():
        done = ibot("eval", name, small_weights, "--data", tmp_path, "--out", tmp_path / "out")
        assert done.returncode == 2 and not done.stdout
        first, *others = done.stderr.splitlines()
        assert words in first and any("fix:" in line for line in others)
    assert not (tmp_path / "out").exists()
