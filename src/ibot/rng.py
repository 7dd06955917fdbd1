"""Random numbers as functions of (seed, epoch, image, view, purpose), whoever draws them, whenever.

Philox 4x32-10 (Salmon et al. 2011) in vectorised numpy: key = (seed, purpose), counter = (index
low, index high, epoch, view * 64 + draw block). So crops and masks do not depend on workers,
processes or resumption, and any single view can be drawn again.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_DRAWS = 64 * 4
"""Numbers that one (index, view, purpose) can give: 64 blocks of four words."""
AT_ONCE = 2**16
"""Images whose words of an order are drawn at a time: what is between takes 150 bytes for each."""

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Purpose(IntEnum):
    """What a number is drawn for.

    A value is never changed or used again, so that old runs and evaluations repeat bit by bit.
    """

    ORDER = 0
    BOX = 1
    COLOR = 2
    MASK_RATIO = 3
    MASK_BLOCK = 4
    REPLACE = 5
    DROP_PATH = 6
    INIT = 7
    SCENE = 8
    MASK_RANDOM = 9
    WINDOW = 10
    BRANCH = 11
    REEF = 12
    # Of evaluations; the first two bytes were to keep them apart from a training's.
    DROP_PATCHES = 0x45560000
    SHUFFLE_BLOCKS = 0x45560001
    CORRUPTION = 0x45560002
    FINETUNE_VIEW = 0x46540000
    FINETUNE_MIX = 0x46540001
    MATCH_BOX = 0x4D540000
    MATCH_COLOR = 0x4D540001
    DENSE_BANK = 0x4D540002
    COPY_ATTACK = 0x52540000
    DETECTION_ANCHORS = 0x44450000
    DETECTION_BOXES_1 = 0x44450001
    DETECTION_BOXES_2 = 0x44450002
    DETECTION_BOXES_3 = 0x44450003
    DETECTION_VIEW = 0x44450100
    DETECTION_ORDER = 0x44450101
    SEGMENT_VIEW = 0x53450000
    SEGMENT_COLOUR = 0x53450001


def philox(key: tuple[int, int], counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox 4x32-10: `counter` uint64 [..., 4] holding 32-bit words -> words of the same shape."""
    c0, c1, c2, c3 = (counter[..., i] & _LOW for i in range(4))
    k0, k1 = key[0] & 0xFFFFFFFF, key[1] & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def words(
    seed: int, epoch: int, index: ArrayLike, view: ArrayLike, purpose: Purpose, count: int
) -> NDArray[np.uint64]:
    """`count` 32-bit words for each pair of `index` and `view` (broadcast): uint64 [..., count].

    Raises ValueError for more than MAX_DRAWS words.
    """
    if not 0 < count <= MAX_DRAWS:
        raise ValueError(f"between 1 and {MAX_DRAWS} draws, not {count}")
    index, view = np.broadcast_arrays(np.asarray(index, np.uint64), np.asarray(view, np.uint64))
    blocks = -(-count // 4)
    counter = np.empty((*index.shape, blocks, 4), np.uint64)
    counter[..., 0] = (index & _LOW)[..., None]
    counter[..., 1] = (index >> _SHIFT)[..., None]
    counter[..., 2] = np.uint64(epoch)
    counter[..., 3] = view[..., None] * np.uint64(64) + np.arange(blocks, dtype=np.uint64)
    return philox((seed, int(purpose)), counter).reshape(*index.shape, blocks * 4)[..., :count]


def uniform(
    seed: int, epoch: int, index: ArrayLike, view: ArrayLike, purpose: Purpose, count: int
) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) of 32 random bits for each index and view: float64 [..., count]."""
    return words(seed, epoch, index, view, purpose, count).astype(np.float64) * 2.0**-32


def permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of `size` images in an epoch: int64 [size].

    Sorting by a keyed 64-bit word; equal words (chance size^2 / 2^65) keep their order.
    """
    keys = np.empty(size, np.uint64)
    # Each loader process sorts at the start of an epoch, all at the same time.
    for start in range(0, size, AT_ONCE):
        index = np.arange(start, min(size, start + AT_ONCE), dtype=np.uint64)
        drawn = words(seed, epoch, index, 0, Purpose.ORDER, 2)
        keys[start : start + AT_ONCE] = (drawn[:, 0] << _SHIFT) | drawn[:, 1]
    return np.argsort(keys, kind="stable")


def torch_seed(seed: int, step: int, rank: int, purpose: Purpose) -> int:
    """A seed for `torch.manual_seed`, different for every step, rank and purpose."""
    drawn = words(seed, 0, step, rank, purpose, 2)
    return int(((drawn[0] & np.uint64(0x7FFFFFFF)) << _SHIFT) | drawn[1])
