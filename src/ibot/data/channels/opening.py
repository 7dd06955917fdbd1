"""From images as a set has them to those of the channels that are asked for."""

from __future__ import annotations

import importlib.util

import numpy as np

from ibot.config.schema import Channels
from ibot.data.channels.groups import group
from ibot.data.channels.images import ChannelImages, LabelledChannelImages
from ibot.data.channels.sources import GroupedFiles, LevelFiles, LevelImages, ReadLevels
from ibot.data.sets.files import FileImages
from ibot.data.sets.images import Images, LabelledImages
from ibot.errors import DataError, MissingExtra

COLOUR = "rgb"
"""Colour pictures of 8 bits, as `Images.read` gives them of files by itself."""
FILES = frozenset({".npy"})
"""Extensions of files that are images only where channels are asked for."""
NEEDED = ("tifffile", "imagecodecs")


def with_channels(images: Images, asked: Channels) -> Images:
    """The same images, labelled if they are, with the channels that are asked for.

    Colour pictures (`names` rgb) stay as they are. Of files all channels can be had, one file each
    or one for each channel; of other sets those that they read.
    Raises DataError for channels and patterns that the images do not have, MissingExtra without the
    packages that read them.
    """
    if asked.names == COLOUR:
        if asked.files:
            raise DataError(
                f"data.channel_files={asked.files} joins files to images of many channels",
                why="data.channels=rgb reads colour pictures",
                fix="set data.channels=all too, or name the channels",
            )
        return images
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
    return images if isinstance(images, LevelImages) else ReadLevels(images)
