"""Batches by step number: the same whatever the number of workers, processes or resumptions.

The images of an epoch are shuffled by a keyed permutation. Optimizer step i of an epoch takes the
positions [i * batch, (i + 1) * batch) of it; of these, process r of W takes r, r + W, ...; that
share is cut into `accumulate` micro-batches in order. An incomplete last batch is dropped.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ibot.config.history import Epochs
from ibot.config.resolve import check_shares, largest_power_of_two
from ibot.config.schema import Config
from ibot.data.decode import UnreadableImage
from ibot.data.depth import branch_factors
from ibot.data.masks import make_masks, with_visible
from ibot.data.needed import Part, in_parts, read_part
from ibot.data.pairs import make_pairs
from ibot.data.params import view_params
from ibot.data.pixels_batch import render_batch
from ibot.data.sets.images import Images, Pixels, of_epoch
from ibot.data.sets.trimmed import trimmed
from ibot.data.sets.variants import read_as
from ibot.data.sets.windows import in_windows
from ibot.data.undrawn import Together, bytes_per_pixel, most_bytes, packed
from ibot.data.workers import fitting, read_items
from ibot.errors import DataError
from ibot.rng import Purpose, permutation, uniform
from ibot.system.machine import own_cores
from ibot.system.stopwatch import Stopwatch
from ibot.types import Batch, Made, Masks, UndrawnBatch, ViewParams

READ_AHEAD = 4 * 2**30
"""Bytes of views that the workers of one process may hold ready."""
REPLACEMENTS = 100
"""Other images tried in place of one that cannot be read."""
MAX_WORKERS = 16
MORE_ROOM = 1.25
"""Pixels for which a batch of pictures has room, for each of the largest before it."""


class MicroBatches(Dataset["Batch | UndrawnBatch | DataError"]):
    """Micro-batch number n of this process: step n // accumulate, part n % accumulate. Holds no
    state but a cache. With `data.pixels=device` views are left to the device.

    Data that cannot be used are returned as the error, not raised: a worker would bury it in its
    own traceback.
    """

    def __init__(
        self,
        config: Config,
        source: Images,
        grid: tuple[int, int],
        rank: int,
        world_size: int,
        drop_rates: Sequence[float] = (),
    ) -> None:
        """config: `data.pixels` is resolved; auto makes views as exact does.

        drop_rates: stochastic depth of each block; empty: nothing is drawn for it.
        """
        self.config, self.grid, self.drop_rates = config, grid, drop_rates
        data = config.data
        decoder = "fast" if data.pixels in ("fast", "device") else "pillow"
        images = read_as(source, data.exif_orientation, data.max_pixels, decoder=decoder)
        self.source = trimmed(images, data.trim_border)
        self.rank, self.world_size = rank, world_size
        self.epochs = Epochs.of(config.train, len(source))
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._pixels = 0
        """Of the largest batch of pictures that travelled as they are, and some."""

    def __getitem__(self, number: int) -> Batch | UndrawnBatch | DataError:
        step, part = divmod(number, self.config.train.accumulate)
        epoch, position = self.epochs.place(step)
        try:
            return self._read(self.indices(epoch, position, part), epoch)
        except DataError as error:
            return error

    def indices(self, epoch: int, position: int, part: int) -> NDArray[np.int64]:
        """Images of part `part` of the step at `position` in `epoch`: int64 [B]."""
        if self._order[0] != epoch:
            self._order = (epoch, permutation(self.config.train.seed, epoch, len(self.source)))
        total, parts = self.config.train.batch, self.config.train.accumulate
        mine = self._order[1][position * total : (position + 1) * total][
            self.rank :: self.world_size
        ]
        return mine.reshape(parts, -1)[part]

    def _read(self, wanted: NDArray[np.int64], epoch: int) -> Batch | UndrawnBatch:
        """Decode each image once, draw the parameters of all at once, and make the views, unless
        the device is to do that.
        """
        config, watch = self.config, Stopwatch()
        source = of_epoch(self.source, epoch, config.train.seed)
        parts, index, bad = [], wanted.copy(), []
        together = Together(self._pixels) if config.data.pixels == "device" else None
        for row, i in enumerate(wanted.tolist()):
            part, index[row] = self._decode(source, i, epoch, bad, together)
            parts.append(part)
        decoding = watch.lap()
        images = [part.pixels for part in parts]
        sizes = np.array([part.size for part in parts], dtype=np.int64)
        params = view_params(config.augment, config.train.seed, epoch, index, sizes)
        params = in_parts(params, parts)
        if config.method.patch_match == "hidden":
            masks = self._masks(epoch, index, params)
        else:
            masks = make_pairs(config.method.patch_match, params, self.grid)
        drop = None
        if self.drop_rates:
            views = params.flip.shape[1]
            drop = branch_factors(self.drop_rates, views, config.train.seed, epoch, index)
        content = np.array([content_hash(image) for image in images], dtype=np.int64)
        if config.data.pixels == "device":
            pictures, sizes, reduced = packed(images, params, config, together)
            if (reduced == 1).all():
                self._pixels = max(self._pixels, int(MORE_ROOM * len(pictures)))
            made = UndrawnBatch(
                pictures=pictures,
                sizes=sizes,
                reduced=reduced,
                params=params,
                masks=masks,
                index=index,
                content=content,
                bad=tuple(bad),
            )
        else:
            made = Batch(*self._views(images, params), masks, index, content, tuple(bad))
        rendering = watch.lap()
        took = Made(decode=decoding, render=rendering, busy=watch.busy(), queued=watch.queued())
        return replace(made, made=took, drop=drop)

    def _views(
        self, images: Sequence[Pixels], params: ViewParams
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Global views [G, B, C, h, w] and local ones [L, B, C, h', w'], None without any."""
        augment, std = self.config.augment, self.config.model.std
        if self.config.data.pixels == "fast":
            from ibot.data import pixels_fast

            return pixels_fast.render_batch(images, params, augment, std)
        views = [_planar(pixels) for pixels in render_batch(images, params, augment, std)]
        first = augment.num_global
        return torch.stack(views[:first]), torch.stack(views[first:]) if views[first:] else None

    def _masks(self, epoch: int, index: NDArray[np.int64], params: ViewParams) -> Masks:
        """Masks of the global views, and where they are wanted those of the local ones."""
        config, augment, seed = self.config, self.config.augment, self.config.train.seed
        masks = make_masks(config.mask, self.grid, augment.num_global, seed, epoch, index)
        if config.method.visible_weight:
            other = config.method.visible_target == "other"
            return with_visible(masks, make_pairs("position", params, self.grid) if other else None)
        if config.mask.views != "all":
            return masks
        grid = (
            augment.local_size[0] // config.model.stride,
            augment.local_size[1] // config.model.stride,
        )
        first = augment.num_global
        local = make_masks(
            config.mask, grid, augment.num_local, seed, epoch, index, first_view=first
        )
        return replace(masks, local=local)

    def _decode(
        self,
        source: Images,
        wanted: int,
        epoch: int,
        bad: list[tuple[str, str]],
        together: Together | None,
    ) -> tuple[Part, int]:
        """What the views need of image `wanted`, or of the first readable one among its keyed
        replacements.

        A replacement brings its own views and masks, so it looks as it would in its own place.
        """
        candidate, seed = wanted, self.config.train.seed
        room = None if together is None else together.room
        for attempt in range(REPLACEMENTS):
            try:
                part = read_part(source, candidate, self.config.augment, seed, epoch, room)
            except UnreadableImage as error:
                bad.append((source.name(candidate), str(error)))
                drawn = uniform(seed, epoch, wanted, attempt, Purpose.REPLACE, 1)
                candidate = int(drawn[0] * len(source))
                continue
            if together is not None:
                together.take(part.pixels)
            return part, candidate
        raise DataError(
            f"{REPLACEMENTS} images in a row cannot be read",
            why=f"the last one: {bad[-1][0]}: {bad[-1][1]}",
            fix="look at the files; most of this folder seems to be broken",
        )


