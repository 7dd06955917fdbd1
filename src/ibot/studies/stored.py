"""How many checkpoints a run will have on its disk."""

from __future__ import annotations

from dataclasses import dataclass

from ibot.config.duration import Duration
from ibot.config.resolve import Derived
from ibot.config.schema import Config


@dataclass(frozen=True, slots=True)
class Stored:
    """The most checkpoints at a time, but for that of the best patches."""

    newest: int
    """With the one being written."""
    lasting: int
    """Older ones, which are never deleted (`checkpoint.keep_every`)."""

    @classmethod
    def of(cls, config: Config, derived: Derived) -> Stored:
        """Those of a run that saves in its intervals and at its end."""

        def steps(interval: Duration) -> int:
            count = interval.steps(
                batch=config.train.batch,
                steps_per_epoch=derived.steps_per_epoch,
                total_steps=derived.total_steps,
            )
            return max(1, count) if interval.value > 0 else 0

        every, kept = steps(config.checkpoint.every), steps(config.checkpoint.keep_every)
        end = derived.run_steps
        saved = [*(range(every, end, every) if every else ()), end]
        newest = max(1, config.checkpoint.keep) + 1
        older = saved[:-newest]
        return cls(len(saved[-newest:]), sum(step % kept == 0 for step in older) if kept else 0)

    def words(self, config: Config, gib: float) -> str:
        """What they take, of `gib` GiB each."""
        saving = config.checkpoint
        lasting = (
            f"{self.lasting} that stay (checkpoint.keep_every={saving.keep_every}), "
            if self.lasting
            else ""
        )
        newest = f"the newest {self.newest - 1} and the next" if self.newest > 1 else "one"
        return (
            f"{gib:.2f} GiB a checkpoint, {(self.newest + self.lasting) * gib:.1f} GiB in all: "
            f"{lasting}{newest}"
        )
