"""`ibot eval` in one process and in two: the same numbers. Runs that were cut off go on."""

import colorsys
import json
import os
import shutil
import sys
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import script_in_two
from PIL import Image
from registered import only
from safetensors.torch import save_file

from ibot.cli.main import main
from ibot.config.override import apply, assign, to_plain
from ibot.config.schema import ModelConfig
from ibot.data.scenes import write_folder
from ibot.eval import state_file
from ibot.eval.probes import semi
from ibot.eval.registry import EVALUATIONS
from ibot.eval.robustness import corruptions
from ibot.eval.tune.settings import sane_settings
from ibot.eval.tune.step_plan import plan_steps
from ibot.eval.tune.training import _identity as identity
from ibot.method.model import Teacher
from ibot.models.layers import DropPath
from ibot.recipes import recipe

KNOWN = dict(EVALUATIONS)
BATCH = 24
"""Three batches of validation images: two for one process and one for the other."""
NO_RESULT = ("seconds", "images_per_second", "when")
VIT = ModelConfig(width=16, depth=1, heads=2, patch=8)
VARIANTS = ("original", "mixed_same", "mixed_rand", "only_bg_t")


@dataclass(frozen=True)
class Case:
    """An evaluation with settings, in the place of an entry of EVALUATIONS."""

    name: str
    given: tuple[str, ...] = ()
    mode: str = "clean"
    summary = "a case"

    def __getattr__(self, attribute):
        """What it does not say itself is that of the evaluation."""
        if attribute.startswith("__"):  # asked of a copy that has no name yet
            raise AttributeError(attribute)
        return getattr(KNOWN[self.name], attribute)

    def defaults(self, context):
        return assign(KNOWN[self.name].defaults(context), self.given, "")

    def load(self):
        run = KNOWN[self.name].load()
        return lambda context, settings: run(
            replace(context, mode=self.mode, batch=BATCH), settings
        )


