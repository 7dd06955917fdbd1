"""Features on disk, shared by all evaluations of one network on one set of images.

A folder of the cache belongs to one feature of one set: its name is a hash of the weights, the
images, the view and the feature, so changed weights or images never meet old features. Rows are
written at the place of their image, and a byte per image says whether it is done: an interrupted
pass goes on where it stopped, and several processes write into one file. Images that could not be
read are tried again by every later pass: the disk may have been at fault. Rows are mapped, not
read: a set of 1.3 million images needs no memory for its features. Of two runs that want the same
rows, one computes them and the other waits.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.pixels import normalize
from ibot.data.sets.labelled import LabelledImages
from ibot.errors import DataError, ResourceError, UserError
from ibot.eval.features.tokens import compute, finite
from ibot.eval.features.views import View, in_batches, view_batches
from ibot.models.backbone import BackboneModule
from ibot.system.distributed import any_true, barrier
from ibot.system.files import is_disk_full, replacing
from ibot.system.jsonl import append_jsonl, read_jsonl
from ibot.system.processes import Processes
from ibot.weights.read import Loaded

log = logging.getLogger("ibot")

FORMAT = 2
"""Raised when the meaning of a row changes."""
CHUNK = 16384
"""Rows that are copied at a time."""
POLL_SECONDS = 0.5
_TODO, _DONE, _BAD = 0, 1, 2

K = TypeVar("K", bound=Hashable)
"""What a feature is called: a `Feature`, or what another `Extract` knows. Its text names it in
the cache."""
Extract = Callable[[Tensor, Sequence[K]], Mapping[K, Tensor]]
"""Normalised images [b, 3, h, w] on the device and features -> rows float32 [b, d] of each;
without gradients."""


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """One feature of all readable images of a set."""

    rows: Tensor
    """float32 [n, d], mapped from the file."""
    labels: Tensor
    """int64 [n]."""
    index: NDArray[np.int64]
    """int64 [n], position of each row in the set."""
    bad: list[tuple[str, str]]
    """(name, reason) of images that could not be read."""
    cached: bool
    """Whether nothing had to be computed."""

    def unit(self) -> Tensor:
        """Rows of length 1, a copy in memory: for k-means, which needs them all, and for small
        sets.

        Evaluations and searches of any size take `rows` and scale them block by block as they read.
        """
        return torch.nn.functional.normalize(self.rows, dim=-1)


def places_of(features: FeatureSet, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers of some images, rising; unreadable ones are missing."""
    return np.flatnonzero(np.isin(features.index, wanted))


def rows_of(features: FeatureSet, wanted: NDArray[np.int64]) -> FeatureSet:
    """The rows of some images, copied unless they are all."""
    keep = places_of(features, wanted)
    if len(keep) == len(features.index):
        return features
    chosen = torch.from_numpy(keep)
    return replace(
        features,
        rows=features.rows[chosen],
        labels=features.labels[chosen],
        index=features.index[keep],
    )


