"""Batches on their way to the training device: moved, views made there where they are not, and
normalised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ibot.config.schema import Config
from ibot.data import pixels_device
from ibot.data.pixels import normalize
from ibot.engine.meter import Measured
from ibot.types import Batch, UndrawnBatch

Measure = Callable[[Measured], AbstractContextManager[object]]
"""Given a stage, what is to surround it."""


class ReadStep:
    """The micro-batches of a step, as the loader gave them in `read`."""

    def __init__(self, read: list[Batch | UndrawnBatch], move: Callable[[], list[Batch]]) -> None:
        """`move` gives them on the device."""
        self.read, self.on_device = read, move


def ahead(
    steps: Iterable[list[Batch | UndrawnBatch]],
    config: Config,
    device: torch.device,
    measure: Measure = nullcontext,
) -> Iterator[ReadStep]:
    """Steps of a loader, of which `on_device()` gives the micro-batches on the device, normalised.

    On a GPU they are made as soon as a step is asked for, on a stream of their own: beside the
    step before, which the GPU still works on, as the loop never waits for it. Two steps of views
    are in its memory then. Elsewhere they are made when they are wanted.
    """
    beside = torch.cuda.Stream(device) if device.type == "cuda" else None

    def move(read: list[Batch | UndrawnBatch]) -> list[Batch]:
        return [to_device(batch, device, config, measure) for batch in read]

    for read in steps:
        if beside is None:
            yield ReadStep(read, lambda read=read: move(read))
            continue
        with torch.cuda.stream(beside):
            moved, done = move(read), torch.cuda.Event()
            done.record()
        yield ReadStep(read, lambda moved=moved, done=done: _taken(moved, done, device))
        del moved  # what the step was given is freed with it


def _taken(moved: list[Batch], done: torch.cuda.Event, device: torch.device) -> list[Batch]:
    """Batches of another stream, for work of the present one from now on."""
    training = torch.cuda.current_stream(device)
    training.wait_event(done)
    for batch in moved:
        for tensor in _tensors(batch):
            tensor.record_stream(training)  # else its memory is given away while the step reads it
    return moved


def to_device(
    batch: Batch | UndrawnBatch,
    device: torch.device,
    config: Config,
    measure: Measure = nullcontext,
) -> Batch:
    """A batch on the device, its views normalised for the network of `config.model`.

    Bytes travel, not floats. Nothing waits for a GPU.
    """
    undrawn = isinstance(batch, UndrawnBatch)

    def sent(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    with measure("transfer"):
        masks = batch.masks.each(sent)
        first = sent(batch.pictures if undrawn else batch.global_views)
        local_views = None if undrawn or batch.local_views is None else sent(batch.local_views)
        drop = None if batch.drop is None else sent(batch.drop)
    with measure("render"):
        if undrawn:
            first, local_views = pixels_device.render(
                first,
                batch.sizes,
                batch.params,
                config.augment,
                device,
                config.model.std,
                batch.reduced,
            )
        statistics = config.model.statistics
        global_views = normalize(first, statistics)
        local_views = None if local_views is None else normalize(local_views, statistics)
    return Batch(
        global_views, local_views, masks, batch.index, batch.content, batch.bad, batch.made, drop
    )


def _tensors(batch: Batch) -> Iterator[Tensor]:
    """All tensors of a batch."""
    found: list[Tensor] = []
    batch.masks.each(lambda tensor: found.append(tensor) or tensor)
    own = (batch.global_views, batch.local_views, batch.drop)
    yield from (tensor for tensor in (*own, *found) if tensor is not None)
