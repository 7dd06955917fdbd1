"""`ibot doctor`."""

from __future__ import annotations

import argparse
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import ibot
from ibot.system.machine import usable_cores
from ibot.system.waiting import in_force

OPTIONAL = {"tensorboard": "log", "matplotlib": "show"}


def run(options: argparse.Namespace) -> int:
    """Print versions, devices, precision, cores, disk and optional packages, with advice where
    something is missing.
    """
    import torch

    from ibot.system.device import choose_device, choose_precision, describe_device

    device = choose_device("auto")
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    cores = usable_cores()
    print(f"ibot {ibot.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(
        "packages    "
        + ", ".join(
            f"{name} {_version(name)}" for name in ("torch", "torchvision", "numpy", "pillow")
        )
    )
    print(f"device      {device}: {describe_device(device)}; products in {precision}")
    print(
        f"GPUs        {torch.cuda.device_count()} (torch built for CUDA "
        f"{torch.version.cuda or '-'})"
    )
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
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
