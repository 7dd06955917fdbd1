"""What the arguments of several commands name: a network, what any evaluation is asked."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ibot.eval.request import Request

if TYPE_CHECKING:
    from ibot.config.reading import Channels
    from ibot.weights.read import Loaded


def read_network(options: argparse.Namespace) -> Loaded:
    """The network that `add_network` names. Raises WeightsError."""
    from ibot.weights.read import load

    partial = options.allow_partial
    return load(options.weights, options.key, heads=options.heads, allow_partial=partial)


def reading(options: argparse.Namespace, loaded: Loaded) -> Channels:
    """Which channels of images are read for a network: what `add_reading` names, else its own."""
    request = Request(**of_request(options))
    return request.with_reading(loaded.reading).reading


def of_request(options: argparse.Namespace) -> dict[str, Any]:
    """The options that are fields of a `Request`, by their names."""
    return {f.name: getattr(options, f.name) for f in fields(Request) if f.name in options}
