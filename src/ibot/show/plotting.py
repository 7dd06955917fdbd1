"""matplotlib without a screen, for those who draw with axes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ibot.errors import MissingExtra


@contextmanager
def importing() -> Iterator[None]:
    """Around each first import of matplotlib. Raises MissingExtra where it is not installed.

    Without a home it warns of where its fonts are kept instead, in the middle of what is shown;
    nothing follows from it.
    """
    said = logging.getLogger("matplotlib")
    before = said.level
    said.setLevel(logging.ERROR)
    try:
        yield
    except ImportError:
        raise MissingExtra("matplotlib", "show") from None
    finally:
        said.setLevel(before)


def pyplot() -> Any:
    """Matplotlib's pyplot, which draws into files. Raises MissingExtra where there is none."""
    with importing():
        import matplotlib as mpl

        mpl.use("agg")
        import matplotlib.pyplot as plt
    return plt
