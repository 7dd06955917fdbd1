"""Exports are loaded by the libraries they are for and give the same tokens, at other and
non-square sizes too.
"""

import contextlib
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ibot.cli.main import main
from ibot.config.schema import Config, ModelConfig
from ibot.errors import UserError, WeightsError
from ibot.models.backbone import build_backbone
from ibot.weights import export as exporting
from ibot.weights import libraries
from ibot.weights.arguments import arguments_of
from ibot.weights.card import model_card
from ibot.weights.export import export_backbone, largest_difference, picture, views
from ibot.weights.libraries import crop_share, processor, with_epsilon
from ibot.weights.read import KeyReport, Loaded, load
from ibot.weights.said import understood
from ibot.weights.suffixes import SUFFIXES
from ibot.weights.targets import TARGETS

VIT = ModelConfig(width=64, depth=2, heads=2, patch=8)
SWIN = ModelConfig(
    kind="swin", width=16, depths=(1, 2, 2, 1), stage_heads=(1, 2, 2, 4), window=7, patch=4
)


def network(config: ModelConfig, size: tuple[int, int]) -> Loaded:
    torch.manual_seed(0)
    backbone = build_backbone(config, size).eval()
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    return Loaded(backbone, config, size, KeyReport())


SMALL_SWIN = ModelConfig(
    kind="swin", width=16, depths=(2, 2), stage_heads=(1, 2), window=7, patch=4
)
NETWORKS = {"vit": (VIT, (48, 48)), "swin": (SWIN, (224, 224))}
THREE_STAGES = replace(SWIN, depths=(1, 2, 1), stage_heads=(1, 2, 4))
QUICK = {**NETWORKS, "swin": (THREE_STAGES, (112, 112))}


# ONNX is written and compared for each size anew; one size is compared below.
CASES = [
    pytest.param(kind, target, marks=[pytest.mark.slow] if target == "onnx" else [])
    for kind in NETWORKS
    for target in TARGETS
]


@pytest.mark.parametrize(("kind", "target"), CASES)
def test_the_target_gives_our_tokens_at_three_sizes(tmp_path, kind, target):
    loaded = network(*QUICK[kind])
    out = tmp_path / f"out{SUFFIXES[target]}"
    differences = export_backbone(loaded, target, out)
    assert out.exists() and differences[0].size == loaded.size
    reference = tmp_path / "plain"
    reference.touch()
    files = [path for path in (out, *out.rglob("*")) if path.is_file()]
    assert {path.stat().st_mode for path in files} == {reference.stat().st_mode}
    tokens = [d for d in differences if d.cosine is None]
    sizes = {d.size for d in tokens}
    assert len(sizes) == 3 and any(h != w for h, w in sizes)
    assert all(max(d.cls, d.patches) < 2e-5 for d in tokens)
    pictures = [d.cosine for d in differences if d.cosine is not None]
    assert len(pictures) == (target in ("timm", "huggingface")) and all(
        cosine > 0.98 for cosine in pictures
    )


