"""Exports on real photographs, with the library's own preprocessing, and a step of fine-tuning.

python -m benchmarks.exports FOLDER [--photos 10] [--weights FILE]

Prints, for each target, the largest difference of any token and the least cosine of the class
tokens to what `ibot` makes of the same photographs. Without --weights the network is a ViT-S/16 or
Swin-T of seeded random weights, whose tokens follow the pixels more closely than those of most
trained networks.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import ibot
from ibot.config.schema import ModelConfig
from ibot.data.pixels import normalize
from ibot.eval.features.views import View
from ibot.models.backbone import build_backbone
from ibot.weights.export import export_backbone
from ibot.weights.read import KeyReport, Loaded, load

SIZE = (224, 224)
NETWORKS = {"ViT-S/16": ModelConfig(), "Swin-T/7": ModelConfig(kind="swin", width=96, patch=4)}
Tokens = tuple[Tensor, Tensor]


def random_network(config: ModelConfig) -> Loaded:
    torch.manual_seed(0)
    backbone = build_backbone(config, SIZE).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return Loaded(backbone, config, SIZE, KeyReport())


def with_timm(folder: Path, photos: list[NDArray[np.uint8]], own: Tensor) -> Tokens:
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    tokens = network.forward_features(
        torch.stack([transform(Image.fromarray(photo)) for photo in photos])
    )
    patches = (
        tokens[:, network.num_prefix_tokens :]
        if hasattr(network, "num_prefix_tokens")
        else tokens.flatten(1, 2)
    )
    return network.forward_head(tokens, pre_logits=True), patches


def with_huggingface(folder: Path, photos: list[NDArray[np.uint8]], own: Tensor) -> Tokens:
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return _huggingface(folder, processor, photos)


def with_huggingface_pil(folder: Path, photos: list[NDArray[np.uint8]], own: Tensor) -> Tokens:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return _huggingface(folder, processor, photos)


def _huggingface(folder: Path, processor, photos: list[NDArray[np.uint8]]) -> Tokens:
    network = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    inputs = processor([Image.fromarray(photo) for photo in photos], return_tensors="pt")
    tokens = network(**inputs).last_hidden_state
    vit = isinstance(network, transformers.ViTModel)
    return (tokens[:, 0], tokens[:, 1:]) if vit else (tokens.mean(dim=1), tokens)


def with_onnx(file: Path, photos: list[NDArray[np.uint8]], own: Tensor) -> Tokens:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    # ONNX has no preprocessing of its own.
    cls, patches = session.run(["cls", "patches"], {"images": own.numpy()})
    return torch.from_numpy(cls), torch.from_numpy(patches)


def fine_tune_step(folder: Path, target: str, images: Tensor) -> tuple[float, float]:
    """The loss of seven classes before and after one step."""
    if target == "timm":
        network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
    else:
        network = transformers.AutoModelForImageClassification.from_pretrained(folder, num_labels=7)
    optimizer, losses = torch.optim.SGD(network.parameters(), lr=1e-3), []
    labels = torch.arange(len(images)) % 7
    for _ in range(2):
        output = network(images)
        losses.append(F.cross_entropy(output if target == "timm" else output.logits, labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    return losses[0].item(), losses[1].item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--photos", type=int, default=10)
    parser.add_argument("--weights")
    options = parser.parse_args()
    source = ibot.scan(options.folder)
    chosen = np.linspace(0, len(source) - 1, options.photos).astype(int).tolist()
    photos = [source.read(i) for i in chosen]
    print("photos:", ", ".join(f"{photo.shape[1]}x{photo.shape[0]}" for photo in photos))
    networks = (
        {"given": load(options.weights)}
        if options.weights
        else {n: random_network(c) for n, c in NETWORKS.items()}
    )
    for name, loaded in networks.items():
        views = np.stack([View(loaded.size).render(photo) for photo in photos])
        own = normalize(torch.from_numpy(views).permute(0, 3, 1, 2), loaded.config.statistics)
        with torch.no_grad():
            ours = loaded.backbone(own)
        with tempfile.TemporaryDirectory() as scratch:
            for target, file, ask in (
                ("timm", "timm", with_timm),
                ("huggingface", "hf", with_huggingface),
                ("huggingface, pil", "hf", with_huggingface_pil),
                ("onnx", "m.onnx", with_onnx),
            ):
                out = Path(scratch) / file
                if not out.exists():
                    export_backbone(loaded, target, out)
                with torch.no_grad():
                    cls, patches = ask(out, photos, own)
                cosine = F.cosine_similarity(cls, ours.cls)
                print(
                    f"{name:9} {target:17} largest difference: class "
                    f"{(cls - ours.cls).abs().max():.1e}, patches "
                    f"{(patches - ours.patches).abs().max():.1e}; cosine of class tokens: least "
                    f"{cosine.min():.6f}, "
                    f"median {cosine.median():.6f}",
                    flush=True,
                )
                if target in ("timm", "huggingface"):
                    before, after = fine_tune_step(out, target, own)
                    print(
                        f"{name:9} {target:17} fine-tuned for a step: loss {before:.4f} -> "
                        f"{after:.4f}",
                        flush=True,
                    )
                elif target == "onnx":
                    print(
                        f"{name:9} {target:17} not trainable: an ONNX file is for inference",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
