"""Runs that start from weights: what is taken, what warms up, and the guard over it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from ibot.cli.main import main
from ibot.config.duration import duration
from ibot.config.override import apply
from ibot.engine.checkpoint import find_checkpoint, reached_step
from ibot.engine.loop import train
from ibot.engine.run import read_config
from ibot.engine.start import patch_center, start_from_weights, with_weights
from ibot.engine.transfer import to_device
from ibot.errors import ConfigError, TrainingStopped, WeightsError
from ibot.method.model import StudentTeacher
from ibot.studies.settings import default_folder
from ibot.system.jsonl import read_jsonl
from ibot.types import Batch, ResultRecord
from ibot.weights.read import load, load_backbone


@pytest.fixture(scope="module")
def source(small, tmp_path_factory):
    """A finished run of 20 steps, which no test changes."""
    run = tmp_path_factory.mktemp("source") / "run"
    train(small, run, quiet=True)
    return run


def backbone_of(run, step: int) -> dict:
    tensors = load_file(run / "checkpoints" / f"step_{step:08d}" / "model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}


def seen_at_the_start(config, run) -> dict:
    """State of the teacher's backbone before the first step."""
    seen = {}

    def evaluate(backbone, step):
        if step == 0:
            seen.update({name: p.detach().clone() for name, p in backbone.named_parameters()})
        return []

    train(config, run, quiet=True, evaluate=evaluate)
    return seen


def test_a_run_starts_from_a_run_with_heads_and_centers(small, source, tmp_path, capsys):
    config = with_weights(
        replace(small, train=replace(small.train, init=str(source), max_steps=2)), []
    )
    assert config.train.head_warmup.value == 0
    seen = seen_at_the_start(config, tmp_path / "next")
    wanted = load_backbone(source, "teacher").state_dict()
    assert all(torch.equal(seen[name], wanted[name]) for name in seen)
    events = (tmp_path / "next" / "events.jsonl").read_text()
    assert "start" in events
    # The heads and the centers too: the first step's teacher is the source's.
    first = torch.load(
        tmp_path / "next" / "checkpoints" / "step_00000002" / "training.pt", weights_only=True
    )
    assert first["centers"]["cls"].abs().sum() > 0


def filled(small, source, **train):
    """Networks of these settings after `start_from_weights`, and what it says it took."""
    config = replace(small, train=replace(small.train, init=str(source), **train))
    torch.manual_seed(1)
    model = StudentTeacher(config)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return model, fresh, start_from_weights(model, config)


@pytest.mark.parametrize("place", ["", "checkpoints/last", "checkpoints/step_00000020"])
def test_student_teacher_heads_and_centers_are_each_taken_from_their_own(small, source, place):
    model, _, words = filled(small, source / place)
    assert words == "backbone and head and centers"
    folder = source / "checkpoints" / "step_00000020"
    for name, network in (("model", model.student), ("teacher", model.teacher)):
        stored = load_file(folder / f"{name}.safetensors")
        assert all(
            torch.equal(tensor, stored[key]) for key, tensor in network.state_dict().items()
        ), name
    centers = torch.load(folder / "training.pt", weights_only=True)["centers"]
    assert torch.equal(model.cls_center.value, centers["cls"])
    assert torch.equal(model.patch_center.value, centers["patch"])
    assert not torch.equal(centers["cls"], centers["patch"])
    assert torch.equal(patch_center(source / place), centers["patch"])


def test_damaged_centers_beside_weights_are_named(source, tmp_path):
    folder = shutil.copytree(find_checkpoint(source), tmp_path / "weights")
    (folder / "training.pt").write_bytes(b"no" * 100)
    with pytest.raises(WeightsError, match=r"training\.pt' cannot be read"):
        patch_center(folder)


def test_a_center_with_nan_is_refused(golden, tmp_path):
    content = torch.load(golden / "published_checkpoint.pth", weights_only=False)
    content["ibot_loss"]["center2"].view(-1)[0] = float("nan")
    torch.save(content, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match="cannot be used") as caught:
        patch_center(tmp_path / "nan.pth")
    assert "patch (NaN)" in caught.value.why


