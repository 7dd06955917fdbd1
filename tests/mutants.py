"""Mutation runs: change one line of the sources at a time and see whether some test fails.

    make mutants                                       30 lines of each package, seed 0
    make mutants ARGS="method engine/loop.py --count 60 --seed 1"
    make mutants ARGS="--tests-from COMMIT"            the same mutants against older tests

The tests run in a copy of the tree; the working tree is never touched. Tests that fail without
any mutation are left out, and named. One process imports the heavy packages and forks a child for
each mutant, which runs the test files of the mutated module (`test_files`), fast tests first, until
one fails. `tests/mutants.toml` lists mutants written by hand, which are tried too, and known
survivors that change nothing that matters, with the reason.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from mutations import Mutant, mutants_of

ROOT = Path(__file__).parents[1]
PACKAGES = ("method", "engine", "data", "models", "eval", "system", "explore", "report", "studies")
HEAVY = (
    "numpy",
    "PIL.Image",
    "torch",
    "torch.distributed",
    "torchvision.transforms",
    "timm",
    "safetensors.torch",
    "rich.progress",
    "scipy.stats",
    "sklearn.linear_model",
    "_pytest.assertion.rewrite",
    "pytest_timeout",
)
"""What most tests import, but for `ibot` itself: that must come from the copy."""
ALSO = {
    "method": ("method/test_model.py", "paper/test_golden.py"),
    "explore": ("explore/test_search.py", "cli/test_search_command.py"),
    "report": ("cli/test_results.py", "report/test_rows.py", "report/test_columns.py"),
    "studies": ("cli/test_plan.py", "cli/test_ablate.py", "cli/test_demo.py", "cli/test_train.py"),
    "engine/optimizer.py": ("method/test_model.py", "paper/test_golden.py"),
    "engine/schedule.py": ("paper/test_golden.py", "engine/test_loop.py"),
    "engine/trial.py": ("cli/test_plan.py",),
    "engine/update.py": ("method/test_model.py", "paper/test_golden.py"),
    "engine/verdicts.py": ("engine/test_health.py",),
    "system/device.py": ("cli/test_plan.py", "engine/test_loop.py"),
    "system/distributed.py": ("method/test_center.py", "engine/test_distributed.py"),
    "system/jsonl.py": ("engine/test_run.py",),
}
"""Test files of a package or module beside those that mirror or import it."""
PATIENCE = 20.0
"""Seconds that every test may take, however fast it is without a mutation."""
LONGEST = 15.0
"""A test that takes longer without a mutation counts as one that fails: it is left out."""


@dataclass(slots=True)
class Result:
    """What became of a mutant."""

    mutant: Mutant
    outcome: str
    """"killed", "timed out" (also a kill), "survived", "equivalent" or "gone"."""
    seconds: float = 0.0
    reason: str = ""


class Selection:
    """A pytest plugin: leaves out what fails anyway, runs fast ones first, notes what each took."""

    def __init__(self, known: dict[str, float], failing: Sequence[str]) -> None:
        self.known, self.failing = known, set(failing)
        self.took: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        import pytest

        items[:] = [item for item in items if item.nodeid not in self.failing]
        items.sort(key=lambda item: self.known.get(item.nodeid, 0.0))
        for item in items:
            limit = PATIENCE + 5 * self.known.get(item.nodeid, 0.0) if self.known else LONGEST
            item.add_marker(pytest.mark.timeout(limit))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.took[report.nodeid] = self.took.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)


class Copy:
    """Where tests run: the tracked files as they are, tests perhaps of another commit."""

    def __init__(self, folder: Path, tests_from: str | None) -> None:
        self.root, self.work = folder / "tree", folder
        for name in filter(
            None, _git("ls-files", "-z", "-co", "--exclude-standard").decode().split("\0")
        ):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        if tests_from:
            shutil.rmtree(self.root / "tests")
            archive = _git("archive", tests_from, "tests")
            subprocess.run(["tar", "-x", "-C", self.root], input=archive, check=True)
        compileall.compile_dir(self.root / "src", quiet=1)
        self.durations: dict[str, float] = {}
        self.failing: list[str] = []
        self.broken: set[str] = set()

    def test_files(self, file: str) -> list[str]:
        """What mirrors a module, what imports it in its package's folder (else anywhere),
        `ALSO`.
        """
        package, _, inner = file.partition("/")
        parent, _, leaf = f"ibot/{file.removesuffix('.py')}".replace("/", ".").rpartition(".")
        dotted = re.escape(parent)
        uses = re.compile(rf"\b{dotted}\.{leaf}\b|from {dotted} import [^\n]*\b{leaf}\b")
        tests = self.root / "tests"
        importing = [
            path for path in sorted(tests.rglob("test_*.py")) if uses.search(path.read_text())
        ]
        mirrored = tests / package / f"test_{Path(inner).stem}.py"
        near = [path for path in importing if path.is_relative_to(tests / package)]
        also = [tests / name for key in (package, file) for name in ALSO.get(key, ())]
        chosen = dict.fromkeys([mirrored, *near, *also])
        chosen = [path for path in chosen if path.exists()] or importing
        names = [str(path.relative_to(self.root)) for path in chosen]
        return [name for name in names if name not in self.broken]

    def measure(self, files: Sequence[str]) -> None:
        """Run test files without a mutation: what each test takes, and which fail anyway."""
        for file in files:
            out = self.work / "measured.json"
            out.unlink(missing_ok=True)
            code, text, _ = self.run([file], limit=900.0, note=out)
            if code not in (0, 1, 5):
                self.broken.add(file)
                print(f"{file}: left out, it does not run without a mutation\n{text[-500:]}")
                continue
            took, failed = json.loads(out.read_text())
            self.durations.update(took)
            self.failing += failed
            print(f"{file}: {len(took)} tests, {sum(took.values()):.1f} s", flush=True)
            print("".join(f"  fails: {name}\n" for name in failed), end="")

    def run(
        self, files: Sequence[str], limit: float, note: Path | None = None
    ) -> tuple[int | None, str, float]:
        """Exit code of pytest in a forked child (None: out of time), its output, and seconds."""
        began = time.monotonic()
        output, temporary = self.work / "output.txt", self.work / "temporary"
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = self._test(files, output, temporary, note)
            finally:
                os._exit(code)
        status = _wait(child, limit)
        shutil.rmtree(temporary, ignore_errors=True)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        text = output.read_text(errors="replace") if output.exists() else ""
        return code, text, time.monotonic() - began

    def _test(self, files: Sequence[str], output: Path, temporary: Path, note: Path | None) -> int:
        os.setsid()
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.chdir(self.root)
        elsewhere = [path for path in sys.path if path not in ("", str(ROOT / "src"))]
        sys.path[:] = [str(self.root / "src"), *elsewhere]
        os.environ["PYTHONPATH"] = str(self.root / "src")
        if note is None:  # else the rewritten tests are kept, so that the next children read them
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        import pytest

        selection = Selection({} if note else self.durations, self.failing)
        options = ["-p", "no:cacheprovider", f"--basetemp={temporary}", *(() if note else ("-x",))]
        options += ["-m", "not slow and not gpu"]
        code = pytest.main([*options, *files], plugins=[selection])
        if note:
            note.write_text(json.dumps([selection.took, sorted(selection.failed)]))
        sys.stdout.flush()
        return int(code)

    @contextlib.contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """The copy with one change; the compiled file beside it counts again afterwards."""
        path = self.root / "src" / "ibot" / mutant.file
        before, times = path.read_bytes(), path.stat()
        path.write_bytes(mutant.source)
        try:
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, (times.st_atime, times.st_mtime))

    def attempt(self, mutant: Mutant) -> Result:
        """Run the tests of a mutant's module against it."""
        files = self.test_files(mutant.file)
        usual = sum(t for name, t in self.durations.items() if name.split("::")[0] in files)
        with self.mutated(mutant):
            code, text, seconds = self.run(files, limit=60 + 5 * usual)
        if code is None or "Failed: Timeout" in text:
            return Result(mutant, "timed out", seconds)
        if code == 99:
            raise SystemExit(f"the child failed:\n{text[-3000:]}")
        return Result(mutant, "survived" if code in (0, 5) else "killed", seconds)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


