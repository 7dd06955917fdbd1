"""Evaluations of patches while a network trains: class tokens may improve while patches get worse.

They read the teacher and draw by image, so that they change nothing of the training and compare
from step to step.
"""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import nn

from ibot.config.schema import Config
from ibot.data.annotated.label_maps import LabelMaps
from ibot.data.sets.images import Images
from ibot.errors import DataError
from ibot.eval.features.tokens import evaluating
from ibot.eval.features.views import evenly
from ibot.eval.label_scores import LabelScores, miou_interval
from ibot.eval.probes.dense_knn import DenseKnn
from ibot.eval.probes.during_training import Probe
from ibot.eval.probes.match import RADII, MatchPlan, about, match
from ibot.eval.probes.patch_tokens import PatchFeature, encoder
from ibot.eval.probes.settings import DenseKnnSettings
from ibot.eval.scores import bootstrap_mean
from ibot.models.contract import Backbone
from ibot.system.process_state import loaders_forgotten
from ibot.system.processes import Processes, said_once
from ibot.types import ResultRecord

log = logging.getLogger("ibot")

RADIUS = 1
"""Patches from the true place that still count as found."""
PAIRS = 8
"""Images of which pairs of views are compared at a time, by one process."""
DENSE_TRAIN, DENSE_VAL = 200, 100
"""At most so many images with label maps, evenly spaced: a minute on a CPU for a small network."""
DENSE_BANK = 20_000


def match_probe(
    config: Config,
    images: Images,
    device: torch.device,
    processes: Processes,
    features: PatchFeature = "network",
) -> Probe:
    """Patches of `evaluate.match` images that are found in another view at most a patch away.

    features: "pixels" compares those of the patches, in the grid of the network.
    """
    chosen, size = evenly(len(images), config.evaluate.match), config.augment.global_size
    place = RADII.index(RADIUS)

    def evaluate(backbone: nn.Module, step: int) -> list[ResultRecord]:
        network = cast("Backbone", backbone)
        plan = MatchPlan.of(network, size, seed=0, batch=PAIRS, device=device)
        try:
            with loaders_forgotten(), evaluating(network):
                matched = match(encoder(network, features), images, chosen, plan, processes)
        except DataError as error:  # nobody asked for it: no reason not to train
            with said_once():
                log.warning("match is not measured: %s", error.what)
            return []
        found = matched.found[:, place]
        return [
            ResultRecord(
                protocol="match",
                metric=f"match_r{RADIUS}",
                value=found.mean().item(),
                settings={"images": len(chosen), "features": features, "radius": RADIUS},
                interval=bootstrap_mean(found),
                num_val=len(found),
                data={"root": str(images.root)},
                step=step,
                extra=about(matched, place),
            )
        ]

    return evaluate


def dense_knn_probe(
    config: Config,
    train: LabelMaps,
    val: LabelMaps,
    device: torch.device,
    processes: Processes,
) -> Probe:
    """MIoU of `val` segmented by the patches of `train`, seen at the size of the global views."""
    train = train.taken(evenly(len(train), DENSE_TRAIN))
    val = val.taken(evenly(len(val), DENSE_VAL))
    settings = DenseKnnSettings(bank=DENSE_BANK)
    short = min(config.augment.global_size)

    def evaluate(backbone: nn.Module, step: int) -> list[ResultRecord]:
        network = cast("Backbone", backbone)
        method = DenseKnn.of(network, short, settings, device=device, processes=processes)
        with loaders_forgotten(), evaluating(network):
            bank = method.remember(train)
            found = method.segment(bank, val)
        scores = LabelScores.of(found.areas.sum(dim=0))
        return [
            ResultRecord(
                protocol="dense_knn",
                metric="dense_knn_miou",
                value=scores.miou,
                settings={
                    "k": settings.k,
                    "temperature": settings.temperature,
                    "bank": settings.bank,
                    "features": settings.features,
                    "short_side": short,
                },
                row="mIoU",
                interval=miou_interval(found.areas),
                num_train=bank.images,
                num_val=len(found.sizes),
                data={"root": str(val.root), "classes": len(val.classes)},
                step=step,
                extra={
                    "compared_at": found.compared_at(),
                    "patches": len(bank.rows),
                    "macc": scores.macc,
                    "aacc": scores.aacc,
                },
            )
        ]

    return evaluate