def test_a_head_that_does_not_fit_or_shall_warm_up_starts_anew_with_its_centers(small, source):
    other = replace(small, head=replace(small.head, out_dim=48, patch_out_dim=48))
    for config, changes in ((other, {}), (small, {"head_warmup": duration("1 steps")})):
        model, fresh, words = filled(config, source, **changes)
        assert words == "backbone"
        state = model.state_dict()
        assert all(
            torch.equal(state[name], fresh[name])
            for name in state
            if ".head." in name or "center" in name
        )
        assert not torch.equal(
            state["student.backbone.cls_token"], fresh["student.backbone.cls_token"]
        )


def test_a_file_of_one_network_fills_both_and_has_no_centers(small, source, tmp_path):
    stored = load_file(source / "checkpoints" / "step_00000020" / "teacher.safetensors")
    save_file(stored, tmp_path / "one.safetensors")
    model, fresh, words = filled(
        small, tmp_path / "one.safetensors", head_warmup=duration("0 steps")
    )
    assert words.startswith("backbone") and "centers" not in words
    for network in (model.student, model.teacher):
        state = network.backbone.state_dict()
        assert all(
            torch.equal(state[name], stored[f"backbone.{name}"])
            for name in state
            if name != "masked_embed"
        )
    assert torch.equal(model.student.backbone.masked_embed, fresh["student.backbone.masked_embed"])
    assert patch_center(tmp_path / "one.safetensors") is None


def test_a_backbone_of_another_shape_is_refused_by_name(small, source):
    wide = replace(small, model=replace(small.model, mlp_ratio=2.0))
    with pytest.raises(
        WeightsError, match=r"holds blocks\.0\.mlp\.fc1\.weight as 96 x 24, not 48 x 24"
    ):
        filled(wide, source)


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ([], ((32, 32), (16, 16))),
        (["augment.local_size"], ((32, 32), (40, 24))),
        (["augment.global_size"], ((64, 48), (40, 24))),
    ],
)
def test_crops_follow_the_weights_in_the_proportions_of_the_recipe_unless_they_are_set(
    small, source, given, sizes
):
    """Weights for 32 pixels, a recipe of 64: local views shrink alike, to whole patches of 8."""
    config = replace(small, train=replace(small.train, init=str(source)))
    config = replace(
        config, augment=replace(config.augment, global_size=(64, 48), local_size=(40, 24))
    )
    made = with_weights(config, given)
    assert (made.augment.global_size, made.augment.local_size) == sizes
    assert made.model.drop_path == small.model.drop_path and made.head == small.head


def test_what_the_user_chose_of_network_head_and_warm_up_stays(small, source):
    config = apply(
        small,
        [
            f"train.init={source}",
            "model.drop_path=0.3",
            "model.pos_interp=exact",
            "head.hidden_dim=40",
            "train.head_warmup=3 steps",
        ],
    )
    made = with_weights(config, ["model.pos_interp", "head.hidden_dim", "train.head_warmup"])
    assert (made.model.drop_path, made.model.pos_interp) == (0.3, "exact")
    assert with_weights(config, []).model.pos_interp == small.model.pos_interp  # as the file says
    assert made.head.hidden_dim == 40 and str(made.train.head_warmup) == "3 steps"
    assert str(with_weights(config, ["head.hidden_dim"]).train.head_warmup) == "1 epochs"
    for key in ("model.drop_path", "model.heads", "model.pos_interp"):
        with_weights(config, [key])
    with pytest.raises(ConfigError, match=r"model\.depth is fixed"):
        with_weights(config, ["model.width", "model.depth"])


def test_without_a_head_the_backbone_waits_until_the_head_has_warmed_up(small, source, tmp_path):
    tensors = load_file(source / "checkpoints" / "step_00000020" / "teacher.safetensors")
    alone = {
        name.removeprefix("backbone."): t
        for name, t in tensors.items()
        if name.startswith("backbone.")
    }
    save_file(alone, tmp_path / "alone.safetensors")
    config = replace(
        small,
        train=replace(
            small.train,
            init=str(tmp_path / "alone.safetensors"),
            head_warmup=duration("4 steps"),
            max_steps=6,
        ),
        checkpoint=replace(small.checkpoint, every=duration("1 steps"), keep=10),
    )
    config = with_weights(config, ["model.heads", "train.head_warmup"])
    train(config, tmp_path / "run", quiet=True)
    start = {f"backbone.{name}": t for name, t in alone.items()}
    for step, equal in ((1, True), (4, True), (5, False)):
        now = backbone_of(tmp_path / "run", step)
        assert all(torch.equal(now[name], start[name]) for name in start) == equal, step
    heads = [
        load_file(tmp_path / "run" / "checkpoints" / f"step_0000000{step}" / "model.safetensors")[
            "head.mlp.0.weight"
        ]
        for step in (1, 4)
    ]
    assert not torch.equal(*heads)


