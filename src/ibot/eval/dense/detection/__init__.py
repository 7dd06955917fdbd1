"""Objects by box and mask: Cascade Mask R-CNN on any backbone (spec_evaluation 8.9)."""
