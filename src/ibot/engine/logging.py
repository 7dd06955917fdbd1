"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere; TensorBoard; stop signals."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_BAR_WIDTH = 16


class Progress:
    """Progress of a run on standard output.

    On a terminal one bar that is redrawn (rich, imported only then); otherwise one plain line per update without escape
    codes. Use as a context manager.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._start: tuple[float, int] | None = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                BarColumn(_BAR_WIDTH),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                # Last, because a narrow terminal cuts here.
                TextColumn("{task.fields[words]}"),
                console=Console(highlight=False),
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, total: int, row: dict[str, Any]) -> None:
        """Show where the run stands; `row` is a row of metrics.jsonl."""
        if self.quiet:
            return
        words = _words(row)
        if self._bar is None:
            print(f"step {step}/{total}  {words}  left {self._time_left(step, total)}", flush=True)
            return
        if self._task is None:
            self._task = self._bar.add_task("", total=total, words=words)
        self._bar.update(self._task, completed=step, total=total, words=words)

    def message(self, text: str) -> None:
        """A line of its own above the bar."""
        if self.quiet:
            return
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False)

    def _time_left(self, step: int, total: int) -> str:
        now = time.monotonic()
        if self._start is None:
            self._start = (now, step)
        began, first = self._start
        if step == first:
            return "-"
        seconds = round((now - began) / (step - first) * (total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _words(row: dict[str, Any]) -> str:
    """The few numbers a person follows."""
    losses = f"cls {row.get('cls_loss', float('nan')):.3f}  patch {row.get('patch_loss_masked', float('nan')):.3f}"
    rate = f"{row.get('images_per_second', float('nan')):.0f} images/s"
    return f"{losses} (uniform {row.get('ln_k', float('nan')):.2f})  {rate}  {row.get('health', '')}"


class TensorBoard:
    """Scalars as TensorBoard events; silently nothing without the package or without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            return
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))

    def scalars(self, row: dict[str, Any], step: int) -> None:
        """Write the numbers of a row."""
        if self._writer is None:
            return
        values = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        """Flush what is left."""
        if self._writer is not None:
            self._writer.close()


class StopSignal:
    """Turns SIGTERM, SIGUSR1 and Ctrl-C into a flag that the loop reads after each step; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.stop = False
        self.interrupted = False
        """Whether it was Ctrl-C."""
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            try:
                self._old[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread, as in a notebook's server: signals stay as they are
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop = True
        self.interrupted |= number == signal.SIGINT