def test_the_warm_up_is_set_where_the_weights_have_no_head(small, tmp_path):
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=0
    )
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    config = with_weights(
        replace(small, train=replace(small.train, init=str(tmp_path / "timm.safetensors"))), []
    )
    assert str(config.train.head_warmup) == "1 epochs" and config.model.width == 64
    assert config.augment.global_size == (32, 32) and config.head == small.head


@pytest.fixture
def foreign(tmp_path):
    """A network of another project, with all that the files beside it say."""
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=4,
        num_classes=0,
        act_layer="quick_gelu",
    ).eval()
    folder = tmp_path / "foreign"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    said = {
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-6,
        "model_type": "vit",
    }
    (folder / "config.json").write_text(json.dumps(said))
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder, network


def test_a_run_keeps_what_the_files_beside_its_weights_say(small, foreign, tmp_path):
    folder, network = foreign
    config = replace(small, train=replace(small.train, init=str(folder), max_steps=1))
    config = with_weights(config, [])
    assert (
        config.model.statistics == ((0.5, 0.4, 0.3), (0.5, 0.5, 0.25)) and config.model.heads == 4
    )
    assert config.model.act == "quick_gelu" and config.model.pos_interp == "exact"
    chosen = replace(
        config, model=replace(small.model, mean=(0.1, 0.2, 0.3), pos_interp="published")
    )
    model = with_weights(chosen, ["model.mean", "model.pos_interp"]).model
    assert (
        model.mean == (0.1, 0.2, 0.3)
        and model.std == (0.5, 0.5, 0.25)
        and model.pos_interp == "published"
    )
    seen = seen_at_the_start(config, tmp_path / "run")
    assert torch.equal(seen["pos_embed"], network.pos_embed)
    assert read_config(tmp_path / "run").model == config.model
    again = load(tmp_path / "run")
    assert (
        again.config.statistics == config.model.statistics
        and again.backbone.statistics == config.model.statistics
    )
    batch = Batch(torch.zeros(2, 1, 3, 8, 8, dtype=torch.uint8), None, None, np.zeros(1, np.int64))
    batch = replace(batch, masks=SimpleNamespace(each=lambda _: None))
    views = to_device(batch, torch.device("cpu"), config).global_views
    torch.testing.assert_close(views[0, 0, :, 0, 0], torch.tensor([-1.0, -0.8, -1.2]))


def test_nan_never_starts_a_run(small, foreign, tmp_path, pictures, capsys):
    folder, network = foreign
    torch.nn.init.constant_(network.blocks[1].mlp.fc2.bias, float("nan"))
    save_file(network.state_dict(), folder / "model.safetensors")
    command = [
        "pretrain",
        "tiny32",
        "--data",
        str(pictures),
        "--run",
        str(tmp_path / "run"),
        "--init",
        str(folder),
    ]
    assert main(command) == 2 and not (tmp_path / "run").exists()
    assert "blocks.1.mlp.fc2.bias (NaN)" in capsys.readouterr().err


def test_a_teacher_alone_fills_both_networks(small, foreign, tmp_path):
    state = {f"backbone.{name}": tensor for name, tensor in foreign[1].state_dict().items()}
    torch.save({"teacher": state}, tmp_path / "teacher.pth")
    config = replace(
        small, train=replace(small.train, init=str(tmp_path / "teacher.pth"), max_steps=1)
    )
    seen = seen_at_the_start(with_weights(config, []), tmp_path / "run")
    assert torch.equal(seen["pos_embed"], foreign[1].pos_embed)


