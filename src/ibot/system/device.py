"""Where a training runs and in which precision."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ibot.errors import UserError
from ibot.rng import Purpose, torch_seed
from ibot.system.freed import freed_memory_kept
from ibot.system.machine import local_world_size
from ibot.system.process_state import loaders_forgotten
from ibot.system.processes import launched_processes

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Without it cuBLAS has no deterministic kernels."""


def choose_device(name: str) -> torch.device:
    """The device of this process; `auto` takes a GPU if there is one. Raises UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"unknown device '{name}'", fix="use auto, cpu, cuda, cuda:0 or mps"
        ) from None
    if device.type == "cuda":
        return torch.device("cuda", _own_gpu(device))
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not there", fix="use --device cpu")
    return device


def _own_gpu(device: torch.device) -> int:
    """The GPU of this process. Raises UserError for one that is absent or shared."""
    count, together = torch.cuda.device_count(), local_world_size()
    index = device.index if device.index is not None else launched_processes().local_rank
    if device.index is None and 0 < count <= index:
        raise UserError(
            f"{max(together, index + 1)} processes on this machine, but {count} GPUs",
            why="each process takes one",
            fix=f"start {count}, or use --device cpu",
        )
    if index >= count:
        raise UserError(
            f"device '{device}' is not there",
            why=f"torch {torch.__version__} sees {count} GPUs",
            fix="use --device cpu, or install a torch build and driver that see your GPU (ibot "
            "doctor)",
        )
    # A launcher may show each process a GPU of its own, which then is number 0 in all of them.
    alone = os.environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0
    if device.index is not None and together > 1 and not alone:
        raise UserError(
            f"device '{device}' is one GPU for {together} processes",
            why="each process takes one",
            fix="use --device cuda: then each takes its own",
        )
    return index


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """Type of the matrix products; `auto`: bfloat16 where it is native, else float32."""
    if setting != "auto":
        if setting == "float16" and device.type == "cpu":
            raise UserError("train.precision=float16 needs a GPU", fix="use train.precision=auto")
        return getattr(torch, setting)
    return torch.bfloat16 if has_native_bfloat16(device) else torch.float32


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones on the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.backends.cpu.get_cpu_capability()
        return "AVX512" in capabilities and bool(torch.cpu._is_avx512_bf16_supported())
    return False


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Context in which products run in `precision`; nothing for float32 and wider."""
    if precision in (torch.bfloat16, torch.float16):
        return torch.autocast(device.type, dtype=precision)
    return nullcontext()


def seed_step(seed: int, step: int) -> None:
    """Seed torch for a step, alike in all processes and after a resumption: for what draws there,
    as stochastic depth does in fine-tuning and in runs of the first rule (`RunState.draws`).
    """
    torch.manual_seed(torch_seed(seed, step, 0, Purpose.DROP_PATH))


@contextmanager
def prepared(name: str, threads: int, deterministic: bool) -> Iterator[torch.device]:
    """The device `name` for a training, with the threads (0: torch's choice) and the kernels that
    were asked for.

    On a CPU freed memory is kept for the next step. All of that belongs to the process, and so to
    whoever called the training from Python: afterwards it is as before, the state of torch's random
    numbers included. Raises UserError for a device that is absent.
    """
    own, workspace = torch.get_num_threads(), os.environ.get(WORKSPACE)
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if threads:
            torch.set_num_threads(threads)
        if deterministic:
            os.environ.setdefault(WORKSPACE, ":4096:8")  # before the first use of a GPU
            torch.use_deterministic_algorithms(True)
        device = choose_device(name)
        on_gpu = device.type == "cuda"
        with (
            loaders_forgotten(),
            torch.random.fork_rng([device] if on_gpu else []),
            torch.cuda.device(device if on_gpu else -1),
            nullcontext() if on_gpu else freed_memory_kept(),
        ):
            yield device
    finally:
        if torch.get_num_threads() != own:
            torch.set_num_threads(own)
        if deterministic:
            torch.use_deterministic_algorithms(strict, warn_only=lenient)
            if workspace is None:
                del os.environ[WORKSPACE]


def device_memory(device: torch.device) -> float:
    """GiB of a GPU; 0 for a CPU."""
    if device.type != "cuda":
        return 0.0
    return torch.cuda.get_device_properties(device).total_memory / 2**30


def model_of_device(device: torch.device) -> str:
    """Name of the kind of device: "CPU", "NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type.upper()


def describe_device(device: torch.device) -> str:
    """A name for logs and provenance."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
