"""Predictions are those that the evaluation itself scored, whatever head it trained."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from blobs import blobs, save
from PIL import Image
from random_weights import VIT, write_random
from safetensors import safe_open
from safetensors.torch import save_file

import ibot
from ibot.cli.main import main
from ibot.config.override import apply, to_plain
from ibot.config.reading import Opening, Windows
from ibot.data.sets.arrays import ArrayImages
from ibot.data.sets.open import open_images
from ibot.engine.checkpoint import save_checkpoint
from ibot.engine.optimizer import build_optimizer
from ibot.errors import DataError, UserError, WeightsError
from ibot.eval.classifiers import find_classifier
from ibot.eval.linear_classifier import LinearClassifier
from ibot.method.model import StudentTeacher
from ibot.recipes.small import tiny32
from ibot.system.records import BESIDE, read_records
from ibot.types import RunState

HEADS = {
    "logistic": ["penalties=0.1"],
    "linear": ["augment=none", "epochs=2", "rates=0.1"],
    "finetune": ["epochs=1", "batch=16", "warmup_epochs=0", "head_layers=1"],
    "transfer": ["epochs=1", "batch=16", "warmup_epochs=0"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory, scenes):
    """Scenes, a network, and what an evaluation of every head leaves of them."""
    folder = tmp_path_factory.mktemp("predict")
    shutil.copytree(scenes, folder / "data")
    # One picture lies on its side, as cameras store them: the rule of the training counts.
    exif = Image.Exif()
    exif[0x0112] = 6
    file = next((folder / "data" / "val").glob("*/*.png"))
    Image.open(file).rotate(30).save(file.with_name("lying.jpg"), exif=exif)
    weights = write_random(folder / "weights.safetensors", *VIT, times=3)
    for name, settings in HEADS.items():
        ibot.evaluate(
            name,
            weights,
            folder / "data",
            settings=settings,
            out=folder / name,
            cache=folder / "cache",
            size=32,
            device="cpu",
            exif_orientation="ignore" if name == "linear" else "apply",
            quiet=True,
        )
    return folder


def table(text):
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.parametrize("name", HEADS)
def test_the_accuracy_of_the_table_is_that_of_the_record(world, name, capsys):
    (record,) = read_records(world / name / "results.jsonl")
    assert main(["predict", str(world / name), str(world / "data" / "val"), "--batch", "7"]) == 0
    shown = capsys.readouterr()
    rows = table(shown.out)
    right = sum(row["class"] == row["label"] for row in rows)
    assert len(rows) == record.num_val == 61
    assert 100 * right / len(rows) == pytest.approx(record.value)
    assert all(row["name"].startswith(str(world / "data" / "val" / row["label"])) for row in rows)
    assert f"{record.value:.2f} % of 61 have the class" in shown.err
    assert f"ibot predict {record.extra['classifier']} IMAGES" in record.notes[-1]


def test_an_exported_file_is_all_that_is_needed(world, tmp_path, capsys):
    file = tmp_path / "new" / "one.safetensors"
    export = ["weights", "export", str(world / "finetune"), "--to", "classifier", "--out"]
    assert main([*export, str(file)]) == 0
    assert f"use it:    ibot predict {file} IMAGES" in capsys.readouterr().out
    val = world / "data" / "val"
    there, here = ibot.predict(world / "finetune", val), ibot.predict(file, [str(val)])
    assert torch.equal(there.probabilities, here.probabilities) and there.names == here.names
    assert main([*export, str(file)]) == 2 and "exists" in capsys.readouterr().err
    # The backbone in it is found like any other.
    assert ibot.load_backbone(file).embed_dim == 24
    with safe_open(file, framework="pt") as stored:
        about = json.loads(stored.metadata()["classifier"])
    assert about["classes"] == list(there.classes) and about["hidden"]


def test_in_python_they_are_tensors_with_names(world):
    classifier = ibot.load_classifier(world / "logistic")
    found = ibot.predict(classifier, world / "data" / "val")
    assert found.probabilities.shape == (61, 10) and not found.probabilities.is_inference()
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(61))
    names = [classifier.classes[i] for i in found.probabilities.argmax(1).tolist()]
    assert found.predicted == names and len(found) == 61
    (best, value), second = found.top(2)[0]
    assert best == names[0] and value == found.probabilities[0].max() > second[1]
    assert len(found.top(99)[0]) == 10
    images = open_images(str(world / "data" / "val"))
    again = ibot.predict(classifier, images, batch=3)
    torch.testing.assert_close(again.probabilities, found.probabilities)


def test_several_files_and_folders_are_read_and_what_is_unreadable_is_listed(
    world, tmp_path, capsys
):
    save(tmp_path / "a b.png", blobs(0, 40, 50))
    (tmp_path / "bad.jpg").write_text("no picture")
    folder = sorted((world / "data" / "val").iterdir())[0]
    places = [str(tmp_path / "a b.png"), str(tmp_path / "bad.jpg"), str(folder)]
    command = ["predict", str(world / "logistic"), *places, "--top", "3"]
    assert main(command) == 0
    shown = capsys.readouterr()
    rows = table(shown.out)
    assert list(rows[0]) == [
        *("name", "class", "probability", "class_2", "probability_2", "class_3", "probability_3")
    ]
    assert rows[0]["name"] == places[0] and len(rows) == 1 + len(list(folder.iterdir()))
    assert f"not read: {places[1]}: " in shown.err and "; 1 not read" in shown.err

    assert main([*command, "--out", str(tmp_path / "out" / "p.csv")]) == 0
    assert not capsys.readouterr().out
    assert table((tmp_path / "out" / "p.csv").read_text()) == rows
    assert main([*command, "--json", "--quiet"]) == 0
    stored = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in stored["predictions"]] == [row["name"] for row in rows]
    assert [one["top"][2]["class"] for one in stored["predictions"]] == [
        row["class_3"] for row in rows
    ]
    assert [one["name"] for one in stored["unreadable"]] == [places[1]]


def test_if_nothing_can_be_read_nothing_is_written(world, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_text("no picture")
    command = ["predict", str(world / "logistic"), str(tmp_path / "bad.jpg")]
    for more in ([], ["--json"], ["--out", str(tmp_path / "p.csv")]):
        assert main([*command, *more]) == 2
        shown = capsys.readouterr()
        assert not shown.out and "none of 1 image can be read" in shown.err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jpg"]


def test_of_several_the_best_on_the_images_that_were_evaluated_last(world, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    values = {"old": ("other", 99.0), "a": ("same", 50.0), "b": ("same", 70.0), "c": ("same", 60.0)}
    source = next((world / "logistic").glob("*.safetensors"))
    lines = []
    for name, (images, value) in values.items():
        shutil.copy(source, folder / f"{name}.safetensors")
        extra = {"classifier": f"elsewhere/{name}.safetensors"}
        row = {"protocol": "linear", "metric": "linear_top1", "value": value, "settings": {}}
        lines.append({**row, "extra": extra, "data": {"val": images, "root": "photos/val"}})
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = find_classifier(folder)
    assert found.file == folder / "b.safetensors"
    assert "70.00 %" in found.note and "'photos'" in found.note and "best of 3" in found.note
    found.file.unlink()
    assert find_classifier(folder).file == folder / "c.safetensors"


def test_of_a_run_that_trained_on_the_classifier_says_of_which_step_it_is(world, tmp_path):
    config = apply(
        tiny32(), ["model.width=16", "model.heads=2", "model.depth=1", "head.hidden_dim=16"]
    )
    run, model = tmp_path / "run", StudentTeacher(config)
    optimizer = build_optimizer(model.student, config.optim)
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_plain(config)))
    save_checkpoint(run, model, optimizer, RunState(step=3), config=config)
    records = ibot.evaluate(
        "logistic",
        run,
        world / "data",
        settings=HEADS["logistic"],
        device="cpu",
        baselines="random",
        quiet=True,
    )
    of_the_run = [record.trained for record in records if not record.baseline]
    assert of_the_run == [3] * len(of_the_run) and len(records) > len(of_the_run) > 0
    assert {record.trained for record in read_records(run / BESIDE)} == {None}
    assert "step" not in find_classifier(run).note
    save_checkpoint(run, model, optimizer, RunState(step=5), config=config)
    note = find_classifier(run).note
    assert "of step 3, the run is at step 5" in note and f"ibot eval logistic {run}" in note


def test_what_holds_no_classifier_says_which_command_makes_one(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = world / "weights.safetensors"
    with pytest.raises(UserError) as caught:
        ibot.load_classifier(weights)
    assert f"ibot eval logistic {weights} --data DIR" in caught.value.fix
    # Where an evaluation of these weights leaves its results by itself.
    shutil.copytree(world / "logistic", "results/weights")
    assert ibot.load_classifier(weights).classes
    next((tmp_path / "results" / "weights").glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="holds no classifier") as caught:
        ibot.load_classifier(weights)
    assert "1 file" in caught.value.why and "gone" in caught.value.why
    with pytest.raises(UserError) as caught:
        ibot.load_classifier(world / "data")
    assert "name the classifier first" in caught.value.fix and "RUN" in caught.value.fix
    with pytest.raises(WeightsError, match="no file or folder"):
        ibot.load_classifier("gone")


def test_damaged_files_are_refused(world, tmp_path):
    source = next((world / "finetune").glob("*.safetensors"))
    content = source.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="cannot be read"):
        ibot.load_classifier(cut)
    with safe_open(source, framework="pt") as stored:
        metadata = stored.metadata()
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    about = json.loads(metadata["classifier"])
    changes = [
        (
            {**about, "classes": about["classes"][1:]},
            tensors,
            "9 names of classes for a head of 10",
        ),
        ({**about, "hidden": ["spiral"]}, tensors, "spiral"),
        (about, {k: v for k, v in tensors.items() if k != "linear.bias"}, "linear.bias"),
        ({k: v for k, v in about.items() if k != "view"}, tensors, "view"),
    ]
    for changed, kept, why in changes:
        save_file(kept, cut, {**metadata, "classifier": json.dumps(changed)})
        with pytest.raises(WeightsError, match="cannot be read") as caught:
            ibot.load_classifier(cut)
        assert why in caught.value.why


def test_classes_that_the_classifier_lacks_have_no_label(world, tmp_path, capsys):
    classes = sorted(path.name for path in (world / "data" / "val").iterdir())
    for name, other in zip(classes[:2], (classes[0], "zebra"), strict=True):
        shutil.copytree(world / "data" / "val" / name, tmp_path / "mixed" / other)
    assert main(["predict", str(world / "logistic"), str(tmp_path / "mixed")]) == 0
    shown = capsys.readouterr()
    assert {row["label"] for row in table(shown.out)} == {classes[0], ""}
    assert "1 of the 2 classes" in shown.err and "zebra" in shown.err


def test_the_rules_of_the_training_are_kept(world, tmp_path):
    """Orientation, windows and borders: what the file says is how new images are opened."""
    stored = ibot.load_classifier(world / "linear")
    assert stored.opening == Opening(exif_orientation="ignore")
    windows = Windows(24, content=0.1)
    made = LinearClassifier(
        **{
            **{name: getattr(stored, name) for name in stored.__slots__},
            "opening": Opening(windows=windows, trim_border=True),
        }
    )
    made.save(tmp_path / "w.safetensors")
    read = ibot.load_classifier(tmp_path / "w.safetensors")
    assert read.opening == made.opening
    pixels = np.full((60, 60, 3), 255, np.uint8)
    pixels[6:54, 6:54] = np.random.default_rng(0).integers(0, 200, (48, 48, 3))
    save(tmp_path / "slide.png", pixels)
    places = [name.partition("#")[2] for name in ibot.predict(read, tmp_path / "slide.png").names]
    assert len(places) == 9 and places[0] == "x=0,y=0,w=24,h=24"


def test_other_channels_are_refused(world):
    classifier = ibot.load_classifier(world / "logistic")
    pixels = np.zeros((2, 32, 32, 2), np.float32)
    four = ArrayImages(
        world, "val", pixels, np.zeros(2, np.int32), ("a", "b"), channels=("red", "nir")
    )
    with pytest.raises(DataError, match="other channels"):
        ibot.predict(classifier, four)
