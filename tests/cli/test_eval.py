"""`ibot eval` from the command line: a user's folder, errors, kills, several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ibot_in_two, start_ibot
from PIL import Image
from registered import only
from safetensors.torch import save_file

from ibot.cli.main import main
from ibot.config.override import apply, settings_of, to_plain
from ibot.config.schema import ModelConfig
from ibot.data.scenes import write_folder
from ibot.eval.features import cache
from ibot.eval.linear_classifier import load_classifier
from ibot.eval.opened import batch_of
from ibot.eval.probes.settings import LinearSettings
from ibot.method.model import Teacher
from ibot.models.backbone import build_backbone
from ibot.recipes import recipe
from ibot.system.records import BESIDE, read_records

ROUTE = ["--workers", "0", "--baselines", "none"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of three classes of 50 images with 20 to validate, and the weights of a small random
    network.
    """
    folder = tmp_path_factory.mktemp("eval")
    write_folder(folder / "scenes", train=500, val=200, seed=0, size=32)
    kept = sorted(path.name for path in (folder / "scenes" / "train").iterdir())[:3]
    for part, count in (("train", 50), ("val", 20)):
        for name in kept:
            files = sorted((folder / "scenes" / part / name).iterdir())[:count]
            target = folder / "data" / part / name
            target.mkdir(parents=True)
            for file in files:
                os.link(file, target / file.name)
    config = apply(
        recipe("tiny32"),
        [
            "model.width=48",
            "model.depth=3",
            "model.heads=2",
            "model.patch=8",
            "head.out_dim=3",
            "head.patch_out_dim=3",
            "head.hidden_dim=32",
        ],
    )
    torch.manual_seed(0)
    network = Teacher(config).state_dict()
    save_file(
        {n: t.clone() for n, t in network.items()},
        folder / "weights.safetensors",
        {"config": json.dumps(to_plain(config))},
    )
    return folder


def evaluate(world, tmp_path, *arguments, cache="cache", out="out"):
    return main(
        [
            "eval",
            arguments[0],
            str(world / "weights.safetensors"),
            "--data",
            str(world / "data"),
            "--out",
            str(tmp_path / out),
            "--cache",
            str(tmp_path / cache),
            *ROUTE,
            *arguments[1:],
        ]
    )


def records(tmp_path, out="out"):
    return [
        json.loads(line) for line in (tmp_path / out / "results.jsonl").read_text().splitlines()
    ]


def test_a_user_s_small_folder_gets_every_frozen_protocol(world, tmp_path, capsys):
    for protocol in ("knn", "linear", "logistic", "cluster", "semi"):
        quick = {
            "linear": ["epochs=5"],
            "semi": ["probes=knn,logistic", "share=0.1", "subsets=2"],
        }.get(protocol, [])
        assert evaluate(world, tmp_path, protocol, *quick) == 0
    out = capsys.readouterr().out
    assert "k is at most the 150 training images" in out
    assert (
        "150 training, 60 validation images, 3 classes; always guessing the largest: 33.33" in out
    )
    rows = records(tmp_path)
    assert {row["protocol"] for row in rows} == {"knn", "linear", "logistic", "cluster", "semi"}
    for row in rows:
        low, high = (
            row["interval"] or row["extra"]["range"]
        )  # a mean over draws has the range of the draws
        assert low <= row["value"] <= high
        assert len(row["weights_hash"]) == 64 and row["num_val"] == 60 and row["versions"]["torch"]
    assert [row["settings"]["k"] for row in rows if row["protocol"] == "knn"] == [10, 20, 100, 150]
    cluster = next(row for row in rows if row["protocol"] == "cluster")
    assert cluster["settings"]["by"] == "prototypes", (
        "the head has as many prototypes as there are classes"
    )
    named = (tmp_path / "out" / "labels-10percent-seed0.txt").read_text().splitlines()
    assert len(named) == 15 and len({name.split("/")[0] for name in named}) == 3


def test_a_second_run_with_other_settings_reads_the_features(world, tmp_path, monkeypatch):
    assert evaluate(world, tmp_path, "knn") == 0
    monkeypatch.setattr(
        "ibot.eval.features.cache.compute", lambda *_: pytest.fail("the network ran again")
    )
    assert evaluate(world, tmp_path, "knn", "k=3,5", "temperature=0.1") == 0
    assert evaluate(world, tmp_path, "logistic") == 0
    rows = records(tmp_path)
    assert [row["settings"]["k"] for row in rows if row["protocol"] == "knn"][-2:] == [3, 5]


