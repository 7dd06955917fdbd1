"""What a person sees of a run: a bar or plain lines, TensorBoard; and stop signals."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO, TypeVar, cast

from ibot.engine.tags import tag_of
from ibot.system.output import Output, without_hangup
from ibot.system.portable import signals

T = TypeVar("T")

_BAR_WIDTH = 16
SILENT_SECONDS = 30
"""After which a step shows itself where no line of numbers is due."""


def append_line(log: Path, line: str) -> None:
    """Add a line, with the time, to the log of a run. Raises OSError."""
    with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")


class Progress:
    """Progress of a run on standard output, and in the run's log whether or not somebody watches.

    On a terminal one bar that is redrawn (rich, imported only then); otherwise one plain line per
    update without escape codes. Warnings of this package are lines of it. Use as a context manager.
    Of several processes the main one shows and keeps lines; the others say their warnings on the
    error output.
    """

    def __init__(self, *, quiet: bool = False, rank: int = 0, opening: Iterable[str] = ()) -> None:
        """`quiet` shows nothing, and keeps all in the log; `opening` are lines that were shown."""
        self.quiet = quiet or rank > 0
        self.rank = rank
        self._early = list(opening)
        self._log: Path | None = None
        self._bar: Any = None
        self._task: Any = None
        self._start: tuple[float, int] | None = None
        self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        self._out = Output(sys.stdout)
        self._warnings = _Warnings(self)
        logging.getLogger("ibot").addHandler(self._warnings)
        if not self.quiet and self._out.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                BarColumn(_BAR_WIDTH),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                # Last, because a narrow terminal cuts here.
                TextColumn("{task.fields[words]}"),
                console=Console(file=cast("TextIO", self._out), highlight=False),
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logging.getLogger("ibot").removeHandler(self._warnings)
        if self._bar is not None:
            self._bar.stop()

    def keep(self, file: Path) -> None:
        """Also append every line, with the time, to a file of the run; its errors are raised."""
        self._log = file
        for line in self._early:
            self._append(line)

    def step(self, step: int, total: int) -> None:
        """Show that a step is done, between two lines of numbers: the bar moves from the first.

        Without a bar it is a line, after half a minute of silence: on a slow machine the first
        numbers come after minutes, and till then nothing tells a training from one that hangs.
        """
        left = self._time_left(step, total)
        if self._bar is not None:
            self._move(step, total)
        elif time.monotonic() - self._shown >= SILENT_SECONDS:
            self.message(f"step {step}/{total}" + (f"  left {left}" if left != "-" else ""))

    def update(self, step: int, total: int, row: dict[str, Any]) -> None:
        """Show where the run stands; `row` is a row of metrics.jsonl."""
        words = _words(row)
        line = f"step {step}/{total}  {words}  left {self._time_left(step, total)}"
        self._append(line)
        if self._bar is None:
            self._print(line)
        else:
            self._move(step, total, words=words)

    def _move(self, step: int, total: int, **words: str) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=total, **({"words": ""} | words))
        self._bar.update(self._task, completed=step, total=total, **words)

    def message(self, text: str) -> None:
        """A line of its own above the bar."""
        self._append(text)
        if self._bar is None:
            self._print(text)
        else:
            self._bar.console.print(text, markup=False)

    def _print(self, line: str) -> None:
        self._shown = time.monotonic()
        if not self.quiet:
            print(line, file=self._out, flush=True)

    def _append(self, line: str) -> None:
        if self._log is None:
            if self.rank == 0:
                self._early.append(line)
        else:
            append_line(self._log, line)

    def _time_left(self, step: int, total: int) -> str:
        now = time.monotonic()
        if self._start is None:
            self._start = (now, step)
        began, first = self._start
        if step == first:
            return "-"
        seconds = round((now - began) / (step - first) * (total - step))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class _Warnings(logging.Handler):
    """Makes this package's warnings lines of the progress, from any thread.

    A process that is not the main one shows no progress, but what it waits for only itself can say.
    """

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        text, rank = record.getMessage(), self.progress.rank
        # The loop's next line tells what is wrong with the folder.
        with suppress(OSError):
            if rank > 0:
                print(f"process {rank}: {text}", file=sys.stderr, flush=True)
            else:
                self.progress.message(text)


def _words(row: dict[str, Any]) -> str:
    """The few numbers a person follows."""
    losses = [f"cls {row.get('cls_loss', float('nan')):.3f}"]
    if row.get("masked_fraction", 1) > 0:  # else no patch is in that loss
        losses.append(f"patch {row.get('patch_loss_masked', float('nan')):.3f}")
    if "visible_loss" in row:
        losses.append(f"visible {row['visible_loss']:.3f}")
    said = "  ".join(losses)
    rate = f"{row.get('images_per_second', float('nan')):.0f} images/s"
    return f"{said} (uniform {row.get('ln_k', float('nan')):.2f})  {rate}  {row.get('health', '')}"


class TensorBoard:
    """Scalars as TensorBoard events; silently nothing without the package or without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._writer: Any = None
        self._told: set[str] = set()
        if folder is None:
            return
        try:
            from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
            from tensorboard.compat.proto.summary_pb2 import (
                Summary,  # pyright: ignore[reportAttributeAccessIssue]
                SummaryMetadata,  # pyright: ignore[reportAttributeAccessIssue]
            )
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            return
        self._event, self._summary, self._metadata = Event, Summary, SummaryMetadata
        self._writer = EventFileWriter(str(folder))

    def scalars(self, row: dict[str, Any], step: int, group: str = "") -> None:
        """Write the numbers of a row, in a group or in those of `ibot.engine.tags`; the first of
        each with what it is.
        """
        if self._writer is None:
            return
        values = []
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                tag, words = (f"{group}/{name}", "") if group else tag_of(name)
                about = {} if tag in self._told else {"metadata": self._about(words)}
                self._told.add(tag)
                values.append(self._summary.Value(tag=tag, simple_value=float(value), **about))
        self._writer.add_event(
            self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        )

    def _about(self, words: str) -> Any:
        """What TensorBoard shows beside the title of a number."""
        scalars = self._metadata.PluginData(plugin_name="scalars")
        return self._metadata(summary_description=words, plugin_data=scalars)

    def close(self) -> None:
        """Flush what is left; a failure hides no other error, as the events are derived."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()


class StopSignal:
    """Turns SIGTERM, SIGUSR1 and a first Ctrl-C into a flag that the loop reads at each step.

    SIGHUP is ignored: a run goes on without its terminal.
    """

    def __init__(self) -> None:
        self.stop = False
        self.interrupted = False
        """Whether it was Ctrl-C."""
        self._waiting = False
        self._old: dict[signal.Signals, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> StopSignal:
        self._stack.enter_context(without_hangup())
        for number in signals("SIGTERM", "SIGUSR1", "SIGINT"):
            try:
                self._old[number] = signal.signal(number, self._handle)
            # Not in the main thread, as in a notebook's server: signals stay as they are.
            except ValueError:
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            # None: not set from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._stack.close()

    def next_of(self, items: Iterator[T]) -> T | None:
        """The next item; None at their end, and as soon as a signal came."""
        try:
            self._waiting = True
            try:
                return None if self.stop else next(items, None)
            finally:
                self._waiting = False
        except KeyboardInterrupt:
            if not self.stop:  # not of our handler
                raise
            return None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.stop
        self.stop = True
        self.interrupted |= number == signal.SIGINT
        if self._waiting or (again and number == signal.SIGINT):
            raise KeyboardInterrupt
