"""Options of the pictures of words and of matches. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import replace

from ibot.show.kinds import Option

MATCH = (
    Option(
        name="pairs",
        words="given: the two images named; views: two random views of each image, where the truth "
        "is known; classes: two images of each class (default: given for two files, else views)",
        kind="choice",
        default="auto",
        choices=("auto", "given", "views", "classes"),
    ),
    Option(
        name="style",
        words="lines between patches, or dense: patches in the colour of where they are found "
        "(default: %(default)s)",
        kind="choice",
        default="lines",
        choices=("lines", "dense"),
    ),
    Option(
        name="lines",
        words="draw the matches of the N most salient patches; 0: all (default: %(default)s)",
        kind="natural",
        default=12,
        metavar="N",
    ),
    Option(name="mutual", words="draw only patches that find each other", kind="switch"),
    Option(name="attention", words="the saliency of the patches beside", kind="switch"),
    Option(
        name="features",
        words="tokens of the network, or pixels, which it must beat (default: %(default)s)",
        kind="choice",
        default="network",
        choices=("network", "pixels"),
    ),
    Option(
        name="published",
        words="inner products in place of cosines, and the published overlap of views",
        kind="switch",
    ),
    Option(
        name="disparity",
        words="of a stereo pair, left image first: pixels [H, W] in a .npy or .npz file",
        kind="text",
        default="",
        metavar="FILE",
    ),
)
"""Options of `match`."""
_TOP_K = Option(
    name="top-k",
    words="draw N patches of each word, one an image (default: %(default)s)",
    kind="count",
    default=36,
    metavar="N",
)
_WINDOW = Option(
    name="window",
    words="patches along a side of what surrounds one; odd (default: %(default)s)",
    kind="count",
    default=5,
    metavar="N",
)
_CENTRE = Option(
    name="centre",
    words="frame the patch in the middle, or cover it with orange as published "
    "(default: %(default)s)",
    kind="choice",
    default="frame",
    choices=("frame", "cover"),
)
_INDEX = Option(
    name="index",
    words="folder of the index of words (default: index/ in the run, else results/NAME/index)",
    kind="text",
    default="",
    metavar="DIR",
)
PATTERNS = (
    Option(
        name="type",
        words="words of patches in their surroundings, or of class tokens with whole views "
        "(default: %(default)s)",
        kind="choice",
        default="patch",
        choices=("patch", "class"),
    ),
    _TOP_K,
    Option(
        name="show",
        words="draw the first N words (default: %(default)s)",
        kind="count",
        default=20,
        metavar="N",
    ),
    Option(
        name="rank-by",
        words="patches that carry a word, its mean score, or how pure it is of one label "
        "(default: %(default)s)",
        kind="choice",
        default="use",
        choices=("use", "score", "purity"),
    ),
    Option(
        name="min-images",
        words="leave out words in fewer images (default: 1 by use, else half of --top-k)",
        kind="count",
        metavar="N",
    ),
    _WINDOW,
    Option(
        name="word",
        words="draw these words, as in 17,202",
        kind="numbers",
        default=(),
        metavar="W[,W]",
    ),
    _CENTRE,
    _INDEX,
)
"""Options of `patterns`."""
COMPOSE = (replace(_TOP_K, default=16), _WINDOW, _CENTRE, _INDEX)
"""Options of `compose`."""
