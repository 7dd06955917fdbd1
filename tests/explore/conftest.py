"""Fixtures that tests of searches share with those of the command, and those of the explorer."""

from explored import client, explorer, images, run
from searched_folder import find, scenes, weights

__all__ = ["client", "explorer", "find", "images", "run", "scenes", "weights"]
