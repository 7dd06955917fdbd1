"""Evaluations while a network trains, shared by all processes of the training: k-NN accuracy.

Those of patches are in `ibot.eval.probes.patches_in_training`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ibot.config.schema import Config
from ibot.data.sets.images import LabelledImages
from ibot.errors import DataError, TrainingStopped, WeightsError
from ibot.eval.features.spectrum import effective_rank
from ibot.eval.features.tokens import extract_features
from ibot.eval.features.views import evenly, in_batches
from ibot.eval.neighbours.vote import knn_accuracy
from ibot.eval.scores import bootstrap_mean
from ibot.models.plain import Pixels
from ibot.system.distributed import check_equal, gather
from ibot.system.processes import Processes
from ibot.types import ResultRecord

Probe = Callable[[nn.Module, int], list[ResultRecord]]
"""Called in every process with the teacher's backbone and the step."""

BATCH = 256
"""Images per forward pass; the same composition whatever the number of processes."""


def in_turn(probes: Mapping[str, Probe]) -> Probe | None:
    """All of them, by names that say on what they are measured; None for none.

    Raises UserError, when called, where the processes differ in them: they would wait for each
    other.
    """
    if not probes:
        return None

    def evaluate(backbone: nn.Module, step: int) -> list[ResultRecord]:
        check_equal({"what is evaluated during training": sorted(probes)})
        try:
            return [record for probe in probes.values() for record in probe(backbone, step)]
        except WeightsError as error:
            raise TrainingStopped(
                f"the teacher's outputs are not finite at step {step}",
                why=error.why,
                fix="lower optim.lr, or go on from an earlier checkpoint",
            ) from None

    return evaluate


def knn_probe(
    config: Config,
    train: LabelledImages,
    val: LabelledImages,
    device: torch.device,
    processes: Processes,
) -> Probe:
    """k-NN of `val` against `train`; plain pixels are standardised over the bank."""
    settings = config.evaluate
    sets = [
        (train, evenly(len(train), settings.max_train)),
        (val, evenly(len(val), settings.max_val)),
    ]

    def evaluate(backbone: nn.Module, step: int) -> list[ResultRecord]:
        features = partial(_features, backbone, config.augment.global_size, device, processes)
        bank, bank_labels = features(*sets[0])
        if isinstance(backbone, Pixels):
            bank = backbone.fitted(bank).standardised(bank)
            backbone.to(device)
        queries, labels = features(*sets[1])
        k, temperature = settings.k, settings.temperature
        found = knn_accuracy(bank, bank_labels, queries, labels, ks=k, temperature=temperature)
        (score,) = found.values()
        chosen = {"k": k, "temperature": temperature, "feature": "cls", "normalised": True}
        extra = {"balanced": score.balanced, "effective_rank": effective_rank(queries)}
        largest = 100 * labels.bincount().max().item() / len(labels)
        classes = len(train.classes)
        return [
            ResultRecord(
                protocol="knn",
                metric="knn_top1",
                value=score.top1,
                settings=chosen,
                interval=bootstrap_mean(100 * score.hits.double()),
                data={"root": str(val.root), "classes": classes, "largest_class": largest},
                num_train=len(bank),
                num_val=len(queries),
                step=step,
                extra=extra,
            )
        ]

    return evaluate


def _features(
    backbone: nn.Module,
    size: tuple[int, int],
    device: torch.device,
    processes: Processes,
    images: LabelledImages,
    wanted: NDArray[np.int64],
) -> tuple[Tensor, Tensor]:
    """Class tokens [n, D] and labels [n] of the readable ones; each process computes a share."""
    found: list[tuple[Tensor, Tensor] | None] = []
    why = ""
    for indices in in_batches(wanted, BATCH)[processes.rank :: processes.world_size]:
        try:
            part = extract_features(
                backbone, images, size=size, indices=indices.tolist(), batch=BATCH, device=device
            )
        except DataError as error:  # nothing in this batch can be read
            why = error.why
            found.append(None)
            continue
        assert part.labels is not None
        found.append((part.cls, part.labels))
    # Process r computed the batches r, r + W, ...: taken in turns they are in order again.
    parts = gather(found)
    turns = chain.from_iterable(
        parts[n % len(parts)][n // len(parts) :][:1] for n in range(sum(map(len, parts)))
    )
    readable = [part for part in turns if part is not None]
    if not readable:
        raise DataError(
            f"none of the {len(wanted)} images under '{images.root}' can be read",
            why=why,
            fix="look at the files, or name others",
        )
    cls, labels = zip(*readable, strict=True)
    return torch.cat(cls), torch.cat(labels)
