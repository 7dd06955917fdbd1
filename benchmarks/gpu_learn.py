"""iBOT, its class loss alone and iBOT with our patch loss, trained alike on one GPU by pieces.

    bash benchmarks/gpu_learn.sh DATA OUT [--arms ibot,class] [--seconds 570] [key=value ...]
                                          [--evaluate] [--dry]

Three runs, ViT-S/16 on views of 160 pixels for 200 epochs of Imagenette: OUT/ibot and OUT/class are
the fair pair of the paper, OUT/other_view is that iBOT with what docs/learning.md found, beyond the
paper: targets less their view's mean, visible patches that predict the other view. The same crops,
heads, schedules and seed; only the losses of patches and the masks differ. `--arms` names those
that are wanted, in this call and in later ones; one that is named later catches up. Settings at the
end are those of all (`augment.global_size=224 augment.local_size=96`, `train.length="100 epochs"`,
`train.seed=1`); a later call with the same OUT repeats them or leaves them out.

A call trains for `--seconds` in all: runs that are behind go on to where the foremost stands;
level, the one with the longest steps leads for its share of what is left. So all have seen as many
images when it ends, and the time is shared fairly. Whatever was killed goes on from its last
checkpoint with the next call. When all are at their end k-NN, linear probe and match follow, with
`--evaluate` at once, of what is there. OUT/learned.md and OUT/learned.json are written anew after
each piece: the scores, and the curves at equal images, measured every tenth of the way. `--dry`
prints what would be done.

How long 200 epochs take by formula (method/flops.py, at 17 to 44 % of an H200's peak as in public
logs; nothing of it is measured): 4 to 9 minutes for each run of the pair, 4 to 11 for the third,
whose steps have 1.16 times iBOT's products. So the pair takes 7 to 18 minutes, one to three calls,
and all three take 11 to 29, two to four calls. Starts and evaluations come on top, and loader
processes must keep up: `ibot plan` reckons 16 to 18 cores for it where the GPU draws the views, 36
to 41 where they do. With little time take two arms (`--arms other_view,class`) or fewer epochs.

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
    # Imagenette's own pixels: enlarged to 224 a step costs twice as much and shows nothing new.
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
"""Of all runs, in place of what the recipe says."""
LEAST = 20.0
"""Seconds for which no training is begun: it would hardly come to its first step."""
GRACE = 15.0
"""Seconds in which a training ends its step and saves."""
KILL = 25.0
"""Seconds after which one that has not ended is killed; its last checkpoint stays."""
TIMED_OUT = (124, 137, STOPPED)
"""Exit codes of `timeout` and of a training that was told to stop."""
DEVICE = "system.device="
SETTINGS_FILE = "settings.json"
"""In OUT: what a later call may leave out."""


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
        stand: step that each arm has reached; where all are level the first leads.
        total: steps of a run; 0: not known yet.
        seconds: that are left.
    """
    behind, ahead = min(stand, key=stand.__getitem__), max(stand.values())
    missing = sum(ahead - step for step in stand.values())
    # By what each lacks: one that fell a few steps short takes nothing from one that has not begun.
    seconds *= (ahead - stand[behind]) / missing if missing else 1 / len(stand)
    if seconds < LEAST or (total and stand[behind] >= total):
        return None
    return Move(behind, ahead if missing else total, seconds)


@dataclass
class Call:
    """One call of this program."""

    data: str
    out: Path
    settings: Sequence[str]
    arms: Sequence[str]
    seconds: float
    began: float = field(default_factory=time.monotonic)
    stopped: bool = False
    _child: subprocess.Popen[bytes] | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.began)

    def train(self) -> None:
        """Train by turns until all are at their end or the time is over."""
        while move := self.next():
            self.run(self.training(move), move.seconds)

    def next(self) -> Move | None:
        """The next piece of training."""
        total = max(total_steps(self.out / arm) for arm in self.arms)
        stand = {arm: reached(self.out / arm) for arm in self.arms}
        return next_move(stand, total, self.left - GRACE) if not self.stopped else None

    def evaluate(self) -> None:
        """Measure what was not measured of these weights."""
        for arm, protocol in self.unmeasured():
            if self.left < GRACE or self.stopped:
                return
            self.run(self.evaluation(arm, protocol), self.left)

    def unmeasured(self) -> Iterator[tuple[str, str]]:
        """Arms and protocols."""
        for arm in self.arms:
            step = reached(self.out / arm)
            known = measured(self.out / arm, step)
            yield from ((arm, name) for name in PROTOCOLS if step and name not in known)

    @property
    def trained(self) -> bool:
        """Whether all runs are at their end."""
        steps = [(reached(self.out / arm), total_steps(self.out / arm)) for arm in self.arms]
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
        write(self.out, self.data, self.settings, self.arms)
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


def arms_named(text: str) -> list[str]:
    """Arms of a list with commas, in their order of training. Raises ArgumentTypeError."""
    names = {name.strip() for name in text.split(",")}
    if unknown := sorted(names - set(ARMS)):
        raise argparse.ArgumentTypeError(f"no arm {unknown[0]!r}; there are {', '.join(ARMS)}")
    return [name for name in ARMS if name in names]


def arms_of(out: Path, given: Sequence[str] | None) -> list[str]:
    """Those that are named, or were those of the last call with OUT; all if there was none."""
    known = read_settings(out / SETTINGS_FILE).get("arms", ARMS)
    return list(known if given is None else given)


def settings_of(out: Path, given: Sequence[str]) -> list[str]:
    """Those of the first call. Raises SystemExit for a later one that names others."""
    known = read_settings(out / SETTINGS_FILE).get("settings")
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
    parser.add_argument(
        "--arms", type=arms_named, help=f"with commas between; default: {','.join(ARMS)}"
    )
    parser.add_argument("--seconds", type=float, default=570.0, help="of this call in all")
    parser.add_argument("--evaluate", action="store_true", help="train no further")
    parser.add_argument("--dry", action="store_true", help="print what would be done next")
    options = parser.parse_intermixed_args()
    settings = settings_of(options.out, options.settings)
    arms = arms_of(options.out, options.arms)
    call = Call(options.data, options.out, settings, arms, options.seconds)
    if options.dry:
        move = call.next()
        if move:
            print(shlex.join(["ibot", *call.training(move)]), f"# {move.seconds:.0f} s at most")
        for arm, protocol in call.unmeasured() if call.trained or options.evaluate else ():
            print(shlex.join(["ibot", *call.evaluation(arm, protocol)]))
        return
    if options.evaluate and not any(reached(options.out / arm) for arm in arms):
        print(
            f"error: nothing to evaluate in '{options.out}': no run has a checkpoint there; "
            "leave out --evaluate to train first",
            file=sys.stderr,
        )
        sys.exit(2)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / SETTINGS_FILE, {"settings": settings, "arms": arms})
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, call.stop)
    if not options.evaluate:
        call.train()
    if options.evaluate or call.trained:
        call.evaluate()
    write(options.out, options.data, settings, arms)
    print(f"\n{(options.out / 'learned.md').read_text()}")
    finished = (options.evaluate or call.trained) and not any(call.unmeasured())
    sys.exit(0 if finished else STOPPED)


if __name__ == "__main__":
    main()