class Loader:
    """Micro-batches of every optimizer step from `start_step` on, read ahead by other processes."""

    def __init__(
        self,
        config: Config,
        source: Images,
        *,
        grid: tuple[int, int],
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        end_step: int | None = None,
        drop_rates: Sequence[float] = (),
    ) -> None:
        """Check that the batch fits data, processes and memory. Raises an IbotError."""
        check_batch(config, source, world_size)
        self.dataset = MicroBatches(config, source, grid, rank, world_size, drop_rates)
        self.accumulate = config.train.accumulate
        self.start_step = start_step
        self.end_step = end_step
        # Pinned memory lets copies to a GPU run beside the step.
        self.on_gpu = torch.cuda.is_available() and config.system.device != "cpu"
        self.num_bytes = micro_batch_bytes(config, source, world_size)
        # In shared memory; without a GPU those of the step before too.
        self.held = 1 if self.on_gpu else 2 * self.accumulate
        self.workers = choose_workers(config.system.workers, self.on_gpu)
        self.ahead = read_ahead(self.num_bytes, self.workers) if self.workers else 0
        if self.workers:
            self.workers, self.ahead = fitting(self.workers, self.ahead, self.num_bytes, self.held)

    def __iter__(self) -> Iterator[list[Batch | UndrawnBatch]]:
        """Per step the micro-batches of this process, on the CPU. Raises DataError."""
        # Before the processes part: so they share the order of their first epoch.
        self.dataset.indices(self.dataset.epochs.place(self.start_step)[0], 0, 0)
        micro_batches = read_items(
            self.dataset,
            self.workers,
            self.num_bytes,
            ahead=self.ahead,
            held=self.held,
            pin=self.on_gpu,
            batch_size=None,
            sampler=_Numbers(
                self.start_step * self.accumulate, self.end_step and self.end_step * self.accumulate
            ),
        )
        while step := [
            batch for _, batch in zip(range(self.accumulate), micro_batches, strict=False)
        ]:
            yield step


