"""`ibot features`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ibot.errors import UserError

SUFFIXES = (".npz", ".safetensors")


def run(options: argparse.Namespace) -> int:
    """Write class tokens, and patch tokens if asked, with the file names and labels."""
    out = Path(options.out)
    if out.suffix not in SUFFIXES:
        raise UserError(f"cannot write features as '{out.suffix}'", fix=f"end --out with {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder '{out.parent}' for --out", fix="create it first")
    import json

    import numpy as np

    from ibot.cli.evaluate import counter
    from ibot.data.sources import scan
    from ibot.engine.device import choose_device
    from ibot.eval.features import extract_features
    from ibot.weights.read import load

    device = choose_device(options.device)
    loaded = load(options.weights, options.key, heads=options.heads)
    backbone = loaded.backbone.to(device)
    size = (options.size, options.size) if options.size else loaded.size
    source = scan(options.data)
    features = extract_features(
        backbone, source, size=size, patches=options.patches, device=device,
        progress=None if options.quiet else counter("images"),
    )  # fmt: skip
    tensors = {"cls": features.cls}
    if features.patches is not None:
        tensors["patches"] = features.patches
    if features.labels is not None:
        tensors["labels"] = features.labels
    if out.suffix == ".npz":
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        arrays |= {"names": np.array(features.names), "classes": np.array(source.classes)}
        np.savez(out, allow_pickle=False, **arrays)
    else:
        from safetensors.torch import save_file

        save_file(tensors, out, {"names": json.dumps(features.names), "classes": json.dumps(source.classes)})
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    print(f"{len(features.names)} images: {shapes} -> {out}")
    for path, reason in features.bad:
        print(f"not read: {path}: {reason}")
    return 0