def test_crops_of_another_size_keep_the_position_table_of_the_weights(small, source, tmp_path):
    config = replace(small, train=replace(small.train, init=str(source), max_steps=1))
    config = replace(config, augment=replace(config.augment, global_size=(48, 40)))
    config = with_weights(config, ["augment.global_size"])
    assert config.model.pos_size == (32, 32) and config.augment.global_size == (48, 40)
    seen = seen_at_the_start(config, tmp_path / "run")
    assert torch.equal(seen["pos_embed"], load_backbone(source).pos_embed)
    again = load(tmp_path / "run")  # evaluated at the size of its own views, not of its table
    assert again.size == (48, 40) and again.built_for == (32, 32)


def test_sizes_of_the_network_cannot_be_set_beside_the_weights(small, source):
    with pytest.raises(ConfigError, match="width is fixed"):
        with_weights(replace(small, train=replace(small.train, init=str(source))), ["model.width"])


def test_the_command_takes_weights_and_resumes_without_taking_them_again(
    small, source, tmp_path, pictures
):
    out = tmp_path / "run"
    command = [
        "pretrain",
        "tiny32",
        "--data",
        str(pictures),
        "--run",
        str(out),
        "--init",
        str(source),
        "--quiet",
        "train.batch=8",
        "train.length=8 steps",
        "system.workers=0",
        "checkpoint.every=2 steps",
    ]
    assert main([*command, "--steps", "4"]) == 0
    middle = backbone_of(out, 4)
    assert main(command) == 0
    assert read_config(out).model.width == small.model.width and read_config(out).head == small.head
    assert [row["event"] for row in read_jsonl(out / "events.jsonl")].count("resume") == 1
    assert not all(
        torch.equal(middle[name], tensor) for name, tensor in backbone_of(out, 8).items()
    )
    command[5], command[7] = str(tmp_path / "other"), str(tmp_path / "no.pth")
    assert main(command) == 2 and not (tmp_path / "other").exists()


def test_a_run_goes_on_as_an_older_version_read_its_weights(
    foreign, tmp_path, pictures, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = [
        "pretrain",
        "tiny32",
        "--data",
        str(pictures),
        "--init",
        str(foreign[0]),
        "--quiet",
        "--device",
        "cpu",
        "train.batch=8",
        "train.length=8 steps",
        "system.workers=0",
        "log.tensorboard=false",
    ]
    out = tmp_path / "run"
    assert main([*command, "--run", str(out), "--steps", "1"]) == 0
    written = json.loads((out / "config.json").read_text())
    assert (written["model"]["pos_interp"], written["model"]["act"]) == ("exact", "quick_gelu")
    written["model"]["pos_interp"] = "published"  # of the recipe, whatever the file said
    for section, name in (
        ("model", "act"),
        ("model", "mean"),
        ("model", "std"),
        ("data", "max_pixels"),
    ):
        del written[section][name]
    (out / "config.json").write_text(json.dumps(written))
    shutil.copytree(out, folder := default_folder(read_config(out)))
    for run, options in ((out, ["--run", str(out)]), (folder, [])):
        assert main([*command, *options, "--steps", "2"]) == 0
        assert (
            "resume" in [row["event"] for row in read_jsonl(run / "events.jsonl")]
            and reached_step(run) == 2
        )
        assert read_config(run).model.pos_interp == "published"
    assert main([*command, "--run", str(out), "model.pos_interp=exact"]) == 2
    assert [path.name for path in Path("runs").iterdir()] == [folder.name]


def test_a_run_whose_features_fall_below_their_start_is_stopped(small, tmp_path):
    scores = iter([50.0, 49.5, 48.9, 60.0])

    def evaluate(backbone, step):
        return [
            ResultRecord(
                protocol="knn", metric="knn_top1", value=next(scores), settings={}, step=step
            )
        ]

    config = replace(small, evaluate=replace(small.evaluate, every=duration("2 steps"), guard=1.0))
    with pytest.raises(TrainingStopped, match="worse") as caught:
        train(config, tmp_path / "run", quiet=True, evaluate=evaluate)
    assert "48.9 at step 4, 50.0 at the start" in caught.value.why
    assert [row for row in read_jsonl(tmp_path / "run" / "events.jsonl") if row["event"] == "guard"]
