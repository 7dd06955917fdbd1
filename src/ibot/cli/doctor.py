"""`ibot doctor`."""

from __future__ import annotations

import argparse
import platform
import shutil
from importlib.util import find_spec

import ibot
from ibot.cli.parser import Commands
from ibot.system.machine import usable_cores
from ibot.system.waiting import in_force

OPTIONAL = {"tensorboard": "log", "matplotlib": "show"}


def declare(commands: Commands) -> None:
    """Declare `ibot doctor`."""
    commands.add("doctor", "what this machine offers", run)


def run(options: argparse.Namespace) -> int:
    """Print what machine and packages offer, with advice where something is missing."""
    import torch

    from ibot.system.device import choose_device, choose_precision, describe_device

    device = choose_device("auto")
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    cores = usable_cores()
    print(f"ibot {ibot.__version__}, Python {platform.python_version()}, {platform.platform()}")
    needed = ("torch", "torchvision", "numpy", "pillow")
    print("packages    " + ", ".join(f"{name} {_version(name)}" for name in needed))
    print(f"device      {device}: {describe_device(device)}; products in {precision}")
    built_for = f"torch built for CUDA {torch.version.cuda or '-'}"
    print(f"GPUs        {torch.cuda.device_count()} ({built_for})")
    print(f"cores       {cores}")
    print(f"waiting     {in_force()}")
    print(f"disk        {shutil.disk_usage('.').free / 2**30:.0f} GiB free here")
    for package, extra in OPTIONAL.items():
        found = find_spec(package) is not None
        print(f"{package:12}{_version(package) if found else f'absent: pip install ibot[{extra}]'}")
    if device.type == "cpu":
        print(
            "advice      without a GPU train small networks, as auto does; ViT-S/16 at 224 pixels "
            "takes weeks here"
        )
    if device.type == "cpu" and precision == "float32":
        print(
            "advice      this processor has no native bfloat16: expect about 40 % of the "
            "documents' speed"
        )
    print("next        ibot pretrain auto --data DIR   on your own images")
    return 0


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # a quarter of the help's time

    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
