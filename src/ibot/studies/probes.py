"""What is evaluated while a network trains: k-NN where the data have labels, patches, and what
settings ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ibot.config.schema import Config
from ibot.data.annotated.label_maps import open_label_maps, with_counted_classes
from ibot.data.sets.classes import absent_note
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.open import find_labelled
from ibot.data.sets.trimmed import trimmed
from ibot.errors import DataError
from ibot.eval.probes import during_training, patches_in_training
from ibot.eval.probes.during_training import Probe
from ibot.studies.settings import Say
from ibot.system.processes import launched_processes


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The images of the evaluations."""

    source: Images
    """Those to train on."""
    sets: tuple[LabelledImages, LabelledImages] | None
    """To learn from and to be judged on by their labels; None without labels."""

    @classmethod
    def of(cls, config: Config, source: Images, say: Say) -> Evaluated:
        """Those of a run. Raises DataError for `--val-data` that cannot be used."""
        return cls(source, labelled_sets(config, say))

    @property
    def labelled(self) -> bool:
        """Whether labels can tell networks apart: of one class alone all would be right."""
        return self.sets is not None and len(set(self.sets[1].labels.tolist())) > 1

    @property
    def matched(self) -> Images:
        """Those of which patches are found again: to be judged on, or else to train on."""
        return self.source if self.sets is None else self.sets[1]


def probes(config: Config, evaluated: Evaluated, device: torch.device, say: Say) -> Probe | None:
    """What is evaluated on the way: k-NN where the data have labels, and what settings ask for.

    Raises DataError for `evaluate.dense_data` that cannot be used.
    """
    processes, settings = launched_processes(), config.evaluate
    found: dict[str, Probe] = {}
    if evaluated.sets is not None:
        found["k-NN"] = during_training.knn_probe(config, *evaluated.sets, device, processes)
    if settings.match:
        found["match"] = patches_in_training.match_probe(
            config, evaluated.matched, device, processes
        )
    if settings.dense_data:
        maps = open_label_maps(
            settings.dense_data,
            exif_orientation=config.data.exif_orientation,
            max_pixels=config.data.max_pixels,
        )
        train, val = with_counted_classes(*maps)
        for note in dict.fromkeys((*train.notes, *val.notes)):
            say(f"note   label maps: {note}")
        found["dense k-NN"] = patches_in_training.dense_knn_probe(
            config, train, val, device, processes
        )
    return during_training.in_turn(found)


def labelled_sets(config: Config, say: Say) -> tuple[LabelledImages, LabelledImages] | None:
    """The labelled images of the data, to learn from and to be judged on; None without labels.

    Labels that cannot be used are no reason not to train, unless --val-data asked for them.
    """
    data = config.data
    orientation, most = data.exif_orientation, data.max_pixels
    try:
        sets = find_labelled(
            data.path,
            data.val_path,
            exif_orientation=orientation,
            max_pixels=most,
            channels=data.reading.of(config.model.channels, config.model.mean),
            windows=data.windowing,
        )
    except DataError as error:
        if data.val_path:
            raise
        say(f"note   no k-NN during training: {error.what}")
        return None
    if sets is not None:
        sets = trimmed(sets[0], data.trim_border), trimmed(sets[1], data.trim_border)
        _, val = sets
        for note in (*val.notes, *filter(None, [absent_note(val.labels, val.classes)])):
            say(f"note   validation: {note}")
    return sets
