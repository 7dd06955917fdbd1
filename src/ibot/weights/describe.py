"""What a file of weights holds, in words: networks, settings, fit, names of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ibot.config.reading import PICTURES, RGB
from ibot.data.sets.same_channels import named
from ibot.weights.files import Content, is_configuration
from ibot.weights.networks import find_networks, states
from ibot.weights.read import Weights, bad_numbers, fit, weights_of

NAMES = 40
"""Groups of names shown, unless all are asked for."""
SETTINGS = 400
"""Characters of settings shown."""


def describe(
    content: Content,
    key: str,
    *,
    heads: int | None = None,
    allow_partial: bool = False,
    every: bool = False,
) -> Iterator[tuple[str, str]]:
    """Lines of title and text.

    Args:
        content: of the file.
        key: the network whose fit is told, at the end.
        heads: of a ViT, where the file does not say.
        allow_partial: as for `ibot.weights.read.load`.
        every: list every name; else names that differ in a number alone share a line.

    Raises:
        WeightsError: after everything else was told, where that network cannot be used.
    """
    for network in find_networks(content.tree):
        yield "holds", f"{network.place or 'one network'}: {len(network.tensors)} tensors"
    tensors = {
        ".".join([*path, name]): t
        for path, named in states(content.tree)
        for name, t in named.items()
    }
    lines = list(_names(tensors, every))
    shown = lines if every else lines[:NAMES]
    yield from (("tensor", line) for line in shown)
    if len(shown) < len(lines):
        yield "", f"and {len(lines) - len(shown)} lines more: --all"
    elif not lines:
        yield "tensor", f"none; it holds {_plain(content.tree)}"
    wrong = bad_numbers(
        {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    )
    yield from (("bad", f"{name} holds {what}") for name, what in list(wrong.items())[:NAMES])
    if content.foreign:
        yield "foreign", f"not read and not run: {', '.join(content.foreign)}"
    yield from _network(weights_of(content, key), key, heads, allow_partial)


def _network(
    weights: Weights, key: str, heads: int | None, allow_partial: bool
) -> Iterator[tuple[str, str]]:
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.backbone.values()}
    yield "layout", f"{weights.layout}, {len(weights.backbone)} tensors of the {key}'s backbone"
    yield "type", ", ".join(sorted(dtypes))
    if weights.settings:
        yield "settings", _settings(weights.settings)
    loaded = fit(weights, heads=heads, allow_partial=allow_partial)
    height, width = loaded.built_for
    count = sum(p.numel() for p in loaded.backbone.parameters())
    yield "network", f"{loaded.config}, built for {height}x{width} pixels; {count:,} parameters"
    if loaded.reading != PICTURES:
        yield "channels", f"{named(loaded.config.channels)}, read as levels"
    mean, std = map(_numbers, loaded.config.statistics)
    yield (
        "images",
        f"minus {mean}, over {std}; {loaded.config.act}, epsilon {loaded.config.norm_eps:g}",
    )
    yield from (("note", note) for note in loaded.notes)
    yield from (("guessed", guess) for guess in loaded.guesses)
    yield "fit", str(loaded.report)


def _numbers(values: Sequence[float]) -> str:
    """As they are, of many channels shortened."""
    if len(values) <= len(RGB):
        return str(tuple(values))
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def _settings(settings: Mapping[str, Any]) -> str:
    kind = "our configuration" if is_configuration(settings) else "arguments"
    plain = ", ".join(
        f"{name}={value}"
        for name, value in settings.items()
        if isinstance(value, (str, int, float))
    )
    return f"{kind}: {plain[:SETTINGS]}"


def _names(tensors: Mapping[str, Tensor], every: bool) -> Iterator[str]:
    """Lines of names with shapes and types."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, tensor in tensors.items():
        about = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        groups.setdefault((name if every else re.sub(r"\b\d+\b", "*", name), about), []).append(
            name
        )
    for (name, about), members in groups.items():
        yield f"{name if len(members) > 1 else members[0]} {about}" + (
            f", {len(members)} times" if len(members) > 1 else ""
        )


def _plain(tree: Any) -> str:
    if isinstance(tree, dict):
        return (
            ", ".join(
                f"{name}: {type(value).__name__}" for name, value in list(tree.items())[:NAMES]
            )
            or "nothing"
        )
    return f"a {type(tree).__name__}"
