"""How a run makes its views: chosen once, kept, and the same after a resumption."""

import json
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from ibot.config.override import apply
from ibot.data import decode_fast, pixels_fast
from ibot.data.loader import Loader
from ibot.data.pixels import normalize
from ibot.data.pixels_device import render
from ibot.data.sets.scan import scan
from ibot.engine.checkpoint import find_checkpoint
from ibot.engine.loop import facts, mask_grid, train
from ibot.engine.makers import makers
from ibot.engine.run import read_config
from ibot.engine.start import with_pixels
from ibot.engine.transfer import ahead
from ibot.errors import RunError
from ibot.kernels import views as kernel
from ibot.recipes import recipe
from ibot.studies.settings import default_folder
from ibot.types import UndrawnBatch

CPU = torch.device("cpu")
WAYS = "fast", "exact"


def quiet(config, run, **changes):
    given = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return train(apply(config, given), run, quiet=True)


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(find_checkpoint(run) / "teacher.safetensors")


@pytest.mark.parametrize("pixels", ["fast", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_in_mid_epoch_and_resumed_is_the_whole_one(small, tmp_path, pixels, workers):
    small = apply(small, [f"data.pixels={pixels}", "train.length=9 steps"])
    quiet(small, tmp_path / "whole")
    assert quiet(small, tmp_path / "parts", train__max_steps=4, system__workers=workers).step == 4
    assert quiet(small, tmp_path / "parts", system__workers=workers).step == 9
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_auto_is_resolved_by_the_device_and_kept_with_the_run(small, tmp_path):
    gpu = torch.device("cuda")  # named, not used
    assert small.data.pixels == "auto"
    assert with_pixels(small, CPU).data.pixels == "fast"
    assert with_pixels(small, gpu).data.pixels == "device"
    for given in ("exact", "fast", "device"):
        assert with_pixels(apply(small, [f"data.pixels={given}"]), gpu).data.pixels == given

    short = {"train__max_steps": 2, "train__length": "4 steps"}
    quiet(small, tmp_path / "run", **short)
    assert read_config(tmp_path / "run").data.pixels == "fast"
    assert with_pixels(small, gpu, tmp_path / "run").data.pixels == "fast"
    with pytest.raises(RunError, match="other settings") as caught:
        quiet(small, tmp_path / "run", data__pixels="exact", **short)
    assert "data.pixels: fast -> exact" in caught.value.why


def test_a_run_from_before_the_setting_goes_on_with_exact_pixels(small, tmp_path):
    settings = {"train__length": "6 steps"}
    quiet(small, tmp_path / "exact", data__pixels="exact", **settings)
    run = tmp_path / "run"
    quiet(small, run, data__pixels="exact", train__max_steps=3, **settings)
    file = run / "config.json"
    plain = json.loads(file.read_text())
    assert plain["data"].pop("pixels") == "exact"
    file.write_text(json.dumps(plain))

    assert read_config(run).data.pixels == recipe(file).data.pixels == "exact"
    assert with_pixels(small, torch.device("cuda"), run).data.pixels == "exact"
    assert quiet(small, run, **settings).step == 6
    a, b = weights(tmp_path / "exact"), weights(run)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_that_goes_on_by_other_libraries_says_so(small, tmp_path, monkeypatch):
    def said():
        return [line for line in (run / "log.txt").read_text().splitlines() if "from here" in line]

    small, run = apply(small, ["data.pixels=fast", "train.length=5 steps"]), tmp_path / "run"
    monkeypatch.setattr(kernel, "is_built", lambda: True)
    now = makers(small, CPU)
    assert now["views"] == "the kernel in C" and now["JPEG"].startswith(("simplejpeg", "Pillow"))
    assert makers(apply(small, ["data.pixels=exact"]), CPU)["JPEG"].startswith("Pillow")
    assert makers(apply(small, ["data.pixels=device"]), CPU)["views"] == "torch on cpu"
    monkeypatch.undo()

    monkeypatch.setattr(decode_fast, "reader", lambda: "another 1.0")
    for end in (1, 2):
        quiet(small, run, train__max_steps=end)
    assert not said(), "nothing changed"
    monkeypatch.setattr(decode_fast, "reader", lambda: "")
    monkeypatch.setattr(pixels_fast, "maker", lambda: "something slower")
    quiet(small, run, train__max_steps=3)
    of_jpeg, of_views = said()
    assert "JPEG by Pillow" in of_jpeg and "by another 1.0 before" in of_jpeg
    assert "views by something slower" in of_views
    quiet(small, run, train__max_steps=4)
    assert len(said()) == 2, "said where it changes"


def test_processes_must_agree_on_how_views_are_made(small):
    source = scan(small.data.path)
    fast, exact = (facts(apply(small, [f"data.pixels={way}"]), source, None) for way in WAYS)
    assert {key for key in fast if fast[key] != exact[key]} == {"data.pixels"}
    assert "data.path" not in fast and "system.workers" not in fast


def test_a_folder_is_named_after_how_views_are_made_only_where_that_was_set(small):
    plain = default_folder(small)
    for pixels in ("exact", "fast", "device"):
        resolved = apply(small, [f"data.pixels={pixels}"])
        assert default_folder(resolved) == plain, "as in the config.json of its run"
        assert default_folder(resolved, ["data.pixels"]) != plain
    assert default_folder(small, ["data.pixels"]) == plain


def steps_of(config, count=3):
    return Loader(config, scan(config.data.path), grid=mask_grid(config), end_step=count)


def test_steps_come_with_their_views_made_and_normalised(small):
    small = apply(small, ["data.pixels=device", "train.accumulate=2"])
    small = apply(small, ["model.mean=0.1,0.2,0.3", "model.std=0.5,0.6,0.7"])
    parts = []

    @contextmanager
    def measure(part):
        parts.append(part)
        yield

    came = list(ahead(steps_of(small), small, CPU, measure))
    assert not parts, "on a CPU nothing is made before it is wanted"
    for step, read in zip(came, steps_of(small), strict=True):
        ready = step.on_device()
        assert len(ready) == len(step.read) == 2
        for batch, undrawn, again in zip(ready, step.read, read, strict=True):
            assert isinstance(undrawn, UndrawnBatch) and undrawn.index is batch.index
            views = render(again.pictures, again.sizes, again.params, small.augment, CPU)
            assert (again.reduced == 1).all()
            for got, made in zip((batch.global_views, batch.local_views), views, strict=True):
                assert torch.equal(got, normalize(made, small.model.statistics))
            assert torch.equal(batch.masks.map, again.masks.map)
            assert (batch.content == undrawn.content).all() and batch.bad == undrawn.bad
    assert parts == ["transfer", "render"] * 6


def test_views_made_by_the_loader_are_only_moved_and_normalised(small):
    small = apply(small, ["data.pixels=exact"])
    for step in ahead(steps_of(small, 1), small, CPU):
        (read,), (ready,) = step.read, step.on_device()
        assert torch.equal(ready.global_views, normalize(read.global_views))
        assert torch.equal(ready.local_views, normalize(read.local_views))


def test_unreadable_pictures_are_listed_by_a_run_that_leaves_views_to_the_device(
    small, pictures, tmp_path
):
    for file in pictures.iterdir():
        (tmp_path / "images").mkdir(exist_ok=True)
        data = file.read_bytes()
        (tmp_path / "images" / file.name).write_bytes(b"broken" if file.stem == "007" else data)
    small = apply(small, [f"data.path={tmp_path / 'images'}", "train.length=6 steps"])
    quiet(small, tmp_path / "run", data__pixels="device")
    rows = (tmp_path / "run" / "bad_files.jsonl").read_text().splitlines()
    assert [json.loads(row)["path"] for row in rows] == ["007.png"]
    log = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 6 and log[-1]["images_per_second"] > 0
