"""Seconds of `ibot --help` and of `import ibot`, each the median of fresh interpreters."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "ibot --help": ["-m", "ibot", "--help"],
    "import ibot": ["-c", "import ibot"],
    "bare interpreter": ["-c", ""],
}


def seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    for name, arguments in COMMANDS.items():
        print(f"{name:18}{statistics.median(seconds(arguments) for _ in range(9)):.3f} s")


if __name__ == "__main__":
    main()
