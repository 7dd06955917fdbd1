"""Fixtures that tests of commands share with those of the packages below."""

from recorded import show
from searched_folder import find, scenes, weights

__all__ = ["find", "scenes", "show", "weights"]
