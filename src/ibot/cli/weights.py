"""`ibot weights`: look into files, bring them in, take them out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.cli.arguments import COUNT, add_network, add_settings, list_of
from ibot.cli.inputs import read_network
from ibot.cli.parser import Commands
from ibot.errors import UserError, WeightsError, printable
from ibot.weights.suffixes import SUFFIXES, require_new

if TYPE_CHECKING:
    from ibot.weights.export import Difference
    from ibot.weights.read import Loaded


def declare(commands: Commands) -> None:
    """Declare `ibot weights` with its actions."""
    actions = commands.add_group(
        "weights",
        summary="list, inspect, convert and export weights",
        description="Weights of this and other projects.",
        title="actions",
        metavar="ACTION",
    )
    listed = actions.add("list", "the published weights, and how to name them", list_all)
    listed.add_argument("--json", action="store_true", help="as JSON, with addresses and places")
    inspected = actions.add("inspect", "what a file of weights holds", inspect)
    add_network(inspected)
    every = "every name of the file with its shape and type"
    inspected.add_argument("--all", action="store_true", help=every)
    _declare_convert(actions)
    _declare_export(actions)


def _declare_convert(actions: Commands) -> None:
    summary = "bring weights in: a full checkpoint goes on training"
    parser = actions.add("convert", summary, convert)
    add_network(parser)
    parser.add_argument("--run", dest="run_folder", required=True, metavar="DIR", help="new folder")
    data = "training images; their number gives the step"
    parser.add_argument("--data", default="", metavar="DIR", help=data)
    images = "number of training images (default: ImageNet's)"
    parser.add_argument("--images", type=COUNT, metavar="N", help=images)
    add_settings(parser, "section.key=value", "settings the file does not tell")


def _declare_export(actions: Commands) -> None:
    summary = "write weights for another project, and compare there"
    parser = actions.add("export", summary, export)
    add_network(parser)
    listed = ", ".join(name for name in SUFFIXES if name not in ("checkpoint", "classifier"))
    to = (
        f"{listed}; checkpoint (all of a run, published layout); classifier (with its head, for "
        "ibot predict)"
    )
    parser.add_argument("--to", required=True, choices=tuple(SUFFIXES), metavar="TARGET", help=to)
    out = (
        "a new folder for timm and huggingface, else a new file: .safetensors, .pth "
        "(published), .onnx"
    )
    parser.add_argument("--out", required=True, metavar="PATH", help=out)
    size = "image size; default: as in training"
    parser.add_argument("--size", type=list_of(COUNT), metavar="H[,W]", help=size)
    parser.usage = "%(prog)s [options] WEIGHTS_OR_RUN --to TARGET --out PATH"


def list_all(options: argparse.Namespace) -> None:
    """The published weights: what they are, their terms, and whether they are on this machine."""
    from ibot.recipes.offers import offers
    from ibot.weights.forms import FULL
    from ibot.weights.published import MIRROR

    known = offers()
    if options.json:
        print(json.dumps([offer.plain() for offer in known], indent=2))
        return
    print(f"{'name':20}{'network':10}{'data':14}{'parameters':>11}{'size':>11}{'k-NN':>7}  holds")
    for offer in known:
        size = f"~{offer.bytes_calculated / 2**20:,.0f} MiB"
        here = "   here" if offer.is_here else ""
        print(
            f"{offer.name:20}{offer.called:10}{offer.data:14}{offer.parameters:11,}{size:>11}{offer.knn:7.1f}"
            f"  {offer.key}{here}"
        )
    print(f"terms: {known[0].terms}. k-NN: published, ImageNet-1K, %. size: calculated from the")
    print(f"parameters. {FULL} behind a name: student, teacher, heads, optimizer, arguments")
    folder = Path(known[0].file).parents[1]
    print(f"\nkept in {folder}; a mirror: {MIRROR}=ADDRESS_OR_FOLDER")
    print(f"start from one:  ibot pretrain adapt --init {known[0].name} --data DIR")
    print(f"look at images:  ibot features {known[0].name} --data DIR --out features.npz")
    print("others by name:  hf:owkin/phikon, timm:vit_small_patch16_224.dino; see docs/weights.md")


def inspect(options: argparse.Namespace) -> None:
    """What a file of weights holds, also one that cannot be used; nothing in it is executed."""
    from ibot.system.files import sha256_of
    from ibot.weights.describe import describe
    from ibot.weights.files import read_content

    content = read_content(options.weights, options.key)
    digest = sha256_of(content.file)[:16]
    size = content.file.stat().st_size / 2**20
    print(f"file      {content.file} ({size:.1f} MiB, sha256 {digest})")
    _tell_classifier(content.file)
    lines = describe(
        content,
        options.key,
        heads=options.heads,
        allow_partial=options.allow_partial,
        every=options.all,
    )
    for title, text in lines:
        print(f"{title:9} {printable(text)}", flush=True)  # before what may be wrong


def _tell_classifier(file: Path) -> None:
    """What is known of a classifier, if the file holds one."""
    from ibot.eval.classifiers import about
    from ibot.eval.linear_classifier import load_classifier

    if (classifier := load_classifier(file)) is not None:
        for title, text in about(classifier).items():
            print(f"{title:10}{printable(text)}")


def convert(options: argparse.Namespace) -> None:
    """A published full checkpoint becomes a run; any other weights become a folder of ours."""
    from ibot.engine.exchange import is_full_checkpoint
    from ibot.weights.files import is_pickle, locate, read_pickle
    from ibot.weights.forms import meant
    from ibot.weights.named import located

    file = located(options.weights)
    if not file.exists():
        raise WeightsError(f"there is no file or folder '{file}'", fix=meant(file))
    pickled = file.is_file() and is_pickle(locate(file, options.key))
    if pickled and is_full_checkpoint(read_pickle(file)):
        _convert_checkpoint(options, file)
    else:
        _convert_network(options, file)


def _convert_checkpoint(options: argparse.Namespace, file: Path) -> None:
    """Make a run that can go on."""
    from ibot.data.sets.open import open_images
    from ibot.engine.exchange import IMAGENET_IMAGES, convert_checkpoint

    out = Path(options.run_folder)
    known = len(open_images(options.data)) if options.data else options.images
    heads = [f"model.heads={options.heads}"] if options.heads else []
    command = shlex.join(["ibot", *sys.argv[1:]])
    config, state, reports = convert_checkpoint(
        file, out, settings=[*heads, *options.settings], images=known, command=command
    )
    for name, report in reports.items():
        print(f"{name}: {report}")
    print(
        f"{state.epoch} epochs done = step {state.step} with {known or IMAGENET_IMAGES} images and "
        f"batch {config.train.batch}"
    )
    if known is None:
        print(
            "note: the number of images is not in the file, ImageNet's is assumed, and the "
            "step follows from it:"
        )
        print(
            "      --data DIR or --images N gives the right one (convert again, into a new folder)"
        )
    print("note: a float16 loss scale is not kept; training goes on in float32 or bfloat16")
    run = shlex.quote(str(out))
    print(f"go on:    ibot pretrain --run {run} --data DIR")
    print(f"evaluate: ibot eval knn {run} --data DIR")


def _convert_network(options: argparse.Namespace, file: Path) -> None:
    """Make a folder with one network."""
    from ibot.weights.export import export_backbone

    out = Path(options.run_folder)
    if options.settings:
        raise UserError(
            "settings need a full checkpoint",
            why=f"'{file}' holds one network",
            fix="leave them out",
        )
    if out.exists() and any(out.iterdir()):
        raise UserError(f"'{out}' is not empty", fix="name a new folder with --run")
    loaded = read_network(options)
    print(f"{options.key}: {loaded.report}")
    out.mkdir(parents=True, exist_ok=True)
    export_backbone(loaded, "safetensors", out / "model.safetensors")
    print(
        "no projection head, so no run to go on with.\nstart from it: ibot pretrain RECIPE "
        f"--init {shlex.quote(str(out))} --data DIR"
    )


def export(options: argparse.Namespace) -> None:
    """Write weights for another project, load them there, compare, and describe them."""
    out = Path(options.out)
    require_new(out, options.to)
    if options.to == "checkpoint":
        from ibot.engine.exchange import export_checkpoint
        from ibot.recipes import beyond_paper

        config = export_checkpoint(Path(options.weights), out)
        print(
            f"student, teacher, optimizer, centers and arguments in the published layout -> {out}"
        )
        if lost := beyond_paper(config):
            print(
                "note: the run used what the published trainer has no arguments for, so that the "
                f"file does not say it: {', '.join(lost)}",
                file=sys.stderr,
            )
        if config.method.patch_residual:
            print(
                "note: read from that file, words of patches are of their whole projections",
                file=sys.stderr,
            )
        return
    if options.to == "classifier":
        _export_classifier(options.weights, out)
        return
    from ibot.weights.export import TOLERANCE, export_backbone

    loaded = read_network(options)
    if loaded.report.missing or loaded.report.unused:
        print(f"partial: {loaded.report}")
    size = (options.size[0], options.size[-1]) if options.size else None
    differences = export_backbone(loaded, options.to, out, size)
    for d in differences:
        there = "" if d.cosine is None else f", pictures as prepared there: cosine {d.cosine:.5f}"
        print(
            f"{d.size[0]}x{d.size[1]}{there}: largest difference of class tokens {d.cls:.1e}, "
            f"of patch tokens {d.patches:.1e}"
        )
    card = _write_card(options, loaded, differences)
    print(
        f"tokens of equal inputs differ by less than {TOLERANCE:g}. Weights: {out}   model card: "
        f"{card}"
    )


def _export_classifier(place: str, out: Path) -> None:
    """Write the classifier that evaluations left, its network included, into a file of its own."""
    from ibot.eval.classifiers import about, find_classifier
    from ibot.system.files import write_named

    found = find_classifier(place)
    write_named(out, found.classifier.write, "--out")
    if found.note:
        print(f"note: {found.note}", file=sys.stderr)
    for title, text in about(found.classifier).items():
        print(f"{title:10} {printable(text)}")
    print(f"use it:    {shlex.join(['ibot', 'predict', str(out)])} IMAGES")


def _write_card(options: argparse.Namespace, loaded: Loaded, differences: list[Difference]) -> Path:
    """Write the model card beside the export; returns its file."""
    from ibot.eval.features.cache import weights_hash
    from ibot.system.files import write_named
    from ibot.weights.card import model_card

    out = Path(options.out)
    card = out / "README.md" if out.is_dir() else out.with_name(f"{out.name}.md")
    text = model_card(
        replace(loaded, size=differences[0].size),
        options.to,
        out.name,
        Path(options.weights),
        differences,
        key=options.key,
        weights_hash=weights_hash(loaded),
    )
    write_named(card, lambda path: path.write_text(text, encoding="utf-8"))
    return card