@pytest.mark.parametrize("target", ["timm", "huggingface"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_what_was_exported_is_read_back_as_the_same_network(tmp_path, kind, target):
    loaded = network(*QUICK[kind])
    export_backbone(loaded, target, tmp_path / "out")
    again = load(tmp_path / "out", heads=2 if kind == "vit" else None)
    images = torch.randn(1, 3, *loaded.size)
    with torch.no_grad():
        torch.testing.assert_close(
            again.backbone(images).cls, loaded.backbone(images).cls, rtol=1e-4, atol=2e-5
        )


def test_a_size_may_be_chosen(tmp_path):
    loaded = network(*NETWORKS["vit"])
    differences = export_backbone(loaded, "timm", tmp_path / "wide", (32, 64))
    assert differences[0].size == (32, 64)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["model_args"][
        "img_size"
    ] == [32, 64]


@pytest.mark.parametrize("target", ["published", "timm", "huggingface"])
def test_a_kind_that_a_target_does_not_take_is_refused_in_a_line(tmp_path, target):
    loaded = network(*NETWORKS["vit"])
    loaded.backbone.family = "Mixer"
    out = tmp_path / ("m.pth" if target == "published" else "folder")
    other = replace(loaded, config=replace(loaded.config, kind="mixer"))
    with pytest.raises(WeightsError, match=f"{target} has no Mixer"):
        export_backbone(other, target, out)
    assert not out.exists()


def test_a_swin_that_was_not_built_for_224_keeps_its_size(tmp_path):
    config = ModelConfig(
        kind="swin", width=8, depths=(1, 1, 1, 2), stage_heads=(1, 1, 1, 1), window=7, patch=4
    )
    export_backbone(network(config, (256, 256)), "published", tmp_path / "out.pth")
    assert load(tmp_path / "out.pth").built_for == (256, 256)
    told = vars(arguments_of(Config(model=replace(config, pos_size=(256, 256))), 10, 100))
    said = understood(told, {}, "student", "published", 8, "file")
    assert said.sizes == ((256, 256),) and said.project == "ours"


def test_a_swin_takes_a_size_where_its_file_serves_one_and_nowhere_else(tmp_path):
    loaded = network(*NETWORKS["swin"])
    with pytest.raises(UserError, match="every size"):
        export_backbone(loaded, "timm", tmp_path / "out", (288, 288))
    resized = exporting.at_size(loaded, (288, 320))
    assert resized.size == (288, 320) and resized.built_for == (224, 224)
    assert exporting.at_size(network(*NETWORKS["vit"]), (32, 64)).built_for == (32, 64)


def test_an_export_that_does_not_reproduce_the_network_is_removed(tmp_path, monkeypatch):
    loaded = network(*NETWORKS["vit"])

    def damaged(tensors):
        return {name: 2 * t if name == "cls_token" else t for name, t in tensors.items()}

    monkeypatch.setattr(libraries, "to_timm", damaged)
    with pytest.raises(WeightsError, match="does not reproduce"):
        export_backbone(loaded, "timm", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WeightsError, match="does not reproduce"):
        export_backbone(loaded, "timm", tmp_path / "new" / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_a_target_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(WeightsError, match="cannot hold") as caught:
        export_backbone(
            network(ModelConfig(width=64, depth=1, heads=1, patch=8, registers=2), (16, 16)),
            "huggingface",
            tmp_path / "out",
        )
    assert "registers" in caught.value.why
    with pytest.raises(WeightsError, match="cannot hold") as caught:
        export_backbone(network(SWIN, (64, 64)), "huggingface", tmp_path / "out")
    assert "windows" in caught.value.why and list(tmp_path.iterdir()) == []


VARIANTS = {
    "registers": replace(VIT, registers=3),
    "layer scale": replace(VIT, layer_scale=0.5),
    "mean pooling": replace(VIT, mean_pooling=True),
    "others": replace(VIT, act="gelu_tanh", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    "all": replace(VIT, registers=2, layer_scale=0.1, mean_pooling=True, act="quick_gelu"),
}
REFUSED = {("registers", "huggingface"), ("mean pooling", "huggingface"), ("all", "huggingface")}


@pytest.mark.parametrize(
    ("name", "target", "size"),
    [
        *((name, target, (64, 64)) for name in VARIANTS for target in ("timm", "huggingface")),
        ("all", "timm", (32, 56)),
        ("others", "huggingface", (32, 56)),
    ],
)
def test_every_variant_of_a_vit_is_exported_or_refused_in_a_line(tmp_path, name, target, size):
    loaded = network(VARIANTS[name], size)
    out = tmp_path / "new" / "out"
    if (name, target) in REFUSED:
        with pytest.raises(WeightsError, match="cannot hold this backbone"):
            export_backbone(loaded, target, out)
        assert list(tmp_path.iterdir()) == []
        return
    differences = export_backbone(loaded, target, out)
    assert all(max(d.cls, d.patches) < 2e-5 for d in differences if d.cosine is None)
    assert all(d.cosine > 0.999 for d in differences if d.cosine is not None)


@pytest.mark.parametrize("target", ["timm", "huggingface"])
@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_what_was_exported_is_fine_tuned_there(tmp_path, kind, target):
    """With a classifier of seven classes, as users of the library make one; one step changes the
    loss.
    """
    loaded = network(VIT, (48, 48)) if kind == "vit" else network(SMALL_SWIN, (56, 56))
    export_backbone(loaded, target, tmp_path / "out")
    classifier = with_classifier(target, tmp_path / "out", 7)
    images, labels = torch.randn(4, 3, *loaded.size), torch.tensor([0, 6, 3, 3])
    own = loaded.backbone.state_dict()["patch_embed.proj.weight"]
    assert any(
        torch.allclose(p.detach() / own, p.detach().flatten()[0] / own.flatten()[0], rtol=1e-3)
        for p in classifier.parameters()
        if p.shape == own.shape
    ), "the weights were taken"
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        output = classifier.train()(images)
        logits = output if target == "timm" else output.logits
        assert logits.shape == (4, 7)
        losses.append(torch.nn.functional.cross_entropy(logits, labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[1] < losses[0]


def with_classifier(target, folder, classes):
    if target == "timm":
        return pytest.importorskip("timm").create_model(
            f"local-dir:{folder}", pretrained=True, num_classes=classes
        )
    auto = pytest.importorskip("transformers").AutoModelForImageClassification
    return auto.from_pretrained(folder, num_labels=classes, local_files_only=True)


@pytest.mark.parametrize(
    "config",
    [
        replace(VIT, depth=3),
        replace(VARIANTS["all"], depth=3),
        pytest.param(SWIN, marks=pytest.mark.slow),  # maps of four stages of 224 pixels
    ],
    ids=["vit", "all", "swin"],
)
def test_timm_makes_other_models_of_an_export(tmp_path, config):
    timm = pytest.importorskip("timm")
    size = (224, 224) if config.kind == "swin" else (48, 48)
    export_backbone(network(config, size), "timm", tmp_path / "out")
    name, images = f"local-dir:{tmp_path / 'out'}", torch.randn(1, 3, *size)
    assert timm.create_model(name, pretrained=True, in_chans=1)(images[:, :1]).ndim == 2
    maps = timm.create_model(name, pretrained=True, features_only=True)(images)
    assert len(maps) >= 2 and all(m.ndim == 4 for m in maps)
    plain = timm.create_model(name, pretrained=True)
    assert plain.num_classes == 0 and plain(images).shape == (1, plain.num_features)


def test_a_processor_that_squashes_is_noticed(tmp_path, monkeypatch):
    loaded = network(*NETWORKS["vit"])

    def squashing(config, size):
        sides = {"height": size[0], "width": size[1]}
        return processor(config, size) | {
            "image_processor_type": "ViTImageProcessor",
            "size": sides,
        }

    def elsewhere(config, size):
        return processor(config, size) | {"image_mean": (0.5, 0.5, 0.5)}

    for wrong in (squashing, elsewhere):
        monkeypatch.setattr(libraries, "processor", wrong)
        with pytest.raises(WeightsError, match="does not prepare pictures"):
            export_backbone(loaded, "huggingface", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", ["nan", "inf", "shape", "type", "none"])
def test_a_target_that_answers_otherwise_is_no_success(tmp_path, monkeypatch, answer):
    def open_wrongly(path, loaded):
        def forward(images):
            cls, patches = loaded.backbone(images).cls, loaded.backbone(images).patches
            wrong = {
                "nan": torch.full_like(cls, torch.nan),
                "inf": torch.where(cls == cls.max(), torch.inf, cls),
                "shape": cls[:1],
                "type": cls.double(),
                "none": cls[:, :0],
            }
            return wrong[answer], patches

        return forward

    wrong = replace(TARGETS["safetensors"], open=open_wrongly)
    monkeypatch.setitem(TARGETS, "safetensors", wrong)
    with pytest.raises(WeightsError, match="does not reproduce"):
        export_backbone(network(*NETWORKS["vit"]), "safetensors", tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_a_library_cannot_run_is_refused_in_its_words(tmp_path, monkeypatch):
    def write(loaded, out):
        out.mkdir()
        raise RuntimeError("size mismatch for pos_embed\nand more")

    monkeypatch.setitem(TARGETS, "timm", replace(TARGETS["timm"], write=write))
    with pytest.raises(WeightsError, match="timm cannot use") as caught:
        export_backbone(network(*NETWORKS["vit"]), "timm", tmp_path / "new" / "out")
    assert caught.value.why == "size mismatch for pos_embed" and list(tmp_path.iterdir()) == []


def test_a_network_without_finite_outputs_is_not_exported(tmp_path):
    loaded = network(*NETWORKS["vit"])
    with torch.no_grad():
        loaded.backbone.norm.weight.fill_(3e38)  # finite, unlike what comes out
    with pytest.raises(WeightsError, match="not finite"):
        export_backbone(loaded, "published", tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []
    assert largest_difference(torch.ones(2, 3), torch.zeros(2, 3)) == 1


def test_an_export_leaves_the_network_as_it_was(tmp_path):
    loaded = network(*NETWORKS["vit"])
    loaded.backbone.half().train()
    export_backbone(loaded, "published", tmp_path / "a.pth")
    assert loaded.backbone.training and {p.dtype for p in loaded.backbone.parameters()} == {
        torch.float16
    }


@pytest.mark.parametrize(
    "size", [16, 32, 48, 64, 96, 112, 128, 160, 192, 224, 256, 336, 384, 448, 512, 518]
)
def test_timm_resizes_to_the_same_shorter_side(size):
    assert math.floor(size / crop_share((size, size))) == round(size * 256 / 224)
    assert crop_share((224, 224)) == 0.875


def test_pictures_of_the_comparison_are_wide_and_tall():
    loaded = network(*NETWORKS["vit"])
    wide, tall = picture((48, 48), False), picture((48, 48), True)
    assert wide.shape == (110, 165, 3) and tall.shape == (165, 110, 3)
    ours, down, up = views(wide, loaded)
    assert ours.shape == (3, 48, 48) and not torch.equal(down, up)
    assert torch.equal(ours, up), "3.5 pixels become 4"


def test_an_onnx_file_gives_our_tokens_and_says_how_images_are_prepared(tmp_path):
    onnx = pytest.importorskip("onnx")
    config = replace(VIT, depth=1, mean=(0.5, 0.4, 0.3))
    loaded = network(config, (16, 24))
    TARGETS["onnx"].write(loaded, tmp_path / "a.onnx")
    images = torch.randn(3, 3, 16, 24)
    with torch.no_grad():
        ours = loaded.backbone(images)
        cls, patches = TARGETS["onnx"].open(tmp_path / "a.onnx", loaded)(images)
    torch.testing.assert_close(cls, ours.cls, rtol=0, atol=2e-5)
    torch.testing.assert_close(patches, ours.patches, rtol=0, atol=2e-5)
    about = {entry.key: entry.value for entry in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(about["ibot.mean"]) == [0.5, 0.4, 0.3] and json.loads(about["ibot.size"]) == [
        16,
        24,
    ]
    assert about["ibot.shortest_edge"] == "27" and about["ibot.resample"] == "bicubic"
    assert run_card(loaded, "onnx", tmp_path / "a.onnx")["cls"].shape == (1, 64)


def test_existing_files_and_wrong_suffixes_are_refused(tmp_path):
    loaded = network(*NETWORKS["vit"])
    (tmp_path / "a.onnx").write_text("mine")
    for out, message in (
        ("a.onnx", "exists"),
        ("b.bin", "end with"),
        ("a.onnx/c.onnx", "cannot be created"),
    ):
        with pytest.raises(UserError, match=message):
            export_backbone(loaded, "onnx", tmp_path / out)
    assert (tmp_path / "a.onnx").read_text() == "mine"


@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_another_epsilon_gives_the_same_function(kind):
    config, _ = NETWORKS[kind]
    loaded = network(config, (64, 64))
    other = build_backbone(replace(config, norm_eps=3e-4), (64, 64)).double().eval()
    other.load_state_dict(with_epsilon(loaded.backbone.double().state_dict(), 1e-6, 3e-4))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(
        other(images).patches, loaded.backbone(images).patches, rtol=1e-9, atol=1e-9
    )


def test_the_command_prints_differences_and_writes_a_card(tmp_path, capsys):
    loaded = network(*NETWORKS["vit"])
    save_file(loaded.backbone.state_dict(), tmp_path / "mine.safetensors")
    out = tmp_path / "hf"
    command = [
        "weights",
        "export",
        str(tmp_path / "mine.safetensors"),
        "--heads",
        "2",
        "--to",
        "huggingface",
    ]
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (
        printed.count("largest difference") == 4
        and "48x48" in printed
        and "prepared there: cosine" in printed
    )
    card = (out / "README.md").read_text()
    assert "AutoImageProcessor" in card and "resized to 55" in card and "own preprocessing" in card
    assert "from_pretrained" in card and "| 48 x 48 |" in card and "2 blocks, width 64" in card
    assert load_file(out / "model.safetensors")["embeddings.cls_token"].shape == (1, 1, 64)
    assert main([*command, "--out", str(out)]) == 2


def test_a_wrong_name_is_told_before_the_weights_are_read(tmp_path, capsys):
    for target, suffix in SUFFIXES.items():
        if suffix:
            command = [
                "weights",
                "export",
                str(tmp_path / "absent.pth"),
                "--to",
                target,
                "--out",
                "out/file",
            ]
            assert main(command) == 2
            assert f"does not end with {suffix}" in capsys.readouterr().err


def run_card(loaded, target, out, **names):
    """Run the Python of a card in the folder of `out`; returns what it made."""
    (code,) = re.findall("```python\n(.*?)```", model_card(loaded, target, out.name, out, []), re.S)
    with contextlib.chdir(out.parent):
        exec(code, names)
    return names


@pytest.mark.parametrize(
    ("target", "made"),
    [
        ("safetensors", "features"),
        ("published", "state"),
        ("timm", "tokens"),
        ("huggingface", "tokens"),
    ],
)
def test_the_python_of_the_card_runs_beside_the_weights(tmp_path, target, made):
    loaded = network(replace(VIT, depth=1), (16, 16))
    out = tmp_path / f"out{SUFFIXES[target]}"
    TARGETS[target].write(loaded, out)
    (tmp_path / "photos").mkdir()
    for name in ("picture.jpg", "photos/a.jpg"):
        Image.new("RGB", (24, 20)).save(tmp_path / name)
    network_of_theirs = {"network": loaded.backbone} if target == "published" else {}
    assert len(run_card(loaded, target, out, **network_of_theirs)[made])


@pytest.mark.parametrize(
    ("target", "name"), [("timm", "out"), ("huggingface", "out"), ("published", "out.pth")]
)
def test_missing_folders_above_an_export_are_created(tmp_path, target, name):
    out = tmp_path / "new" / "deep" / name
    export_backbone(network(*NETWORKS["vit"]), target, out)
    assert out.exists()


def test_two_files_of_one_stem_have_a_card_each(tmp_path):
    save_file(network(*NETWORKS["vit"]).backbone.state_dict(), tmp_path / "mine.safetensors")
    for target, name in (("safetensors", "m.safetensors"), ("published", "m.pth")):
        out = tmp_path / "exports" / name
        command = [
            "weights",
            "export",
            str(tmp_path / "mine.safetensors"),
            "--heads",
            "2",
            "--to",
            target,
        ]
        assert main([*command, "--out", str(out)]) == 0
    cards = {path.name: path.read_text() for path in (tmp_path / "exports").glob("*.md")}
    assert set(cards) == {"m.safetensors.md", "m.pth.md"}
    assert all(text.startswith(f"# {name.removesuffix('.md')}\n") for name, text in cards.items())


def run_folder(folder, *, step, results):
    """What a card reads of a run: 40 images in batches of 8, 10 epochs = 50 steps."""
    checkpoint = folder / "checkpoints" / f"step_{step:08d}"
    checkpoint.mkdir(parents=True)
    (folder / "checkpoints" / "last").write_text(checkpoint.name + "\n")
    plain = {"recipe": "auto", "train": {"length": "10 epochs", "batch": 8, "seed": 3}}
    (folder / "config.json").write_text(json.dumps({**plain, "command": "ibot pretrain auto"}))
    (folder / "provenance.json").write_text(
        json.dumps({"ibot": "1", "commit": "c0ffee", "data": {"images": 40}})
    )
    state = {"step": step, "images_seen": step * 8, "epoch": step // 5, "config": plain}
    (checkpoint / "state.json").write_text(json.dumps(state))
    (folder / "results.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in results) + '{"torn'
    )
    return folder


def row(metric, value, weights_hash="", k=None, mode="clean", **extra):
    settings = {} if k is None else {"k": k}
    return {
        "protocol": metric.partition("_")[0],
        "metric": metric,
        "value": value,
        "num_train": 1200,
        "num_val": 300,
        "settings": settings,
        "extra": extra,
        "weights_hash": weights_hash,
        "mode": mode,
        "data": {"root": "/data/flowers/val"},
    }


def card_of(source, **options):
    return model_card(network(*NETWORKS["vit"]), "onnx", "m.onnx", source, [], **options)


def test_the_card_says_how_much_of_the_schedule_was_trained(tmp_path):
    run = run_folder(tmp_path / "run", step=20, results=[])
    for source in (
        run,
        run / "checkpoints" / "step_00000020",
        run / "checkpoints" / "step_00000020" / "t.safetensors",
    ):
        card = card_of(source)
        assert (
            "recipe auto, 160 of 400 images seen (step 20 of 50), stopped before the end of its "
            "schedule" in card
        )
        assert "Data: 40 images" in card and "Measured" not in card
    card = card_of(run_folder(tmp_path / "whole", step=50, results=[]))
    assert "400 of 400 images seen (step 50 of 50), batch 8" in card and "stopped" not in card


def test_the_card_names_in_words_what_was_measured_of_this_network(tmp_path):
    during = [row("knn_top1", 10.0 + step, k=10, step=step) for step in (0, 10, 20)]
    run = run_folder(
        tmp_path / "a", step=20, results=[*during, row("knn_top1", 99.0, "older", k=20)]
    )
    measured = [
        line for line in card_of(run, weights_hash="own").splitlines() if "Measured" in line
    ]
    assert measured == [
        "- Measured: k-NN (k = 10) accuracy 30.0 % on 300 validation images of flowers, from "
        "1,200 labelled ones, "
        "during the training at step 20"
    ]
    assert "Measured" not in card_of(run, key="student")
    own = [
        row("knn_top1", 40.0, "own", k=20),
        row("knn_top1", 41.0, "own", k=100),
        row("linear_top1", 60.0, "own"),
        row("logistic_top1", 70.0, "own", mode="published"),
        row("linear_top1", 90.0, "older"),
        row("cluster_accuracy", 20.0, "own"),
    ]
    run = run_folder(tmp_path / "b", step=20, results=[*during, *own])
    measured = [
        line for line in card_of(run, weights_hash="own").splitlines() if "Measured" in line
    ]
    assert (
        len(measured) == 2
        and "k-NN (k = 20) accuracy 40.0 %" in measured[0]
        and "{" not in "".join(measured)
    )
    assert (
        "logistic regression accuracy 70.0 % on 300" in measured[1]
        and "chosen on the same images" in measured[1]
    )


def test_inspect_names_what_a_file_holds(tmp_path, capsys):
    save_file(network(*NETWORKS["swin"]).backbone.state_dict(), tmp_path / "swin.safetensors")
    assert main(["weights", "inspect", str(tmp_path / "swin.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "blocks, width 16" in out and "window 7" in out and "missing 0, unused 0" in out


def test_a_backbone_alone_is_converted_to_a_folder_of_ours(tmp_path, capsys):
    loaded = network(*NETWORKS["vit"])
    torch.save({"state_dict": loaded.backbone.state_dict()}, tmp_path / "theirs.pth")
    folder = tmp_path / "ours"
    command = ["weights", "convert", str(tmp_path / "theirs.pth"), "--run", str(folder)]
    assert main([*command, "--heads", "2"]) == 0
    assert "matched 30, missing 0, unused 0" in capsys.readouterr().out
    again = load(folder)
    assert again.config.heads == 2 and again.size == (48, 48)
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(again.backbone(images).patches, loaded.backbone(images).patches)
    assert main(command) == 2 and "not empty" in capsys.readouterr().err
