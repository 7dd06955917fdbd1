"""Video object segmentation by label propagation (spec_evaluation 8.12)."""
