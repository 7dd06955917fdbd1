"""The folder of a run: settings, provenance, records, and the lock that keeps a second writer out.

    config.json  provenance.json  metrics.jsonl  results.jsonl  events.jsonl  bad_files.jsonl
    images.txt.gz  log.txt  tensorboard/  pictures/
    checkpoints/step_00001000/  checkpoints/last  checkpoints/best_dense

JSON lines are the truth; everything else is derived. Only the main process writes, but for
bad_files.jsonl.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ibot.config.history import WRITTEN, continues
from ibot.config.override import diff, from_run, show, to_plain
from ibot.config.schema import Config
from ibot.engine.checkpoint import reached_step
from ibot.engine.image_list import NAMES, Changed, changed, refusal, write_names
from ibot.errors import RunError
from ibot.system.jsonl import append_jsonl, read_jsonl, write_json, write_jsonl
from ibot.system.places import make_writable
from ibot.system.portable import lock
from ibot.system.processes import Processes
from ibot.system.records import RESULTS
from ibot.system.versions import software
from ibot.types import ResultRecord
from ibot.weights.origin import origin

if TYPE_CHECKING:
    from ibot.data.sets.images import Images
    from ibot.engine.verdicts import Verdict

EVENTS = "events.jsonl"
LOG = "log.txt"
"""What a run has shown, or would have if somebody had watched."""
FREE_TO_CHANGE = (
    "system.",
    "log.",
    "checkpoint.",
    "evaluate.",
    "train.max_steps",
    "data.path",
    "data.val_path",
    "data.max_bad",
)
"""Settings that a resumed run may change: they do not alter what is learnt (the data are
compared by their names)."""


class RunFolder:
    """An open run folder; close it to release the lock."""

    def __init__(self, path: Path, lock: IO[str] | None) -> None:
        self.path = path
        self._lock = lock
        self._bad = {(row["path"], row["reason"]) for row in read_jsonl(path / "bad_files.jsonl")}

    @classmethod
    def create(
        cls,
        path: Path,
        config: Config,
        *,
        command: str,
        source_info: dict[str, Any],
        processes: Processes,
        images: Images | None = None,
    ) -> RunFolder:
        """Create the folder, or reopen one of the same settings. That its run was made longer, or
        got other images, is written into these and into its events.

        images: those of `source_info`, whose names are kept.

        Raises RunError for a folder that is in use, that belongs to other settings or data, or that
        is no run.
        """
        if not processes.is_main:
            return cls(path, None)
        if path.exists() and not path.is_dir():
            raise RunError(f"'{path}' is a file", fix="name another folder with --run")
        known = (path / "config.json").exists()
        if path.is_dir() and not known and any(path.iterdir()):
            raise RunError(
                f"'{path}' holds files but no run", fix="name a new or empty folder with --run"
            )
        make_writable(path)
        held = _acquire(path)
        try:
            if known:
                grown = _compare(path, config, source_info, images)
            else:
                grown = {}
                provenance = _provenance(source_info, config)
                if images is not None:
                    write_names(path, images)
                write_json(path / "provenance.json", provenance)
                write_json(path / "config.json", {**to_plain(config), "command": command})
        except BaseException:
            held.close()
            raise
        run = cls(path, held)
        run.event("start", command=command)
        if grown:
            run.event("changed", **grown)
        return run

    @classmethod
    def again(cls, path: Path) -> RunFolder:
        """The folder of a run that this process has just closed, to add to its records.

        Raises RunError where it is in use.
        """
        return cls(path, _acquire(path))

    def metrics(self, row: dict[str, Any]) -> None:
        """Append a log row to metrics.jsonl."""
        append_jsonl(self.path / "metrics.jsonl", row)

    def result(self, record: ResultRecord) -> None:
        """Append an evaluation's record to results.jsonl."""
        append_jsonl(self.path / RESULTS, asdict(record))

    def event(self, kind: str, **details: Any) -> None:
        """Append what happened, with the time, to events.jsonl."""
        append_jsonl(
            self.path / EVENTS,
            {"event": kind, "time": time.strftime("%Y-%m-%dT%H:%M:%S"), **details},
        )

    def verdict(self, step: int, verdict: Verdict) -> None:
        """Append to events.jsonl what was judged of the training at a step."""
        found = {"verdict": verdict.kind, "evidence": verdict.evidence, "advice": verdict.advice}
        self.event("health", step=step, **found)

    def bad_file(self, path: str, reason: str) -> bool:
        """Record an unreadable file once, also across resumptions; returns whether it is new.

        Every process records what it met: each reads other images.
        """
        if (path, reason) in self._bad:
            return False
        self._bad.add((path, reason))
        append_jsonl(self.path / "bad_files.jsonl", {"path": path, "reason": reason})
        return True

    def bad_files(self) -> list[tuple[str, str]]:
        """All (path, reason) recorded so far by any process, sorted."""
        return sorted(
            {(row["path"], row["reason"]) for row in read_jsonl(self.path / "bad_files.jsonl")}
        )

    def forget_after(self, step: int) -> None:
        """Drop log rows and results of steps after `step`: a resumed run writes them again."""
        self._keep("metrics.jsonl", lambda row: row["step"] <= step)
        self._keep(RESULTS, lambda row: (ResultRecord.from_row(row).step or 0) <= step)

    def _keep(self, name: str, wanted: Callable[[dict[str, Any]], bool]) -> None:
        if (self.path / name).exists():
            kept = [row for row in read_jsonl(self.path / name) if wanted(row)]
            write_jsonl(self.path / name, kept)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()


