"""From what a user asks to what an evaluation gets: its network and its images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from ibot.data.channels.statistics import statistics_of
from ibot.data.sets.images import Images
from ibot.data.sets.same_channels import OtherChannels, far_apart, named, require_channels
from ibot.data.sets.variants import in_levels
from ibot.errors import UserError
from ibot.eval.context import Context, OpenedData
from ibot.eval.features.cache import weights_hash
from ibot.eval.features.views import View
from ibot.eval.linear_classifier import LinearClassifier, load_classifier
from ibot.eval.request import FEATURE_CACHE, Request
from ibot.models.contract import Backbone
from ibot.system.device import choose_device
from ibot.system.distributed import check_equal, joined
from ibot.system.places import expanded, make_writable
from ibot.system.processes import said_once
from ibot.system.progress import counter, no_counter, print_notes
from ibot.system.watch import said_if_interrupted
from ibot.weights.forms import plain_name
from ibot.weights.read import Loaded, load

log = logging.getLogger("ibot")

MAX_BATCH, MAX_TOKENS = 256, 2**17
"""Images and tokens of a forward pass: large views go through the network in smaller batches."""

C = TypeVar("C", bound=Context)


@contextmanager
def opened(
    kind: type[C],
    request: Request,
    *,
    quiet: bool = False,
    progress: bool = True,
    records: bool = True,
) -> Iterator[C]:
    """Load network and images, join the other processes, and leave them at the end.

    Args:
        kind: of context: it opens the images that its evaluations need.
        request: what is asked for.
        quiet: neither notes nor progress on the error output.
        progress: show it, unless `quiet`.
        records: states and records are left on the way, and not features alone.

    Raises:
        UserError: and its kinds, for what a user can mend. OSError: places that cannot be written.
    """
    device = choose_device(request.device)
    with said_once():
        loaded = load(
            request.weights,
            request.key,
            heads=request.heads,
            allow_partial=request.allow_partial,
        )
    request = request.with_reading(loaded.reading)
    data = _open_data(kind, request, loaded)
    view = view_of(request, loaded)
    out = Path(request.out) if request.out else default_out(Path(request.weights))
    with joined(device) as processes:
        print_notes(dict.fromkeys(data.told), quiet or not processes.is_main)
        with said_once():
            cache = cache_folder(request.cache, out)
        shown = processes.is_main and progress and not quiet
        context = kind(
            loaded=loaded,
            weights=str(request.weights),
            key=request.key,
            weights_hash=weights_hash(loaded),
            view=view,
            device=device,
            cache=cache,
            out=out,
            mode=request.mode,
            seed=request.seed,
            batch=batch_of(loaded.backbone, view.size),
            workers=request.workers,
            processes=processes,
            counter=counter if shown else no_counter,
            exif_orientation=request.exif_orientation,
            max_pixels=request.max_pixels,
            reading=request.reading,
            **data.fields,
        )
        # Each process writes its part of the features there, and reads those of all.
        places = {"the folder of the features (--cache)": str(cache)}
        check_equal({"the weights": context.weights_hash, **places, **context.fingerprints()})
        loaded.backbone.to(device)
        kept = f"features in '{cache}'"
        kept += f", states and records in '{out}'" if records else ""
        with said_if_interrupted(f"the same command goes on from what is done: {kept}"):
            yield context


def with_data_of(
    context: Context, kind: type[C], request: Request, told: set[str], *, quiet: bool = False
) -> C:
    """The same network and means with the images that another `kind` of context opens.

    told: what was said of the images before, which is not repeated; it grows by what is said now.
    quiet: nothing is. Raises as `opened`, where they cannot be opened so.
    """
    shared = {f.name: getattr(context, f.name) for f in fields(Context)}
    data = _open_data(kind, request.with_reading(context.loaded.reading), context.loaded)
    news = [note for note in dict.fromkeys(data.told) if note not in told]
    told.update(news)
    print_notes(news, quiet or not context.processes.is_main)
    other = kind(**shared, **data.fields)
    check_equal(other.fingerprints())
    return other


@contextmanager
def channels_of_network_told(wanted: Sequence[str]) -> Iterator[None]:
    """Where images lack the channels that a network wants, an error that names those of both."""
    try:
        yield
    except OtherChannels as error:
        raise OtherChannels(
            error.what,
            why=f"{error.why}; the network reads {named(wanted)}",
            fix="name images of those channels, or say with --channels which of theirs they are",
        ) from None


def unlike_training(images: Images, loaded: Loaded | LinearClassifier) -> list[str]:
    """What to say of levels of channels whose mean and deviation are far from the network's."""
    levels = in_levels(images)
    if levels is None:
        return []
    config = loaded.config
    far = far_apart(config.channels, config.statistics, statistics_of(levels))
    return [f"mean and deviation are those of the weights; {far}"] if far else []


def _open_data(kind: type[Context], request: Request, loaded: Loaded) -> OpenedData:
    """The images of a kind of context. Raises DataError for channels that the network lacks."""
    wanted = loaded.config.channels
    with channels_of_network_told(wanted):
        data = kind.open_data(request)
    for images in data.fields.values():
        if hasattr(images, "channels"):
            require_channels(images, wanted)
    first = next(filter(in_levels, data.fields.values()), None)
    if first is not None:
        data.told.extend(unlike_training(first, loaded))
    return data


def view_of(request: Request, loaded: Loaded) -> View:
    """The view that is asked for; else that of a stored classifier; else of the training's size."""
    stored = load_classifier(request.weights)
    asked = request.size or request.fit != "crop"
    if stored is not None and request.mode == "clean" and not asked:
        return stored.view
    size = (request.size, request.size) if request.size else loaded.size
    if min(loaded.backbone.token_grid(*size)) < 1:
        raise UserError(
            f"--size {request.size} is smaller than a patch",
            fix=f"at least {loaded.backbone.patch_size} pixels",
        )
    return View(size, request.fit, keep=request.mode == "clean")


def batch_of(backbone: Backbone, size: tuple[int, int]) -> int:
    """Images of `size` per forward pass: as many as hold `MAX_TOKENS`, from 1 to `MAX_BATCH`."""
    return max(1, min(MAX_BATCH, MAX_TOKENS // backbone.tokens_per_image(*size)))


def cache_folder(named: str, out: Path) -> Path:
    """The folder of the feature cache that a user named.

    Where the default one cannot be written, one in `out` takes its place, with a warning.
    Raises UserError for the home of somebody who is not known.
    """
    try:
        folder = expanded(named)
        if named == FEATURE_CACHE:
            make_writable(folder)
        return folder
    except RuntimeError as error:
        if named != FEATURE_CACHE:
            raise UserError(
                f"'{named}' cannot be used", why=str(error), fix="name another with --cache"
            ) from None
        why = str(error)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
    log.warning("features are kept in '%s' (%s)", out / "features", why)
    return out / "features"


def default_out(weights: Path) -> Path:
    """A run keeps its results; those of other weights go below `results`."""
    if (weights / "config.json").is_file():
        return weights
    return Path("results") / plain_name(weights)