@pytest.mark.slow
def test_files_of_other_projects_get_the_numbers_of_the_run(world, tmp_path):
    """One network as a run writes it and as iBOT, timm and Hugging Face do."""
    files = {
        "safetensors": "b.safetensors",
        "published": "b.pth",
        "timm": "timm",
        "huggingface": "huggingface",
    }
    weights = str(world / "weights.safetensors")
    for target, name in files.items():
        assert (
            main(
                [
                    "weights",
                    "export",
                    weights,
                    "--to",
                    target,
                    "--out",
                    str(tmp_path / name),
                    "--quiet",
                ]
            )
            == 0
        )
    for name in [weights, *(str(tmp_path / name) for name in files.values())]:
        rest = [
            "--data",
            str(world / "data"),
            "--out",
            str(tmp_path / "out"),
            "--cache",
            str(tmp_path / "cache"),
        ]
        assert main(["eval", "knn", name, *rest, "--size", "32", *ROUTE, "k=20"]) == 0
        assert main(["eval", "cluster", name, *rest, "--size", "32", *ROUTE, "by=kmeans"]) == 0
    rows = records(tmp_path)
    assert len({row["weights"] for row in rows}) == 5
    for metric in ("knn_top1", "cluster_acc"):
        assert len({row["value"] for row in rows if row["metric"] == metric}) == 1


