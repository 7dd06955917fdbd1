"""Whole pieces of work: pre-training with its measurements, its plan, the demo, ablations."""
