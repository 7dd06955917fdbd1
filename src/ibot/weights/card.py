"""The model card that is written beside an export: what the network is, what it was trained on, how to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ibot.data.pixels import MEAN, STD
from ibot.weights.read import Loaded, read_settings

if TYPE_CHECKING:
    from ibot.weights.export import Difference

USE = {
    "safetensors": 'import ibot\nbackbone = ibot.load_backbone("{name}")\noutput = backbone(images)  # .cls, .patches',
    "published": 'state = torch.load("{name}", weights_only=True)["state_dict"]\nnetwork.load_state_dict(state)',
    "timm": 'network = timm.create_model("local-dir:{name}", pretrained=True)\n'
    "tokens = network.forward_features(images)",
    "huggingface": 'network = transformers.AutoModel.from_pretrained("{name}", add_pooling_layer=False)\n'
    "tokens = network(pixel_values=images).last_hidden_state",
    "onnx": 'session = onnxruntime.InferenceSession("{name}")\n'
    'cls, patches = session.run(["cls", "patches"], {{"images": images}})',
}
ONE_SIZE = "At another size export again with --size: the target has its own rule for positions."
LIMITS = {
    ("timm", "vit"): ONE_SIZE,
    ("timm", "swin"): "timm pads after the shift of the windows: at sizes whose maps are no whole windows it deviates.",
    ("huggingface", "vit"): ONE_SIZE,
    (
        "huggingface",
        "swin",
    ): "Larger images than in training deviate: the library shifts windows of the last stage too.",
    ("onnx", "vit"): "The batch size is free, the image size is not: export again with --size for another.",
    ("onnx", "swin"): "The batch size is free, the image size is not: export again with --size for another.",
}


def model_card(loaded: Loaded, target: str, name: str, source: Path, differences: list[Difference]) -> str:
    """Markdown text; what is known about the training is read from the run folder `source` where it is one."""
    backbone = loaded.backbone
    parameters = sum(p.numel() for key, p in backbone.named_parameters() if key != "masked_embed")
    height, width = loaded.size
    limit = LIMITS.get((target, loaded.config.kind), "")
    lines = [
        f"# {name}",
        "",
        "An image backbone, pre-trained without labels, exported by ibot.",
        "",
        f"- Network: {loaded.config}; {parameters:,} parameters; tokens of width {backbone.embed_dim}",
        f"- Input: {height} x {width} pixels, RGB, scaled to 0..1, minus {MEAN}, over {STD}",
        *[f"- {line}" for line in _training(source)],
        "",
        "```python",
        USE[target].format(name=name),
        "```",
        "",
        *([limit, ""] if limit else []),
        "Largest absolute difference to the original network, float32, random images:",
        "",
        "| size | class token | patch tokens |",
        "|---|---|---|",
        *[f"| {d.size[0]} x {d.size[1]} | {d.cls:.1e} | {d.patches:.1e} |" for d in differences],
        "",
        "Not known: how the network behaves on images unlike those of its training; measure before you rely on it.",
        "",
    ]
    return "\n".join(lines)


def _training(source: Path) -> list[str]:
    """What a run folder says about the training."""
    run = next((folder for folder in (source, *list(source.parents)[:2]) if (folder / "config.json").is_file()), None)
    provenance = read_settings(run / "provenance.json") if run else {}
    if run is None or not provenance:
        return [f"Source: {source.name}"]
    config, data = read_settings(run / "config.json"), provenance.get("data", {})
    train = config.get("train", {})
    lines = [
        f"Training: recipe {config.get('recipe') or 'own'}, {train.get('length')}, batch {train.get('batch')}, "
        f"seed {train.get('seed')}; ibot {provenance.get('ibot')}, commit {provenance.get('commit')}"
    ]
    if "images" in data:
        lines.append(f"Data: {data['images']} images, names {str(data.get('names_sha256'))[:12]}")
    results = run / "results.jsonl"
    if results.is_file():
        last = json.loads(results.read_text().splitlines()[-1])
        lines.append(f"Measured: {last['metric']} {last['value']:.1f} on {last['num_val']} images, {last['settings']}")
    return lines
