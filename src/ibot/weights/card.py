"""The model card that is written beside an export: what the network is, what it was trained on, how to use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibot.weights.read import Loaded

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
LIMITS = {
    "timm": "At another size export again with --size: timm resamples position tables by its own rule, and in a Swin "
    "pads after the shift.",
    "huggingface": "At another size export again with --size: the library resamples position tables by its own rule, "
    "and shifts the windows of a Swin's last stage where the image is larger than in training.",
    "onnx": "The batch size is free, the image size is not: export again with --size for another.",
}


def model_card(loaded: Loaded, target: str, name: str, source: Path, differences: list[Difference]) -> str:
    """Markdown text; what is known about the training is read from the run folder `source` where it is one."""
    config, backbone = loaded.config, loaded.backbone
    parameters = sum(p.numel() for key, p in backbone.named_parameters() if key != "masked_embed")
    kind = (
        f"ViT, width {config.width}, {config.depth} blocks, {config.heads} heads, patch {config.patch}"
        if config.kind == "vit"
        else f"Swin, width {config.width}, blocks {config.depths}, heads {config.stage_heads}, window {config.window}"
    )
    height, width = loaded.size
    lines = [
        f"# {name}",
        "",
        "An image backbone, pre-trained without labels, exported by [ibot](https://pypi.org/project/ibot).",
        "",
        f"- Network: {kind}; {parameters:,} parameters; class token and patch tokens of width {backbone.embed_dim}",
        f"- Input: {height} x {width} pixels, RGB, scaled to 0..1, minus (0.485, 0.456, 0.406), over "
        "(0.229, 0.224, 0.225)",
        *[f"- {line}" for line in _training(source)],
        "",
        "```python",
        USE[target].format(name=name),
        "```",
        "",
        *([LIMITS[target], ""] if target in LIMITS else []),
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
    provenance = _json(run / "provenance.json") if run else {}
    if run is None or not provenance:
        return [f"Source: {source.name}"]
    config, data = _json(run / "config.json"), provenance.get("data", {})
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


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
