"""Other evaluations in the place of those of the registry."""

from contextlib import contextmanager

from ibot.cli.main import build_parser
from ibot.eval.registry import EVALUATIONS


@contextmanager
def only(chosen):
    """The registry holds `chosen` alone: entries by name, or names of its own."""
    known = dict(EVALUATIONS)
    entries = chosen if isinstance(chosen, dict) else {name: known[name] for name in chosen}
    EVALUATIONS.clear()
    EVALUATIONS.update(entries)
    build_parser.cache_clear()
    try:
        yield
    finally:
        EVALUATIONS.clear()
        EVALUATIONS.update(known)
        build_parser.cache_clear()
