"""A folder with all that the commands of README and docs/ name, small."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from doc_commands import README, commands, run
from PIL import Image
from slides import tissue, write_pyramid

GOLDEN = Path(__file__).parent / "golden"
PARTS = ("train/cat", "train/dog", "val/cat", "val/dog")
LABELLED = ("labelled", "imagenet", "DIR", "tiles", "imagenette160", "cifar10")
BANDS = ("B02", "B03", "B04", "B08")


def pictures(folder: Path, count: int, seed: int, mode: str = "RGB") -> None:
    """Small pictures, none of them square: JPEG, or PNG of 16 bits with a black border."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        picture = coarse.resize((80 + i, 70), Image.Resampling.BICUBIC)
        if mode == "RGB":
            picture.save(folder / f"{seed}_{i}.jpg")
            continue
        levels = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        levels[:, :9] = levels[:, -9:] = 0
        Image.fromarray(levels).save(folder / f"{seed}_{i}.png")


def scenes(folder: Path, count: int, seed: int, sides: tuple[int, int] = (70, 80)) -> None:
    """Pictures of four bands of 16 bits, interleaved, in TIFF."""
    tifffile = pytest.importorskip("tifffile")
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        values = random.integers(0, 3000, (*sides, len(BANDS)), dtype=np.uint16)
        how = {"photometric": "minisblack", "planarconfig": "contig", "tile": (64, 64)}
        tifffile.imwrite(folder / f"{seed}_{i}.tif", values, **how)


def channel_files(folder: Path, count: int) -> None:
    """A file for each channel of an image."""
    codecs = pytest.importorskip("imagecodecs")
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    for i in range(count):
        for channel in ("DAPI", "actin", "tubulin"):
            values = random.integers(0, 4096, (72, 75), dtype=np.uint16)
            content = codecs.jpeg2k_encode(values, level=0, reversible=True)
            (folder / f"well{i}_{channel}.jp2").write_bytes(content)


def table(root: Path) -> None:
    """patients.csv: the radiographs of a patient are in one part."""
    lines = ["path,label,split"]
    for i, file in enumerate(sorted((root / "xrays").rglob("*.png"))):
        part = "train" if i % 4 < 3 else "val"
        lines.append(f"{file.relative_to(root)},{('normal', 'finding')[i % 2]},{part}")
    (root / "patients.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def docs_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is named, with a run made and measured by the README's first commands; it is not to
    be changed.
    """
    folder = tmp_path_factory.mktemp("docs")
    for seed, place in enumerate(("holiday", "garden")):
        pictures(folder / "photos" / place, 8, seed)
    pictures(folder / "photos", 1, 2)
    (folder / "photos" / "2_0.jpg").rename(folder / "photos" / "dog.jpg")
    for name in LABELLED:
        for seed, part in enumerate(PARTS):
            pictures(folder / name / part, 6, seed)
    shutil.copytree(folder / "photos", folder / "new")
    for name in ("products", "catalogue"):
        shutil.copytree(folder / "photos", folder / name)
    for name in ("dog.jpg", "query.jpg"):
        shutil.copy(folder / "photos" / "dog.jpg", folder / name)
    pictures(folder / "xrays", 16, 5, mode="16 bits")
    table(folder)
    shutil.copy(GOLDEN / "published_checkpoint.pth", folder / "FILE")
    shutil.copy(GOLDEN / "published_checkpoint.pth", folder / "checkpoint.pth")
    for ours, theirs in (("backbone_teacher", "checkpoint_teacher"), ("published_checkpoint",) * 2):
        place = folder / "mirror" / "vits_16" / f"{theirs.replace('published_', '')}.pth"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GOLDEN / f"{ours}.pth", place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "caches"))
        for start in ("ibot pretrain auto", "ibot eval knn"):
            run(next(line for line in commands(README) if line.startswith(start)))
    shutil.copytree(folder / "runs" / "photos", folder / "runs" / "other")
    shutil.copytree(folder / "runs" / "photos", folder / "WEIGHTS")
    return folder


@pytest.fixture
def docs_here(docs_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that is named, as the current folder, without a network."""
    shutil.copytree(docs_world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("IBOT_WEIGHTS_MIRROR", str(tmp_path / "here" / "mirror"))
    monkeypatch.setattr("ibot.engine.trial.SECONDS", 0.0)  # plans as short as can be
    return tmp_path / "here"


def special_images(folder: Path) -> None:
    """Images of several channels, and larger ones than memory, where a page needs them."""
    scenes(folder / "scenes", 16, 8)
    for seed, part in enumerate(("train/crop", "train/forest", "val/crop", "val/forest")):
        scenes(folder / "labelled_scenes" / part, 4, seed)
    scenes(folder / "large_scenes", 2, 9, (512, 768))
    channel_files(folder / "cells", 12)
    (folder / "slides").mkdir()
    for i in range(2):
        write_pyramid(folder / "slides" / f"{i}.tif", tissue(1040, 1100, i))
    random = np.random.default_rng(0)
    (folder / "stack").mkdir()
    np.save(folder / "stack" / "images.npy", random.integers(0, 256, (16, 40, 44, 3), np.uint8))