SWEEP = ("rates=0.01,0.3", "epochs=2", "batch=32")
STORED = Case("corruptions", ("root=../stored", "corruptions=fog,snow", "severities=1,2"))
GENERATED = Case("corruptions", ("corruptions=gaussian_noise,contrast", "severities=2,5"))
CASES = (
    Case("cluster"),
    Case("cluster", ("by=kmeans",)),
    Case("semi", ("share=0.2", "subsets=2", "probes=knn,linear,logistic,finetune")),
    Case("part_linear", ("shares=0,0.5",)),
    Case("part_linear", ("shares=0,0.5", "probe=sweep", *SWEEP)),
    Case("part_linear", ("shares=0.5", *SWEEP), "published"),
    Case("backgrounds", ("root=../backgrounds", "challenge=true")),
    Case("backgrounds", ("root=../damaged", "challenge=true")),
    Case("natural_adversarial", ("root=../backgrounds/mixed_rand", "bin_size=5")),
    Case("calibration", ("bin_size=5",), "published"),
    STORED,
    Case("shuffle", ("grids=2:2,4:4",)),
    Case("shuffle", ("grids=2:2,4:4",), "published"),
    Case("occlusion", ("steps=2",)),
    Case("transfer", ("epochs=2", "warmup_epochs=1", "init_scale=1")),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Ten classes that differ in colour, variants and corruptions of others, random weights.

    One image of each part cannot be read; nor can one mask of `damaged`.
    """
    folder = tmp_path_factory.mktemp("world")
    write_folder(folder / "data", train=100, val=60, seed=0, size=32)
    write_folder(folder / "others" / "data", train=80, val=10, seed=1, size=32)
    files = sorted((folder / "others" / "data" / "train").glob("*/*.png"))
    classes = sorted({file.parent.name for file in files})
    for file in folder.rglob("*.png"):
        tint = colorsys.hsv_to_rgb(classes.index(file.parent.name) / len(classes), 0.5, 1.0)
        Image.fromarray((np.asarray(Image.open(file)) * tint).astype(np.uint8)).save(file)
    for part in ("train", "val"):
        sorted((folder / "data" / part).glob("*/*.png"))[30].write_bytes(b"no image")
    for i, file in enumerate(files):
        corrupted = Path("stored", ("fog", "snow")[i % 2], ("1", "2")[i // 2 % 2])
        for target in (folder / "backgrounds" / VARIANTS[i % 4], folder / corrupted):
            (target / file.parent.name).mkdir(parents=True, exist_ok=True)
            os.link(file, target / file.parent.name / file.name)
    foreground = np.zeros((32, 32), bool)
    foreground[:, :31] = True
    for file in sorted((folder / "backgrounds" / "original").glob("*/*.png"))[::2]:
        mask = folder / "backgrounds" / "fg_mask" / file.parent.name / f"{file.stem}.npy"
        mask.parent.mkdir(parents=True, exist_ok=True)
        np.save(mask, foreground)
    shutil.copytree(folder / "backgrounds", folder / "damaged")
    next((folder / "damaged" / "fg_mask").glob("*/*")).write_bytes(b"no mask")
    config = apply(
        recipe("tiny32"),
        [
            "model.width=24",
            "model.depth=2",
            "model.heads=3",
            "model.patch=8",
            "head.out_dim=10",
            "head.patch_out_dim=10",
            "head.hidden_dim=32",
        ],
    )
    torch.manual_seed(0)
    network = Teacher(config).state_dict()  # fresh weights hardly tell images apart; these do
    tensors = {name: value * (3 if value.ndim > 1 else 1) for name, value in network.items()}
    save_file(tensors, folder / "weights.safetensors", {"config": json.dumps(to_plain(config))})
    return folder


def run_cases(patch):
    """All cases from the current folder in turn; the long ones that `semi` runs made short."""
    cases = [*CASES, GENERATED] if find_spec("imagecorruptions") else CASES
    patch.setattr(semi, "LinearSettings", partial(semi.LinearSettings, epochs=2, rates=(0.01, 0.3)))
    patch.setattr(
        semi,
        "sane_settings",
        lambda *given: replace(sane_settings(*given), epochs=2, init_scale=1.0),
    )
    with only({f"case {i}": case for i, case in enumerate(cases)}):
        return evaluate_all()


def evaluate_all(out="out"):
    return main(
        [
            "eval",
            "all",
            "../weights.safetensors",
            "--data",
            "../data",
            "--out",
            out,
            "--cache",
            "cache",
            "--workers",
            "0",
            "--device",
            "cpu",
            "--baselines",
            "none",
        ]
    )


def records(folder):
    """Without what is of the moment."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in NO_RESULT} for row in rows]


@pytest.mark.distributed
@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_every_number_of_one(world, monkeypatch, capsys):
    for name in ("one", "two"):
        (world / name).mkdir()
    processes = script_in_two(__file__, cwd=world / "two")
    monkeypatch.chdir(world / "one")
    assert run_cases(monkeypatch) == 0
    done = [process.ended() for process in processes]
    assert [process.returncode for process in done] == [0, 0], done
    refused = [text[text.index("not run:") :] for text in (capsys.readouterr().err, done[0].stderr)]
    assert refused[0] == refused[1] and refused[0].count("\n") == 2 and "the mask" in refused[0]
    one, two = (records(world / name / "out") for name in ("one", "two"))
    assert len(one) == len(two) and {row["protocol"] for row in one} == {
        case.name for case in CASES
    }
    for first, second in zip(one, two, strict=True):
        compare(first, second, f"{first['metric']} {first['row']}")


def compare(first, second, where):
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            compare(first[key], second[key], f"{where}, {key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second, strict=True)):
            compare(*pair, f"{where}, {i}")
    elif isinstance(first, float):
        # Fine-tuning adds its gradients in another order.
        assert second == pytest.approx(first, rel=1e-6, abs=1e-6), where
    else:
        assert first == second, where


def test_stochastic_depth_draws_alike_however_a_step_is_cut():
    images, drop = torch.ones(12, 3, 2), DropPath(0.4)

    def draw(part, parts):
        torch.manual_seed(0)
        drop.part, drop.parts = part, parts
        own = images[part::parts]
        rows = torch.arange(len(own)).repeat_interleave(3)
        whole = drop(own, len(own))
        torch.manual_seed(0)
        assert torch.equal(drop(own.flatten(0, 1), len(own), rows), whole.flatten(0, 1))
        return whole

    step = draw(0, 1)
    assert 0 < (step == 0).sum() < step.numel()
    for parts in (2, 3, 12):
        for part in range(parts):
            assert torch.equal(draw(part, parts), step[part::parts])


def test_a_fine_tuning_goes_on_in_any_number_of_processes_unless_it_mixes():
    def cut(world_size, **changes):
        settings = replace(sane_settings("small", 90), **changes)
        plan = plan_steps(90, 3, settings, world_size)
        return identity([], settings, plan)["cut"]

    assert cut(1) == cut(2) == cut(4) == [32]
    assert cut(1, mixup=0.8) != cut(2, mixup=0.8)
    assert cut(1, mixup=0.8, micro_batch=8) == cut(2, mixup=0.8, micro_batch=8) == [8, 4]


def test_an_evaluation_that_was_cut_off_goes_on(world, tmp_path, monkeypatch):
    """Neither protocols that are done nor the corruptions that are run again."""
    for name in ("data", "stored", "weights.safetensors"):
        (tmp_path / name).symlink_to(world / name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cases = [Case("knn"), Case("transfer", ("epochs=1",)), STORED]
    monkeypatch.setattr(state_file, "SAVE_SECONDS", 0)
    score, scored = corruptions.score_labelled, []

    def third_is_cut_off(context, images, predict, name):
        scored.append(name)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(context, images, predict, name)

    monkeypatch.setattr(corruptions, "score_labelled", third_is_cut_off)
    with only({case.name: case for case in cases}):
        assert evaluate_all("cut") == 130
    monkeypatch.setattr(
        "ibot.eval.features.cache.compute", lambda *_: pytest.fail("the network ran again")
    )
    monkeypatch.setattr(
        "ibot.eval.fit.Fit.update", lambda *_: pytest.fail("the network was tuned again")
    )
    with only({case.name: case for case in cases}):
        assert evaluate_all("cut") == 0
    assert scored == ["clean", "snow 1", "snow 2", "snow 2", "fog 1", "fog 2"]
    assert not list(Path("cut").glob("*.state")) and not list(Path("cut").glob("all-*"))
    assert [record["protocol"] for record in records(Path("cut"))].count("transfer") == 1
    with only({"corruptions": STORED}):
        assert evaluate_all("whole") == 0 and len(scored) == 11
    whole = records(Path("whole"))
    assert records(Path("cut"))[-len(whole) :] == whole


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run_cases(pytest.MonkeyPatch()))
