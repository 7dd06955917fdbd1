import pytest
import torch

from ibot.cli.main import main
from ibot.config.advice import CHANGE
from ibot.config.duration import duration
from ibot.config.meaning import meanings
from ibot.config.override import apply, items
from ibot.config.schema import Config
from ibot.models.backbone import build_backbone
from ibot.recipes import RECIPES, beyond_paper, recipe
from ibot.recipes.paper import PUBLISHED, SOURCES, v100_hours
from ibot.studies.auto_examples import CASES
from ibot.studies.settings import default_folder


def test_every_setting_has_a_meaning():
    assert set(meanings()) == {key for key, _ in items(Config())}
    assert all(len(text) > 10 for text in meanings().values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_have_the_published_backbone_and_nothing_beyond_the_paper(name):
    config = recipe(name)
    with torch.device("meta"):
        backbone = build_backbone(config.model, config.augment.global_size)
    assert sum(p.numel() for p in backbone.parameters()) == PUBLISHED[name].parameters
    assert beyond_paper(config) == []


def test_options_of_patches_are_named_only_where_patches_are_in_a_loss():
    config = apply(recipe("tiny64"), ["method.patch_residual=true", "method.visible_weight=1"])
    assert any("method.patch_residual" in text for text in beyond_paper(config))
    alone = apply(config, ["method.patch_weight=0", "method.visible_weight=0", "mask.ratio=0:0"])
    assert not any("patch" in text for text in beyond_paper(alone))


def test_every_published_recipe_has_sources_for_settings_that_exist():
    assert set(SOURCES) == set(PUBLISHED) <= set(RECIPES)
    known = {key for key, _ in items(Config())}
    for marks in SOURCES.values():
        assert set(marks) <= known


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_value_that_differs_from_the_published_default_names_another_source(name):
    """What is not the default of the published flags cannot come from there."""
    flags = {
        "train.length": "100 epochs",
        "head.norm_last_layer": True,
        "augment.num_local": 0,
        "mask.start": duration("0 epochs"),
        "optim.clip": 3.0,
        "optim.lr": 5e-4,
        "optim.min_lr": 1e-6,
        "head.out_dim": 8192,
    }
    values = dict(items(recipe(name)))
    for key, default in flags.items():
        if values[key] != default and key != "train.length":
            assert SOURCES[name].get(key, "D")[0] in "RPTi", key


def test_the_estimate_of_the_measured_recipe_is_the_measurement():
    assert v100_hours("vit_s16", recipe("vit_s16")) == pytest.approx(16 * 193.4, rel=0.01)
    assert v100_hours("ablation_base", recipe("ablation_base")) == pytest.approx(
        16 * 47.0, rel=0.01
    )


def test_swin_starts_the_patch_loss_at_epoch_50():
    for name in ("swin_t7", "swin_t14"):
        assert (
            recipe(name).mask.start == duration("50 epochs") and recipe(name).model.drop_path == 0.1
        )


def test_a_setting_is_explained_with_its_values_and_sources(capsys):
    assert main(["recipes", "why", "optim.clip"]) == 0
    out = capsys.readouterr().out
    assert meanings()["optim.clip"] in out and "vit_b16 " in out and " T" in out
    assert out.splitlines()[-1].endswith("o own")
    named = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert named == ["default", *PUBLISHED, "demo", "tiny32", "tiny64", "one_gpu", "adapt"]
    assert f"\nchange it when {CHANGE['optim.clip']}\n" in out
    assert main(["recipes", "why", "clip"]) == 2
    assert "optim.clip" in capsys.readouterr().err


def test_advice_is_about_settings_that_there_are():
    assert set(CHANGE) <= set(meanings()) and len(CHANGE) >= 20


def test_auto_is_shown_by_what_it_chooses_for_whom(capsys):
    assert main(["recipes", "show", "auto"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:1] not in "# "}
    assert len(rows["train.batch"]) == len(CASES) and len(set(rows["model.patch"])) > 1
    assert "data.workers" not in rows and all(len(set(values)) > 1 for values in rows.values())
    assert main(["recipes", "why", "model.patch"]) == 0
    assert "auto:" in capsys.readouterr().out


def test_runs_keep_the_names_that_older_versions_gave_them():
    plain = recipe("vit_s16")
    assert default_folder(plain).name == "vit_s16-1e96b13a"
    assert default_folder(recipe("swin_t14")).name == "swin_t14-08c9689d"
    later = default_folder(apply(plain, ["mask.start_epoch=5"]))
    assert default_folder(apply(plain, ["mask.start=5 epochs"])) == later
    assert later not in [
        default_folder(apply(plain, [f"mask.start={start}"])) for start in ("5 percent", "4 epochs")
    ]
