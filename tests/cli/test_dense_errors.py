"""What is wrong with annotations, folders or the installation ends with cause and remedy."""

import json
import sys

import numpy as np
import pytest
from blobs import blobs, save
from coco_folder import write_annotations, write_coco
from drawn_videos import moving_squares, write_davis

from ibot.cli.main import main

SQUARES = moving_squares(4, 40, 56)
MASK = "Annotations/480p/dog/00000.png"


def coco(folder, change=lambda content: None):
    write_coco(folder, train=4, val=2)
    content = json.loads((folder / "annotations" / "instances_train.json").read_text())
    change(content)
    write_annotations(folder, content)


def missing_image(folder):
    coco(folder)
    (folder / "train" / "0.png").unlink()


def no_annotations(folder):
    coco(folder, lambda content: content.update(annotations=[]))


def all_annotations(**values):
    """Every annotation with these values."""

    def change(content):
        for one in content["annotations"]:
            one.update(values)

    return lambda folder: coco(folder, change)


def label_maps(folder, value=1, height=40):
    for part in ("train", "val"):
        for i in range(3):
            save(folder / part / f"{i}.png", blobs(i, 40, 60))
            labels = np.full((height, 60), value, np.uint8)
            labels[:, :20] = 0
            save(folder / f"{part}annot" / f"{i}.png", labels)
    (folder / "classes.txt").write_text("a\nb\n")


def high_labels(folder):
    label_maps(folder, value=7)


def low_maps(folder):
    label_maps(folder, height=30)


def other_frame(folder):
    write_davis(folder, {"dog": SQUARES})
    save(folder / "JPEGImages" / "480p" / "dog" / "00002.jpg", blobs(0, 30, 30))


def other_mask(folder):
    write_davis(folder, {"dog": SQUARES})
    save(folder / MASK, SQUARES[0][:30])


def no_object(folder):
    write_davis(folder, {"dog": SQUARES * (np.arange(4) > 0)[:, None, None].astype(np.uint8)})


def no_first_mask(folder):
    write_davis(folder, {"dog": SQUARES})
    (folder / MASK).unlink()


def flat(folder):
    for i in range(3):
        save(folder / f"{i}.png", blobs(i, 40, 60))


def damaged_truth(folder):
    flat(folder)
    (folder / "gnd_x.json").write_text('{"imlist": ["0"')


def no_original(folder):
    save(folder / "original" / "a.png", blobs(0, 40, 60))
    save(folder / "strong" / "b.png", blobs(0, 40, 60))


def empty(folder):
    folder.mkdir()


def nothing(folder):
    """No folder at all."""


CASES = [
    ("detection", missing_image, "names '0.png', which is missing"),
    ("detection", no_annotations, "holds no annotations that can be used"),
    ("detection", all_annotations(segmentation=[[1, 1, 5, 5]]), "fewer than three points"),
    ("detection", all_annotations(bbox=[500, 500, 9, 9]), "cannot be those of its images"),
    (
        "detection",
        all_annotations(segmentation={"size": [9, 9], "counts": [0, 81]}),
        "another size than the image",
    ),
    ("detection", label_maps, "has no annotations to train on"),
    ("segmentation", low_maps, "and its label map have different sizes"),
    ("segmentation", high_labels, "holds the value 7"),
    ("segmentation", coco, "is no folder of images with label maps"),
    ("dense_knn", low_maps, "and its label map have different sizes"),
    ("dense_knn", high_labels, "holds the value 7"),
    ("dense_knn", coco, "is no folder of images with label maps"),
    ("match", empty, "no images found"),
    ("video_segmentation", other_frame, "the frames of 'dog' have different sizes"),
    ("video_segmentation", other_mask, "is 56 x 30 pixels, its frame 56 x 40"),
    ("video_segmentation", no_object, "the first mask of 'dog' holds no object"),
    ("video_segmentation", no_first_mask, "has no mask"),
    ("video_segmentation", flat, "has no mask"),
    ("retrieval", flat, "nothing says which images"),
    ("retrieval", label_maps, "nothing says which images"),
    ("retrieval", damaged_truth, "gnd_x.json' cannot be read"),
    ("copy_detection", empty, "no images found"),
    ("copy_detection", no_original, "is a copy of no original"),
    *(
        (name, nothing, "there is no folder")
        for name in (
            "detection",
            "segmentation",
            "dense_knn",
            "match",
            "video_segmentation",
            "retrieval",
            "copy_detection",
        )
    ),
]


@pytest.fixture
def refused(small_weights, tmp_path, capsys):
    def refused(name, folder, words, *more):
        """The command says `words`, a cause or a remedy, and leaves no record."""
        out = tmp_path / "out"
        places = ["--out", str(out), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
        data = ["--data", str(folder)]
        assert main(["eval", name, str(small_weights), *data, *places, *more]) == 2
        printed = capsys.readouterr()
        first, *others = [line for line in printed.err.splitlines() if not _is_note(line)]
        assert first.startswith("ibot: error: ")
        assert words in printed.err and not printed.out
        assert any(line.startswith("  fix:  ") for line in others) and len(others) <= 2
        left = [file for file in out.rglob("*") if file.is_file() and file.stat().st_size]
        assert not left

    return refused


def _is_note(line):
    return line.startswith("note: ")


@pytest.mark.parametrize(
    ("name", "write", "words"), CASES, ids=[f"{name}-{words}" for name, _, words in CASES]
)
def test_mistakes_end_with_cause_and_remedy(name, write, words, refused, tmp_path):
    write(tmp_path / "data")
    refused(name, tmp_path / "data", words)


@pytest.mark.parametrize(
    ("name", "write", "package"),
    [
        ("detection", coco, "cv2"),
        ("detection", coco, "faster_coco_eval"),
        ("segmentation", label_maps, "cv2"),
        ("video_segmentation", lambda f: write_davis(f, {"dog": SQUARES}), "cv2"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name, write, package, refused, tmp_path, monkeypatch
):
    write(tmp_path / "data")
    monkeypatch.setitem(sys.modules, package, None)
    needed = {"cv2": "opencv-python-headless>=", "faster_coco_eval": "faster-coco-eval>="}
    refused(name, tmp_path / "data", f'pip install "{needed[package]}')


def test_pillow_alone_serves_match_retrieval_and_copies(
    small_weights, tmp_path, monkeypatch, capsys
):
    for i in range(4):
        save(tmp_path / "data" / f"class{i % 2}" / f"{i}.png", blobs(i, 40, 60))
    for package in ("cv2", "faster_coco_eval"):
        monkeypatch.setitem(sys.modules, package, None)
    places = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    for name, more in {"match": [], "retrieval": [], "copy_detection": ["attacks=blur"]}.items():
        command = ["eval", name, str(small_weights), "--data", str(tmp_path / "data"), *places]
        assert main([*command, "--device", "cpu", *more]) == 0, capsys.readouterr().err
