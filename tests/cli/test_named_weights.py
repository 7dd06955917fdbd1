"""Every command that takes weights takes their names: those of docs/weights.md, as they stand
there.

Small files lie where the large ones would: a folder in the place of the published address, and the
hub's cache.
"""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_cache import offline_hub
from PIL import Image

import ibot
from ibot.cli.main import main
from ibot.weights import hub
from ibot.weights.files import read_pickle

PAGE = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.S | re.M)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
]
SHORT = (
    *("--steps", "1", "--device", "cpu", "train.batch=4", "head.out_dim=32"),
    *("head.patch_out_dim=32", "augment.num_local=1", "system.workers=0", "log.tensorboard=false"),
    *("evaluate.max_train=8", "evaluate.max_val=4", "head.hidden_dim=32", "head.bottleneck_dim=16"),
)
SEEN = ("--device", "cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch, golden):
    """A folder with images, and weights where their names are looked for."""
    random = np.random.default_rng(0)
    for data in ("photos", "tiles"):
        for part, label in [("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")]:
            (tmp_path / data / part / label).mkdir(parents=True)
            for i in range(4):
                pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / data / part / label / f"{i}.png")
    (tmp_path / "mirror" / "vits_16").mkdir(parents=True)
    for ours, theirs in [
        ("backbone_teacher.pth", "checkpoint_teacher.pth"),
        ("published_checkpoint.pth", "checkpoint.pth"),
    ]:
        file = tmp_path / "mirror" / "vits_16" / theirs
        file.write_bytes((golden / ours).read_bytes())
    repositories = ["owkin--phikon", "timm--vit_small_patch16_224.dino"]
    offline_hub(tmp_path / "hub", repositories, monkeypatch)
    monkeypatch.setenv("IBOT_WEIGHTS_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    hub.from_hub.cache_clear()


def run(*words):
    """A command of the page, kept small, on the CPU."""
    added: tuple[str, ...] = ()
    if words[0] == "pretrain":
        added = SHORT
    elif words[0] != "weights":
        added = SEEN
    if words[0] in ("eval", "search", "explore"):
        added = (*added, "--cache", "features")
    assert main([*words, *added]) == 0, words


def test_the_page_s_commands_run_word_by_word(folder, capsys):
    names = set()
    for words in COMMANDS:
        if words[0] == "export":
            assert words[1].startswith("IBOT_WEIGHTS_MIRROR=")
            continue
        assert words[0] == "ibot"
        run(*words[1:])
        names |= {word.split(":")[0] for word in words if re.match(r"(hf|timm|ibot):", word)}
    assert names == {"hf", "timm", "ibot"} and len(COMMANDS) > 12
    assert "guessed: heads" not in capsys.readouterr().err.split("hf:")[0], "it is known of ours"
    results = {path.name for path in (folder / "results").iterdir()}
    assert {"ibot-vit_s16", "hf-owkin-phikon", "ibot-vit_s16-full"} <= results
    assert (folder / "runs" / "published" / "checkpoints" / "last").is_file()
    kept = json.loads((folder / "runs" / "adapted" / "config.json").read_text())
    assert kept["train"]["init"] == "ibot:vit_s16"


def test_the_page_s_python_runs(folder):
    (code,) = [block for language, block in BLOCKS if language == "python"]
    held: dict = {}
    exec(code, held)
    assert held["backbone"].embed_dim == 64 and len(held["features"].names) == 8


def test_the_page_s_table_is_what_the_command_says(folder, capsys):
    assert main(["weights", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    rows = [
        line.split("|")[1:-1]
        for line in PAGE.splitlines()
        if re.match(r"\| `ibot:\w+` \| [VS]", line)
    ]
    assert len(rows) == 9
    for row in rows:
        name, network, data, parameters, size, holds, knn = (cell.strip(" `") for cell in row)
        line = next(line for line in listed if line.startswith(f"{name} "))
        called = network.partition(",")[0]
        assert line.split() == [
            name,
            called,
            data,
            parameters,
            f"~{size.split()[0]}",
            "MiB",
            knn,
            holds,
        ]


def test_what_is_here_is_marked_and_json_says_where(folder, capsys):
    run("weights", "inspect", "ibot:vit_s16")
    assert str(folder / "cache" / "ibot" / "weights" / "vits_16") in capsys.readouterr().out
    run("weights", "list")
    marked = [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("here")
    ]
    assert marked == ["ibot:vit_s16"]
    run("weights", "list", "--json")
    first, second, *_ = json.loads(capsys.readouterr().out)
    assert first["is_here"] and Path(first["file"]).is_file() and not second["is_here"]
    assert second["address"].endswith("swint_7/checkpoint_teacher.pth")


def test_a_run_keeps_the_name_and_the_hash_of_the_file(folder):
    frozen = ["method.patch_target=frozen", "method.tokenizer=ibot:vit_s16-full"]
    run("pretrain", "adapt", "--init", "ibot:vit_s16", "--data", "photos", "--run", "r", *frozen)
    kept = json.loads((folder / "r" / "provenance.json").read_text())["weights"]
    assert kept["init"]["name"] == "ibot:vit_s16"
    assert kept["tokenizer"]["name"] == "ibot:vit_s16-full"
    file = folder / "cache" / "ibot" / "weights" / "vits_16" / "checkpoint_teacher.pth"
    pinned = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert kept["init"]["file"] == str(file) and kept["init"]["sha256"] == pinned["sha256"]


@pytest.mark.slow
def test_a_run_that_was_started_from_a_name_goes_on(folder, capsys):
    words = ["pretrain", "adapt", "--init", "ibot:vit_s16", "--data", "photos", "--run", "r"]
    run(*words)
    short = [word.replace("1", "2") if i == 1 else word for i, word in enumerate(SHORT)]
    assert main([*words, *short]) == 0
    assert (folder / "r" / "checkpoints" / "last").read_text().strip().endswith("2")


@pytest.mark.slow
def test_pictures_and_explorer_take_names(folder):
    image = "photos/train/a/0.png"
    run("show", "attention", "hf:owkin/phikon", image)
    run("show", "patterns", "ibot:vit_s16-full", "--data", "photos")
    assert (folder / "results" / "hf-owkin-phikon" / "pictures" / "attention").is_dir()


@pytest.mark.slow
def test_a_run_in_the_folder_where_one_stands_has_nothing_to_do_with_a_name(folder, monkeypatch):
    run("pretrain", "adapt", "--init", "ibot:vit_s16", "--data", "photos", "--run", "r")
    monkeypatch.chdir(folder / "r")
    run("eval", "knn", "ibot:vit_s16", "--data", "../photos")
    run("weights", "export", "ibot:vit_s16", "--to", "safetensors", "--out", "../w.safetensors")
    assert (folder / "r" / "results" / "ibot-vit_s16" / "results.jsonl").is_file()
    card = (folder / "w.safetensors.md").read_text()
    assert "Source: ibot:vit_s16" in card and "Training:" not in card


def test_the_full_checkpoint_goes_in_and_the_network_comes_out_as_timm_has_it(folder):
    run("weights", "export", "ibot:vit_s16", "--to", "published", "--out", "w.pth")
    mine = ibot.load_backbone(folder / "w.pth").state_dict()
    theirs = read_pickle(folder / "mirror" / "vits_16" / "checkpoint_teacher.pth")["state_dict"]
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items() if name in mine)


@pytest.mark.parametrize(
    "words",
    [
        ["features", "{}", "--data", "photos", "--out", "f.npz"],
        ["eval", "knn", "{}", "--data", "photos"],
        ["search", "{}", "--data", "photos"],
        ["show", "attention", "{}", "photos/train/a/0.png"],
        ["index", "{}", "--data", "photos"],
        ["explore", "{}", "--data", "photos", "--export", "p.html"],
        ["weights", "inspect", "{}"],
        ["weights", "convert", "{}", "--run", "c"],
        ["weights", "export", "{}", "--to", "timm", "--out", "t"],
        ["pretrain", "adapt", "--init", "{}", "--data", "photos", "--run", "r"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
@pytest.mark.parametrize("name", ["ibot:swin_t7", "hf:me/nobody"])
def test_without_a_network_it_is_one_error_and_nothing_is_left(folder, capsys, words, name):
    before = names_here()
    assert main([word.format(name) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("ibot: error:") == 1 and "Traceback" not in error
    place = "swint_7/checkpoint_teacher.pth" if name.startswith("ibot") else "models--me--nobody"
    assert f"{place}'" in error.splitlines()[-1] and "copy" in error.splitlines()[-1]
    assert names_here() <= before | {"cache"}


def names_here():
    return {path.name for path in Path().iterdir()}