def read_config(run: Path) -> Config:
    """The settings with which a run was made. Raises RunError when there are none."""
    try:
        plain = json.loads((run / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"'{run}' holds no readable config.json", why=str(error)) from None
    return from_run(plain)


def is_in_use(run: Path) -> bool:
    """Whether a training writes into the folder now, on whatever machine. Writes nothing."""
    try:
        with (run / "lock").open() as file:
            lock(file, shared=True)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _acquire(path: Path) -> IO[str]:
    """Lock the folder for the life of this process, with which the kernel releases it."""
    file = (path / "lock").open("a+")
    try:
        try:
            lock(file)
        except BlockingIOError:  # by `is_in_use` for a moment?
            time.sleep(0.05)
            lock(file)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise RunError(
            f"'{path}' is in use",
            why=f"{owner} writes there",
            fix="wait for it, stop it, or name another --run",
        ) from None
    except OSError as error:  # going on would let the same command, given twice, spoil the run
        file.close()
        raise RunError(
            f"'{path}' cannot be locked",
            why=f"{error.strerror}: its file system may know no locks, which keep a second run out",
            fix="name a folder on another disk with --run",
        ) from None
    file.truncate(0)
    file.write(
        f"process {os.getpid()} on {socket.gethostname()} since "
        f"{time.strftime('%Y-%m-%d %H:%M:%S')}"
    )
    file.flush()
    return file


def _compare(
    path: Path, config: Config, source_info: dict[str, Any], images: Images | None
) -> dict[str, Any]:
    """Compare settings and images with those of the run; write and return what it became since.

    Raises RunError for anything else that differs.
    """
    before, provenance = read_config(path), json.loads((path / "provenance.json").read_text())
    old = provenance.get("data", {})
    known = old.get("names_sha256") is not None
    grows = continues(before, config, int(old["images"]) if known else source_info["images"])
    rows = diff(before, config)
    refused = [
        row
        for row in rows
        if not row[0].startswith(FREE_TO_CHANGE) and not (grows and row[0] in WRITTEN)
    ]
    if refused:
        raise RunError(
            f"'{path}' belongs to a run with other settings",
            why=told_changes(refused),
            fix="name another folder with --run, or give the settings it was started with",
        )
    # A converted run was started elsewhere, on images that nobody recorded.
    others = known and old["names_sha256"] != source_info.get("names_sha256")
    kept = before.train.lists == config.train.lists
    if others and kept and not _begins(path, config, source_info):
        change = changed(path, old, images) if images is not None else None
        raise refusal(path, change or Changed(old["images"], source_info["images"], None, None))
    # In this order: killed between any two, the run still knows that the rest is to be written.
    if images is not None and known and (others or not (path / NAMES).exists()):
        write_names(path, images)
    if grows:
        _grow(path, before, config)
    if others:
        provenance["data_before"] = [*provenance.get("data_before", []), old]
        write_json(path / "provenance.json", {**provenance, "data": source_info})
    found = {key: [show(then), show(now)] for key, then, now in rows if key in WRITTEN}
    return found | ({"images": [old["images"], source_info["images"]]} if others else {})


def _begins(path: Path, config: Config, source_info: dict[str, Any]) -> bool:
    """Whether the settings say already that the run goes on with other images, so many, of which it
    has seen none: it was killed before it had noted which.
    """
    step, _, images = config.train.lists[-1] if config.train.lists else (-1, 0, 0)
    return step >= reached_step(path) and images == source_info["images"]


def _grow(path: Path, before: Config, config: Config) -> None:
    """Write what a run became into its settings; all others stay as it was started with."""
    written = {key.partition(".")[2] for key in WRITTEN}
    history = {name: getattr(config.train, name) for name in written}
    command = json.loads((path / "config.json").read_text()).get("command", "")
    grown = replace(before, train=replace(before.train, **history))
    write_json(path / "config.json", {**to_plain(grown), "command": command})


def told_changes(rows: Sequence[tuple[str, Any, Any]]) -> str:
    """Settings with what they were and are now to be, five of them."""
    listed = "; ".join(f"{key}: {_shown(old)} -> {_shown(new)}" for key, old, new in rows[:5])
    return listed + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def _shown(value: Any) -> str:
    return show(value) or "none"


def _provenance(source_info: dict[str, Any], config: Config) -> dict[str, Any]:
    # A name may mean another file tomorrow, and a path another file already.
    used = {"init": config.train.init, "tokenizer": config.method.tokenizer}
    weights = {use: origin(text) for use, text in used.items() if text}
    return {
        **software(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "host": socket.gethostname(),
        "argv": sys.argv,
        "data": source_info,
        **({"weights": weights} if weights else {}),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
