"""Benchmarks, such as `python -m benchmarks.step`; in them threads wait as they do in the command."""

from ibot.cli.waiting import spin_shortly

spin_shortly()
