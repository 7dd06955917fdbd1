"""What `ibot doctor` looks at, one function for each thing."""

from __future__ import annotations

import importlib
import locale
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ibot
from ibot import extras
from ibot.eval.request import FEATURE_CACHE
from ibot.system import limits, portable
from ibot.system.machine import usable_cores
from ibot.system.places import expanded, is_writable
from ibot.system.waiting import in_force

MODULES = {"pillow": "PIL"}
"""What packages are imported as, where that is another name."""
PARTIAL = {"torchvision": "sets by name (cifar10:DIR) and detection need it"}
"""Packages without which all but a part works."""
SHARED = 2**30
"""Bytes of shared memory below which loader processes of usual batches may lack it."""
FILES = 1024
"""Open files below which many loader processes may lack them."""
SKEW_SECONDS = 5.0
"""Between the clocks of the machine and of its disk: files count as changed by their times."""
PAGE = "docs/installing.md"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    advice: str = ""
    """What to do about it; empty where all is well."""
    fatal: bool = False
    """Whether nothing works without it."""


def checks() -> Iterator[Check]:
    """Look at everything, in the order in which it is shown; raises nothing."""
    yield _system()
    needed = [_needed(need) for need in extras.needed()]
    versions = ", ".join(f"{extras.name_of(need)} {_version(need)}" for need in extras.needed())
    yield Check("packages", versions or "which are needed cannot be told: no pyproject.toml")
    yield from (check for check in needed if check is not None)
    if not any(check is not None and check.fatal for check in needed):
        yield from _device()
        yield from _kernels()
    yield _cores()
    yield _memory()
    yield Check("waiting", in_force())
    yield _loaders()
    yield _shared()
    yield _open_files()
    yield _here()
    yield _temporary()
    yield _cache()
    yield _clock()
    yield _encoding()
    yield Check("browser", "none is needed: pages are files; explore opens one where there is one")
    yield from _extras()


def _system() -> Check:
    advice = ""
    if sys.platform != "linux":
        advice = f"written and tested on Linux; {PAGE} says what differs on this system"
    words = f"ibot {ibot.__version__}, Python {platform.python_version()}, {platform.platform()}"
    return Check("system", words, advice)


def _version(need: str) -> str:
    return extras.installed(extras.name_of(need)) or "absent"


def _needed(need: str) -> Check | None:
    """What is wrong with a package that is needed, if anything is."""
    package, fix = extras.name_of(need), extras.command([need])
    if not extras.is_met(need):
        return Check(package, f"{_version(need)}, but {need} is needed", fix, fatal=True)
    try:
        importlib.import_module(MODULES.get(package, package))
    except Exception as error:  # whatever a broken installation raises
        words = f"cannot be imported: {_first_line(error)}"
        if part := PARTIAL.get(package):
            words += f"; {part}"
        together = f"install torch and torchvision anew, both from one place: {PAGE}"
        advice = together if package.startswith("torch") else f"install it again: {fix}"
        return Check(package, words, advice, fatal=package not in PARTIAL)
    return None


def _device() -> Iterator[Check]:
    import torch

    from ibot.system.device import choose_device, choose_precision, describe_device

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        count = torch.cuda.device_count()
        try:
            device = choose_device("auto")
            float((torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)).sum())
        except Exception as error:
            advice = f"see its driver and the build of torch ({PAGE}), or use --device cpu"
            yield Check("device", f"a product fails: {_first_line(error)}", advice, fatal=True)
            return
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    advice = ""
    if device.type == "cpu":
        advice = (
            "without a GPU train small networks, as auto does; ViT-S/16 at 224 pixels takes weeks "
            "here"
        )
        if precision == "float32":
            advice += (
                "; this processor has no native bfloat16: expect about 40 % of the documents' speed"
            )
    yield Check("device", f"{device}: {describe_device(device)}; products in {precision}", advice)
    yield Check(
        "GPUs",
        f"{count} (torch built for CUDA {torch.version.cuda or '-'})",
        _lost_gpu(torch.version.cuda, said[0].message if said else "") if not count else "",
    )


def _lost_gpu(cuda: str | None, said: object) -> str:
    """Why a GPU that is there is not seen; empty where there seems to be none."""
    import torch

    if torch.backends.mps.is_available():
        return "an Apple GPU is there: --device mps, which nobody has tried"
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()):
        return ""
    if cuda is None:
        return f"a GPU's driver is there, but this torch knows CPUs alone: {PAGE}"
    why = str(said).partition("(Triggered")[0].splitlines()
    return f"a GPU's driver is there, but torch sees none: {why[0] if why else 'see nvidia-smi'}"


