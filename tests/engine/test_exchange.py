"""Published full checkpoints become runs that go on, and come back out with every tensor equal."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ibot.cli.main import main
from ibot.config.override import apply
from ibot.engine.exchange import convert_checkpoint, export_checkpoint
from ibot.engine.loop import train
from ibot.errors import WeightsError
from ibot.system.jsonl import read_jsonl
from ibot.weights.read import load_backbone

FOLDER = Path(os.environ.get("IBOT_GOLDEN", Path(__file__).parents[1] / "golden"))
CHECKPOINTS = [
    pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("published_checkpoint*.pth"))
]
SETTINGS = {"published_checkpoint": ["model.heads=3"]}


def test_there_is_a_published_checkpoint():
    assert CHECKPOINTS


@pytest.mark.parametrize("path", CHECKPOINTS)
def test_a_converted_checkpoint_gives_the_stored_tokens_and_goes_back_tensor_by_tensor(
    tmp_path, path
):
    _, state, reports = convert_checkpoint(
        path, tmp_path / "run", settings=SETTINGS.get(path.stem, ()), images=100
    )
    original = torch.load(path, weights_only=False)
    assert state.epoch == original["epoch"] == 2 and state.step == 50
    assert not any(report.missing or report.unused for report in reports.values())
    arrays = np.load(
        FOLDER / f"{path.stem.replace('published_checkpoint', 'checkpoint_expected')}.npz"
    )
    for key in ("student", "teacher"):
        backbone = load_backbone(tmp_path / "run", key).double()
        shapes = [name.split("/")[1] for name in arrays.files if name.startswith("input/")]
        assert {"native", "non_square"} < set(shapes)
        for shape in shapes:
            with torch.no_grad():
                out = backbone(torch.from_numpy(arrays[f"input/{shape}"]).double())
            got = torch.cat([out.cls[:, None], out.patches], 1).numpy()
            assert np.abs(got - arrays[f"{key}/{shape}"]).max() < 1e-9 * max(1, np.abs(got).max())
    export_checkpoint(tmp_path / "run", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=False)
    for name in ("student", "teacher", "ibot_loss"):
        assert list(back[name]) == list(original[name])
        assert all(torch.equal(back[name][key], tensor) for key, tensor in original[name].items())
    assert back["optimizer"]["state"].keys() == original["optimizer"]["state"].keys()
    for index, moments in original["optimizer"]["state"].items():
        assert all(
            torch.equal(back["optimizer"]["state"][index][key], value)
            for key, value in moments.items()
        )
    assert (
        back["epoch"] == original["epoch"]
        and vars(back["args"])["lr"] == vars(original["args"])["lr"]
    )


@pytest.mark.parametrize("path", CHECKPOINTS)
def test_a_converted_checkpoint_trains_on(tmp_path, path, capsys, pictures):
    run = tmp_path / "run"
    heads = ["--heads", "3"] if "swin" not in path.stem else []
    assert (
        main(["weights", "convert", str(path), "--run", str(run), "--data", str(pictures), *heads])
        == 0
    )
    printed = capsys.readouterr().out
    assert "go on:" in printed and "assumed" not in printed
    command = [
        "pretrain",
        str(run / "config.json"),
        "--run",
        str(run),
        "--data",
        str(pictures),
        "--steps",
        "27",
    ]
    assert main([*command, "system.workers=0", "log.every=1", "--quiet"]) == 0
    rows = read_jsonl(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [25, 26, 27] and all(
        np.isfinite(row["cls_loss"]) for row in rows
    )
    assert json.loads((run / "config.json").read_text())["optim"]["lr"] == 0.0005


def test_nan_goes_neither_in_nor_out(tmp_path, golden):
    content = torch.load(golden / "published_checkpoint.pth", weights_only=False)
    content["teacher"]["head.mlp.0.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match="cannot be used") as caught:
        convert_checkpoint(
            tmp_path / "nan.pth", tmp_path / "run", settings=["model.heads=3"], images=100
        )
    assert "head.mlp.0.bias (NaN)" in caught.value.why and not (tmp_path / "run").exists()
    path = golden / "published_checkpoint.pth"
    convert_checkpoint(path, tmp_path / "run", settings=["model.heads=3"], images=100)
    [file] = (tmp_path / "run" / "checkpoints").glob("*/teacher.safetensors")
    tensors = load_file(file)
    tensors["backbone.norm.bias"][0] = float("inf")
    save_file(tensors, file)
    with pytest.raises(WeightsError, match="cannot be used"):
        export_checkpoint(tmp_path / "run", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_without_their_number_the_images_are_said_to_be_assumed(tmp_path, capsys):
    command = ["weights", "convert", str(FOLDER / "published_checkpoint.pth"), "--heads", "3"]
    assert main([*command, "--run", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert (
        "not in the file, ImageNet's is assumed" in printed
        and "--data DIR or --images N" in printed
    )
    data = json.loads((tmp_path / "run" / "provenance.json").read_text())["data"]
    assert data["images"] == 1281167 and data["images_assumed"]
    out = tmp_path / "out.safetensors"
    assert (
        main(["weights", "export", str(tmp_path / "run"), "--to", "safetensors", "--out", str(out)])
        == 0
    )
    assert "1,281,167 images assumed" in (tmp_path / "out.safetensors.md").read_text()
    capsys.readouterr()
    assert main([*command, "--run", str(tmp_path / "told"), "--images", "100"]) == 0
    assert "assumed" not in capsys.readouterr().out
    assert not json.loads((tmp_path / "told" / "provenance.json").read_text())["data"][
        "images_assumed"
    ]


def test_what_a_converted_checkpoint_does_not_say_is_told_as_a_guess(tmp_path, caplog):
    path = FOLDER / "published_checkpoint.pth"
    convert_checkpoint(path, tmp_path / "told", settings=SETTINGS[path.stem], images=100)
    assert "guessed" not in caplog.text
    convert_checkpoint(path, tmp_path / "guessed", images=100)
    assert "guessed: heads: 1 are assumed" in caplog.text


def test_missing_folders_above_an_exported_checkpoint_are_created(tmp_path, capsys):
    path = FOLDER / "published_checkpoint.pth"
    convert_checkpoint(path, tmp_path / "run", settings=SETTINGS[path.stem], images=100)
    out = tmp_path / "new" / "deep" / "back.pth"
    command = ["weights", "export", str(tmp_path / "run"), "--to", "checkpoint", "--out"]
    assert main([*command, str(out)]) == 0 and out.is_file()
    capsys.readouterr()
    assert main([*command, str(out / "below.pth")]) == 2
    assert "cannot be created" in capsys.readouterr().err


def test_what_is_no_full_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no full checkpoint"):
        convert_checkpoint(FOLDER / "backbone_teacher.pth", tmp_path / "run")
    content = torch.load(FOLDER / "published_checkpoint.pth", weights_only=False)
    content["student"].pop("module.head.mlp.0.weight")
    torch.save(content, tmp_path / "short.pth")
    with pytest.raises(WeightsError) as caught:
        convert_checkpoint(tmp_path / "short.pth", tmp_path / "run", settings=["model.heads=3"])
    assert "does not fit" in caught.value.what and not (tmp_path / "run").exists()
    with pytest.raises(WeightsError, match="no checkpoint"):
        export_checkpoint(tmp_path, tmp_path / "out.pth")


@pytest.mark.parametrize(
    "head", [{"shared": True}, {"shared": False, "shared_teacher": False}, {"bottleneck_dim": 0}]
)
def test_every_head_survives_the_way_out_and_back(tmp_path, head, small):
    """Also with an optimizer that has moments, and duplicates of a shared last layer in the
    file.
    """
    small = apply(small, ["train.length=4 steps"])
    train(replace(small, head=replace(small.head, **head)), tmp_path / "run", quiet=True)
    export_checkpoint(tmp_path / "run", tmp_path / "a.pth")
    convert_checkpoint(
        tmp_path / "a.pth", tmp_path / "again", settings=["model.heads=2"], images=48
    )
    export_checkpoint(tmp_path / "again", tmp_path / "b.pth")
    first, second = (torch.load(tmp_path / name, weights_only=False) for name in ("a.pth", "b.pth"))
    for name in ("student", "teacher"):
        assert any(key.endswith(("last_layer2.weight_v", "mlp2.weight")) for key in first[name])
        assert all(torch.equal(first[name][key], tensor) for key, tensor in second[name].items())


def test_options_for_which_there_is_no_published_argument_are_named(tmp_path, small, capsys):
    options = [
        *("mask.min_block=1", "method.targets=sinkhorn", "method.koleo_weight=0.1"),
        *("method.patch_balance=all", "method.patch_target_norm=false"),
        *("method.patch_residual=true", "method.visible_weight=0.5", "method.visible_target=other"),
    ]
    paper = [
        *("method.targets=center", "method.koleo_weight=0", "model.init=published"),
        *("method.patch_residual=false", "method.visible_weight=0"),
    ]
    for run, asked in {"drawn": options, "attended": ["mask.shape=attention"], "paper": []}.items():
        config = apply(small, ["train.length=1 steps", *paper])
        train(apply(config, asked), tmp_path / run, quiet=True)
        capsys.readouterr()
        command = ["weights", "export", str(tmp_path / run), "--to", "checkpoint", "--out"]
        assert main([*command, str(tmp_path / f"{run}.pth")]) == 0
        told = capsys.readouterr().err
        assert all(name.partition("=")[0] in told for name in asked)
        assert ("no arguments for" in told) == bool(asked)
        assert ("words of patches are of their whole projections" in told) == (run == "drawn")


@pytest.mark.parametrize("compiled", ["_orig_mod.", ""])
def test_arguments_in_a_dictionary_and_names_of_a_compiled_network_are_converted(
    tmp_path, compiled
):
    path = FOLDER / "published_checkpoint.pth"
    content = torch.load(path, weights_only=False)
    content["args"] = vars(content["args"])
    for name, prefix in (("student", "module."), ("teacher", "")):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in content[name].items()}
        content[name] = {f"{prefix}{compiled}{key}": tensor for key, tensor in tensors.items()}
    torch.save(content, tmp_path / "other.pth")
    settings = SETTINGS["published_checkpoint"]
    wanted, _, _ = convert_checkpoint(path, tmp_path / "run", settings=settings, images=100)
    config, _, reports = convert_checkpoint(
        tmp_path / "other.pth", tmp_path / "other", settings=settings, images=100
    )
    assert config == wanted and not any(
        report.missing or report.unused for report in reports.values()
    )
    first, second = (
        load_backbone(folder).state_dict() for folder in (tmp_path / "run", tmp_path / "other")
    )
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
