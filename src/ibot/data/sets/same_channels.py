"""Whether images have the channels that somebody needs, and what is said where they do not."""

from __future__ import annotations

from collections.abc import Sequence

from ibot.config.reading import RGB
from ibot.data.sets.images import Images
from ibot.errors import DataError
from ibot.words import counted

APART = 1.0, 2.0
"""Statistics are far apart where means differ by more than so many deviations, or deviations by
more than this factor."""
SHOWN = 16
"""Names of channels that a message lists."""


SETTING = "model.channels"
"""Who wants channels, where a network is yet to be trained."""


class OtherChannels(DataError):
    """Images have other channels than are asked for."""


def require_channels(images: Images, wanted: Sequence[str], whose: str = "the network") -> None:
    """Raise OtherChannels for images of other channels than `wanted`, or in another order.

    Channels that nothing named have numbers; they fit as many others, in their order.
    whose: who reads those, for the message.
    """
    found = tuple(images.channels)
    if found == tuple(wanted) or (
        len(found) == len(wanted) and (_unnamed(found) or _unnamed(wanted))
    ):
        return
    if set(wanted) <= set(found):
        fix = f"read those alone: {_option(wanted)}"
    elif whose == SETTING:
        fix = (
            "set model.channels, model.mean and model.std for the images, as `ibot pretrain` does "
            "by itself"
        )
    elif tuple(wanted) == RGB:
        fix = "name images in red, green and blue, or weights that were trained on these channels"
    else:
        fix = (
            "name images of those channels; where theirs have other names, give their numbers in "
            "the network's order: --channels 3,2,1"
        )
    raise OtherChannels(
        f"the images in '{images.root}' have other channels than {whose} reads",
        why=f"{whose} reads {named(wanted)}; they have {named(found)}",
        fix=fix,
    )


def far_apart(
    channels: Sequence[str],
    given: tuple[Sequence[float], Sequence[float]],
    measured: tuple[Sequence[float], Sequence[float]],
) -> str:
    """In words, where mean and deviation of a network are unlike those of the data; else empty.

    given, measured: of the levels of each channel.
    """
    rows = zip(channels, *given, *measured, strict=True)
    apart = [
        f"{name} {mean:.4g} ± {std:.4g}, here {own_mean:.4g} ± {own_std:.4g}"
        for name, mean, std, own_mean, own_std in rows
        if abs(mean - own_mean) > APART[0] * min(std, own_std)
        or max(std / own_std, own_std / std) > APART[1]
    ]
    if not apart:
        return ""
    return f"of {len(apart)} of {len(channels)} channels the data's are far from them ({apart[0]})"


def named(channels: Sequence[str]) -> str:
    """Number and names of channels, for people."""
    shown = ", ".join(channels[:SHOWN])
    more = ", ..." if len(channels) > SHOWN else ""
    return f"{counted(len(channels), 'channel')} ({shown}{more})"


def _unnamed(channels: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in channels)


def _option(channels: Sequence[str]) -> str:
    return "--channels " + ",".join(channels) if len(channels) <= SHOWN else "--channels"
