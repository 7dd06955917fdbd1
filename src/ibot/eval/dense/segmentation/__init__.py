"""Semantic segmentation: a class for every pixel (spec_evaluation 8.10, 8.11)."""
