"""`ibot weights`: look into files, bring them in, take them out."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from ibot.errors import UserError, WeightsError, printable
from ibot.weights.suffixes import require_new


def inspect(options: argparse.Namespace) -> int:
    """What a file of weights holds, also one that cannot be used, without running anything in
    it.
    """
    from ibot.weights.describe import describe
    from ibot.weights.files import read_content

    content = read_content(Path(options.weights), options.key)
    with content.file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    print(
        f"file      {content.file} ({content.file.stat().st_size / 2**20:.1f} MiB, sha256 {digest})"
    )
    lines = describe(
        content,
        options.key,
        heads=options.heads,
        allow_partial=options.allow_partial,
        every=options.all,
    )
    for title, text in lines:
        print(f"{title:9} {printable(text)}", flush=True)  # before what may be wrong
    return 0


def convert(options: argparse.Namespace) -> int:
    """A published full checkpoint becomes a run that can go on; any other weights become a folder
    of ours.
    """
    from ibot.data.sets.open import open_images
    from ibot.engine.exchange import IMAGENET_IMAGES, convert_checkpoint, is_full_checkpoint
    from ibot.weights.export import export_backbone
    from ibot.weights.files import is_pickle, locate, read_pickle
    from ibot.weights.read import load

    file, out = Path(options.weights), Path(options.run_folder)
    if not file.exists():
        raise WeightsError(f"there is no file or folder '{file}'", fix="check the path")
    if (
        file.is_file()
        and is_pickle(locate(file, options.key))
        and is_full_checkpoint(read_pickle(file))
    ):
        images = len(open_images(options.data)) if options.data else options.images
        assumed = images is None
        heads = [f"model.heads={options.heads}"] if options.heads else []
        command = shlex.join(["ibot", *sys.argv[1:]])
        config, state, reports = convert_checkpoint(
            file, out, settings=[*heads, *options.settings], images=images, command=command
        )
        for name, report in reports.items():
            print(f"{name}: {report}")
        images = images or IMAGENET_IMAGES
        print(
            f"{state.epoch} epochs done = step {state.step} with {images} images and batch "
            f"{config.train.batch}"
        )
        if assumed:
            print(
                "note: the number of images is not in the file, ImageNet's is assumed, and the "
                "step follows from it:"
            )
            print(
                "      --data DIR or --images N gives the right one (convert again, into a new "
                "folder)"
            )
        print("note: a float16 loss scale is not kept; training goes on in float32 or bfloat16")
        print(f"go on:    ibot pretrain {out}/config.json --run {out} --data DIR")
        print(f"evaluate: ibot eval knn {out} --data DIR")
        return 0
    if options.settings:
        raise UserError(
            "settings need a full checkpoint",
            why=f"'{file}' holds one network",
            fix="leave them out",
        )
    if out.exists() and any(out.iterdir()):
        raise UserError(f"'{out}' is not empty", fix="name a new folder with --run")
    loaded = load(file, options.key, heads=options.heads, allow_partial=options.allow_partial)
    print(f"{options.key}: {loaded.report}")
    out.mkdir(parents=True, exist_ok=True)
    export_backbone(loaded, "safetensors", out / "model.safetensors")
    print(
        "no projection head, so no run to go on with.\nstart from it: ibot pretrain RECIPE "
        f"--init {out} --data DIR"
    )
    return 0


def export(options: argparse.Namespace) -> int:
    """Write weights for another project, load them there, compare, and describe them."""
    out = Path(options.out)
    require_new(out, options.to)
    if options.to == "checkpoint":
        from ibot.engine.exchange import export_checkpoint

        export_checkpoint(Path(options.weights), out)
        print(
            f"student, teacher, optimizer, centers and arguments in the published layout -> {out}"
        )
        return 0
    from ibot.eval.features.cache import weights_hash
    from ibot.weights.card import model_card
    from ibot.weights.export import TOLERANCE, export_backbone
    from ibot.weights.read import load

    loaded = load(
        options.weights, options.key, heads=options.heads, allow_partial=options.allow_partial
    )
    if loaded.report.missing or loaded.report.unused:
        print(f"partial: {loaded.report}")
    size = (options.size[0], options.size[-1]) if options.size else None
    differences = export_backbone(loaded, options.to, out, size)
    for d in differences:
        prepared = (
            "" if d.cosine is None else f", pictures as prepared there: cosine {d.cosine:.5f}"
        )
        print(
            f"{d.size[0]}x{d.size[1]}{prepared}: largest difference of class tokens {d.cls:.1e}, "
            f"of patch tokens {d.patches:.1e}"
        )
    exported = replace(loaded, size=differences[0].size)
    card = out / "README.md" if out.is_dir() else out.with_name(f"{out.name}.md")
    text = model_card(
        exported,
        options.to,
        out.name,
        Path(options.weights),
        differences,
        key=options.key,
        weights_hash=weights_hash(loaded),
    )
    card.write_text(text)
    print(
        f"tokens of equal inputs differ by less than {TOLERANCE:g}. Weights: {out}   model card: "
        f"{card}"
    )
    return 0
