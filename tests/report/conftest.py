"""Fixtures that tests of results share with those of the command."""

from recorded import show

__all__ = ["show"]
