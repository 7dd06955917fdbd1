"""What `import ibot` offers, and that it leaves the process of its caller as it was."""

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import ibot
import ibot.errors
from ibot.config.override import apply
from ibot.data.scenes import write_folder

API = {
    *("load_backbone", "scan", "extract_features", "knn_accuracy", "train", "recipe", "apply"),
    *("transform", "evaluate", "load_classifier", "predict"),
}
SIGNALS = sorted(signal.valid_signals())
SETTINGS = [
    "model.width=24",
    "model.depth=1",
    "model.heads=2",
    "head.out_dim=32",
    "head.patch_out_dim=32",
    "head.hidden_dim=32",
    "head.bottleneck_dim=16",
    "train.batch=8",
    "train.max_steps=2",
    "system.threads=2",
    "system.deterministic=true",
    "system.device=cpu",
    "system.workers=1",
]


def test_dir_shows_what_can_be_called():
    assert set(dir(ibot)) >= {"__version__", "__doc__", *API} and "import_module" not in dir(ibot)
    assert all(callable(getattr(ibot, name)) for name in API)
    with pytest.raises(AttributeError, match="nothing"):
        _ = ibot.nothing


def test_importing_loads_no_torch():
    code = "import sys, ibot; assert 'load_backbone' in dir(ibot); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Scenes, settings, and a run of two steps on them."""
    root = tmp_path_factory.mktemp("world")
    write_folder(root / "scenes", train=20, val=10, size=32)
    config = apply(ibot.recipe("tiny32"), [f"data.path={root / 'scenes'}", *SETTINGS])
    ibot.train(config, root / "run", quiet=True)
    given = {"cache": root / "cache", "quiet": True, "device": "cpu"}
    ibot.evaluate("logistic", root / "run", root / "scenes", settings="penalties=0.1", **given)
    return root, config


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def logging_state():
    loggers = [logging.getLogger(name) for name in ("", "ibot", "py.warnings", "torch", "PIL")]
    kept = [(log.level, log.disabled, log.propagate, list(log.handlers)) for log in loggers]
    return kept, logging.root.manager.disable


def everything_global():
    """What a caller shares with the functions it calls."""
    return {
        "warning filters": list(warnings.filters),
        "signal handlers": [signal.getsignal(number) for number in SIGNALS],
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "timer": signal.getitimer(signal.ITIMER_REAL)[0],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
        "precision": (
            torch.get_float32_matmul_precision(),
            torch.get_default_dtype(),
            torch.get_default_device(),
        ),
        "modes": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
        "safe globals": set(torch.serialization.get_safe_globals()),
        "group": torch.distributed.is_initialized(),
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": str(np.random.get_state()),
        "numpy's errors": np.geterr(),
        "python's numbers": random.getstate(),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK),
        "environment": dict(os.environ),
        "logging": logging_state(),
        "streams": (sys.stdout, sys.stderr, sys.stdin, sys.excepthook, threading.excepthook),
        "folder": Path.cwd(),
        "running": sorted(thread.name for thread in threading.enumerate()),
        "limits": (sys.getrecursionlimit(), umask()),
        "drawing": sys.modules["matplotlib"].get_backend() if "matplotlib" in sys.modules else None,
    }


def call_everything(root, config, folder):
    """Each public function, in its usual and in its lazy form, where both paths and words are
    taken.
    """
    backbone = ibot.load_backbone(str(root / "run"))
    ibot.load_backbone(root / "run", "student")
    torch.save({"teacher": backbone.state_dict()}, root / "theirs.pth")
    ibot.load_backbone(root / "theirs.pth", heads=2)
    source = ibot.scan(str(root / "scenes"))
    ibot.scan(root / "scenes" / "val")
    features = ibot.extract_features(backbone, source, size=(32, 32), workers=1)
    ibot.extract_features(str(root / "run"), str(root / "scenes"), size=24, indices=[0, 1])
    ibot.extract_features(root / "run", root / "scenes", indices=[0])
    ibot.transform(backbone, 32)(source.read(0))
    classifier = ibot.load_classifier(root / "run")
    ibot.predict(classifier, source, workers=1)
    ibot.predict(str(root / "run"), [root / "scenes" / "val"])
    ibot.knn_accuracy(features, test=features)
    bank = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    ibot.knn_accuracy(bank, torch.arange(20_000) % 5, bank[:300], torch.arange(300) % 5)
    ibot.apply(ibot.recipe("tiny32"), ["train.seed=1"])
    ibot.recipe(root / "run")
    ibot.train(replace(config, train=replace(config.train, seed=1)), str(folder), quiet=True)
    with pytest.raises(ibot.errors.UserError):
        ibot.train(config, folder, quiet=True)  # other settings: an error restores as well


def assert_nothing_changed(before):
    after = everything_global()
    assert [name for name in before if before[name] != after[name]] == []


def test_public_functions_leave_the_process_as_it_was(world, tmp_path):
    root, config = world
    with np.errstate(over="raise"), torch.autocast("cpu", enabled=False):
        torch.manual_seed(5)
        torch.serialization.add_safe_globals([argparse.Namespace])
        before = everything_global()
        try:
            call_everything(root, config, tmp_path / "run")
            assert_nothing_changed(before)
        finally:
            torch.serialization.clear_safe_globals()


def test_they_do_so_in_a_thread_too(world, tmp_path):
    root, config = world
    threads = torch.get_num_threads()
    before, failures = everything_global(), []

    def work():
        try:
            call_everything(root, config, tmp_path / "run")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == [] and torch.get_num_threads() == threads
    assert_nothing_changed(before)
