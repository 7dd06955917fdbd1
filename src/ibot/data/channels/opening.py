"""From images as a set has them to those of the channels that are asked for."""

from __future__ import annotations

import importlib.util
from copy import copy
from dataclasses import is_dataclass, replace

import numpy as np

from ibot.config.reading import PICTURES, Channels
from ibot.data.channels.groups import group
from ibot.data.channels.images import ChannelImages, LabelledChannelImages
from ibot.data.channels.needed import EVERY_CHANNEL
from ibot.data.channels.sources import GroupedFiles, LevelFiles, LevelImages, ReadLevels
from ibot.data.sets.files import FileImages
from ibot.data.sets.images import Images, LabelledImages
from ibot.data.sets.stacks import COLOURS_OF_FOUR, StackImages
from ibot.errors import DataError, MissingExtra

FILES = frozenset({".npy"})
"""Extensions of files that are images only where channels are asked for."""
NEEDED = ("tifffile", "imagecodecs")


def with_channels(images: Images, asked: Channels) -> Images:
    """The same images, labelled if they are, with the channels that are asked for.

    Colour pictures (`PICTURES`) stay as they are. Of files all channels can be had, one file each
    or one for each channel; of other sets those that they read.
    Raises DataError for channels and patterns that the images do not have, MissingExtra without the
    packages that read them.
    """
    if asked.names == PICTURES.names:
        if asked.files:
            raise DataError(
                f"data.channel_files={asked.files} joins files to images of many channels",
                why="data.channels=rgb reads colour pictures",
                fix="set data.channels=all too, or name the channels",
            )
        return _pictures(images)
    base = _levels(images, asked)
    if not isinstance(images, LabelledImages):
        return ChannelImages(base, asked)
    labels = images.labels
    if isinstance(base, GroupedFiles):
        members = base.groups.members
        labels = labels[base.first_files()]
        differ = (members >= 0) & (images.labels[members] != labels[:, None])
        if differ.any():  # folders of channels are no classes
            return ChannelImages(base, asked)
    return LabelledChannelImages(base, asked, labels.astype(np.int32), images.classes)


def with_mean(images: Images, mean: tuple[float, ...]) -> Images:
    """The same images with a network's mean [C] where nothing was measured.

    So a run goes on as it began when its data have changed since, and no process looks at a sample.
    Those of subsets too; sets of other kinds stay as they are.
    """
    if isinstance(images, ChannelImages):
        again = copy(images)
        again.asked = replace(images.asked, mean=mean)
        return again
    base = getattr(images, "base", None)
    if not isinstance(base, Images) or (filled := with_mean(base, mean)) is base:
        return images
    if is_dataclass(images):
        return replace(images, base=filled)
    again = copy(images)
    again.base, again._fingerprint = filled, ""  # pyright: ignore[reportAttributeAccessIssue]
    return again


def _pictures(images: Images) -> Images:
    """The same images. Raises DataError for stacks of anything else than colour pictures."""
    if isinstance(images, StackImages) and not images.colour:
        raise DataError(
            f"'{images.root}' holds no colour pictures",
            why=f"'{images.stacks[0].name}' has images of {images.content}",
            fix=f"read every channel: {EVERY_CHANNEL}",
        )
    return images


def _levels(images: Images, asked: Channels) -> LevelImages:
    if asked.files and not isinstance(images, FileImages):
        raise DataError(
            f"'{images.root}' holds no files that data.channel_files={asked.files} could join",
            fix="leave the setting out",
        )
    if isinstance(images, FileImages):
        for package in NEEDED:
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(package, "channels")
        if not asked.files:
            return LevelFiles(images, asked.no_data)
        names = (images.name(i) for i in range(len(images)))
        groups = group(names, asked.files)
        return GroupedFiles(images, groups, asked.no_data)
    if isinstance(images, StackImages):
        said = tuple(note for note in images.notes if not note.startswith(COLOURS_OF_FOUR))
        return replace(images, no_data=asked.no_data, notes=said)
    return images if isinstance(images, LevelImages) else ReadLevels(images)
