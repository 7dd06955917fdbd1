"""Benchmarks: `python -m benchmarks.step`, `python -m benchmarks.input`, `python -m benchmarks.startup`."""