def test_exif_orientation_can_be_ignored_and_has_features_of_its_own(world, tmp_path):
    """Images that lie on their side and say so: read upright they are those of the plain folder."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for file in (world / "data").glob("*/*/*"):
        target = tmp_path / "turned" / file.relative_to(world / "data")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(target, exif=exif)
    turned = ["--data", str(tmp_path / "turned")]
    assert evaluate(world, tmp_path, "knn", "k=5", out="plain") == 0
    assert evaluate(world, tmp_path, "knn", "k=5", *turned) == 0
    assert evaluate(world, tmp_path, "knn", "k=5", *turned, "--exif-orientation", "ignore") == 0
    (plain,), (applied, ignored) = records(tmp_path, "plain"), records(tmp_path)
    assert applied["value"] == plain["value"] and not ignored["extra"]["cached"]
    assert [row["settings"]["exif_orientation"] for row in (plain, applied, ignored)] == [
        "apply",
        "apply",
        "ignore",
    ]
    assert applied["data"]["val"] != ignored["data"]["val"]
    found = list((tmp_path / "cache").glob("*/rows.npy"))
    assert len(found) == 6 and len({np.load(file).tobytes() for file in found}) == 4, (
        "train and val, two ways"
    )


def test_help_ends_its_lines_between_values():
    done = subprocess.run(
        [sys.executable, "-m", "ibot", "eval", "linear", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    listed = " ".join(done.stdout.partition("settings:  ")[2].split()).replace(", ", ",")
    assert listed == " ".join(f"{key}={value}" for key, value in settings_of(LinearSettings()))


def test_clean_mode_never_looks_at_the_reported_labels(world, tmp_path, monkeypatch):
    """Whatever the validation labels are, the same rate and classifier are chosen."""
    from ibot.eval.probes import sweep_training

    plain_hits, chosen = sweep_training.hits, []

    def hits_of_training_images(sweep, features):
        assert len(features.rows) != 60, "a classifier was judged on the validation images"
        return plain_hits(sweep, features)

    monkeypatch.setattr(sweep_training, "hits", hits_of_training_images)
    shutil.copytree(world / "data", tmp_path / "data")
    for turn in range(2):
        if turn:  # every validation image under the label of the next class
            classes = sorted(path.name for path in (tmp_path / "data" / "val").iterdir())
            for name in classes:
                (tmp_path / "data" / "val" / name).rename(tmp_path / "data" / "val" / f"{name}-old")
            for name, other in zip(classes, [*classes[1:], classes[0]], strict=True):
                (tmp_path / "data" / "val" / f"{name}-old").rename(
                    tmp_path / "data" / "val" / other
                )
        data = ["--data", str(tmp_path / "data"), "augment=none", "epochs=4"]
        assert evaluate(world, tmp_path, "linear", *data, out=f"out{turn}") == 0
        row = records(tmp_path, f"out{turn}")[0]
        chosen.append(
            (
                row["value"],
                row["extra"]["chosen_rate"],
                load_classifier(row["extra"]["classifier"]).weight,
            )
        )
    assert chosen[0][1] == chosen[1][1] and torch.equal(chosen[0][2], chosen[1][2])
    assert chosen[0][0] != chosen[1][0], "the labels do differ"


def test_published_mode_reports_the_best_epoch_and_rate(world, tmp_path):
    assert (
        evaluate(world, tmp_path, "linear", "--mode", "published", "augment=none", "epochs=6") == 0
    )
    row = records(tmp_path)[0]
    assert row["value"] >= max(row["extra"]["rates"].values()) and row["mode"] == "published"
    assert len(row["extra"]["rates"]) == 45 and "val" in row["extra"]["chosen_on"]


def test_the_saved_classifier_gives_the_reported_accuracy(world, tmp_path):
    assert (
        evaluate(world, tmp_path, "linear", "augment=none", "epochs=4", "features=n2m0,n1m2,n1m1")
        == 0
    )
    rows = records(tmp_path)
    assert [row["settings"]["features"] for row in rows] == ["n2m0", "n1m2", "n1m1"]
    from ibot.data.pixels import normalize
    from ibot.data.sets.class_folders import open_folder

    val = open_folder(world / "data" / "val")
    views = normalize(
        torch.from_numpy(np.stack([val.read(i) for i in range(60)])).permute(0, 3, 1, 2)
    )
    for row in rows:
        classifier = load_classifier(row["extra"]["classifier"])
        with torch.no_grad():
            right = classifier.logits(views).argmax(1) == torch.tensor(val.labels)
        assert 100 * right.double().mean().item() == pytest.approx(row["value"])
        assert classifier.classes == val.classes


def command(world, tmp_path, *arguments, out):
    base = [
        "--data",
        str(world / "data"),
        "--out",
        str(tmp_path / out),
        "--cache",
        str(tmp_path / "cache"),
    ]
    weights = str(world / "weights.safetensors")
    return ["eval", arguments[0], weights, *base, "--baselines", "none", *arguments[1:]]


def test_a_killed_linear_probe_goes_on_and_ends_bit_identical(world, tmp_path):
    settings = ("linear", "epochs=12", "rates=0.01,0.3", "--seed", "3")
    assert main(command(world, tmp_path, *settings, out="whole")) == 0
    process = start_ibot(*command(world, tmp_path, *settings, out="cut"))
    deadline = time.monotonic() + 60
    while (
        not list((tmp_path / "cut").glob("sweep-*.state")) if (tmp_path / "cut").is_dir() else True
    ):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.ended().returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "results.jsonl").exists(), "the kill came before the end"
    assert main(command(world, tmp_path, *settings, out="cut")) == 0
    whole, cut = (
        load_classifier(next((tmp_path / out).glob("linear-*.safetensors")))
        for out in ("whole", "cut")
    )
    assert torch.equal(whole.weight, cut.weight) and torch.equal(whole.bias, cut.bias)
    assert (
        records(tmp_path, "whole")[0]["extra"]["rates"]
        == records(tmp_path, "cut")[0]["extra"]["rates"]
    )
    assert not list((tmp_path / "cut").glob("*.state"))


@pytest.mark.distributed
@pytest.mark.parametrize(
    "protocols",
    [
        [("knn", "--baselines", "auto")],
        pytest.param(  # as tests/eval/test_processes.py does it for all
            [("linear", "epochs=3", "batch=64"), ("logistic",), ("occlusion", "steps=2")],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["baselines", "others"],
)
def test_two_processes_give_the_numbers_of_one(world, tmp_path, protocols):
    for protocol in protocols:
        one = command(world, tmp_path, *protocol, "--cache", str(tmp_path / "one"), out="one")
        two = command(world, tmp_path, *protocol, "--cache", str(tmp_path / "two"), out="two")
        assert main(one) == 0
        for done in ibot_in_two(*two):
            assert done.returncode == 0, done.stderr
    if protocols[0][0] == "knn":
        beside = [read_records(tmp_path / out / BESIDE) for out in ("one", "two")]
        assert len(beside[0]) == 12
        assert [r.value for r in beside[0]] == [r.value for r in beside[1]]
    first, second = records(tmp_path, "one"), records(tmp_path, "two")
    assert [row["metric"] for row in first] == [row["metric"] for row in second], (
        "one process writes"
    )
    for a, b in zip(first, second, strict=True):
        assert a["value"] == b["value"] and a["interval"] == b["interval"], a["metric"]


def failing(capsys, arguments, *words):
    assert main(["eval", *arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and len(error.splitlines()) <= 3, error
    for word in words:
        assert word in error, error


def test_mistakes_end_with_cause_and_remedy(world, tmp_path, capsys):
    weights, data = str(world / "weights.safetensors"), world / "data"
    base = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]

    def folder(name, *classes, empty=()):
        for label in classes:
            (tmp_path / name / label).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / name / label / "a.png")
        for label in empty:
            (tmp_path / name / label).mkdir(parents=True)
        return str(tmp_path / name)

    train = folder("t", "cat", "dog")
    failing(
        capsys,
        ["knn", weights, "--data", train, "--val-data", folder("v", "cat", "horse"), *base],
        "different classes",
        "horse",
        "dog",
    )
    failing(
        capsys,
        [
            "knn",
            weights,
            "--data",
            folder("e", "cat", "dog", empty=["ox"]),
            "--val-data",
            train,
            *base,
        ],
        "ox",
    )
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (32, 32)).save(flat / "a.png")
    failing(
        capsys,
        ["knn", weights, "--data", str(flat), "--val-data", str(flat), *base],
        "class",
        "flat",
    )
    failing(capsys, ["knn", weights, "--data", train, *base], "no validation part", "split")
    (tmp_path / "list.csv").write_text(
        "path,label,split\nabsent.png,cat,train\nt/cat/a.png,dog,val\n"
    )
    failing(capsys, ["knn", weights, "--data", str(tmp_path / "list.csv"), *base], "absent.png")
    failing(capsys, ["knn", weights, "--data", "cifar11:/nowhere", *base], "cifar11", "cifar10")
    failing(capsys, ["knn", str(tmp_path / "none.pth"), "--data", str(data), *base], "none.pth")
    failing(
        capsys,
        ["knn", weights, "--data", str(data), *base, "neighbours=3"],
        "neighbours",
        "k, temperature",
    )
    failing(
        capsys, ["knn", weights, "--data", str(data), *base, "k=0"], "positive", "fix:", "k=10,20"
    )
    for wrong in ("penalties=0", "folds=1"):
        failing(
            capsys,
            ["logistic", weights, "--data", str(data), *base, wrong],
            "positive",
            "fix:",
            "folds=5",
        )
    failing(capsys, ["linear", weights, "--data", str(data), *base, "features=n9m0"], "3 blocks")
    failing(
        capsys, ["linear", weights, "--data", str(data), *base, "epoch=3"], "did you mean epochs"
    )
    for wrong in (
        ["semi", "share=2"],
        ["linear", "epochs=0"],
        ["corruptions", "severities=7"],
        ["occlusion", "masses=2"],
    ):
        failing(
            capsys,
            [wrong[0], weights, "--data", str(data), *base, wrong[1]],
            wrong[1].partition("=")[0],
            "fix:",
        )
    failing(
        capsys,
        ["knn", weights, "--data", str(data), *base, "--split", "0.2"],
        "set aside",
        "val",
        "leave out",
    )
    failing(capsys, ["cluster", weights, "--data", str(data), *base, "k=-1"], "k=-1")
    failing(
        capsys,
        ["cluster", weights, "--data", str(data), *base, "by=kmeans", "k=100"],
        "60 validation images",
    )
    failing(capsys, ["semi", weights, "--data", str(data), *base, "probes="], "probes")
    failing(capsys, ["linear", weights, "--data", str(data), *base, "features="], "features")
    failing(
        capsys,
        ["knn", weights, "--data", str(data), *base, "--split", "2"],
        "--split: expected a share",
        "not '2'",
    )
    failing(
        capsys,
        ["knn", weights, "--data", str(data), *base, "--split", "20%"],
        "not '20%'",
        "such as 0.2",
    )
    failing(
        capsys,
        ["knn", weights, "--data", str(data), *base, "--max-train", "-1"],
        "--max-train: expected",
    )
    failing(
        capsys,
        ["knn", weights, "--data", str(data), *base, "--workers", "-1"],
        "--workers: expected",
    )
    failing(
        capsys,
        ["knn", weights, "--data", str(data), *base, "--exif-orientation", "no"],
        "apply",
        "ignore",
    )
    failing(
        capsys, ["all", weights, "--data", str(data), *base, "k=3"], "k=3", "ibot eval all --help"
    )
    failing(
        capsys, ["knn", weights, "--data", str(data), *base, "--size", "4"], "smaller than a patch"
    )
    failing(
        capsys,
        ["knn", weights, "--data", str(data), *base, "--size", "-8"],
        "--size: expected a whole number",
        "not '-8'",
    )
    failing(capsys, ["finetune", weights, "--data", str(data), *base, "--fit", "pad"], "crops")
    (tmp_path / "file").write_text("")
    failing(
        capsys,
        ["knn", weights, "--data", str(data), "--out", str(tmp_path / "file")],
        "file",
        "--out",
    )


@pytest.mark.parametrize("protocol", ["finetune", "transfer"])
@pytest.mark.parametrize("wrong", ["epochs=0", "epochs=-1", "batch=0"])
def test_a_fine_tuning_without_steps_is_refused_before_anything_is_written(
    world, tmp_path, capsys, protocol, wrong
):
    base = [
        "--data",
        str(world / "data"),
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    failing(
        capsys,
        [protocol, str(world / "weights.safetensors"), *base, wrong],
        wrong,
        "at least 1",
        "fix:",
    )
    assert not list(tmp_path.iterdir())


def test_large_views_go_through_the_network_in_smaller_batches():
    vit = build_backbone(ModelConfig(width=24, depth=1, heads=1, patch=16), (224, 224))
    sizes = {224: 256, 352: 256, 512: 128, 5000: 1}
    assert {size: batch_of(vit, (size, size)) for size in sizes} == sizes
    stages = {"depths": (1, 1, 1, 1), "stage_heads": (1, 1, 1, 1)}
    swin = build_backbone(
        ModelConfig(kind="swin", width=8, window=7, patch=4, **stages), (224, 224)
    )
    sizes = {224: 256, 256: 256, 512: 64, 5000: 1}
    assert {size: batch_of(swin, (size, size)) for size in sizes} == sizes


def test_the_batch_follows_the_view(world, tmp_path, monkeypatch):
    seen, compute = [], cache.compute
    monkeypatch.setattr(
        cache,
        "compute",
        lambda net, images, wanted: seen.append(images) or compute(net, images, wanted),
    )
    monkeypatch.setattr("ibot.eval.opened.MAX_TOKENS", 16 * 50)
    assert evaluate(world, tmp_path, "knn", "k=5") == 0
    counts = [
        len(images) for images in seen if len(images) > 1
    ]  # one image tells the width of a feature
    assert counts == [50, 50, 50, 50, 10]


def test_validation_images_that_are_training_images_are_told(world, tmp_path, caplog):
    assert evaluate(world, tmp_path, "knn", "k=5") == 0
    assert not caplog.records
    data = world / "data"
    assert (
        evaluate(
            world,
            tmp_path,
            "knn",
            "k=5",
            "--data",
            str(data / "train"),
            "--val-data",
            str(data / "train"),
            "--max-train",
            "90",
        )
        == 0
    )
    assert caplog.messages == ["90 of 150 validation images are training images"]


def test_a_rate_that_few_images_chose_is_noted(world, tmp_path, capsys):
    for holdout in ("0.05", "0.4"):
        assert (
            evaluate(world, tmp_path, "linear", "augment=none", "epochs=2", f"holdout={holdout}")
            == 0
        )
        told = "only 9 held-out images; logistic uses cross-validation" in capsys.readouterr().out
        assert told == (holdout == "0.05")
    assert (
        evaluate(world, tmp_path, "linear", "--mode", "published", "augment=none", "epochs=2") == 0
    )
    assert "held-out images;" not in capsys.readouterr().out


@pytest.mark.parametrize("quiet", [False, True])
def test_a_linear_probe_that_goes_on_says_so(world, tmp_path, monkeypatch, capsys, quiet):
    from ibot.eval.probes import sweep_training

    factor = sweep_training.cosine_factor
    monkeypatch.setattr(
        sweep_training,
        "cosine_factor",
        lambda epoch, epochs: factor(epoch, epochs) if not epoch else _interrupt(),
    )
    assert evaluate(world, tmp_path, "linear", "augment=none", "epochs=3") == 130
    assert "the probe goes on" not in capsys.readouterr().err
    monkeypatch.setattr(sweep_training, "cosine_factor", factor)
    assert (
        evaluate(
            world, tmp_path, "linear", "augment=none", "epochs=3", *(["--quiet"] if quiet else [])
        )
        == 0
    )
    assert ("the probe goes on after epoch 1" in capsys.readouterr().err) != quiet


def test_a_network_for_other_channels_is_refused_by_name(world, tmp_path, capsys):
    from safetensors.torch import load_file

    tensors = load_file(world / "weights.safetensors")
    tensors["backbone.patch_embed.proj.weight"] = torch.zeros(48, 6, 8, 8)
    save_file(tensors, tmp_path / "six.safetensors")
    base = [
        "--data",
        str(world / "data"),
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    failing(capsys, ["knn", str(tmp_path / "six.safetensors"), *base], "6 channels", "3")


def test_an_unknown_protocol_lists_the_known_ones(capsys):
    failing(capsys, ["nearest", "weights"], "'nearest'", "'knn', ", "ibot eval --help")


def test_few_labels_leave_the_full_classifier_alone_and_group_their_draws(world, tmp_path, capsys):
    assert evaluate(world, tmp_path, "linear", "augment=none", "epochs=3") == 0
    file = records(tmp_path)[0]["extra"]["classifier"]
    before = Path(file).read_bytes()
    assert (
        evaluate(world, tmp_path, "semi", "share=0.02,0.1", "subsets=3", "probes=knn,logistic") == 0
    )
    assert Path(file).read_bytes() == before and "the classifier is in" in capsys.readouterr().out
    rows = [row for row in records(tmp_path) if row["protocol"] == "semi"]
    trained_on = {
        (row["settings"]["subset"], row["settings"]["subset_seed"]): row["data"]["train"]
        for row in rows
        if not row["metric"].endswith("_mean")
    }
    assert len(trained_on) == 6 == len(set(trained_on.values())), "each draw names its own images"
    means = {row["row"]: row for row in rows if row["metric"].endswith("_mean")}
    assert {
        "2%, logistic, mean of 3",
        "10%, logistic, mean of 3",
        "10%, knn, k = 1, mean of 3",
    } <= set(means)
    draws = [
        row["value"]
        for row in rows
        if row["row"].startswith("10% seed") and "logistic" in row["metric"]
    ]
    mean = means["10%, logistic, mean of 3"]
    assert mean["value"] == pytest.approx(sum(draws) / 3) and mean["interval"] is None
    assert mean["extra"]["range"] == [min(draws), max(draws)]
    one_each = next(row for row in rows if row["row"].startswith("2% seed 0, logistic"))
    assert (
        "no class has two images" in one_each["extra"]["chosen_on"] and one_each["num_train"] == 3
    )


def test_a_stored_classifier_is_tested_on_its_own_view(world, tmp_path):
    assert (
        evaluate(
            world, tmp_path, "linear", "--fit", "squash", "--size", "24", "augment=none", "epochs=3"
        )
        == 0
    )
    trained = records(tmp_path)[0]
    command = [
        "eval",
        "calibration",
        trained["extra"]["classifier"],
        "--data",
        str(world / "data"),
        "--out",
        str(tmp_path / "out"),
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert main(command) == 0
    tested = records(tmp_path)[1]
    assert tested["value"] == pytest.approx(trained["value"]) and tested["settings"]["size"] == [
        24,
        24,
    ]


def test_images_that_cannot_be_read_are_named(world, tmp_path, capsys):
    shutil.copytree(world / "data", tmp_path / "data")
    broken = next((tmp_path / "data" / "train").glob("*/*"))
    broken.write_bytes(b"no image")
    data = ["--data", str(tmp_path / "data")]
    for protocol in (
        ["knn"],
        ["linear", "augment=none", "epochs=2"],
        ["logistic"],
        ["semi", "probes=knn", "share=0.9"],
    ):
        assert evaluate(world, tmp_path, *protocol, *data) == 0
        assert (
            f"note: 1 image cannot be read: {broken.parent.name}/{broken.name}: "
            in capsys.readouterr().out
        )


def test_all_runs_what_the_data_allow_and_names_the_rest(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ibot.eval.probes.logistic.probe", _fail)
    with only(["knn", "logistic", "cluster"]):
        assert evaluate(world, tmp_path, "all") == 0
        captured = capsys.readouterr()
        assert {row["protocol"] for row in records(tmp_path)} == {"knn", "cluster"}
        assert "logistic: cannot" in captured.err
        monkeypatch.setattr("ibot.eval.probes.knn.scores", _fail)
        assert evaluate(world, tmp_path, "all", "--again", "--skip", "cluster") == 2, "nothing ran"
        assert evaluate(world, tmp_path, "all", "--skip", "clusters") == 2
    assert "clusters" in capsys.readouterr().err


@pytest.fixture
def interrupted(world, tmp_path, monkeypatch, capsys):
    """`eval all` on two protocols, stopped in the second, which would work now."""
    from ibot.eval.probes import cluster

    with only(["knn", "cluster"]):
        run = cluster.run
        monkeypatch.setattr(cluster, "run", _interrupt)
        assert evaluate(world, tmp_path, "all", "--json") == 130
        monkeypatch.setattr(cluster, "run", run)
        captured = capsys.readouterr()
        assert {json.loads(line)["protocol"] for line in captured.out.splitlines()} == {"knn"}
        assert "the same command goes on from what is done" in captured.err
        assert str(tmp_path / "cache") in captured.err
        yield


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.usefixtures("interrupted")
def test_what_all_has_done_before_is_told_beside_the_records(world, tmp_path, capsys, quiet):
    assert evaluate(world, tmp_path, "all", "--json", *(["--quiet"] if quiet else [])) == 0
    captured = capsys.readouterr()
    assert {json.loads(line)["protocol"] for line in captured.out.splitlines()} == {"cluster"}
    assert ("done before" in captured.err and "knn" in captured.err) != quiet


@pytest.mark.parametrize("rows", [None, [], [{"protocol": "knn", "weights_hash": "another"}]])
@pytest.mark.usefixtures("interrupted")
def test_all_repeats_what_left_no_records_of_these_weights(world, tmp_path, rows):
    results = tmp_path / "out" / "results.jsonl"
    if rows is None:
        results.unlink()
    else:
        results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert evaluate(world, tmp_path, "all") == 0
    made = [row["protocol"] for row in records(tmp_path) if row["weights_hash"] != "another"]
    assert made == ["knn"] * 4 + ["cluster"] * 5


@pytest.mark.usefixtures("interrupted")
def test_all_of_a_complete_run_does_nothing_unless_told_or_something_differs(
    world, tmp_path, capsys
):
    assert evaluate(world, tmp_path, "all") == 0
    made = records(tmp_path)
    assert [row["protocol"] for row in made] == ["knn"] * 4 + ["cluster"] * 5
    capsys.readouterr()
    assert evaluate(world, tmp_path, "all") == 0
    captured = capsys.readouterr()
    assert records(tmp_path) == made
    assert len(captured.out.splitlines()) == 5, "the summary alone"
    assert (
        all(f"{name}: done before" in captured.err for name in ("knn", "cluster"))
        and "--again" in captured.err
    )
    for other in (
        ["--again"],
        ["--seed", "1"],
        ["--mode", "published"],
        ["--size", "24"],
        ["--max-train", "20"],
    ):
        before = len(records(tmp_path))
        assert evaluate(world, tmp_path, "all", "--skip", "cluster", *other) == 0
        assert len(records(tmp_path)) > before, other
    assert evaluate(world, tmp_path, "knn", "k=3") == 0 and evaluate(world, tmp_path, "all") == 0
    assert records(tmp_path)[-1]["settings"]["k"] == 3, (
        "with other settings it is another evaluation"
    )


@pytest.mark.usefixtures("interrupted")
def test_all_counts_what_was_evaluated_alone(world, tmp_path):
    assert evaluate(world, tmp_path, "cluster") == 0 and evaluate(world, tmp_path, "all") == 0
    assert [row["protocol"] for row in records(tmp_path)] == ["knn"] * 4 + ["cluster"] * 5


def _interrupt(*_):
    raise KeyboardInterrupt


def _fail(*_):
    from ibot.errors import UserError

    raise UserError("cannot")
