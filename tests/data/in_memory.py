"""Images of many channels in memory, for tests."""

from pathlib import Path

import numpy as np

from ibot.data.sets.arrays import ArrayImages

NAMES = tuple(f"B{number:02}" for number in range(1, 14))


def channel_images(count, side=40, channels=NAMES, classes=2, seed=0):
    """Float levels [side, side, C] around 0.2, unlike any byte, of classes in turn."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(0.2, 0.05, (count, side, side, len(channels))).astype(np.float32)
    labels = np.arange(count, dtype=np.int32) % classes
    pixels += 0.02 * labels[:, None, None, None]
    names = tuple("ab"[:classes])
    return ArrayImages(Path("memory"), "train", pixels, labels, names, channels=channels)
