"""Features on disk, shared by all evaluations of one network on one set of images.

A folder of the cache belongs to one feature of one set: its name is a hash of the weights, the
images, the view and the feature, so changed weights or images never meet old features. A set that
grew takes the rows of its older images from where they lie and computes the others. Rows are
written at the place of their image, and a byte per image says whether it is done: an interrupted
pass goes on where it stopped, and several processes write into one file. Images that could not be
read are tried again by every later pass: the disk may have been at fault. Rows are mapped, not
read: a set of 1.3 million images needs no memory for its features. Of two runs that want the same
rows, one computes them and the other waits.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import IO, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.data.sets.images import Images, keys_of
from ibot.data.sets.same_channels import require_channels
from ibot.eval.features.entry import BAD, DONE, Entry, disk_errors, name_of
from ibot.eval.features.reuse import take_known
from ibot.eval.features.rows import FeatureSet
from ibot.eval.features.tokens import compute, finite
from ibot.eval.features.views import View, in_batches, view_batches
from ibot.models.contract import Backbone
from ibot.system.distributed import any_true, barrier
from ibot.system.portable import lock, unlock
from ibot.system.processes import Processes
from ibot.weights.read import Loaded

log = logging.getLogger("ibot")

POLL_SECONDS = 0.5

K = TypeVar("K", bound=Hashable)
"""A `Feature`, or what another `Extract` knows. Its text names it in the cache."""
Extract = Callable[[Tensor, Sequence[K]], Mapping[K, Tensor]]
"""Normalised images [b, C, h, w] on the device and features -> rows [b, d] of each, of a type that
numpy knows: float32 of class tokens, but words or bits may be smaller."""


def weights_hash(loaded: Loaded) -> str:
    """SHA-256 over all that decides the features of a network, whatever file it lies in.

    That is names, shapes and bytes of its tensors, its settings and the size it was built for.
    """
    # Not `str`: that is for users, and silent about norms, pooling and the position table.
    digest = hashlib.sha256(f"{loaded.config!r} {loaded.built_for};".encode())
    # Settings that were added later count where they are set, so that older features stay valid.
    later = [f for f in fields(loaded.config) if not f.repr]
    values = {f.name: getattr(loaded.config, f.name) for f in later}
    changed = {f.name: values[f.name] for f in later if values[f.name] != f.default}
    digest.update(repr(changed).encode() if changed else b"")
    for name, tensor in sorted(loaded.backbone.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cached_features(
    backbone: Backbone,
    weights: str,
    images: Images,
    view: View,
    features: Sequence[K],
    folder: Path,
    *,
    extract: Extract[K] | None = None,
    batch: int = 256,
    device: torch.device | str = "cpu",
    workers: int = 0,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> dict[K, FeatureSet]:
    """Features of all images, computed in one pass for those that the cache lacks.

    Args:
        backbone: in evaluation mode on `device`.
        weights: its `weights_hash`.
        images: the set.
        view: how images become inputs.
        features: which ones.
        folder: the cache.
        extract: makes features from images; None: `features.compute` with the backbone.
        batch: images per forward pass; the same composition whatever the number of processes. One
            where images keep shapes of their own.
        device: where the backbone is.
        workers: processes that decode.
        processes: this process among those that share the work; all see the same `folder`.
        progress: called with images done and in all.

    Raises:
        DataError: none of the images can be read, or they have other channels than the network.
        WeightsError: the network's outputs are not finite.
        ResourceError: the disk is full.
        UserError: the cache cannot be written.
    """
    entries = {feature: Entry(folder, weights, images, view, feature) for feature in features}
    extract = extract or cast("Extract[K]", partial(compute, backbone))
    return filled(
        entries,
        extract,
        backbone,
        images,
        view,
        batch=batch,
        device=torch.device(device),
        workers=workers,
        processes=processes,
        progress=progress,
    )


def filled(
    entries: Mapping[K, Entry],
    extract: Extract[K],
    backbone: Backbone,
    images: Images,
    view: View,
    *,
    batch: int,
    device: torch.device,
    workers: int,
    processes: Processes,
    progress: Callable[[int, int], None] | None,
) -> dict[K, FeatureSet]:
    """What `entries` of any networks hold after a pass for those that lack rows.

    `backbone` says how the images are normalised; all else as of `cached_features`.
    """
    require_channels(images, backbone.channels)
    batch = 1 if view.varies else batch
    if not any_true(not all(entry.complete() for entry in entries.values())):
        whole = len(images)
        return {f: entry.read(images, cached=True, known=whole) for f, entry in entries.items()}
    folder = next(iter(entries.values())).folder
    with ExitStack() as locks:
        # In an order that all runs keep, or two would wait for each other.
        names = {name_of({**entry.about, "feature": "any"}) for entry in entries.values()}
        for lock in sorted(f"{name}.lock" for name in names):
            locks.enter_context(alone(folder, lock, processes))
        missing = {feature: entry for feature, entry in entries.items() if not entry.complete()}
        before = {feature: entry.num_done() for feature, entry in entries.items()}
        taken: dict[K, int] = {}  # of other sets; told by the main process alone
        barrier()  # nobody changes an entry before everybody has looked
        if missing:  # still: another run may have been waited for
            if processes.is_main:
                taken = _create(extract, missing, images, view, device)
            barrier()
            read = partial(normalize, statistics=backbone.statistics)
            _fill(
                extract,
                images,
                view,
                missing,
                batch,
                device,
                read=read,
                workers=workers,
                processes=processes,
                progress=progress,
            )
            barrier()
            if processes.is_main:
                for entry in missing.values():
                    entry.finish()
            barrier()
        found = {
            f: entry.read(
                images,
                cached=entry.num_done() == before[f],
                known=before[f] + taken.get(f, 0),
            )
            for f, entry in entries.items()
        }
        barrier()  # no other run changes an entry before everybody has mapped it
    return found


@contextmanager
def alone(folder: Path, name: str, processes: Processes) -> Iterator[None]:
    """Wait for other runs to leave what the lock `name` guards in a folder, then keep them out."""
    file, told = None, False
    if processes.is_main:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / name).open("a")
    try:
        # Polled: the other processes would give up a single long wait.
        while not any_true(file is not None and _locked(file, folder)):
            if processes.is_main and not told:
                log.warning(
                    "waiting for another process that computes the same features in '%s'", folder
                )
                told = True
            time.sleep(POLL_SECONDS)
        yield
    finally:
        if file is not None:
            # Closing does not suffice while a loader process lives.
            unlock(file)
            file.close()


def _locked(file: IO[str], folder: Path) -> bool:
    """Take the lock if it is free."""
    with disk_errors(folder):
        try:
            lock(file)
        except BlockingIOError:
            return False
        return True


def _create(
    extract: Extract[K], entries: dict[K, Entry], images: Images, view: View, device: torch.device
) -> dict[K, int]:
    """Prepare the entries for a pass over the images.

    New ones begin with what is known of these images from other sets; returns how many rows.
    """
    for entry in entries.values():
        entry.forget_bad()
    new = {feature: entry for feature, entry in entries.items() if not entry.begun()}
    if not new:
        return {}
    count, channels = len(images), len(images.channels)
    with torch.inference_mode():
        found = extract(_blank(channels, view, device), list(new))
        shapes = {f: (rows.shape[1], rows.cpu().numpy().dtype) for f, rows in found.items()}
    num_bytes = sum(count * (kind.itemsize * width + 1) for width, kind in shapes.values())
    try:
        with disk_errors(next(iter(new.values())).folder, num_bytes):
            for feature, entry in new.items():
                entry.create(count, *shapes[feature])
            return take_known(new, keys_of(images))
    except BaseException:
        for entry in new.values():
            entry.remove()
        raise


def _blank(channels: int, view: View, device: torch.device) -> Tensor:
    return torch.zeros(1, channels, *view.size, device=device)


def _fill(
    extract: Extract[K],
    images: Images,
    view: View,
    entries: dict[K, Entry],
    batch: int,
    device: torch.device,
    *,
    read: Callable[[Tensor], Tensor],
    workers: int,
    processes: Processes,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Compute what this process has to: of every W-th batch the rows that some entry lacks."""
    states = [entry.state("r+") for entry in entries.values()]
    rows = {feature: entry.rows("r+") for feature, entry in entries.items()}
    mine = in_batches(np.arange(len(images)), batch)[processes.rank :: processes.world_size]
    todo = [part[np.any([state[part] != DONE for state in states], axis=0)] for part in mine]
    todo = [part for part in todo if len(part)]
    total, done = sum(map(len, mine)), sum(map(len, mine)) - sum(map(len, todo))
    for part, positions in zip(view_batches(images, view, todo, workers), todo, strict=True):
        if len(part.positions):
            with torch.inference_mode():
                found = extract(read(part.views.to(device)), list(entries))
            for feature, values in found.items():
                rows[feature][part.positions] = finite(values.cpu()).numpy()
        bad = [position for position, _ in part.bad]
        for entry, state in zip(entries.values(), states, strict=True):
            entry.report_bad(part.bad)
            # Marked last: a row that counts as done is there, and stays.
            state[part.positions] = DONE
            state[bad] = np.where(state[bad] == DONE, DONE, BAD)
        done += len(positions)
        if progress is not None:
            progress(done, total)
    for array in (*states, *rows.values()):
        array.flush()
