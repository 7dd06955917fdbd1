"""The same pictures as folders, list, archives and a set by name give one training."""

import csv
import hashlib
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from image_forms import write_parts
from PIL import Image

from ibot.cli.main import main
from ibot.system.jsonl import read_jsonl

STORED = ("parquet", "arrow", "npy", "zarr")
FORMS = ("folders", "list", "archives", *STORED, "cifar10")
SMALL = [
    *("model.width=48", "model.depth=1", "model.heads=3", "head.out_dim=32"),
    *("head.patch_out_dim=32", "train.batch=8", "system.workers=0", "log.every=1"),
    *("head.hidden_dim=32", "head.bottleneck_dim=16", "augment.num_local=1"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten pictures of two classes to train on and four to judge by, and the name of each form."""
    root = tmp_path_factory.mktemp("data")
    pixels = np.random.default_rng(0).integers(0, 256, (14, 32, 32, 3), dtype=np.uint8)
    labels = [0] * 5 + [1] * 5 + [0, 0, 1, 1]
    names = []
    for i, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        names.append(f"{'train' if i < 10 else 'val'}/{'cat' if label == 0 else 'dog'}/{i:02d}.png")
        (root / "folders" / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / "folders" / names[-1])
    rows = [f"folders/{name},{name.split('/')[1]},{name.split('/')[0]}" for name in names]
    (root / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    (root / "archives").mkdir()
    for part in ("train", "val"):
        with tarfile.open(root / "archives" / f"{part}-0.tar", "w") as archive:
            for name in (name for name in names if name.startswith(part)):
                archive.add(root / "folders" / name, name)
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    places = {f"data_batch_{i}": range(2 * i - 2, 2 * i) for i in range(1, 6)}
    for name, chosen in {**places, "test_batch": range(10, 14)}.items():
        planar = pixels[list(chosen)].transpose(0, 3, 1, 2).reshape(len(chosen), -1)
        batch = {"labels": [labels[i] for i in chosen], "data": planar}
        (folder / name).write_bytes(pickle.dumps(batch))
    classes = [f"class {i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    of_part = {
        "train": (pixels[:10], labels[:10]),
        "val": (pixels[10:], labels[10:]),
    }
    stored = {form: write_parts(form, root / form, of_part, ("cat", "dog")) for form in STORED}
    return stored | {
        "folders": str(root / "folders"),
        "list": str(root / "list.csv"),
        "archives": str(root / "archives"),
        "cifar10": f"cifar10:{root}",
    }


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A run of two steps on each form."""
    root = tmp_path_factory.mktemp("runs")
    for form in FORMS:
        options = ["--data", data[form], "--run", str(root / form), "--steps", "2"]
        assert main(["pretrain", "tiny32", *options, "--device", "cpu", "--quiet", *SMALL]) == 0
    return root


@pytest.mark.parametrize("form", FORMS[1:])
def test_one_training_comes_of_the_same_pictures(form, runs):
    def losses(name):
        return [row["cls_loss"] for row in read_jsonl(runs / name / "metrics.jsonl")]

    def scores(name):
        rows = read_jsonl(runs / name / "results.jsonl")
        return [
            (row["metric"], row["value"], row["num_train"], row["num_val"], row["step"])
            for row in rows
        ]

    assert len(losses(form)) == 2 and losses(form) == losses("folders")
    assert {row[0] for row in scores(form)} == {"knn_top1", "match_r1"}
    assert scores(form)[0][2:4] == (10, 4)
    assert scores(form) == scores("folders")


@pytest.mark.parametrize("form", FORMS)
def test_a_run_knows_its_images_again_and_refuses_others(form, data, runs, capsys):
    run = runs / form
    noted = json.loads((run / "provenance.json").read_text())["data"]
    assert noted["images"] == 10 and len(noted["names_sha256"]) == 16
    if form == "folders":  # as of the first version, so that its runs go on
        files = sorted((Path(data[form]) / "train").glob("*/*"))
        joined = "".join(str(file.relative_to(Path(data[form]) / "train")) for file in files)
        assert noted["names_sha256"] == hashlib.sha256(joined.encode()).hexdigest()[:16]
    again = ["pretrain", "tiny32", "--run", str(run), "--steps", "2", "--device", "cpu", *SMALL]
    assert main([*again, "--data", data[form]]) == 0
    assert "already at step 2: nothing to do" in capsys.readouterr().out
    other = data["folders" if form != "folders" else "cifar10"]
    assert main([*again, "--data", other]) == 2
    assert "was started on other images" in capsys.readouterr().err


def test_validation_images_may_have_another_form_than_those_of_training(data, tmp_path, capsys):
    options = ["--data", data["folders"] + "/train", "--val-data", data["list"]]
    options += ["--run", str(tmp_path / "run"), "--steps", "1", "--device", "cpu"]
    assert main(["pretrain", "tiny32", *options, *SMALL]) == 0
    assert read_jsonl(tmp_path / "run" / "results.jsonl")[0]["num_val"] == 4
    assert "in " + data["folders"] + "/train" in capsys.readouterr().out


def test_images_without_labels_are_trained_on_in_every_form(data, tmp_path, capsys):
    """Patches are watched; no k-NN, and no word of what labels there might be."""
    names = [f"folders/train/{n}" for n in ("cat/00.png", "cat/01.png", "dog/05.png", "dog/06.png")]
    root = tmp_path / "bare"
    root.mkdir()
    (root / "folders").symlink_to(data["folders"])
    (root / "list.csv").write_text("\n".join(["path", *names, *names]))
    with tarfile.open(root / "some.tar", "w") as archive:
        for i, name in enumerate(names * 2):
            archive.add((root / name).resolve(), f"{i}.png")
    for form in ("list.csv", "some.tar"):
        run = tmp_path / form.replace(".", "-")
        options = ["--data", str(root / form), "--run", str(run), "--steps", "1"]
        assert main(["pretrain", "tiny32", *options, "--device", "cpu", *SMALL]) == 0
        said = capsys.readouterr().out
        assert "data   8 images in" in said and "no k-NN" not in said
        rows = read_jsonl(run / "results.jsonl")
        assert {row["metric"] for row in rows} == {"match_r1"}


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_search_finds_the_same_among_the_same_pictures(form, data, runs, tmp_path, capsys):
    """Also where an image of the set is named by its file, in a list as in a folder."""
    image = f"{data['folders']}/train/cat/00.png"

    def similarities(name):
        options = ["--data", data[name], "--k", "3", "--cache", str(tmp_path / "cache")]
        out = tmp_path / name
        asked = ["--image", image] if name in ("folders", "list") else []
        assert main(["search", str(runs / name), *options, *asked, "--out", str(out)]) == 0
        assert "images:           10 of" in capsys.readouterr().out
        with (out / "search.csv").open(newline="") as file:
            return [(row["kind"], row["similarity"]) for row in csv.DictReader(file)]

    found, whole = similarities(form), similarities("folders")
    nearest = [row for row in found if row[0] == "nearest"]
    if form == "list":
        assert len(nearest) == 3 and found == whole
    else:
        assert len(nearest) == 12
    assert [row for row in found if row[0] == "outlier"] == [
        row for row in whole if row[0] == "outlier"
    ]
