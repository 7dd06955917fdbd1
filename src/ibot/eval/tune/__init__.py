"""Evaluations that train the whole network."""
