"""Benchmarks, such as `python -m benchmarks.step`; threads wait as in the command."""

from ibot.system.waiting import spin_shortly

spin_shortly()
