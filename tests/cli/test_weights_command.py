"""What commands make of weights: NaN, partial fits, wrapped networks, files of no known kind."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ibot.cli.main import main
from ibot.config.schema import ModelConfig
from ibot.engine.start import patch_center
from ibot.models.backbone import build_backbone

SIZE = (16, 16)


@pytest.fixture
def world(tmp_path):
    """Eight images of two classes, twice, and the tensors of a small network."""
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for i in range(4):
                pixels = random.integers(0, 256, (*SIZE, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / label / f"{i}.png")
    torch.manual_seed(0)
    return tmp_path, build_backbone(
        ModelConfig(width=64, depth=2, heads=1, patch=8), SIZE
    ).state_dict()


def command(folder, name: str, *arguments: str) -> list[str]:
    """An evaluation, a search, or an extraction of features with the file w.pth."""
    words = {"features": ["features"], "search": ["search"]}.get(name, ["eval", name])
    out = "f.npz" if name == "features" else "out"
    cache = [] if name == "features" else ["--cache", str(folder / "cache")]
    data = ["--data", str(folder / "data"), "--out", str(folder / out)]
    return [*words, str(folder / "w.pth"), *data, *cache, *arguments]


@pytest.mark.parametrize(
    "name", ["features", "search", "knn", "logistic", "linear", "cluster", "finetune"]
)
def test_nan_ends_every_consumer_with_its_name_and_nothing_written(world, capsys, name):
    folder, state = world
    state["blocks.1.mlp.fc2.weight"][0, 0] = float("nan")
    torch.save(state, folder / "w.pth")
    assert main(command(folder, name)) == 2
    error = capsys.readouterr().err
    assert "blocks.1.mlp.fc2.weight (NaN)" in error and "Traceback" not in error
    assert not (folder / "f.npz").exists() and not (folder / "out").exists()


@pytest.mark.parametrize("target", ["safetensors", "published", "convert"])
def test_nan_is_not_exported_or_converted(world, capsys, target):
    folder, state = world
    state["norm.bias"][0] = float("inf")
    torch.save(state, folder / "w.pth")
    out = str(folder / ("out.pth" if target == "published" else "out.safetensors"))
    action = ["convert", str(folder / "w.pth"), "--run", out]
    if target != "convert":
        action = ["export", str(folder / "w.pth"), "--to", target, "--out", out]
    assert main(["weights", *action]) == 2
    assert "norm.bias (infinity)" in capsys.readouterr().err
    assert not (folder / "out.pth").exists() and not (folder / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["features", "knn", "linear", "search"])
def test_weights_that_overflow_end_in_the_reason(world, capsys, name):
    folder, state = world
    state["blocks.1.mlp.fc2.weight"] *= 3e38
    state["blocks.1.mlp.fc2.bias"] += 3e38
    torch.save(state, folder / "w.pth")
    assert main(command(folder, name)) == 2
    assert "outputs are not finite" in capsys.readouterr().err and not (folder / "f.npz").exists()


@pytest.mark.parametrize("name", ["features", "knn", "search"])
def test_the_partial_fit_that_is_advised_exists(world, capsys, caplog, name):
    folder, state = world
    del state["norm.bias"]
    torch.save(state, folder / "w.pth")
    assert main(command(folder, name)) == 2
    assert "--allow-partial" in capsys.readouterr().err
    assert main(command(folder, name, "--allow-partial")) == 0
    assert "missing 1 (norm.bias)" in caplog.text


def test_inspect_groups_names_lists_all_and_says_what_is_bad(world, capsys):
    folder, state = world
    torch.save(
        {"state_dict": {f"net._orig_mod.{name}": tensor for name, tensor in state.items()}},
        folder / "w.pth",
    )
    assert main(["weights", "inspect", str(folder / "w.pth")]) == 0
    grouped = capsys.readouterr().out
    assert "state_dict.net._orig_mod.blocks.*.norm1.weight (64,) float32, 2 times" in grouped
    assert "guessed   heads: 1 are assumed" in grouped
    assert main(["weights", "inspect", str(folder / "w.pth"), "--all"]) == 0
    assert "blocks.1.norm1.weight (64,) float32" in capsys.readouterr().out
    state["cls_token"][0] = float("nan")
    torch.save(state, folder / "w.pth")
    assert main(["weights", "inspect", str(folder / "w.pth")]) == 2
    shown = capsys.readouterr()
    assert "bad       cls_token holds NaN" in shown.out and "cls_token (NaN)" in shown.err


def test_inspect_says_what_a_file_without_a_network_holds(tmp_path, capsys):
    torch.save({"epoch": 3, "scores": [1.0], "table": {"a": torch.zeros(2, 3)}}, tmp_path / "x.pth")
    assert main(["weights", "inspect", str(tmp_path / "x.pth")]) == 2
    shown = capsys.readouterr()
    assert "table.a (2, 3) float32" in shown.out and "holds no network 'teacher'" in shown.err


def test_inspect_reads_plain_pickles_of_arrays_and_runs_nothing(tmp_path, capsys):
    import pickle
    from pathlib import Path

    content = {"blobs": {"conv1_w": np.zeros((2, 3), np.float32)}, "made": Path("x")}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=2))
    assert main(["weights", "inspect", str(tmp_path / "x.pkl")]) == 2
    shown = capsys.readouterr().out
    assert "blobs.conv1_w (2, 3) float32" in shown and "not run: pathlib" in shown


EVIL = "x\x1b[2J\r\nfit       matched 150\u202e"


def short(text: str) -> bytes:
    """As protocol 4 writes it."""
    return b"\x8c" + bytes([len(text.encode())]) + text.encode()


@pytest.mark.parametrize("place", ["tensor", "tensors alone", "number", "networks", "class"])
def test_names_in_a_file_stay_one_line_of_visible_letters(world, capsys, place):
    folder, state = world
    other = {name: tensor + 1 for name, tensor in state.items()}
    contents = {
        "tensor": {"state_dict": {**state, EVIL: torch.ones(1)}},
        "tensors alone": {EVIL: torch.ones(1)},
    }
    contents |= {"number": {EVIL: 1}, "networks": {"a": state, EVIL: other}}
    torch.save(contents.get(place), folder / "w.pth")
    if place == "class":
        (folder / "w.pth").write_bytes(
            b"\x80\x04}" + short("a") + short("m") + short(EVIL) + b"\x93s."
        )
    for words in (["inspect"], ["convert", "--run", str(folder / "run")]):
        assert main(["weights", *words, str(folder / "w.pth")]) == 2
        shown = "".join(capsys.readouterr())
        assert "x\\x1b[2J" in shown and "\x1b" not in shown and "\u202e" not in shown
        assert not any(line.startswith("fit") for line in shown.splitlines())


def test_an_index_of_shards_is_converted_and_started_from(world, capsys):
    folder, state = world
    names = list(state)
    for number, part in enumerate((names[:9], names[9:])):
        save_file({name: state[name] for name in part}, folder / f"{number}.safetensors")
    where = {name: f"{int(number >= 9)}.safetensors" for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    index = folder / "model.safetensors.index.json"
    assert main(["weights", "convert", str(index), "--run", str(folder / "ours")]) == 0
    assert "missing 0, unused 0" in capsys.readouterr().out
    assert patch_center(index) is None
