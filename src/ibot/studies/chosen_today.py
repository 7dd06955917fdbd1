"""What `auto` would choose otherwise today, for a run that it chose for before."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.config.override import diff
from ibot.config.schema import Config
from ibot.system.processes import launched_processes

if TYPE_CHECKING:
    from ibot.data.sets.images import Images

CHOSEN = (
    "augment.",
    "model.width",
    "model.depth",
    "model.heads",
    "model.patch",
    "head.",
    "method.",
    "optim.",
    "train.batch",
    "train.accumulate",
    "data.trim_border",
)
"""Settings that `auto` chooses by the data and the device, by how their names begin."""


def otherwise(config: Config, source: Images, keys: Collection[str]) -> Iterator[str]:
    """What `auto` would choose otherwise for these data on this device, in words."""
    from ibot.data.survey import survey
    from ibot.engine.run import told_changes
    from ibot.recipes.auto import Facts, choose
    from ibot.system.device import choose_device, device_memory

    today, _ = choose(
        Facts(
            survey(source),
            device_memory(choose_device(config.system.device)),
            launched_processes().world_size,
            config.train.length if "train.length" in keys or config.train.lengths else None,
            config.train.batch if "train.batch" in keys else 0,
            whole=not config.data.window,
        )
    )
    # The network, its head and its views came with the weights.
    fixed = ("model.", "head.", "augment.") if config.train.init else ()
    rows = [
        row
        for row in diff(config, today)
        # Not `train.lengths`, which keeps how a run was made longer.
        if (row[0].startswith(CHOSEN) or row[0] == "train.length")
        and not row[0].startswith(fixed)
        and row[0] not in keys
    ]
    if rows:
        yield (
            f"auto would choose otherwise today: {told_changes(rows)}. The run keeps its own "
            "settings; a new --run would have those"
        )


def set_at_first(folder: Path) -> Iterator[str]:
    """Keys that the command set by which the run was begun."""
    command = json.loads((folder / "config.json").read_text()).get("command", "")
    try:
        words = shlex.split(command)
    except ValueError:
        return
    for word in words:
        option, equals, _ = word.partition("=")
        if option == "--epochs":
            yield "train.length"
        elif equals:
            yield option
