"""Evaluations that ask for an answer at every place of an image (spec_evaluation 8.9 to 8.12)."""
