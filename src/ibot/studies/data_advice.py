"""What follows for a training from what a set of images is like: a sentence each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ibot.config.reading import IMAGENET_MEAN, IMAGENET_STD, MAX_PIXELS, RGB
from ibot.data.channels.needed import are_other_channels
from ibot.studies.data_report import DataReport, PartReport
from ibot.words import counted

FAR = 0.15
"""Difference of a mean or a deviation to ImageNet's, in levels 0..1, that is worth a setting."""
MANY = 100_000
"""Files from which on opening each of them is felt on a network disk."""
UNEVEN = 10
"""Images of the largest class for one of the smallest from which on it is said."""


def advice(report: DataReport) -> list[str]:
    """Settings and steps that follow from the training images, the most pressing first."""
    part = report.parts[0]
    found = [*_broken(report), *_copies(report), *_pixels(part), *_sizes(part), *_amount(part)]
    return found or ["nothing stands out: ibot pretrain auto takes these images as they are"]


def _broken(report: DataReport) -> Iterator[str]:
    broken = sum(len(part.broken) for part in report.parts)
    looked_at = sum(part.looked_at for part in report.parts)
    reasons = [reason for part in report.parts for _, reason in part.broken]
    if other := sum(map(are_other_channels, reasons)):
        yield (
            f"no colour pictures, or of further channels: {counted(other, 'image')} of "
            f"{looked_at}; ibot data report DATA --channels all looks at them, and "
            "data.channels=all trains on them"
        )
    if mixed := sum(reason.startswith("other channels") for reason in reasons):
        yield (
            f"{counted(mixed, 'image')} of {looked_at} have other channels than most and are "
            "passed over: put images of the same channels into a folder of their own"
        )
    if broken := broken - other - mixed:
        yield (
            f"{counted(broken, 'file')} of {looked_at} cannot be read: remove or repair what is "
            "listed; a training passes over them, up to a share of data.max_bad_fraction"
        )


def _copies(report: DataReport) -> Iterator[str]:
    if report.shared:
        yield (
            f"in the training part too, or hardly different there: "
            f"{counted(report.shared, 'validation image')}; remove them before results are believed"
        )
    again = sum(len(group) - 1 for group in report.exact)
    looked_at = sum(part.looked_at for part in report.parts)
    if again:
        yield (
            f"copies, byte by byte: {counted(again, 'file')} of {report.exact_among}; remove all "
            "but one of each, for what comes twice counts twice"
        )
    if (near := sum(len(group) - 1 for group in report.near)) > looked_at / 20:
        yield (
            f"hardly different from another: {counted(near, 'image')} of {looked_at}; the set is "
            "smaller than its number. ibot search --duplicates finds them by what a network sees"
        )


def _pixels(part: PartReport) -> Iterator[str]:
    deep = sum(count for kind, count in part.kinds.items() if int(kind.split()[-2]) > 8)
    if deep and not part.by_channels and len(part.channels) == len(RGB):
        yield (
            f"more than 8 bits, of which 8 are read: {counted(deep, 'image')} of "
            f"{part.looked_at}; data.channels=all keeps their levels"
        )
    if part.gray > 0.9:
        yield (
            f"{100 * part.gray:.0f} % are without colour: colour changes of a view do little; "
            "augment.gray=0"
        )
    if part.channels and not part.by_channels:  # those come from the data by themselves
        mean = [channel.mean for channel in part.channels]
        deviation = [channel.deviation for channel in part.channels]
        usual = IMAGENET_MEAN, IMAGENET_STD
        if np.abs(np.subtract((mean, deviation), usual)).max() > FAR:
            settings = (
                f"model.{key}={','.join(f'{value:.4g}' for value in values)}"
                for key, values in (("mean", mean), ("std", deviation))
            )
            yield f"levels are far from those of photographs: {' '.join(settings)}"
    if part.turned:
        yield (
            f"{100 * part.turned:.2g} % lie and are turned upright by their EXIF tag, as "
            "data.exif_orientation=apply does"
        )


def _sizes(part: PartReport) -> Iterator[str]:
    side = min(part.middle)
    if part.looked_at == len(part.broken):
        return
    if side < 64:
        yield f"shorter sides are about {side} pixels: the recipe tiny32 is made for such"
    elif side < 224:
        yield (
            f"shorter sides are about {side} pixels: views of 224 would be enlarged; "
            f"augment.global_size={side // 16 * 16},{side // 16 * 16}"
        )
    if part.largest[0] * part.largest[1] > MAX_PIXELS // 4 or side > 4096:
        largest = f"{part.largest[0]} x {part.largest[1]}"
        yield f"images are up to {largest} pixels: data.window=1024 reads random windows of them"
    if part.aspect[2] > 4 or part.aspect[0] < 0.25:
        yield (
            f"width is {part.aspect[0]:.2f} to {part.aspect[2]:.2f} times height: a view of the "
            "longest images is but a small part of them"
        )


def _amount(part: PartReport) -> Iterator[str]:
    if part.images < 10_000:
        other = part.by_channels or any(are_other_channels(reason) for _, reason in part.broken)
        channels = " data.channels=all" if other else ""
        yield (
            f"{part.images:,} {'image is' if part.images == 1 else 'images are'} few to start from "
            f"nothing: ibot pretrain adapt --init ibot:vit_s16{channels} goes on from published "
            "weights (ibot weights list)"
        )
    if part.images > MANY and part.loose:
        yield (
            f"{part.images:,} files: on a network disk shards open faster; ibot data pack DIR "
            "--to SHARDS"
        )
    counts = [count for count in part.classes.values() if count]
    if counts and max(counts) > UNEVEN * min(counts):
        yield (
            f"classes have {min(counts)} to {max(counts)} images: look at balanced accuracy, which "
            "every evaluation records"
        )
