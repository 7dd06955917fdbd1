"""The folder of a run: settings, provenance, records, and the lock that keeps a second writer out.

    config.json  provenance.json  metrics.jsonl  results.jsonl  events.jsonl  bad_files.jsonl
    log.txt tensorboard/  checkpoints/step_00001000/  checkpoints/last  checkpoints/best_dense
    pictures/

JSON lines are the truth; everything else is derived. Only the main process writes, but for
bad_files.jsonl.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ibot.config.override import diff, from_run, show, to_plain
from ibot.config.schema import Config
from ibot.errors import RunError
from ibot.system.jsonl import append_jsonl, read_jsonl, write_json, write_jsonl
from ibot.system.places import make_writable
from ibot.system.processes import Processes
from ibot.system.records import RESULTS
from ibot.system.versions import software
from ibot.types import ResultRecord
from ibot.weights.origin import origin

if TYPE_CHECKING:
    from ibot.engine.verdicts import Verdict

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
    ) -> RunFolder:
        """Create the folder, or reopen one of the same settings.

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
        lock = _acquire(path)
        try:
            if known:
                _compare(path, config, source_info)
            else:
                provenance = _provenance(source_info, config)
                write_json(path / "provenance.json", provenance)
                write_json(path / "config.json", {**to_plain(config), "command": command})
        except BaseException:
            lock.close()
            raise
        run = cls(path, lock)
        run.event("start", command=command)
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
            self.path / "events.jsonl",
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
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"'{run}' holds no readable config.json", why=str(error)) from None
    return from_run(plain)


def is_in_use(run: Path) -> bool:
    """Whether a training writes into the folder now, on whatever machine. Writes nothing."""
    try:
        with (run / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # by `is_in_use` for a moment?
            time.sleep(0.05)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _compare(path: Path, config: Config, source_info: dict[str, Any]) -> None:
    changed = [
        row for row in diff(read_config(path), config) if not row[0].startswith(FREE_TO_CHANGE)
    ]
    advice = "name another folder with --run, or give the settings it was started with"
    if changed:
        listed = "; ".join(f"{key}: {show(old)} -> {show(new)}" for key, old, new in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise RunError(
            f"'{path}' belongs to a run with other settings", why=listed + more, fix=advice
        )
    old = json.loads((path / "provenance.json").read_text()).get("data", {})
    # A converted run was started elsewhere, on images that nobody recorded.
    if old.get("names_sha256") not in (None, source_info.get("names_sha256")):
        raise RunError(
            f"'{path}' was started on other images",
            why=f"{old.get('images')} images in {old.get('root')} then, "
            f"{source_info.get('images')} now; newer versions read more kinds of files (.avif, "
            ".jfif, without extension) and leave validation parts (valid/) out",
            fix="name the folder of the training images, with what did not belong to them moved "
            "out of it, or start anew in another folder with --run",
        )


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
