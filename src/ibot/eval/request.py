"""What a user asks of any evaluation, with its defaults; imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ibot.config.override import parse
from ibot.config.reading import MAX_PIXELS, PICTURES, RGB, Channels, Windows
from ibot.errors import ConfigError
from ibot.weights.forms import is_named

FEATURE_CACHE = "~/.cache/ibot/features"

Mode = Literal["clean", "published"]
"""Choose on held-out training images, or as the paper's tables on the split that is reported."""

BASELINES = ("random", "pixels", "colours")
"""What a network is shown beside: a random start of its architecture, plain pixels, histograms of
colours."""

LEAST = {
    "max_train": 0,
    "max_val": 0,
    "heads": 1,
    "size": 0,
    "max_pixels": 1,
    "window": 0,
    "seed": 0,
    "workers": 0,
}
"""The smallest value of each whole number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A network, its images, and how both are used: the options of `ibot eval`, by the same names.

    Settings of the evaluation itself are given apart. Raises ConfigError for values that the
    options of the command do not take either.
    """

    weights: str
    """A run, a checkpoint folder, a file of weights, or a name (`ibot.weights.named`)."""
    data: str = ""
    """Images; see `ibot.data.sets.open`, for others than of classes `ibot.data.annotated`."""
    val_data: str = ""
    """Images to be judged on, where `data` has none."""
    images: str = ""
    """A folder of images whose annotations lie elsewhere, in place of `data`."""
    labels: str = ""
    """Those annotations: a folder of label maps or masks, or a file."""
    split: float = 0.0
    """Share of the images to set aside for that, 0..1; 0: none."""
    max_train: int = 0
    """Use so many evenly spaced training images; 0: all."""
    max_val: int = 0
    """The same for the images to be judged on."""
    mode: Mode = "clean"
    key: str = "teacher"
    """Which network of the weights."""
    heads: int | None = None
    """Attention heads of a ViT, if the weights do not say."""
    allow_partial: bool = False
    """Accept missing and unused tensors."""
    size: int = 0
    """Pixels of the square view; 0: as in training."""
    fit: Literal["crop", "squash", "pad"] = "crop"
    """How images of another shape become square."""
    exif_orientation: Literal["apply", "ignore"] = "apply"
    """Whether pictures are turned upright by their EXIF tag."""
    max_pixels: int = MAX_PIXELS
    """Larger images are not read."""
    channels: str = ""
    """Names or numbers, with commas, of the channels that are read; empty: the network's."""
    channel_files: str = ""
    """Pattern of file names where each channel has a file; empty: as in the training."""
    no_data: str = ""
    """Values, with commas, that mean that nothing was measured; empty: those of the training."""
    reading: Channels = field(default=PICTURES, repr=False)
    """What follows from these and the network: set by `ibot.eval.opened`."""
    window: int = 0
    """Side in pixels of the windows in which large images are seen; 0: as in training."""
    window_content: float = 0.0
    """Least share of tissue or valid pixels of a window, below 1; 0: as in training."""
    seed: int = 0
    """Of splits, starts and orders."""
    device: str = "auto"
    workers: int = 0
    """Processes that decode images."""
    out: str = ""
    """Folder for records and states to resume from; empty: the run's, else results/NAME."""
    cache: str = FEATURE_CACHE
    """Folder of features, shared by all evaluations."""
    baselines: str = "auto"
    """Which of `BASELINES`, with commas, are measured too; auto: those that cost little, none."""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if wanted := _wanted(name, value):
                raise ConfigError(f"{name}={value!r} cannot be", why=f"it must be {wanted}")
        if self.images and self.data:
            raise ConfigError(
                "data and images name the same", fix="give --data, or --images with --labels"
            )

    @property
    def windows(self) -> Windows:
        """In which windows images are seen."""
        return windows_of(self.weights, self.window, self.window_content)

    @property
    def trim_border(self) -> bool:
        """Whether borders of one colour are cut off, as in the training of the network."""
        return trims_borders(self.weights)

    @classmethod
    def of(cls, weights: str | Path, data: str | Path, options: Mapping[str, Any]) -> Request:
        """What a call from Python asks for: places may be text or `Path`.

        Raises TypeError for unknown options, ConfigError for values that no option has.
        """
        given = {"weights": weights, "data": data, **options}
        texts: dict[str, Any] = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
        return cls(**texts)

    def with_reading(self, stored: Channels) -> Request:
        """With `reading`: what is asked for, else what is stored with the weights.

        Raises ConfigError for values of `no_data` that are no numbers.
        """
        asked: dict[str, Any] = {"names": self.channels, "files": self.channel_files}
        if self.no_data:
            try:
                asked["no_data"] = parse(self.no_data, tuple[float, ...])
            except ValueError as error:
                raise ConfigError(f"no_data={self.no_data} cannot be", why=str(error)) from None
        given = {name: value for name, value in asked.items() if value}
        if self.channels:  # the user says which of the images' they are
            names = tuple(stored.names.split(","))
            given["called"] = RGB if stored.names == PICTURES.names else names
        return replace(self, reading=replace(stored, **given))


def windows_of(weights: str | Path, side: int = 0, content: float = 0.0) -> Windows:
    """The windows that are asked for; else those on which the network of a run was trained.

    weights: a run or a checkpoint in it; other weights do not say, and images are seen whole.
    """
    trained = _trained_on(Path(weights))
    side = side or int(trained.get("window", 0))
    return Windows(side, content=content or float(trained.get("window_content", 0.0)))


def trims_borders(weights: str | Path) -> bool:
    """Whether a run was trained on images without their borders; other weights do not say."""
    return bool(_trained_on(Path(weights)).get("trim_border", False))


def _trained_on(weights: Path) -> Mapping[str, Any]:
    """The settings of the data of a run; none of other weights, whatever lies beside them."""
    if is_named(weights):  # its beginning is no folder
        return {}
    for folder in (weights, *weights.parents[:2]):
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        data = found.get("data") if isinstance(found, dict) else None
        return data if isinstance(data, dict) else {}
    return {}


@cache
def choices(name: str) -> tuple[str, ...]:
    """The values of a field of `Request` that has but a few; else none."""
    hint = get_type_hints(Request)[name]
    return get_args(hint) if get_origin(hint) is Literal else ()


def _wanted(name: str, value: Any) -> str:
    """What a field must be, in words; none where the value is that."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if few := choices(name):
        return "" if value in few else f"one of {', '.join(few)}"
    if name in LEAST:
        fits = number and isinstance(value, int) and value >= LEAST[name]
        absent = name == "heads" and value is None
        return "" if fits or absent else f"a whole number of at least {LEAST[name]}"
    if name in ("split", "window_content"):
        return "" if number and 0 <= value < 1 else "a share of at least 0 and below 1"
    if name == "allow_partial":
        return "" if isinstance(value, bool) else "True or False"
    if name == "baselines":
        known = isinstance(value, str) and all(part in BASELINES for part in value.split(","))
        return "" if known or value in ("auto", "none") else f"auto, none or {','.join(BASELINES)}"
    if name == "reading":
        return "" if isinstance(value, Channels) else "left to the network"
    return "" if isinstance(value, str) else "text"
