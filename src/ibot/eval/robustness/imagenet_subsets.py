"""Classes of ImageNet-9 (backgrounds, 9.2) and ImageNet-A (natural adversarial images, 9.3).

Numbers are ImageNet-1K classes 0..999 in the sorted order of the synsets.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_CLASSES = 1000


def _expand(ranges: str) -> tuple[int, ...]:
    """'3 5-7' -> (3, 5, 6, 7)."""
    ends = [part.partition("-") for part in ranges.split()]
    return tuple(i for first, _, last in ends for i in range(int(first), int(last or first) + 1))


IMAGENET_9: dict[str, tuple[int, ...]] = {
    "dog": _expand("151-170 173-268"),
    "bird": _expand("7-24 87-100 127-146"),
    "wheeled vehicle": _expand(
        "407-408 428 436 444 468 511 547 555 561 565 569 573 586 603 609 612 627 656 661 665 "
        "670-671 675 690 705 717 "
        "734 751 757 791 802-803 817 820 829 847 864 866-867 870 880"
    ),
    "reptile": _expand("33-68"),
    "carnivore": _expand("269-280 286-299 356-362 387-388"),
    "insect": _expand("300-326"),
    "musical instrument": _expand(
        "401-402 420 432 486 494 513 541 546 558 566 577 579 593-594 641-642 683-684 687 699 776 "
        "822 875 881 889"
    ),
    "primate": _expand("365-384"),
    "fish": _expand("0-6 389-397"),
}
"""ImageNet-1K classes of each of the nine, in the sorted order of the folders (classes 0..8)."""

IMAGENET_A: tuple[int, ...] = _expand(
    "6 11 13 15 17 22-23 27 30 37 39 42 47 50 57 70-71 76 79 89-90 94 96-97 99 105 107-108 110 "
    "113 124-125 130 132 "
    "143-144 150-151 207 234-235 254 277 283 287 291 295 298 301 306-311 313-315 317 319 323-324 "
    "326-327 330 334-336 "
    "347 361 363 372 378 386 397 400-402 404 407 411 416-417 420 425 428 430 437-438 445 456-457 "
    "461-462 470 472 483 "
    "486 488 492 496 514 516 528 530 539 542-543 549 552 557 561-562 569 572-573 575 579 589 "
    "606-607 609 614 626-627 "
    "640-643 658 668 677 682 684 687 701 704 719 736 746 749 752 758 763 765 768 773-774 776 "
    "779-780 786 792 797 "
    "802-804 813 815 820 823 831 833 835 839 845 847 850 859 862 870 879-880 888 890 897 900 907 "
    "913 924 932-934 937 "
    "943 945 947 951 954 956-957 959 971-972 980-981 984 986-988"
)
"""The 200 classes of ImageNet-A, in the sorted order of its folders."""


def to_nine(class_index: Tensor) -> Tensor:
    """ImageNet-9 classes 0..8 of ImageNet-1K classes: integers of any shape -> int64 of that shape,
    -1 = none of them.

    Raises:
        ValueError: a class outside 0..999.
    """
    low, high = (int(class_index.min()), int(class_index.max())) if class_index.numel() else (0, -1)
    if low < 0 or high >= NUM_CLASSES:
        raise ValueError(
            f"classes between {low} and {high} are not all ImageNet-1K classes 0..{NUM_CLASSES - 1}"
        )
    table = torch.full((NUM_CLASSES,), -1, dtype=torch.int64)
    for nine, members in enumerate(IMAGENET_9.values()):
        table[list(members)] = nine
    return table.to(class_index.device)[class_index.long()]