class _Numbers:
    """Micro-batch numbers from `start` to `end` (None: without end): the number says all."""

    def __init__(self, start: int, end: int | None) -> None:
        self.start, self.end = start, end

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while self.end is None or number < self.end:
            yield number
            number += 1


def check_batch(config: Config, source: Images, world_size: int = 1) -> None:
    """Raise DataError for a batch larger than the data, ConfigError for one not to be shared."""
    train = config.train
    if train.batch > len(source):
        more = f"raise data.windows to {train.batch}" if in_windows(source) else "add images"
        most = largest_power_of_two(len(source))
        raise DataError(
            f"a batch of {train.batch} images is larger than the data set of {len(source)}",
            why=f"'{source.root}' gives no complete batch",
            fix=f"{more} or set train.batch={most} or less"
            if most > 1
            else f"{more}, or read windows of large ones (data.window=512)",
        )
    check_shares(train, world_size)


def content_hash(image: Pixels) -> int:
    """Hash of about 16 x 16 pixels of an image [H, W, C], to notice copies; -1 for one colour."""
    height, width = image.shape[:2]
    sample = image[:: max(1, height // 16), :: max(1, width // 16)].tobytes()
    pixel = image[0, 0].tobytes()
    return -1 if sample == pixel * (len(sample) // len(pixel)) else zlib.crc32(sample)


def choose_workers(setting: int, on_gpu: bool) -> int:
    """Loader processes: the setting, or for -1 as the cores allow.

    Beside a GPU all cores of this process but one decode; on a CPU, where they also train, one in
    four.
    """
    if setting >= 0:
        return setting
    cores = own_cores()
    return max(1, min(MAX_WORKERS, cores - 1 if on_gpu else cores // 4))


def micro_batch_bytes(config: Config, source: Images, world_size: int) -> int:
    """Bytes of the pixels of one micro-batch of one process: views, or pictures as decoded."""
    augment, train = config.augment, config.train
    images = train.batch // (world_size * train.accumulate)
    if config.data.pixels == "device":
        return most_bytes(source, images, config)
    pixels = augment.num_global * math.prod(augment.global_size) + augment.num_local * math.prod(
        augment.local_size
    )
    return bytes_per_pixel(source, config) * pixels * images


def read_ahead(num_bytes: int, workers: int) -> int:
    """Micro-batches that each worker keeps ready: up to 4, within `READ_AHEAD` bytes for all."""
    return max(1, min(4, READ_AHEAD // (workers * max(1, num_bytes))))


def _planar(pixels: Pixels) -> torch.Tensor:
    """[B, h, w, C] -> the same type [B, C, h, w]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
