"""Evaluations of a classifier on images that are changed or chosen to be hard."""
