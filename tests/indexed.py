"""Runs of random networks and folders of pictures, for what looks at the words of a tokenizer."""

import json
import shutil

import torch
from blobs import blobs, save
from random_weights import VIT, write_random
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ibot.eval.context import ImagesContext
from ibot.eval.opened import opened
from ibot.eval.request import Request

PATCHES = 16
"""Of a view of 32 pixels by `VIT`."""


def write_pictures(folder, count, classes=("cat", "dog")):
    """Pictures of several shapes in class folders; returns the folder."""
    for i in range(count):
        save(folder / classes[i % len(classes)] / f"{i:03}.png", blobs(i, 40 + i % 3, 36))
    return folder


def write_run(folder, steps, *settings):
    """A run whose checkpoints differ a little from each other; returns the folder."""
    file = write_random(folder.with_suffix(".safetensors"), *VIT, *settings, times=8)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for step in steps:
        add_checkpoint(folder, file, step)
    return folder


def add_checkpoint(run, file, step):
    """Write the tensors of a file, changed by the step, as the newest checkpoint."""
    place = run / "checkpoints" / f"step_{step:08}"
    place.mkdir()
    torch.manual_seed(step)
    tensors = {k: t + 0.05 * t.std() * torch.randn_like(t) for k, t in load_file(file).items()}
    with safe_open(file, "pt") as opened_file:
        metadata = opened_file.metadata()
    save_file(tensors, place / "teacher.safetensors", metadata)
    (place / "state.json").write_text(json.dumps({"step": step, "images_seen": 10 * step}))
    (run / "checkpoints" / "last").write_text(f"{place.name}\n")
    return place


def delete_checkpoint(run, step):
    """As a run deletes old ones."""
    shutil.rmtree(run / "checkpoints" / f"step_{step:08}")


def opened_context(weights, data, tmp_path, **more):
    """The context in which an index is built."""
    request = Request(weights=str(weights), data=str(data), cache=str(tmp_path / "cache"), **more)
    return opened(ImagesContext, request, quiet=True)