def _wait(child: int, limit: float) -> int | None:
    """Status of a child, or None after ending it and what it started (launchers must end
    theirs).
    """
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, number)
        time.sleep(3)
    os.waitpid(child, 0)
    return None


def choose(targets: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """`count` lines of each package or module and one mutation of each; 0: all of all lines."""
    chosen = []
    for target in targets:
        path = ROOT / "src" / "ibot" / target
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found = [mutant for file in files for mutant in mutants_of(file)]
        if not count:
            chosen += found
            continue
        drawn = random.Random(f"{seed} {target}")
        lines = sorted({(m.file, m.line) for m in found})
        for place in sorted(drawn.sample(lines, min(count, len(lines)))):
            on_line = [m for m in found if (m.file, m.line) == place]
            kind = drawn.choice(sorted({m.kind for m in on_line}))
            chosen.append(drawn.choice([m for m in on_line if m.kind == kind]))
    return chosen


def _was_there(mutant: Mutant, commit: str) -> bool:
    """Whether the changed line is as old as a commit: its tests can say nothing of others."""
    try:
        text = _git("show", f"{commit}:src/ibot/{mutant.file}").decode()
    except subprocess.CalledProcessError:
        return False
    return mutant.before in (line.strip() for line in text.split("\n"))


def by_hand(
    rows: Sequence[dict[str, str]], targets: Sequence[str]
) -> tuple[list[Mutant], list[Result]]:
    """Mutants of `tests/mutants.toml` in the targets, and those whose line is not there once."""
    found, gone = [], []
    for row in rows:
        if not any(row["file"] == t or row["file"].startswith(f"{t}/") for t in targets):
            continue
        path = ROOT / "src" / "ibot" / row["file"]
        lines = path.read_text().split("\n") if path.exists() else []
        places = [i for i, line in enumerate(lines) if line.strip() == row["before"]]
        if len(places) != 1:
            mutant = Mutant(row["file"], 0, "by hand", row["before"], row["after"], b"")
            gone.append(Result(mutant, "gone", reason=f"{len(places)} such lines"))
            continue
        place = places[0]
        lines[place] = lines[place].replace(row["before"], row["after"])
        source = "\n".join(lines).encode()
        found.append(Mutant(row["file"], place + 1, "by hand", row["before"], row["after"], source))
    return found, gone


def report(results: Sequence[Result]) -> None:
    """The table of packages, then the survivors."""
    print("\n| package | tried | killed | timed out | survived | equivalent | killed of tried |")
    print("|---|---|---|---|---|---|---|")
    for package in [*dict.fromkeys(r.mutant.file.split("/")[0] for r in results), "all"]:
        chosen = [r for r in results if package in ("all", r.mutant.file.split("/")[0])]
        count = Counter(result.outcome for result in chosen)
        killed = count["killed"] + count["timed out"]
        tried = killed + count["survived"]
        share = f"{100 * killed / tried:.0f} %" if tried else "-"
        others = (count["timed out"], count["survived"], count["equivalent"])
        print("|", " | ".join(map(str, (package, tried, killed, *others, share))), "|")
    for outcome in ("survived", "equivalent", "gone"):
        chosen = [r for r in results if r.outcome == outcome]
        print(f"\n{outcome}: {len(chosen)}" if chosen else "")
        for result in chosen:
            mutant = result.mutant
            print(f"src/ibot/{mutant.file}:{mutant.line} ({mutant.kind}) {result.reason}")
            print(f"  - {mutant.before}\n  + {mutant.after}")


def main() -> None:
    """Read the options, try the mutants, report."""
    parser = argparse.ArgumentParser(description="change single lines and see whether a test fails")
    parser.add_argument("targets", nargs="*", default=PACKAGES, help="packages, or modules: a/b.py")
    parser.add_argument("--count", type=int, default=30, help="lines of each target; 0: all (30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests-from", metavar="COMMIT", help="older tests, older lines")
    parser.add_argument("--list", action="store_true", help="list the mutants and run nothing")
    parser.add_argument("--by-hand", action="store_true", help="those of tests/mutants.toml alone")
    options = parser.parse_args()
    stored = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
    listed = stored.get("equivalent", ())
    known = {(row["file"], row["before"], row["after"]): row["reason"] for row in listed}
    written, results = by_hand(stored.get("mutant", ()), options.targets)
    results += by_hand(listed, options.targets)[1]
    drawn = [] if options.by_hand else choose(options.targets, options.count, options.seed)
    if options.tests_from:
        drawn = [mutant for mutant in drawn if _was_there(mutant, options.tests_from)]
    results += [Result(m, "equivalent", reason=known[m.key]) for m in drawn if m.key in known]
    mutants = [*written, *(m for m in drawn if m.key not in known)]
    if options.list:
        for m in mutants:
            print(f"{m.file}:{m.line} ({m.kind})\n  - {m.before}\n  + {m.after}")
        report([result for result in results if result.outcome == "gone"])
        return
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = Copy(Path(folder), options.tests_from)
        copy.measure(sorted({file for m in mutants for file in copy.test_files(m.file)}))
        for i, mutant in enumerate(mutants):
            results.append(result := copy.attempt(mutant))
            place = f"{mutant.file}:{mutant.line}  {mutant.after}"
            print(
                f"{i + 1}/{len(mutants)} {result.outcome} {result.seconds:.1f} s  {place}",
                flush=True,
            )
    report(results)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("IBOT_GOLDEN", None)  # the cases of the tree: all of them take minutes
    if (ROOT.parent / "shared" / "data").is_dir():
        os.environ.setdefault("IBOT_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    main()
