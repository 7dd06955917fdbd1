"""Fixtures that tests of searches share with those of the command."""

from searched_folder import find, scenes, weights

__all__ = ["find", "scenes", "weights"]
