"""Evaluations from Python: by name, and one that is added from outside of the package."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from commands import start_script
from random_weights import VIT, write_random
from registered import only

import ibot
from ibot.cli.main import main
from ibot.errors import UserError
from ibot.eval.registry import EVALUATIONS, Evaluation
from ibot.system.records import read_records

TOY = Evaluation(
    "how much of the features is brightness",
    "toy_family.brightness",
    "BrightnessSettings",
    context_name="ibot.eval.context.ImagesContext",
)
OF_THE_MOMENT = ("seconds", "images_per_second", "when")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("weights") / "small.safetensors", *VIT)


@pytest.fixture
def places(tmp_path):
    return {"out": str(tmp_path / "out"), "cache": str(tmp_path / "cache"), "device": "cpu"}


def test_five_lines_of_python_give_the_records_of_the_command(weights, scenes, tmp_path, capsys):
    script = f"""
import ibot
places = dict(out={str(tmp_path / "a")!r}, cache={str(tmp_path / "c")!r}, device="cpu")
weights, data, settings = {str(weights)!r}, {str(scenes)!r}, ["k=1,10"]
for record in ibot.evaluate("knn", weights, data, settings=settings, **places):
    print(record.row, record.value)
"""
    (tmp_path / "script.py").write_text(script)
    done = start_script(tmp_path / "script.py").ended()
    lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert not done.stderr and [row for row, _ in lines] == ["k = 1", "k = 10"]
    command = ["eval", "knn", str(weights), "--data", str(scenes), "k=1,10", "--device", "cpu"]
    command += ["--out", str(tmp_path / "b"), "--cache", str(tmp_path / "d")]
    assert main(command) == 0
    ours, theirs = (
        [{k: v for k, v in asdict(record).items() if k not in OF_THE_MOMENT} for record in found]
        for found in (read_records(tmp_path / part / "results.jsonl") for part in "ab")
    )
    assert ours == theirs and [float(value) for _, value in lines] == [r["value"] for r in ours]


def test_mistakes_are_told_before_anything_is_loaded(scenes, places):
    with pytest.raises(UserError, match="no evaluation 'kn'"):
        ibot.evaluate("kn", "nowhere", scenes, **places)
    with pytest.raises(UserError, match="unknown setting 'q'"):
        ibot.evaluate("knn", "nowhere", scenes, settings=["q=1"], **places)
    for name, setting in (("detection", "short"), ("video_segmentation", "size")):
        with pytest.raises(UserError, match="does not use --size 96") as refused:
            ibot.evaluate(name, "nowhere", scenes, size=96, **places)
        assert refused.value.fix == f"{setting}=96"
    with pytest.raises(TypeError, match="split_share"):
        ibot.evaluate("knn", "nowhere", scenes, split_share=0.1, **places)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mode": "x"}, "clean, published"),
        ({"fit": "crops"}, "crop, squash, pad"),
        ({"exif_orientation": None}, "apply, ignore"),
        ({"split": 2}, "below 1"),
        ({"split": "0.2"}, "below 1"),
        ({"max_train": -1}, "at least 0"),
        ({"max_val": 0.5}, "whole number"),
        ({"heads": 0}, "at least 1"),
        ({"size": True}, "whole number"),
        ({"max_pixels": 0}, "at least 1"),
        ({"workers": -1}, "at least 0"),
        ({"allow_partial": "no"}, "True or False"),
        ({"key": 3}, "text"),
    ],
)
def test_options_that_the_command_refuses_are_refused_from_python(wrong, words):
    (name,) = wrong
    with pytest.raises(UserError, match=f"^{name}=") as refused:
        ibot.evaluate("knn", "nowhere", "nothing", **wrong)
    assert words in refused.value.why


def test_folders_may_be_paths_and_one_setting_a_text(weights, scenes, tmp_path):
    places = {"out": tmp_path / "out", "cache": tmp_path / "cache", "device": "cpu"}
    train, val = scenes / "train", scenes / "val"
    found = ibot.evaluate("knn", weights, train, val_data=val, settings="k=3", **places)
    assert read_records(tmp_path / "out" / "results.jsonl")[0].row == found[0].row == "k = 3"


@pytest.fixture
def toy():
    with only({**EVALUATIONS, "brightness": TOY}):
        yield


@pytest.mark.usefixtures("toy")
def test_an_evaluation_is_added_by_its_folder_and_a_line(weights, scenes, places, capsys):
    """Of plain images: nothing about labels or classes has to be made up."""
    images = scenes / "val"
    (record,) = ibot.evaluate(
        "brightness", weights, images, settings=["power=2"], quiet=True, **places
    )
    assert record.metric == "brightness_r" and 0 < record.value <= 1
    assert record.settings["power"] == 2 and record.settings["size"] == [32, 32]
    assert (record.num_train, record.num_val) == (0, 60) and "classes" not in record.data
    source = ibot.scan(images)
    bank = ibot.extract_features(str(weights), images, size=32).cls.double().numpy()
    levels = np.array([source.read(i).mean() for i in range(60)]) ** 2
    want = max(abs(np.corrcoef(column, levels)[0, 1]) for column in bank.T)
    assert record.value == pytest.approx(want, abs=1e-6)
    options = ["--out", places["out"], "--cache", places["cache"], "--device", "cpu"]
    assert main(["eval", "brightness", str(weights), "--data", str(images), *options]) == 0
    printed = capsys.readouterr().out
    assert "brightness_r" in printed and "60 images" in printed
    assert len(read_records(Path(places["out"]) / "results.jsonl")) == 2


def test_all_opens_the_images_of_each_evaluation_as_it_needs_them(weights, scenes, places, capsys):
    options = ["--out", places["out"], "--cache", places["cache"], "--device", "cpu"]
    command = ["eval", "all", str(weights), "--data", str(scenes), *options]
    with only({"brightness": TOY, "knn": EVALUATIONS["knn"]}):
        assert main(command) == 0
        records = read_records(Path(places["out"]) / "results.jsonl")
        by_protocol = {record.protocol: record for record in records}
        assert list(by_protocol) == ["brightness", "knn"]
        # A set with parts: plain images are those to train on.
        images = len(ibot.scan(scenes / "train"))
        assert by_protocol["brightness"].num_val == images == by_protocol["knn"].num_train
        capsys.readouterr()
        assert main(command) == 0
    told = capsys.readouterr().err
    assert "brightness: done before" in told and "knn: done before" in told
