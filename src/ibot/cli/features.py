"""`ibot features`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ibot.cli.arguments import add_images, add_weights
from ibot.cli.inputs import read_network, reading
from ibot.cli.parser import Commands
from ibot.eval.features.forms import check_form
from ibot.eval.request import windows_of
from ibot.system.progress import counter, print_notes
from ibot.words import sides


def declare(commands: Commands) -> None:
    """Declare `ibot features`."""
    summary = "write class tokens (and patch tokens) with file names"
    parser = commands.add("features", summary, run)
    add_weights(parser)
    add_images(parser)
    out = ".npz, .safetensors, .csv (class tokens) or .parquet (pip install pyarrow)"
    parser.add_argument("--out", required=True, metavar="FILE", help=out)
    parser.add_argument("--patches", action="store_true", help="write patch tokens too")
    # argparse may part --out from FILE
    parser.usage = "%(prog)s [options] WEIGHTS_OR_RUN --data DATA --out FILE"


def run(options: argparse.Namespace) -> None:
    """Write class tokens, and patch tokens if asked, with the file names and labels."""
    out = Path(options.out)
    check_form(out.suffix, options.patches)
    from ibot.data.sets.images import LabelledImages
    from ibot.data.sets.open import open_images
    from ibot.data.sets.same_channels import require_channels
    from ibot.data.sets.trimmed import trimmed
    from ibot.eval.features.files import tensors_of, write_features
    from ibot.eval.features.tokens import extract_features
    from ibot.eval.opened import channels_of_network_told, unlike_training
    from ibot.eval.request import trims_borders
    from ibot.system.device import choose_device
    from ibot.system.files import write_named
    from ibot.weights.export import create_parents

    device = choose_device(options.device)
    loaded = read_network(options)
    orientation, most = options.exif_orientation, options.max_pixels
    with channels_of_network_told(loaded.config.channels):
        source = open_images(
            options.data,
            exif_orientation=orientation,
            max_pixels=most,
            channels=reading(options, loaded),
            windows=windows_of(options.weights, options.window, options.window_content),
        )
    source = trimmed(source, trims_borders(options.weights))
    require_channels(source, loaded.config.channels)
    print_notes([*source.notes, *unlike_training(source, loaded)], options.quiet)
    create_parents(out)  # what fails shall fail before the work
    features = extract_features(
        loaded.backbone.to(device),
        source,
        size=options.size or loaded.size,
        patches=options.patches,
        device=device,
        progress=None if options.quiet else counter("images"),
    )
    classes = source.classes if isinstance(source, LabelledImages) else ()
    write_named(out, lambda path: write_features(path, out.suffix, features, classes), "--out")
    tensors = tensors_of(features)
    shapes = ", ".join(f"{name} {sides(tensor.shape)}" for name, tensor in tensors.items())
    print(f"{len(features.names)} images: {shapes} -> {out}")
    for path, reason in features.bad:
        print(f"not read: {path}: {reason}")
