"""What has learnt nothing, in the place of a network: what an evaluation shows beside it.

A random start of the same architecture says what the architecture alone gives, plain pixels and
histograms of colours what the images give to nobody in particular. All three are backbones, so that
the same `run(context, settings)` makes their records. `ibot.eval.registry` says where which of them
means something.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TypeVar

import torch

from ibot.config.schema import ModelConfig
from ibot.data.sets.subsets import SubsetImages
from ibot.eval.context import Context, SplitContext
from ibot.eval.features.cache import weights_hash
from ibot.eval.features.tokens import CLASS_TOKEN
from ibot.eval.features.views import evenly
from ibot.eval.gained import TITLES
from ibot.eval.request import BASELINES as BASELINES
from ibot.models.backbone import build_backbone
from ibot.models.contract import Backbone
from ibot.models.plain import Colours, Pixels, Plain
from ibot.rng import Purpose, torch_seed
from ibot.weights.read import KeyReport, Loaded

BANK = 2048
"""Training images that say how far each pixel varies, evenly spaced."""

C = TypeVar("C", bound=Context)


def random_start(
    config: ModelConfig, seed: int = 0, *, built_for: tuple[int, int] = (224, 224)
) -> Backbone:
    """The backbone with which a pre-training of this architecture and seed would begin.

    built_for: height and width for which position table or windows are made, unless the settings
    say (`Loaded.built_for`). In evaluation mode, on the CPU; the caller's random numbers stay.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(torch_seed(seed, 0, 0, Purpose.INIT))
        return build_backbone(config, built_for).eval()


def in_place(context: C, name: str) -> C:
    """The context with one of `BASELINES` in the place of its network.

    Pixels are standardised over the training images, where there are such. Features are those of
    any network that is asked for the same: of a random start for an architecture, of the others for
    all that normalise alike. What an evaluation leaves lies in the cache beside them.

    Raises as `cached_features`.
    """
    loaded = context.loaded
    channels, statistics = loaded.config.channels, loaded.config.statistics
    images = f"of {channels} normalised by {statistics}"
    if name == "random":
        # Stochastic depth is of the training.
        config = replace(loaded.config, drop_path=0.0)
        random = random_start(config, built_for=loaded.built_for)
        fresh = replace(loaded, backbone=random, config=config, report=KeyReport(), step=None)
        return _with(context, name, fresh, weights_hash(fresh))
    if name == "colours":
        return _with_plain(context, name, Colours(statistics, channels), f"colours {images}")
    pixels = Pixels(statistics, channels)
    about = f"{pixels} {images}"
    found = _with_plain(context, name, pixels, about)
    if not isinstance(context, SplitContext):
        return found
    bank = SubsetImages(context.train, evenly(len(context.train), BANK))
    rows = found.feature_sets(bank, "which vary how much")[CLASS_TOKEN].rows
    about = f"{about} standardised over {bank.fingerprint()}"
    return _with_plain(context, name, pixels.fitted(rows), f"{about} {context.view}")


def _with_plain(context: C, name: str, plain: Plain, about: str) -> C:
    """`about` says all that decides the rows: they are the same beside any network."""
    fresh = replace(context.loaded, backbone=plain.eval(), report=KeyReport(), step=None)
    return _with(context, name, fresh, hashlib.sha256(about.encode()).hexdigest())


def _with(context: C, name: str, loaded: Loaded, digest: str) -> C:
    loaded.backbone.to(context.device)
    return replace(
        context,
        loaded=loaded,
        weights=TITLES[name],
        weights_hash=digest,
        baseline=name,
        out=context.cache / "baselines" / name,
        counter=lambda part: context.counter(f"{TITLES[name]}, {part}"),
    )
