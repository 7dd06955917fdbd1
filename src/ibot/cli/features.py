"""`ibot features`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ibot.cli.results import write_file
from ibot.errors import UserError

SUFFIXES = (".npz", ".safetensors")


def run(options: argparse.Namespace) -> int:
    """Write class tokens, and patch tokens if asked, with the file names and labels."""
    out = Path(options.out)
    if out.suffix not in SUFFIXES:
        raise UserError(
            f"cannot write features as '{out.suffix}'",
            fix=f"end --out with {' or '.join(SUFFIXES)}",
        )
    import json

    import numpy as np

    from ibot.data.sets.images import LabelledImages
    from ibot.data.sets.open import open_images
    from ibot.eval.features.tokens import extract_features
    from ibot.system.device import choose_device
    from ibot.system.progress import counter, print_notes
    from ibot.weights.export import create_parents
    from ibot.weights.read import load

    device = choose_device(options.device)
    loaded = load(
        options.weights, options.key, heads=options.heads, allow_partial=options.allow_partial
    )
    backbone = loaded.backbone.to(device)
    size = (options.size, options.size) if options.size else loaded.size
    source = open_images(
        options.data, exif_orientation=options.exif_orientation, max_pixels=options.max_pixels
    )
    print_notes(source.notes, options.quiet)
    create_parents(out)  # what fails shall fail before the work
    features = extract_features(
        backbone,
        source,
        size=size,
        patches=options.patches,
        device=device,
        progress=None if options.quiet else counter("images"),
    )
    classes = source.classes if isinstance(source, LabelledImages) else ()
    tensors = {"cls": features.cls}
    if features.patches is not None:
        tensors["patches"] = features.patches
    if features.labels is not None:
        tensors["labels"] = features.labels
    if out.suffix == ".npz":
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        arrays |= {"names": np.array(features.names), "classes": np.array(classes)}
        write_file(out, lambda path: np.savez(path, allow_pickle=False, **arrays))
    else:
        from ibot.weights.write import save_tensors

        about = {"names": json.dumps(features.names), "classes": json.dumps(classes)}
        write_file(out, lambda path: save_tensors(tensors, path, about))
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    print(f"{len(features.names)} images: {shapes} -> {out}")
    for path, reason in features.bad:
        print(f"not read: {path}: {reason}")
    return 0
