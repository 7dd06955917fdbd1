"""`ibot eval all` on folders of label maps, of frames, of copies and of classes."""

import numpy as np
import pytest
from blobs import blobs, save
from drawn_videos import moving_squares, write_davis
from registered import only

from ibot.cli.main import main
from ibot.system.records import BESIDE, read_records

QUICK = ("knn", "dense_knn", "match", "video_segmentation", "retrieval", "copy_detection")
"""Evaluations that train nothing: one or two of each kind of data."""


@pytest.fixture
def run(small_weights, tmp_path, capsys):
    def run(data, *arguments):
        """Exit code, records by evaluation, and what was said beside them."""
        places = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
        command = ["eval", "all", str(small_weights), "--data", str(data), *places]
        with only(QUICK):
            code = main([*command, "--device", "cpu", *arguments])
        found = {}
        file = tmp_path / "out" / "results.jsonl"
        for record in read_records(file) if file.exists() else ():
            found.setdefault(record.protocol, []).append(record)
        beside = read_records(tmp_path / "out" / BESIDE)
        assert {record.protocol for record in beside} == found.keys(), "all have baselines"
        return code, found, capsys.readouterr().err

    return run


def write_label_maps(folder):
    for part in ("train", "val"):
        for i in range(4):
            labels = np.zeros((40, 60), np.uint8)
            labels[:, 10 * i + 10 :] = 1
            pixels = np.array([[200, 60, 40], [40, 90, 200]], np.uint8)[labels]
            save(folder / part / f"{i}.png", pixels)
            save(folder / f"{part}annot" / f"{i}.png", labels)
    return folder


def test_label_maps_give_dense_knn_and_match_of_the_training_images(run, tmp_path):
    data = write_label_maps(tmp_path / "data")
    code, found, said = run(data, "--skip", "copy_detection")
    assert code == 0 and list(found) == ["dense_knn", "match"]
    assert found["match"][0].data["root"] == str(data / "train")
    assert found["match"][0].num_val == 4
    assert "not run:" in said and "retrieval: nothing says which images" in said


def test_frames_are_retrieved_by_their_video_and_masks_are_no_images(run, tmp_path):
    videos = {name: moving_squares(3, 40, 56 + 4 * i) for i, name in enumerate("abc")}
    data = write_davis(tmp_path / "data", videos)
    code, found, said = run(data, "--skip", "video_segmentation,copy_detection")
    assert code == 0 and list(found) == ["match", "retrieval"]
    assert found["match"][0].num_val == 9 == found["retrieval"][0].num_val
    assert found["match"][0].data["root"] == str(data / "JPEGImages" / "480p")
    assert said.count("note:") <= 1


def test_copies_are_no_classes_and_only_originals_are_matched(run, tmp_path):
    for i in range(3):
        save(tmp_path / "data" / "original" / f"{i}.png", blobs(i, 50, 40))
        save(tmp_path / "data" / "strong" / f"{i}.png", blobs(i, 50, 40) // 2)
    code, found, said = run(tmp_path / "data")
    assert code == 0 and list(found) == ["match", "copy_detection"]
    assert found["match"][0].num_val == 3
    assert "retrieval: nothing says which images" in said


def test_classes_give_all_that_needs_no_masks(run, tmp_path):
    for part in ("train", "val"):
        for i in range(8):
            save(tmp_path / "data" / part / f"class{i % 2}" / f"{i}.png", blobs(i, 40, 40))
    code, found, said = run(tmp_path / "data", "--skip", "copy_detection")
    assert code == 0 and list(found) == ["knn", "match", "retrieval"]
    assert found["retrieval"][0].num_val == 8, "of the part held out"
    assert "\n  dense_knn: " in said and "\n  video_segmentation: " in said


def test_what_is_wrong_with_the_folder_is_said_once_for_all(run, tmp_path):
    code, found, said = run(tmp_path / "nowhere")
    assert code == 2 and not found
    lines = said.splitlines()
    assert lines == ["not run:", f"  {', '.join(QUICK)}: there is no folder '{tmp_path}/nowhere'"]
