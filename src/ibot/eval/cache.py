"""Features on disk, shared by all evaluations of one network on one set of images.

A folder of the cache belongs to one feature of one set: its name is a hash of the weights, the images, the view and the
feature, so changed weights or images never meet old features. Rows are written at the place of their image, and a byte
per image says whether it is done: an interrupted pass goes on where it stopped, and several processes write into one
file. Rows are mapped, not read: a set of 1.3 million images needs no memory for its features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ibot.data.labels import LabelledImages
from ibot.data.pixels import normalize
from ibot.engine.distributed import Processes, barrier
from ibot.errors import DataError
from ibot.eval.features import Feature, compute
from ibot.eval.views import View, in_batches, view_batches
from ibot.models.backbone import BackboneModule

FORMAT = 1
"""Raised when the meaning of a row changes."""
_TODO, _DONE, _BAD = 0, 1, 2


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
        """Rows of length 1."""
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
    return replace(features, rows=features.rows[chosen], labels=features.labels[chosen], index=features.index[keep])


def weights_hash(backbone: torch.nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of a network's tensors: the same for the same weights in any file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cached_features(
    backbone: BackboneModule,
    weights: str,
    images: LabelledImages,
    view: View,
    features: Sequence[Feature],
    folder: Path,
    *,
    batch: int = 256,
    device: torch.device | str = "cpu",
    workers: int = 0,
    processes: Processes = Processes(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> dict[Feature, FeatureSet]:
    """Features of all images, computed in one pass for those that the cache lacks.

    Args:
        backbone: in evaluation mode on `device`.
        weights: its `weights_hash`.
        images: the set.
        view: how images become inputs.
        features: which ones.
        folder: the cache.
        batch: images per forward pass; the same composition whatever the number of processes.
        device: where the backbone is.
        workers: processes that decode.
        processes: this process among those that share the work; all see the same `folder`.
        progress: called with images done and in all.

    Raises:
        DataError: none of the images can be read.
    """
    entries = {feature: _Entry(folder, weights, images, view, feature) for feature in features}
    missing = {feature: entry for feature, entry in entries.items() if not entry.complete()}
    barrier()  # nobody finishes an entry before everybody has looked
    if missing:
        if processes.is_main:
            with torch.inference_mode():
                widths = {f: rows.shape[1] for f, rows in compute(backbone, _blank(view, device), features).items()}
            for feature, entry in missing.items():
                entry.create(len(images), widths[feature])
        barrier()
        _fill(backbone, images, view, missing, batch, device, workers, processes, progress)
        barrier()
        if processes.is_main:
            for entry in missing.values():
                entry.finish()
        barrier()
    return {feature: entry.read(images, feature not in missing) for feature, entry in entries.items()}


def _blank(view: View, device: torch.device | str) -> Tensor:
    return torch.zeros(1, 3, *view.size, device=device)


def _fill(
    backbone: BackboneModule,
    images: LabelledImages,
    view: View,
    entries: dict[Feature, _Entry],
    batch: int,
    device: torch.device | str,
    workers: int,
    processes: Processes,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Compute what this process has to: every W-th batch, without those that are done in all entries."""
    states = [entry.state("r+") for entry in entries.values()]
    rows = {feature: entry.rows("r+") for feature, entry in entries.items()}
    mine = in_batches(np.arange(len(images)), batch)[processes.rank :: processes.world_size]
    todo = [part for part in mine if any((state[part] == _TODO).any() for state in states)]
    total, done = sum(map(len, mine)), sum(map(len, mine)) - sum(map(len, todo))
    for part, positions in zip(view_batches(images, view, todo, workers), todo, strict=True):
        if len(part.positions):
            with torch.inference_mode():
                found = compute(backbone, normalize(part.views.to(device)), list(entries))
            for feature, values in found.items():
                rows[feature][part.positions] = values.cpu().numpy()
        bad = [position for position, _ in part.bad]
        for entry, state in zip(entries.values(), states, strict=True):
            entry.report_bad(images, part.bad)
            # Marked last: a row that counts as done is there.
            state[part.positions] = _DONE
            state[bad] = _BAD
        done += len(positions)
        if progress is not None:
            progress(done, total)
    for array in (*states, *rows.values()):
        array.flush()


class _Entry:
    """One folder of the cache: rows.npy, state.npy, about.json, bad.jsonl; `done` exists when it is complete."""

    def __init__(self, folder: Path, weights: str, images: LabelledImages, view: View, feature: Feature) -> None:
        self.about = {
            "format": FORMAT,
            "weights": weights,
            "images": images.fingerprint(),
            "view": [*view.size, view.fit, view.interpolation, view.resize],
            "feature": str(feature),
        }
        self.path = folder / hashlib.sha256(json.dumps(self.about).encode()).hexdigest()[:32]

    def complete(self) -> bool:
        return (self.path / "done").is_file()

    def create(self, count: int, width: int) -> None:
        """Make the files, unless an interrupted pass has left them."""
        if (self.path / "about.json").is_file():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(self.path / "rows.npy", mode="w+", dtype=np.float32, shape=(count, width)).flush()
        np.lib.format.open_memmap(self.path / "state.npy", mode="w+", dtype=np.uint8, shape=(count,)).flush()
        # Written last: with it the files are whole.
        (self.path / "about.json").write_text(json.dumps(self.about, indent=1))

    def finish(self) -> None:
        (self.path / "done").touch()

    def rows(self, mode: Any) -> np.memmap[Any, np.dtype[np.float32]]:
        return np.lib.format.open_memmap(self.path / "rows.npy", mode=mode)

    def state(self, mode: Any) -> np.memmap[Any, np.dtype[np.uint8]]:
        return np.lib.format.open_memmap(self.path / "state.npy", mode=mode)

    def report_bad(self, images: LabelledImages, bad: list[tuple[int, str]]) -> None:
        if bad:
            with (self.path / "bad.jsonl").open("a") as file:
                file.writelines(
                    json.dumps([position, images.name(position), reason]) + "\n" for position, reason in bad
                )

    def read(self, images: LabelledImages, cached: bool) -> FeatureSet:
        index = np.flatnonzero(self.state("r") == _DONE)
        if not len(index):
            raise DataError(f"none of the {len(images)} images under '{images.root}' can be read")
        # "c": private pages, as torch wants memory that it may write to.
        rows = self.rows("c")
        bad_file = self.path / "bad.jsonl"
        lines = [json.loads(line) for line in bad_file.read_text().splitlines()] if bad_file.is_file() else []
        return FeatureSet(
            rows=torch.from_numpy(rows if len(index) == len(rows) else rows[index]),
            labels=torch.from_numpy(np.asarray(images.labels, dtype=np.int64)[index]),
            index=index,
            bad=[(name, reason) for _, name, reason in {line[0]: line for line in lines}.values()],
            cached=cached,
        )
