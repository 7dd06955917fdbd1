"""The model card beside an export: what the network is, its training, how to use it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.config.override import from_plain
from ibot.config.reading import PICTURES
from ibot.config.resolve import derive
from ibot.data.pixels import shorter_side
from ibot.errors import ConfigError
from ibot.system.records import RESULTS, data_name, read_records
from ibot.types import ResultRecord
from ibot.weights.files import read_settings
from ibot.weights.forms import is_named
from ibot.weights.read import Loaded
from ibot.words import counted

if TYPE_CHECKING:
    from ibot.weights.export import Difference

_PICTURE = 'from PIL import Image\n\npicture = Image.open("picture.jpg").convert("RGB")'
_SAFETENSORS = """\
import ibot

backbone = ibot.load_backbone("{name}")  # of images prepared as above it gives .cls and .patches
features = ibot.extract_features(backbone, ibot.scan("photos"), size={size}).cls"""
_PUBLISHED = """\
import torch

state = torch.load("{name}", weights_only=True)["state_dict"]
network.load_state_dict(state)  # of the published code"""
_TIMM = f"""\
import timm
{_PICTURE}
network = timm.create_model("local-dir:{{name}}", pretrained=True).eval()
# to fine-tune it: num_classes=7 gives it a new classifier
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
tokens = network.forward_features(transform(picture)[None])"""
_HUGGINGFACE = f"""\
import transformers
{_PICTURE}
processor = transformers.AutoImageProcessor.from_pretrained("{{name}}")
network = transformers.AutoModel.from_pretrained("{{name}}", add_pooling_layer=False)
tokens = network(**processor(picture, return_tensors="pt")).last_hidden_state"""
_ONNX = """\
import numpy as np
import onnxruntime

images = np.zeros((1, {channels}, *{size}), np.float32)  # instead: pictures, prepared as above
session = onnxruntime.InferenceSession("{name}")
cls, patches = session.run(["cls", "patches"], {{"images": images}})"""
_LEVELS = """\
import torch

levels = torch.zeros(1, {channels}, *{size})  # in their place: images, prepared as above"""
_CHANNELS = {
    "safetensors": """\
import ibot

# reads files of these channels, of the types and with the pattern of names of the training
features = ibot.extract_features("{name}", "images", size={size}).cls""",
    "timm": f"""\
import timm
{_LEVELS}
network = timm.create_model("local-dir:{{name}}", pretrained=True).eval()
tokens = network.forward_features(levels)""",
    "huggingface": f"""\
import transformers
{_LEVELS}
network = transformers.AutoModel.from_pretrained("{{name}}", add_pooling_layer=False)
tokens = network(levels).last_hidden_state""",
}
"""The same for images of other channels than colour pictures, which those libraries do not open."""
USE = {
    "safetensors": _SAFETENSORS,
    "published": _PUBLISHED,
    "timm": _TIMM,
    "huggingface": _HUGGINGFACE,
    "onnx": _ONNX,
}
"""Python that runs in the folder of the file or folder called `name`."""
_ONE_SIZE = "At another size export again with --size: the target has its own rule for positions."
_TIMM_SWIN = (
    "timm pads after the shift of the windows: at sizes whose maps are no whole windows it "
    "deviates."
)
_LARGER = (
    "Larger images than in training deviate: the library shifts windows of the last stage too."
)
_FREE_BATCH = "The batch size is free, the image size is not: export again with --size for another."
LIMITS = {
    ("timm", "vit"): _ONE_SIZE,
    ("timm", "swin"): _TIMM_SWIN,
    ("huggingface", "vit"): _ONE_SIZE,
    ("huggingface", "swin"): _LARGER,
    ("onnx", "vit"): _FREE_BATCH,
    ("onnx", "swin"): _FREE_BATCH,
}
CLASSIFIERS = {"linear_top1": "linear classifier", "logistic_top1": "logistic regression"}
"""Metrics of classifiers on frozen features, in words."""


def model_card(
    loaded: Loaded,
    target: str,
    name: str,
    source: Path,
    differences: list[Difference],
    *,
    key: str = "teacher",
    weights_hash: str = "",
) -> str:
    """Markdown text; what is known about the training is read from the run that holds `source`,
    where one does.

    loaded: the network as exported. target: a key of `TARGETS`. name: of the file or folder.
    differences: of the export. key: which network of the run it is. weights_hash: of that network,
    as evaluations record it; without it only what was measured during the training is told.
    """
    backbone = loaded.backbone
    parameters = sum(p.numel() for key, p in backbone.named_parameters() if key != "masked_embed")
    pictures = loaded.reading == PICTURES
    use = USE[target] if pictures else _CHANNELS.get(target, USE[target])
    limit = LIMITS.get((target, loaded.config.kind), "")
    lines = [
        f"# {name}",
        "",
        "An image backbone, pre-trained without labels, exported by ibot.",
        "",
        f"- Network: {loaded.config}; {parameters:,} parameters; tokens of width "
        f"{backbone.embed_dim}",
        *_channels(loaded),
        f"- Pictures of other sizes: the shorter side is resized to {shorter_side(loaded.size)} "
        "(bicubic, antialiased), then the centre is cropped",
        *[f"- {line}" for line in _training(source, key, weights_hash)],
        "",
        f"In the folder that holds `{name}`; elsewhere give its path:",
        "",
        "```python",
        use.format(name=name, size=loaded.size, channels=len(loaded.config.channels)),
        "```",
        "",
        *([limit, ""] if limit else []),
        "Largest absolute difference to the original network, float32, random images:",
        "",
        "| size | class token | patch tokens |",
        "|---|---|---|",
        *[
            f"| {d.size[0]} x {d.size[1]} | {d.cls:.1e} | {d.patches:.1e} |"
            for d in differences
            if d.cosine is None
        ],
        "",
        *[line for d in differences if d.cosine is not None for line in (_prepared(d), "")],
        "Not known: how the network behaves on images unlike those of its training; measure before "
        "you rely on it.",
        "",
    ]
    return "\n".join(lines)