def _kernels() -> Iterator[Check]:
    from ibot.kernels import blocks, views

    compiler = next((name for name in ("cc", "gcc", "clang", "cl") if shutil.which(name)), "")
    first = "" if compiler else "install a C compiler, then "
    again = f"{first}install ibot again from its folder ({PAGE})"
    if views.is_built():
        yield Check("kernel", "compiled: data.pixels=fast and device use it")
    else:
        less = "not compiled: views are made by torch and Pillow, with the same result in more time"
        yield Check("kernel", less, again)
    if blocks.is_built():
        yield Check("CPU blocks", "compiled: ViTs on the CPU use them")
        return
    less = "not compiled, or not for this processor: torch computes the same in more time"
    yield Check("CPU blocks", less, "" if sys.platform == "win32" else again)


def _cores() -> Check:
    limit, whole = limits.core_limit(), os.cpu_count() or 1
    more = "" if limit is None else f", a container allows {limit:g}"
    return Check("cores", f"{usable_cores()} (the machine has {whole}{more})")


def _memory() -> Check:
    limit, whole = limits.memory_limit(), limits.memory()
    if whole != whole:  # nan
        return Check("memory", "not known on this system")
    more = "" if limit is None or limit > whole else ", as its container allows"
    return Check("memory", f"{whole:.1f} GiB{more}")


def _loaders() -> Check:
    how = portable.START_METHOD or multiprocessing.get_start_method()
    try:
        multiprocessing.get_context(how).Lock()
    except (OSError, ImportError) as error:
        words = f"cannot be started: {_first_line(error)}"
        return Check("loaders", words, "read without them: system.workers=0, --workers 0")
    return Check("loaders", f"processes start by {how}")


def _shared() -> Check:
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Check("shared", "no /dev/shm: the system keeps shared memory elsewhere")
    few = "docker run --shm-size=8g, or system.workers=0" if free < SHARED else ""
    return Check("shared", f"{free / 2**30:.2f} GiB of memory free in /dev/shm", few)


def _open_files() -> Check:
    count = portable.open_files()
    if count is None:
        return Check("files", "any number may be open")
    return Check("files", f"{count} may be open", "ulimit -n 65536" if count < FILES else "")


def _here() -> Check:
    try:
        folder, free = Path.cwd(), shutil.disk_usage(".").free / 2**30
    except OSError as error:
        words = f"the current folder cannot be used: {_first_line(error)}"
        return Check("disk", words, "go to another")
    if not is_writable(folder):
        advice = "name folders elsewhere: --run for trainings, --out for evaluations and features"
        return Check("disk", f"'{folder}' cannot be written", advice)
    few = "less than 1 GiB: checkpoints may not fit, see ibot plan" if free < 1 else ""
    return Check("disk", f"{free:.0f} GiB free here", few)


def _temporary() -> Check:
    try:
        return Check("temporary", f"files go to '{tempfile.gettempdir()}'")
    except OSError as error:
        advice = "set TMPDIR to a folder that can be written"
        return Check("temporary", _first_line(error), advice, fatal=True)


def _cache() -> Check:
    try:
        folder = expanded(FEATURE_CACHE).parent
    except RuntimeError:
        advice = "set HOME to a folder that can be written, or features are kept beside results"
        return Check("cache", "there is no home folder", advice)
    if is_writable(folder):
        return Check("cache", f"'{folder}'")
    advice = "set HOME to another folder, or name one with --cache"
    return Check("cache", f"'{folder}' cannot be written: features are kept beside results", advice)


def _clock() -> Check:
    now = time.time()
    words = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(now))
    try:
        with tempfile.TemporaryFile(dir=".") as file:
            skew = os.fstat(file.fileno()).st_mtime - now
    except OSError:
        skew = 0.0
    if abs(skew) > SKEW_SECONDS:
        advice = "set both right: files count as changed by their times"
        return Check("clock", f"{words}; that of the disk here is {skew:+.0f} s off", advice)
    wrong = "it is wrong: downloads fail, files seem changed" if now < _built() else ""
    return Check("clock", words, wrong)


def _built() -> float:
    """When this file was written: no clock can be right that is behind it by more than a day."""
    return Path(__file__).stat().st_mtime - 86_400


def _encoding() -> Check:
    name = "utf-8" if sys.flags.utf8_mode else locale.getencoding().lower()
    right = name.replace("-", "") == "utf8"
    advice = "" if right else "set PYTHONUTF8=1: files and names are written in UTF-8"
    return Check("encoding", name, advice)


def _extras() -> Iterator[Check]:
    table = extras.extras()
    there = [extra for extra in table if not extras.missing(extra)]
    yield Check("extras", ", ".join(there) or "none")
    for extra in table:
        if packages := extras.missing(extra):
            names = ", ".join(extras.name_of(package) for package in packages)
            yield Check(f"  {extra}", f"lacks {names}", extras.command(packages))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
