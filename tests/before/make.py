"""What an earlier version left on disk: a run that is not at its end, results, a feature cache.

    python tests/before/make.py     writes tests/before/left, with the version that is installed

The folder in the repository was made by version 0.1.0 at commit 1990c07; `test_before.py` resumes
and reads it. It is made anew only by that commit, never by the code that is tested.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

LEFT = Path(__file__).parent / "left"
SECONDS = 1_700_000_000
"""When the images were changed last: the cache knows them by it."""
SMALL = [
    "model.width=12",
    "model.depth=1",
    "model.heads=2",
    "model.patch=4",
    "head.out_dim=12",
    "head.patch_out_dim=12",
    "head.hidden_dim=12",
    "head.bottleneck_dim=8",
    "augment.global_size=16",
    "augment.local_size=8",
    "augment.num_local=1",
    "train.batch=4",
    "train.length=12 steps",
    "train.precision=float32",
    "log.every=2",
    "log.tensorboard=false",
    "checkpoint.every=4 steps",
    "checkpoint.keep=1",
    "evaluate.every=4 steps",
    "system.workers=0",
    "system.threads=1",
]


def stamp(folder):
    """Give all images the time that the cache knows."""
    for i, file in enumerate(sorted(folder.rglob("*.png"))):
        os.utime(file, ns=(SECONDS * 10**9, (SECONDS + i) * 10**9))


def draw(folder):
    """Two classes of noise, dark and light; and the same without classes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 3)):
        for label, low in (("dark", 0), ("light", 120)):
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(low, low + 130, (16, 16, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{i}.png")
    (folder / "flat").mkdir()
    for file in (folder / "val").rglob("*.png"):
        shutil.copy(file, folder / "flat" / f"{file.parent.name}{file.name}")


def main():
    shutil.rmtree(LEFT, ignore_errors=True)
    LEFT.mkdir()
    os.chdir(LEFT)
    draw(Path("images"))
    Path("parts").mkdir()
    for part in ("train", "val"):
        Path("images", part).rename(Path("parts", part))
    Path("images", "flat").rename("flat")
    Path("images").rmdir()
    for folder in ("parts", "flat"):
        stamp(Path(folder))
    whole = ["pretrain", "tiny32", "--data", "parts", "--device", "cpu", *SMALL]
    ibot(*whole, "--run", "whole")
    ibot(*whole, "--run", "run", "--steps", "8")
    places = ["--cache", "cache", "--device", "cpu"]
    ibot("eval", "knn", "run", "--data", "parts", "k=1,3", *places)
    ibot("eval", "linear", "run", "--data", "parts", "augment=none", "epochs=2", *places)
    ibot("search", "run", "--data", "flat", "--out", "found", *places)
    rows = [json.loads(line) for line in Path("whole", "metrics.jsonl").read_text().splitlines()]
    Path("whole.json").write_text(json.dumps(rows, indent=1) + "\n")
    for name in ("whole", "found"):
        shutil.rmtree(name)
    for file in [*Path("run").glob("*.safetensors"), *Path().rglob("lock")]:
        file.unlink()
    provenance = json.loads(Path("run", "provenance.json").read_text())
    nowhere = {"host": "elsewhere", "platform": "", "argv": []}
    Path("run", "provenance.json").write_text(json.dumps({**provenance, **nowhere}, indent=2))


def ibot(*arguments):
    subprocess.run([sys.executable, "-m", "ibot", *arguments], check=True)


if __name__ == "__main__":
    main()
