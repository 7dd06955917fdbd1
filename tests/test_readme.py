"""The README's commands, as they stand there, word by word.

Folders and files of their names are made in a temporary folder. Words are only added at the end, so
that trainings stay small; the one word that is replaced is the number of processes, two here.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ibot.cli.main import build_parser, main
from ibot.config.override import apply
from ibot.engine import loop

README = Path(__file__).parents[1] / "README.md"
GOLDEN = Path(__file__).parent / "golden"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(), re.S | re.M)
LINES = [
    line
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.strip()
]
INLINE = [
    " ".join(words.split())
    for words in re.findall(r"(?<!`)`((?:ibot|make) [^`]+)`(?!`)", README.read_text())
]
COMMANDS = list(dict.fromkeys([*LINES, *(words for words in INLINE if "section.key" not in words)]))

TINY = (
    "model.width=24 model.depth=2 model.heads=2 head.hidden_dim=32 head.bottleneck_dim=16 "
    "train.precision=float32"
)
SHORT = (
    "--steps 2 --device cpu train.batch=8 head.out_dim=32 head.patch_out_dim=32 "
    "augment.num_local=1 system.workers=0 "
    "augment.global_size=64 augment.local_size=32 evaluate.max_train=8 evaluate.max_val=4 "
    "log.tensorboard=false"
)
ADDED = {
    "ibot pretrain adapt": SHORT,
    "ibot pretrain": f"{SHORT} {TINY}",
    "torchrun": f"{SHORT} {TINY}",
    "ibot plan": "--device cpu model.width=24 model.depth=2 model.heads=2 augment.global_size=64",
    "ibot eval all": "--cache cache --device cpu --max-train 12 --max-val 6 --json",
    "ibot eval": "--cache cache --device cpu",
    "ibot search": "--cache cache --device cpu",
    "ibot features": "--device cpu",
    "ibot show": "--device cpu",
    "ibot index": "--device cpu",
    "ibot explore": "--device cpu --no-browser --port 0",
    "ibot ablate loss_ratio": "--list",
}
QUICK = (
    "ibot features",
    "ibot eval knn",
    "ibot results",
    "ibot weights inspect",
    "ibot recipes",
    "make",
)


def words_of(command):
    """A command's words, with those that are added; comments fall away."""
    words = shlex.split(command, comments=True)
    added = next((ADDED[start] for start in ADDED if command.startswith(start)), "")
    several = {"--nproc-per-node=8": "--nproc-per-node=2"}
    words = [several.get(word, word) for word in words]
    if "--processes" in words:
        words[words.index("--processes") + 1] = "2"
    return [*words, *added.split()]


def pictures(folder, count, seed):
    """Small JPEG pictures, none of them square."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((80 + i, 70), Image.Resampling.BICUBIC).save(folder / f"{seed}_{i}.jpg")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All that the README names, with a run made and measured by its first commands."""
    folder = tmp_path_factory.mktemp("readme")
    pictures(folder / "photos" / "holiday", 8, 0)
    pictures(folder / "photos" / "garden", 8, 1)
    pictures(folder / "photos" / "pets", 1, 2)
    (folder / "photos" / "pets" / "2_0.jpg").rename(folder / "photos" / "dog.jpg")
    for name in ("labelled", "imagenet"):
        for seed, part in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
            pictures(folder / name / part, 6, seed)
    shutil.copytree(folder / "labelled", folder / "DIR")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for first in ("ibot pretrain auto", "ibot eval knn"):
            assert main(words_of(next(line for line in LINES if line.startswith(first)))[1:]) == 0
    finally:
        os.chdir(before)
    shutil.copytree(folder / "runs" / "photos", folder / "runs" / "other")
    shutil.copytree(folder / "runs" / "photos", folder / "WEIGHTS")
    shutil.copy(GOLDEN / "published_checkpoint.pth", folder / "FILE")
    shutil.copy(GOLDEN / "published_checkpoint.pth", folder / "checkpoint.pth")
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A copy of it, as the current folder."""
    shutil.copytree(world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def quick(command):
    return command.startswith(QUICK)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=() if quick(command) else pytest.mark.slow)
        for command in COMMANDS
    ],
)
def test_a_command_of_the_readme_does_what_it_says(command, here):
    words = words_of(command)
    if "timm" in words and find_spec("timm") is None:
        pytest.skip("needs timm")
    if (
        words[:2] == ["ibot", "pretrain"] and "--run" in words
    ):  # the README's runs of one name follow each other
        shutil.rmtree(words[words.index("--run") + 1], ignore_errors=True)
    if words[0] == "make":
        done = subprocess.run(
            ["make", "-n", words[1]], cwd=README.parent, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout
    elif words[:2] == ["ibot", "explore"]:
        served_until_ctrl_c(words)
    elif words[0] == "torchrun" or "--processes" in words:
        script = Path(sys.executable).with_name(words[0])
        done = subprocess.run([script, *words[1:]], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "2 processes x 4" in done.stdout and "knn_top1" in done.stdout
    else:
        assert main(words[1:]) == 0


def served_until_ctrl_c(words):
    """The explorer says when it is ready, and goes on until somebody ends it."""
    script = Path(sys.executable).with_name(words[0])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([script, *words[1:]], **pipes) as started:
        told = []
        for line in iter(started.stdout.readline, ""):
            told.append(line)
            if line.startswith("ready"):
                started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0, told
        assert any(line.startswith("ready") for line in told), told


@pytest.mark.slow
def test_the_python_of_the_readme_runs(here, monkeypatch):
    (code,) = (block for language, block in BLOCKS if language == "python")
    trained = []

    def train(config, folder):
        trained.append(config)
        settings = [word for word in f"{SHORT} {TINY}".split() if "=" in word]
        return loop_train(
            apply(config, [*settings, "train.max_steps=2", "system.device=cpu"]), folder, quiet=True
        )

    loop_train = loop.train
    monkeypatch.setattr(loop, "train", train)
    names = {}
    exec(code, names)
    assert names["features"].cls.shape == (17, names["backbone"].embed_dim)
    assert names["state"].step == 2 and (here / "runs" / "mine" / "checkpoints" / "last").is_file()
    assert (trained[0].data.path, str(trained[0].train.length), trained[0].train.batch) == (
        "photos",
        "20 epochs",
        16,
    )


def test_no_option_of_ours_stops_torchrun_where_the_readme_calls_it():
    """torchrun takes options behind a module's name for its own where they start alike; not behind
    `--`.
    """
    run = pytest.importorskip("torch.distributed.run")
    line = next(words_of(line) for line in LINES if line.startswith("torchrun"))
    before, after = line[1 : line.index("ibot") + 1], ["pretrain", "tiny32"]
    for option in sorted(options_of(build_parser())):
        read = run.get_args_parser().parse_args([*before, *after, option, "value"])
        assert (read.training_script, read.training_script_args) == (
            "ibot",
            [*after, option, "value"],
        )
        assert read.module and read.nproc_per_node == "2"


def options_of(parser):
    """Every option of every command."""
    found = set()
    for action in parser._actions:
        found.update(action.option_strings)
        for sub in (action.choices or {}).values() if isinstance(action.choices, dict) else ():
            found |= options_of(sub)
    return found
