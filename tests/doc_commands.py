"""The commands that README and docs/*.md show, and how a test runs them, word by word.

Words are only added at the end, so that trainings stay small; the one word that is replaced is the
number of processes, two here.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ibot.cli.main import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = {path.name: path for path in (README, *sorted((ROOT / "docs").glob("*.md")))}
CALLED = ("ibot", "torchrun", "make", "srun", "python", "bash", "git", "pip", "uv", "docker")
"""What the first word of a block of commands may be; or it is a path of the environment."""

TINY = (
    "model.width=24 model.depth=2 model.heads=2 head.hidden_dim=32 head.bottleneck_dim=16 "
    "train.precision=float32"
)
SHORT = (
    "--steps 2 --device cpu train.batch=8 head.out_dim=32 head.patch_out_dim=32 "
    "augment.num_local=1 system.workers=0 augment.global_size=64 augment.local_size=32 "
    "evaluate.max_train=8 evaluate.max_val=4 log.tensorboard=false"
)
SEEN = "--cache cache --device cpu"
ADDED = {
    "ibot pretrain adapt": SHORT.replace(" augment.global_size=64 augment.local_size=32", ""),
    "ibot pretrain --run": "--device cpu --steps 4 system.workers=0",
    "ibot pretrain": f"{SHORT} {TINY}",
    "torchrun": f"{SHORT} {TINY}",
    "ibot plan vit_s16 --device": "",  # by formula: nothing is made smaller
    "ibot plan one_gpu --device": "",
    "ibot plan": "--device cpu model.width=24 model.depth=2 model.heads=2 augment.global_size=64",
    "ibot eval all": f"{SEEN} --max-train 12 --max-val 6 --baselines none --json",
    "ibot eval": SEEN,
    "ibot search": SEEN,
    "ibot features": "--device cpu",
    "ibot predict": "--device cpu",
    "ibot show": "--device cpu",
    "ibot index": "--device cpu",
    "ibot explore": f"{SEEN} --no-browser --port 0",
    "ibot ablate loss_ratio": "--list",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of what stands between fences."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M)


def commands(page: Path) -> list[str]:
    """Lines of the blocks without a language that begin with a command, continued ones joined."""
    found = []
    for language, text in blocks(page):
        lines = text.replace("\\\n", " ").splitlines()
        if not language and lines and is_command(lines[0]):
            found += [line for line in lines if line.strip()]
    return found


def is_command(line: str) -> bool:
    """Whether a line begins as one, not as something that is printed."""
    first = line.split()[0] if line.split() else ""
    return first in CALLED or ".venv/bin/" in line or first == "export"


def mentioned(page: Path) -> list[str]:
    """Commands within the text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    found = re.findall(r"(?<!`)`((?:ibot|make|torchrun) [^`]+)`(?!`)", text)
    return [" ".join(words.split()) for words in found]


def words_of(command: str) -> list[str]:
    """A command's words, with those that are added; comments fall away."""
    words = shlex.split(command, comments=True)
    words = [re.sub(r"^\.venv/bin/", "", words[0]), *words[1:]]
    added = next((ADDED[start] for start in ADDED if " ".join(words).startswith(start)), "")
    several = {"--nproc-per-node=8": "--nproc-per-node=2"}
    words = [several.get(word, word) for word in words]
    if "--processes" in words:
        words[words.index("--processes") + 1] = "2"
    return [*words, *added.split()]


def run(command: str) -> None:
    """What a reader does with a command; an AssertionError names it."""
    words = words_of(command)
    if "timm" in words and find_spec("timm") is None:
        return
    if words[0] == "make":
        done = subprocess.run(["make", "-n", words[1]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, command
    elif words[:2] == ["ibot", "explore"] and "--export" not in words:
        _served_until_ctrl_c(words)
    elif words[0] == "torchrun" or "--processes" in words:
        # Each of them is the whole training, not what the other one has left.
        shutil.rmtree(words[words.index("--run") + 1], ignore_errors=True)
        script = Path(sys.executable).with_name(words[0])
        done = subprocess.run([script, *words[1:]], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (command, done.stderr)
        assert "2 processes x 4" in done.stdout and "knn_top1" in done.stdout, command
    else:
        assert words[0] == "ibot", f"neither run nor listed with a reason: {command}"
        assert main(words[1:]) == 0, command


def _served_until_ctrl_c(words: list[str]) -> None:
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