def _channels(loaded: Loaded) -> list[str]:
    """What the network is given of an image."""
    config, (height, width) = loaded.config, loaded.size
    if loaded.reading == PICTURES:
        return [
            f"- Input: {height} x {width} pixels, RGB, scaled to 0..1, minus {config.mean}, "
            f"over {config.std}"
        ]
    rows = zip(config.channels, config.mean, config.std, strict=True)
    return [
        f"- Input: {height} x {width} pixels of {counted(len(config.channels), 'channel')}, as "
        "levels: values of whole types as a share of their range (0..1), floats as they are",
        "- Each channel minus its mean, over its deviation: "
        + "; ".join(f"{name} {mean:.6g}, {std:.6g}" for name, mean, std in rows),
    ]


def _prepared(difference: Difference) -> str:
    """What the target's own preprocessing of pictures changes."""
    return (
        "With the library's own preprocessing of generated pictures: cosine of the class tokens "
        f"{difference.cosine:.5f}, largest difference {difference.cls:.1e}. Libraries round the "
        "levels of a resized picture, and half a pixel of the crop's corner, in their ways."
    )


def _training(source: Path, key: str, weights_hash: str) -> list[str]:
    """What a run folder says about the training."""
    if is_named(source):
        return [f"Source: {source}"]
    source = source.absolute()
    run = next(
        (
            folder
            for folder in (source, *list(source.parents)[:3])
            if (folder / "config.json").is_file()
        ),
        None,
    )
    provenance = read_settings(run / "provenance.json") if run else {}
    if run is None or not provenance:
        return [f"Source: {source.name}"]
    config, state = read_settings(run / "config.json"), _state(source)
    data = provenance.get("data", {})
    train = config.get("train", {})
    lines = [
        f"Training: recipe {config.get('recipe') or 'own'}, "
        f"{_progress(state, data.get('images'), train)}, batch {train.get('batch')}, seed "
        f"{train.get('seed')}; ibot {provenance.get('ibot')}, commit {provenance.get('commit')}"
    ]
    if data.get("images_assumed"):
        lines.append(
            f"Data: {data['images']:,} images assumed, as in ImageNet; "
            f"{data.get('converted_from')} does not say"
        )
    elif "images" in data:
        lines.append(f"Data: {data['images']:,} images, names {str(data.get('names_sha256'))[:12]}")
    measured = _measured(read_records(run / RESULTS), state.get("step", 0), key, weights_hash)
    return [*lines, *(f"Measured: {text}" for text in measured)]


def _state(source: Path) -> dict[str, Any]:
    """Where the training stood in what `source` names: a run, a checkpoint, or its file."""
    last = source / "checkpoints" / "last"
    folder = source if source.is_dir() else source.parent
    if last.is_file():
        folder = last.parent / last.read_text().strip()
    return read_settings(folder / "state.json")


def _progress(state: dict[str, Any], num_images: int | None, train: dict[str, Any]) -> str:
    """Images seen, and of how many where the schedule can be told."""
    if "step" not in state:
        return f"an unknown part of {train.get('length')}"
    step, seen = state["step"], state["images_seen"]
    try:
        config = from_plain(state["config"])
    except ConfigError:  # written by another version: its schedule is not ours to compute
        return f"{seen:,} images seen by step {step}"
    if num_images is None and config.train.length.unit == "epochs":
        return f"{seen:,} images seen by step {step} of {config.train.length}"
    total = derive(config, num_images or config.train.batch).total_steps
    stopped = ", stopped before the end of its schedule" if step < total else ""
    return (
        f"{seen:,} of {total * config.train.batch:,} images seen (step {step} of {total}){stopped}"
    )


def _measured(records: list[ResultRecord], step: int, key: str, weights_hash: str) -> list[str]:
    """In words: k-NN with k = 20, else that of the training, and the best classifier.

    A run may have been evaluated and then trained on: only records of this very network count.
    """
    own = [record for record in records if weights_hash and record.weights_hash == weights_hash]
    knn = [r for r in own if r.metric == "knn_top1" and r.settings.get("k") == 20]
    during = [r for r in records if r.metric == "knn_top1" and 0 < (r.step or 0) <= step]
    classifiers = [r for r in own if r.metric in CLASSIFIERS]
    lines = []
    if knn:
        lines.append(_words("k-NN (k = 20)", knn[-1]))
    elif during and key == "teacher":
        last = during[-1]
        name = f"k-NN (k = {last.settings.get('k')})"
        lines.append(f"{_words(name, last)}, during the training at step {last.step}")
    if classifiers:
        best = max(classifiers, key=lambda record: record.value)
        bias = ", its settings chosen on the same images" if best.mode == "published" else ""
        lines.append(_words(CLASSIFIERS[best.metric], best) + bias)
    return lines


def _words(name: str, record: ResultRecord) -> str:
    data = data_name(record.data.get("root", ""))
    of = f" of {data}" if data else ""
    return (
        f"{name} accuracy {record.value:.1f} % on {record.num_val:,} validation images{of}, "
        f"from {record.num_train:,} labelled ones"
    )
