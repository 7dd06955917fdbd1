"""iBOT against its class loss alone, trained alike on one GPU in pieces of ten minutes.

    bash benchmarks/gpu_learn.sh DATA OUT [--seconds 570] [--evaluate] [--dry] [key=value ...]

Two runs, OUT/ibot and OUT/class, ViT-S/16 on views of 160 pixels for 200 epochs of Imagenette: the
same crops, heads, schedules and seed; only the patch loss and its masks differ. Settings at the end
are those of both (`augment.global_size=224 augment.local_size=96`, `train.length="100 epochs"`,
`train.seed=1`); a later call with the same OUT repeats them or leaves them out.

A call trains for `--seconds` in all: the run that is behind goes on to where the other one stands;
level, iBOT leads for half of what is left. So both have seen as many images when it ends, and the
time is shared fairly. Whatever was killed goes on from its last checkpoint with the next call. When
both are at their end k-NN, linear probe and match follow, with `--evaluate` at once, of what is
there. OUT/learned.md and OUT/learned.json are written anew after each piece: the scores, and the
curves of both at equal images, measured every tenth of the way. `--dry` prints what would be done.

Exit codes: 0, all is done; 75, call again; 2, a piece failed, or nothing is there to evaluate.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.learned import ARMS, PROTOCOLS, measured, reached, total_steps, write
from ibot.errors import STOPPED
from ibot.system.jsonl import write_json
from ibot.weights.files import read_settings

RECIPE = "one_gpu"
SETTINGS = (
    # Imagenette's own pixels: enlarged to 224 a step costs twice as much and shows nothing new. By
    # formula an H200 takes 4 to 9 minutes for a run, 7 to 19 at 224.
    *("augment.global_size=160", "augment.local_size=64", "augment.num_local=6"),
    *("train.length=200 epochs", "train.batch=256", "train.seed=0"),
    # Prototypes of two to three of 9,469 images; a teacher that remembers 250 of 7,200 steps; a
    # temperature that stays low, as short runs flatten where it rises. The rest is the paper's.
    *("head.out_dim=4096", "head.patch_out_dim=4096", "method.momentum=0.996"),
    *("method.teacher_temp=0.04", "method.patch_temp=0.04", "method.temp_warmup=0 epochs"),
    *("optim.lr=5e-4", "optim.warmup=5 percent", "optim.freeze_last_layer=1 percent"),
    *("evaluate.every=10 percent", "evaluate.match=200", "log.every=20", "log.tensorboard=false"),
    *("checkpoint.every=5 percent", "checkpoint.keep=1", "checkpoint.keep_every=0 epochs"),
)
"""Of both runs, in place of what the recipe says."""
LEAST = 20.0
"""Seconds for which no training is begun: it would hardly come to its first step."""
GRACE = 15.0
"""Seconds in which a training ends its step and saves."""
KILL = 25.0
"""Seconds after which one that has not ended is killed; its last checkpoint stays."""
TIMED_OUT = (124, 137, STOPPED)
"""Exit codes of `timeout` and of a training that was told to stop."""
DEVICE = "system.device="


@dataclass(frozen=True, slots=True)
class Move:
    """A piece of training."""

    arm: str
    steps: int
    """Where it stops; 0: at the end of the run."""
    seconds: float


def next_move(stand: Mapping[str, int], total: int, seconds: float) -> Move | None:
    """What is trained next, or None where all is done or too little time is left.

    Args:
        stand: step that each arm has reached; of those that are level the first leads.
        total: steps of a run; 0: not known yet.
        seconds: that are left.
    """
    behind, ahead = min(stand, key=stand.__getitem__), max(stand.values())
    level = stand[behind] == ahead
    seconds = seconds / 2 if level else seconds
    if seconds < LEAST or (total and stand[behind] >= total):
        return None
    return Move(behind, total if level else ahead, seconds)


@dataclass
class Call:
    """One call of this program."""

    data: str
    out: Path
    settings: Sequence[str]
    seconds: float
    began: float = field(default_factory=time.monotonic)
    stopped: bool = False
    _child: subprocess.Popen[bytes] | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.began)

    def train(self) -> None:
        """Train by turns until both are at their end or the time is over."""
        while move := self.next():
            self.run(self.training(move), move.seconds)

    def next(self) -> Move | None:
        """The next piece of training."""
        total = max(total_steps(self.out / arm) for arm in ARMS)
        stand = {arm: reached(self.out / arm) for arm in ARMS}
        return next_move(stand, total, self.left - GRACE) if not self.stopped else None

    def evaluate(self) -> None:
        """Measure what was not measured of these weights."""
        for arm, protocol in self.unmeasured():
            if self.left < GRACE or self.stopped:
                return
            self.run(self.evaluation(arm, protocol), self.left)

    def unmeasured(self) -> Iterator[tuple[str, str]]:
        """Arms and protocols."""
        for arm in ARMS:
            step = reached(self.out / arm)
            known = measured(self.out / arm, step)
            yield from ((arm, name) for name in PROTOCOLS if step and name not in known)

    @property
    def trained(self) -> bool:
        """Whether both runs are at their end."""
        steps = [(reached(self.out / arm), total_steps(self.out / arm)) for arm in ARMS]
        return all(total and step >= total for step, total in steps)

    def training(self, move: Move) -> list[str]:
        """The command of a piece of training."""
        steps = ["--steps", str(move.steps)] if move.steps else []
        own = merged(*SETTINGS, *self.settings, *ARMS[move.arm].settings)
        run = ["--data", self.data, "--run", str(self.out / move.arm)]
        return ["pretrain", RECIPE, *run, *steps, *own]

    def evaluation(self, arm: str, protocol: str) -> list[str]:
        """The command of an evaluation."""
        places = ["--data", self.data, "--cache", str(self.out / "cache"), "--baselines", "none"]
        device = [text.partition("=")[2] for text in self.settings if text.startswith(DEVICE)]
        on = ["--device", device[-1]] if device else []
        return ["eval", protocol, str(self.out / arm), *places, *on, *PROTOCOLS[protocol]]

    def run(self, command: Sequence[str], seconds: float) -> None:
        """Run a command of ibot for so many seconds at most; then it is told to stop, as when this
        program is. Raises SystemExit where it fails.
        """
        print(f"\n{shown(command, seconds)}", flush=True)
        # Compiled kernels are kept beside the runs: each piece would compile anew otherwise.
        cache = {"TORCHINDUCTOR_CACHE_DIR": str((self.out / "inductor").resolve())}
        # In the foreground: what kills this program with all that it started kills that too.
        limit = ["timeout", "--foreground", f"--kill-after={KILL:.0f}", f"{seconds:.0f}"]
        self._child = subprocess.Popen(
            [*limit, sys.executable, "-m", "ibot", *command], env={**cache, **os.environ}
        )
        code = self._child.wait()
        write(self.out, self.data, self.settings)
        if code and code not in TIMED_OUT and not self.stopped:
            print(f"stopped: {shlex.join(command[:3])} ended with {code}", file=sys.stderr)
            sys.exit(2)

    def stop(self, *_: object) -> None:
        """End the piece that runs, and begin no other."""
        self.stopped = True
        if self._child is not None:
            self._child.terminate()


def merged(*settings: str) -> list[str]:
    """Settings of which the last one of a name holds."""
    return list({text.partition("=")[0]: text for text in settings}.values())


def shown(command: Sequence[str], seconds: float) -> str:
    """A command for the screen, with the settings that are the same in all pieces left out."""
    words = [word for word in command if word not in SETTINGS]
    return f"[{seconds:.0f} s at most] ibot {shlex.join(words)}"


def settings_of(out: Path, given: Sequence[str]) -> list[str]:
    """Those of the first call. Raises SystemExit for a later one that names others."""
    file = out / "settings.json"
    known = read_settings(file).get("settings") if file.exists() else None
    if known is not None and given and list(given) != known:
        print(
            f"error: '{out}' holds runs of other settings: {shlex.join(known) or 'none'}; "
            "leave them out to go on, or name another folder",
            file=sys.stderr,
        )
        sys.exit(2)
    return list(given) if known is None else known


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("settings", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--seconds", type=float, default=570.0, help="of this call in all")
    parser.add_argument("--evaluate", action="store_true", help="train no further")
    parser.add_argument("--dry", action="store_true", help="print what would be done next")
    options = parser.parse_intermixed_args()
    settings = settings_of(options.out, options.settings)
    call = Call(options.data, options.out, settings, options.seconds)
    if options.dry:
        move = call.next()
        if move:
            print(shlex.join(["ibot", *call.training(move)]), f"# {move.seconds:.0f} s at most")
        for arm, protocol in call.unmeasured() if call.trained or options.evaluate else ():
            print(shlex.join(["ibot", *call.evaluation(arm, protocol)]))
        return
    if options.evaluate and not any(reached(options.out / arm) for arm in ARMS):
        print(
            f"error: nothing to evaluate in '{options.out}': no run has a checkpoint there; "
            "leave out --evaluate to train first",
            file=sys.stderr,
        )
        sys.exit(2)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "settings.json", {"settings": settings})
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, call.stop)
    if not options.evaluate:
        call.train()
    if options.evaluate or call.trained:
        call.evaluate()
    write(options.out, options.data, settings)
    print(f"\n{(options.out / 'learned.md').read_text()}")
    finished = (options.evaluate or call.trained) and not any(call.unmeasured())
    sys.exit(0 if finished else STOPPED)


if __name__ == "__main__":
    main()
