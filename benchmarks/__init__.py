"""Benchmarks, such as `python -m benchmarks.step`; in them threads wait as they do in the
command.
"""

from ibot.system.waiting import spin_shortly

spin_shortly()
