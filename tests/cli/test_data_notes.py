"""What the commands read, pass over and refuse of a folder as people have them."""

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from PIL import Image

from ibot.cli.main import main

SMALL = [
    *(
        "model.width=48",
        "model.depth=1",
        "model.heads=3",
        "head.out_dim=32",
        "head.patch_out_dim=32",
        "head.hidden_dim=32",
        "head.bottleneck_dim=16",
    ),
    *("train.batch=8", "system.workers=0", "evaluate.max_val=4", "evaluate.max_train=8"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes in train/, two of them in valid/, one under other names of JPEG."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, classes in (("train", "red green blue"), ("valid", "red blue")):
        for name in classes.split():
            (root / part / name).mkdir(parents=True)
            for i, suffix in enumerate(
                (".jfif", ".jpe", ".JPG", "") if name == "red" else (".jpg",) * 4
            ):
                colour = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}[name]
                pixels = (
                    (np.array(colour) + rng.normal(0, 20, (32, 32, 3)))
                    .clip(0, 255)
                    .astype(np.uint8)
                )
                Image.fromarray(pixels).save(root / part / name / f"{i}{suffix}", "JPEG")
    (root / "train" / "notes.txt").write_text("text")
    (root / "train" / "red" / "@eaDir").mkdir()
    Image.new("RGB", (8, 8)).save(root / "train" / "red" / "@eaDir" / "thumb.jpg")
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = [
        "pretrain",
        "tiny32",
        "--data",
        data,
        "--run",
        folder,
        "--steps",
        1,
        "--device",
        "cpu",
        *SMALL,
    ]
    output = io.StringIO()
    with redirect_stdout(output):
        assert main([*map(str, arguments)]) == 0
    return folder, output.getvalue().splitlines()


def test_pretraining_takes_the_training_part_and_says_what_it_does_not(data, run):
    _, lines = run
    start = lines.index(f"data   12 images in {data / 'train'}")
    assert lines[start + 1 : start + 4] == [
        "note   only the training part 'train' is read; beside it 'valid'",
        "note   1 file passed over: 1 .txt",
        "note   1 folder passed over: 1 @eaDir",
    ]
    unscored = "1 of 3 classes have no validation images and are not scored: 'green'"
    assert f"note   validation: {unscored}" in lines


def test_an_evaluation_scores_the_classes_that_occur_and_names_the_rest(
    data, run, tmp_path, capsys
):
    options = ["--data", str(data), "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "o")]
    assert main(["eval", "knn", str(run[0]), *options]) == 0
    said = capsys.readouterr()
    assert "12 training, 8 validation images, 3 classes" in said.out
    assert "note: 1 of 3 classes have no validation images and are not scored: 'green'" in said.err
    assert "note: 1 file passed over: 1 .txt" in said.err
    assert main(["eval", "knn", str(run[0]), *options, "--split", "0.5"]) == 2
    assert "there are validation images already" in capsys.readouterr().err


def test_features_have_the_classes_of_the_training_part(data, run, tmp_path, capsys):
    file = tmp_path / "f.npz"
    assert main(["features", str(run[0]), "--data", str(data), "--out", str(file)]) == 0
    assert np.load(file)["classes"].tolist() == ["blue", "green", "red"]
    assert "note: only the training part" in capsys.readouterr().err


def test_images_that_are_too_large_are_refused_with_the_setting_that_allows_them(
    data, run, tmp_path, capsys
):
    options = ["--data", str(data), "--max-pixels", "1000"]
    assert main(["features", str(run[0]), *options, "--out", str(tmp_path / "f.npz")]) == 2
    assert (
        "too many pixels: 32 x 32; data.max_pixels or --max-pixels allows more, data.window "
        "or --window reads it in windows" in capsys.readouterr().err
    )
    arguments = [
        "pretrain",
        "tiny32",
        "--data",
        data,
        "--run",
        tmp_path / "r",
        "--device",
        "cpu",
        "--steps",
        1,
    ]
    assert main([*map(str, arguments), *SMALL, "data.max_pixels=1000"]) == 2
    assert "too many pixels: 32 x 32; data.max_pixels" in capsys.readouterr().err
