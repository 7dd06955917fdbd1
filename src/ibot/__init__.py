"""iBOT: image BERT pre-training with an online tokenizer. `import ibot` is cheap; torch loads on
first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load_backbone": "ibot.weights.read",
    "scan": "ibot.data.sets.scan",
    "extract_features": "ibot.eval.features.tokens",
    "transform": "ibot.eval.features.transform",
    "knn_accuracy": "ibot.eval.neighbours.vote",
    "evaluate": "ibot.eval.evaluate",
    "load_classifier": "ibot.eval.classifiers",
    "predict": "ibot.eval.predict",
    "train": "ibot.engine.loop",
    "recipe": "ibot.recipes",
    "apply": "ibot.config.override",
}
__all__ = ["__version__", *_LAZY]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ibot' has no attribute '{name}'")
