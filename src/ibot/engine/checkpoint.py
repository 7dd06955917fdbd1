"""Checkpoints that are whole or absent, whenever the process dies.

RUN/checkpoints/step_00001000/model.safetensors    student: backbone.* and head.*
                              teacher.safetensors  the weights to use: backbone.* and head.*
                              training.pt          optimizer, centers, scaler: plain tensors
                              optimizer/           of sharded networks, instead of there: a part
                                                   for each process (`ibot.engine.moments`)
                              state.json           written last: without it, no checkpoint
RUN/checkpoints/last                               name of the newest folder
RUN/checkpoints/best_dense                         name of the one with the best patches, if known
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ibot.config.override import to_plain
from ibot.config.schema import Config
from ibot.errors import ResourceError, WeightsError
from ibot.method.model import StudentTeacher
from ibot.system import files
from ibot.system.distributed import gather
from ibot.system.files import is_disk_full, read_state, replacing, sync
from ibot.system.processes import launched_processes
from ibot.system.sharding import is_sharded, load_part, load_whole, whole_tensors
from ibot.types import RunState
from ibot.weights.files import read_settings
from ibot.weights.write import save_tensors

FOLDER = "checkpoints"
BEST_DENSE = "best_dense"
MOMENTS = "optimizer"
"""Folder of what the optimizer of sharded networks remembers."""
FIRST_DRAWS = 1
"""`RunState.draws` of the runs that do not say."""


def save_checkpoint(
    run: Path,
    model: StudentTeacher,
    optimizer: torch.optim.Optimizer,
    state: RunState,
    *,
    config: Config,
    scaler: torch.amp.GradScaler | None = None,
    keep: int = 3,
    protect: Callable[[int], bool] = lambda step: False,
    best_dense: int | None = None,
) -> Path:
    """Write a checkpoint beside the old ones, make it `last`, then delete all but the newest `keep`
    and the protected. That of the step `best_dense` is named and never deleted.

    With sharded networks every process must call it: all gather the networks, which the main one
    writes whole, and write their parts of what the optimizer remembers.

    Raises ResourceError when the disk is full; the checkpoints before stay whole.
    """
    folder, sharded = run / FOLDER, is_sharded(model.student)
    writes = not sharded or launched_processes().is_main
    final = _folder_of(run, state.step)
    temporary = folder / f".tmp_{final.name}_{gather(os.getpid())[0] if sharded else os.getpid()}"
    try:
        if writes:
            folder.mkdir(exist_ok=True)  # not a run folder that was removed
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        metadata = {"config": json.dumps(to_plain(config)), "step": str(state.step)}
        for name, network in (("model", model.student), ("teacher", model.teacher)):
            tensors = whole_tensors(network, keep=writes)
            if writes:
                save_tensors(tensors, temporary / f"{name}.safetensors", metadata)
        if sharded:
            from ibot.engine.moments import save_moments  # slow to import

            save_moments(optimizer, temporary / MOMENTS)
        if not writes:
            return final
        torch.save(_training(model, optimizer, scaler, sharded), temporary / "training.pt")
        (temporary / "state.json").write_text(
            json.dumps({**asdict(state), "config": to_plain(config)}, indent=2)
        )
        for file in (*temporary.iterdir(), temporary):
            sync(file)
        if final.exists():  # saved again at the same step: the old one goes only now
            shutil.rmtree(final)
        temporary.rename(final)
        sync(folder)
        with replacing(folder / "last") as last:
            last.write_text(f"{final.name}\n")
        mark_best_dense(run, best_dense)  # before the one that had the name goes
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(run, checkpoint_bytes(model, optimizer)) from None
        raise
    _delete_old(folder, keep, lambda step: step == best_dense or protect(step))
    return final


def _training(
    model: StudentTeacher,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    sharded: bool,
) -> dict[str, object]:
    """What training.pt holds; of a sharded optimizer the settings alone."""
    state = optimizer.state_dict()
    return {
        "optimizer": {**state, "state": None} if sharded else state,
        "centers": {"cls": model.cls_center.value, "patch": model.patch_center.value},
        "scaler": scaler.state_dict() if scaler is not None else None,
    }


def checkpoints_of(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return _complete(run / FOLDER)


def find_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    complete = checkpoints_of(run)
    return complete[-1] if complete else None


def reached_step(run: Path) -> int:
    """Step of the newest checkpoint of a run; 0 for none.

    Also for a damaged one, which the resumption will name.
    """
    checkpoint = find_checkpoint(run)
    return read_settings(checkpoint / "state.json").get("step", 0) if checkpoint else 0


def draws_of(run: Path) -> int:
    """`RunState.draws` by which a run goes on: of its newest checkpoint, or for none the newest."""
    checkpoint = find_checkpoint(run)
    if checkpoint is None:
        return RunState().draws
    return read_settings(checkpoint / "state.json").get("draws", FIRST_DRAWS)


def has_checkpoint(run: Path, step: int) -> bool:
    """Whether a run holds a complete checkpoint of this step."""
    return _is_complete(_folder_of(run, step))


def mark_best_dense(run: Path, step: int | None) -> None:
    """Name the checkpoint of this step as the one with the best patches.

    None, or a step without a complete checkpoint: no name stands there.
    """
    mark = run / FOLDER / BEST_DENSE
    if step is None or not has_checkpoint(run, step):
        mark.unlink(missing_ok=True)
        return
    name = f"{_folder_of(run, step).name}\n"
    if not mark.is_file() or mark.read_text() != name:
        with replacing(mark) as file:
            file.write_text(name)


def remove_leftovers(run: Path) -> None:
    """Delete what a killed save left behind."""
    for stale in (run / FOLDER).glob(".*tmp*"):
        shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink()


def load_checkpoint(
    path: Path,
    model: StudentTeacher,
    optimizer: torch.optim.Optimizer,
    *,
    scaler: torch.amp.GradScaler | None = None,
) -> RunState:
    """Put a checkpoint into networks, centers, optimizer and scaler; returns where the run stood.

    Raises WeightsError for a damaged checkpoint.
    """
    try:
        stored = json.loads((path / "state.json").read_text())
        load_whole(model.student, load_file(path / "model.safetensors"))
        load_whole(model.teacher, load_file(path / "teacher.safetensors"))
        training = read_state(path / "training.pt")
        training["optimizer"]["state"] = _moments(path, training["optimizer"]["state"], optimizer)
    except (OSError, RuntimeError, ValueError, SafetensorError, WeightsError) as error:
        raise WeightsError(
            f"checkpoint '{path}' is damaged",
            why=error.why if isinstance(error, WeightsError) else str(error).splitlines()[0],
            fix="delete that folder: the run then resumes from the checkpoint before it",
        ) from None
    optimizer.load_state_dict(training["optimizer"])
    model.cls_center.value.copy_(training["centers"]["cls"])
    model.patch_center.value.copy_(training["centers"]["patch"])
    if scaler is not None and training["scaler"] is not None:
        scaler.load_state_dict(training["scaler"])
    stored.pop("config")
    return RunState(**{"draws": FIRST_DRAWS, **stored})


def _moments(
    path: Path, stored: dict[int, dict[str, Tensor]] | None, optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """What the optimizer of this process is to remember: all, or of its parts.

    stored: None for what lies in the folder `MOMENTS`. Raises WeightsError where that is missing.
    """
    if (path / MOMENTS).is_dir():
        from ibot.engine.moments import load_moments  # slow to import

        return load_moments(optimizer, path / MOMENTS)
    if stored is None:
        raise WeightsError(f"'{path}' is no whole copy", why=f"the folder {MOMENTS} is missing")
    own = [p for group in optimizer.param_groups for p in group["params"]]
    return {index: load_part(state, own[index]) for index, state in stored.items()}


def read_centers(path: Path) -> tuple[Tensor, Tensor] | None:
    """Centers [K] and [K'] of the class and patch logits of a checkpoint; None where it has none.

    The optimizer's tensors in the same file are not read.
    """
    file = path / "training.pt"
    if not file.is_file():
        return None
    centers = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["centers"]
    return centers["cls"].clone(), centers["patch"].clone()


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(filter(_is_complete, folder.glob("step_*")))


def _is_complete(path: Path) -> bool:
    return (path / "state.json").exists()


def _folder_of(run: Path, step: int) -> Path:
    return run / FOLDER / f"step_{step:08d}"


def _delete_old(folder: Path, keep: int, protect: Callable[[int], bool]) -> None:
    for path in _complete(folder)[: -max(1, keep)]:
        if not protect(int(path.name.removeprefix("step_"))):
            # Without its state.json a folder is no checkpoint: a kill in between leaves nothing
            # half alive.
            (path / "state.json").unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def checkpoint_bytes(model: StudentTeacher, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of a checkpoint: student, teacher, and what the optimizer remembers after a step."""
    networks = [t for net in (model.student, model.teacher) for t in net.state_dict().values()]
    moments = [
        t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)
    ]
    return sum(t.numel() * t.element_size() for t in networks + moments)


def disk_full(run: Path, expected: int) -> ResourceError:
    """The error of a full disk: what a checkpoint takes, what is free, where the run resumes.

    expected: bytes of a checkpoint, if there is none yet.
    """
    last = find_checkpoint(run)
    size = sum(file.stat().st_size for file in last.rglob("*")) if last else expected
    needed = f"a checkpoint takes {size / 2**20:.1f} MiB"
    return files.disk_full(run, needed, f"it resumes from {last.name if last else 'the start'}")