def weights_hash(loaded: Loaded) -> str:
    """SHA-256 over all that decides the features of a network: names, shapes and bytes of its
    tensors, its settings and the size for which it was built. The same for the same network and
    settings in any file.
    """
    # Not `str`: that is for users, and silent about norms, pooling and the position table.
    digest = hashlib.sha256(f"{loaded.config!r} {loaded.built_for};".encode())
    # Settings that were added later count where they are set, so that older features stay valid.
    later = [f for f in fields(loaded.config) if not f.repr]
    changed = {
        f.name: value for f in later if (value := getattr(loaded.config, f.name)) != f.default
    }
    digest.update(repr(changed).encode() if changed else b"")
    for name, tensor in sorted(loaded.backbone.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cached_features(
    backbone: BackboneModule,
    weights: str,
    images: LabelledImages,
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
        batch: images per forward pass; the same composition whatever the number of processes.
        device: where the backbone is.
        workers: processes that decode.
        processes: this process among those that share the work; all see the same `folder`.
        progress: called with images done and in all.

    Raises:
        DataError: none of the images can be read.
        WeightsError: the network's outputs are not finite.
        ResourceError: the disk is full.
        UserError: the cache cannot be written.
    """
    entries = {feature: _Entry(folder, weights, images, view, feature) for feature in features}
    device = torch.device(device)
    extract = extract or cast("Extract[K]", partial(compute, backbone))
    if not any_true(not all(entry.complete() for entry in entries.values()), device):
        return {feature: entry.read(images, cached=True) for feature, entry in entries.items()}
    lock = _name({**entries[features[0]].about, "feature": "any"}) + ".lock"
    with _alone(folder, lock, device, processes):
        missing = {feature: entry for feature, entry in entries.items() if not entry.complete()}
        before = {feature: entry.num_done() for feature, entry in entries.items()}
        barrier()  # nobody changes an entry before everybody has looked
        if missing:  # still: another run may have been waited for
            if processes.is_main:
                _create(extract, missing, len(images), view, device)
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
            f: entry.read(images, cached=entry.num_done() == before[f])
            for f, entry in entries.items()
        }
        barrier()  # no other run changes an entry before everybody has mapped it
    return found


@contextmanager
def _alone(folder: Path, name: str, device: torch.device, processes: Processes) -> Iterator[None]:
    """Keep other runs out of the entries for which the lock `name` stands, once those that are in
    have left.
    """
    lock, told = None, False
    if processes.is_main:
        with _disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / name).open("a")
    try:
        # Polled: the other processes would give up a single long wait.
        while not any_true(lock is not None and _locked(lock, folder), device):
            if processes.is_main and not told:
                log.warning(
                    "waiting for another process that computes the same features in '%s'", folder
                )
                told = True
            time.sleep(POLL_SECONDS)
        yield
    finally:
        if lock is not None:
            fcntl.flock(
                lock, fcntl.LOCK_UN
            )  # closing does not suffice while a loader process lives
            lock.close()


def _locked(lock: IO[str], folder: Path) -> bool:
    """Take the lock if it is free."""
    with _disk_errors(folder):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def _disk_errors(folder: Path, num_bytes: int = 0) -> Iterator[None]:
    """What the system says of the cache, told to a user; `num_bytes` are to be written."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if is_disk_full(error):
            raise ResourceError(
                f"no space for features in '{folder}'",
                why=f"{num_bytes} bytes are needed: {why}" if num_bytes else why,
                fix="free some, or name a folder on another disk: --cache DIR",
            ) from None
        raise UserError(
            f"features cannot be kept in '{folder}'",
            why=why,
            fix="name another folder: --cache DIR",
        ) from None


def _create(
    extract: Extract[K], entries: dict[K, _Entry], count: int, view: View, device: torch.device
) -> None:
    """Prepare the entries for a pass over `count` images."""
    for entry in entries.values():
        entry.forget_bad()
    new = {feature: entry for feature, entry in entries.items() if not entry.begun()}
    if not new:
        return
    with torch.inference_mode():
        widths = {f: rows.shape[1] for f, rows in extract(_blank(view, device), list(new)).items()}
    try:
        with _disk_errors(
            next(iter(new.values())).folder,
            sum(count * (4 * width + 1) for width in widths.values()),
        ):
            for feature, entry in new.items():
                entry.create(count, widths[feature])
    except BaseException:
        for entry in new.values():
            entry.remove()
        raise


def _blank(view: View, device: torch.device) -> Tensor:
    return torch.zeros(1, 3, *view.size, device=device)


def _fill(
    extract: Extract[K],
    images: LabelledImages,
    view: View,
    entries: dict[K, _Entry],
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
    todo = [part[np.any([state[part] != _DONE for state in states], axis=0)] for part in mine]
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
            state[part.positions] = _DONE
            state[bad] = np.where(state[bad] == _DONE, _DONE, _BAD)
        done += len(positions)
        if progress is not None:
            progress(done, total)
    for array in (*states, *rows.values()):
        array.flush()


class _Entry:
    """One folder of the cache: rows.npy, state.npy, about.json; `done` exists once every row is
    there.

    Without `done` there may be bad.jsonl, why images could not be read, and readable.npy, the rows
    of the others.
    """

    def __init__(
        self, folder: Path, weights: str, images: LabelledImages, view: View, feature: Hashable
    ) -> None:
        self.about = {
            "format": FORMAT,
            "weights": weights,
            "images": images.fingerprint(),
            "view": [*view.size, view.fit, view.interpolation, view.resize, view.keep],
            "feature": str(feature),
        }
        self.folder = folder
        self.path = folder / _name(self.about)

    def complete(self) -> bool:
        return (self.path / "done").is_file()

    def begun(self) -> bool:
        return (self.path / "about.json").is_file()

    def num_done(self) -> int:
        return int((self.state("r") == _DONE).sum()) if self.begun() else 0

    def create(self, count: int, width: int) -> None:
        """Make the files, over what a pass that died here has left."""
        self.path.mkdir(exist_ok=True)
        _allocate(self.path / "rows.npy", np.float32, (count, width))
        _allocate(self.path / "state.npy", np.uint8, (count,))
        # Written last: with it the files are whole.
        (self.path / "about.json").write_text(json.dumps(self.about, indent=1))

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def finish(self) -> None:
        """Say that all is done; or lay the readable rows side by side, unless they lie so since the
        last pass.
        """
        index, readable = np.flatnonzero(self.state("r") == _DONE), self.path / "readable.npy"
        width = self.rows("r").shape[1]
        with _disk_errors(self.folder, 4 * len(index) * width):
            if len(index) == len(self.state("r")):
                (self.path / "done").touch()
                readable.unlink(missing_ok=True)
            # As rows are never lost, as many are the same.
            elif len(index) and not (
                readable.is_file() and len(_mapped(readable, "r")) == len(index)
            ):
                self._copy(index, width, readable)

    def _copy(self, index: NDArray[np.int64], width: int, file: Path) -> None:
        with replacing(file) as temporary:
            _allocate(temporary, np.float32, (len(index), width))
            rows, copy = self.rows("r"), _mapped(temporary, "r+")
            for start in range(0, len(index), CHUNK):
                copy[start : start + CHUNK] = rows[index[start : start + CHUNK]]
            copy.flush()

    def rows(self, mode: Any) -> np.memmap[Any, np.dtype[np.float32]]:
        with _disk_errors(self.folder):
            return _mapped(self.path / "rows.npy", mode)

    def state(self, mode: Any) -> np.memmap[Any, np.dtype[np.uint8]]:
        with _disk_errors(self.folder):
            return _mapped(self.path / "state.npy", mode)

    def report_bad(self, bad: list[tuple[int, str]]) -> None:
        with _disk_errors(self.folder):
            for position, reason in bad:
                append_jsonl(self.path / "bad.jsonl", {"position": position, "reason": reason})

    def forget_bad(self) -> None:
        with _disk_errors(self.folder):
            (self.path / "bad.jsonl").unlink(missing_ok=True)

    def read(self, images: LabelledImages, cached: bool) -> FeatureSet:
        state = self.state("r")
        index = np.flatnonzero(state == _DONE)
        reasons = {line["position"]: line["reason"] for line in read_jsonl(self.path / "bad.jsonl")}
        bad = [(images.name(i), reasons.get(i, "")) for i in np.flatnonzero(state == _BAD).tolist()]
        if not len(index):
            raise DataError(
                f"none of the {len(images)} images under '{images.root}' can be read",
                why=f"the first, '{bad[0][0]}': {bad[0][1]}" if bad else "",
            )
        # "c": private pages, as torch wants memory that it may write to.
        rows = (
            self.rows("c") if len(index) == len(state) else _mapped(self.path / "readable.npy", "c")
        )
        return FeatureSet(
            rows=torch.from_numpy(rows),
            labels=torch.from_numpy(np.asarray(images.labels, dtype=np.int64)[index]),
            index=index,
            bad=bad,
            cached=cached,
        )


def _name(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _mapped(file: Path, mode: Any) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(file, mode=mode)


def _allocate(file: Path, kind: type[np.generic], shape: tuple[int, ...]) -> None:
    """Make an .npy file of zeros that has its place on the disk: where there is none, a mapped
    write would kill us.
    """
    np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=shape)
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
        except OSError as error:
            if error.errno not in (
                errno.EINVAL,
                errno.EOPNOTSUPP,
            ):  # a file system that cannot allocate ahead
                raise
