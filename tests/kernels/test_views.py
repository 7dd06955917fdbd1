"""The kernel of views: built by setup.py, the same on every processor, and not needed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ibot.config.schema import AugmentConfig
from ibot.data.params import view_params
from ibot.kernels import library, views

ROOT = Path(__file__).parents[2]
built = pytest.mark.skipif(
    not views.is_built(), reason="the kernel was not built: python setup.py build_ext --inplace"
)


@pytest.fixture
def forgotten():
    """The library is looked for anew, before and after."""
    library.views_function.cache_clear()
    yield
    library.views_function.cache_clear()


@built
def test_narrow_and_wide_vectors_give_the_same_bytes():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*rng.integers(20, 150, 2), 3), dtype=np.uint8) for _ in "abcd"]
    config = AugmentConfig(
        global_size=(50, 50), local_size=(23, 23), num_local=2, blur=(0.5,) * 3, turn=0.3
    )
    sizes = np.array([image.shape[:2] for image in images])
    params = view_params(config, 1, 0, np.arange(4), sizes)
    made = [
        views.make_views(images, params, 2, config.global_size, config.local_size, level)
        for level in range(views.BEST + 1)
    ]
    for level in made[1:]:
        for got, plain in zip(level, made[0], strict=True):
            np.testing.assert_array_equal(got, plain)


@built
@pytest.mark.parametrize("image", [np.zeros((9, 9, 3), np.float32), np.zeros((9, 9), np.uint8)])
def test_other_than_bytes_of_three_channels_is_refused(image):
    params = view_params(AugmentConfig(num_local=0), 0, 0, np.arange(1), np.array([[9, 9]]))
    with pytest.raises(ValueError, match="is not uint8"):
        views.make_views([image], params, 2, (8, 8), (8, 8))


def test_a_library_that_is_missing_or_of_another_version_is_not_called(monkeypatch, forgotten):
    monkeypatch.setattr(library, "INTERFACE", -1)
    assert not views.is_built()
    library.views_function.cache_clear()
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    assert not views.is_built()


def test_a_file_that_is_no_library_is_passed_over(monkeypatch, forgotten, tmp_path):
    (tmp_path / "_views.so").write_bytes(b"no library")
    spec = type("Spec", (), {"origin": str(tmp_path / "_views.so")})
    monkeypatch.setattr(library, "find_spec", lambda name: spec)
    assert not views.is_built()


def test_source_and_caller_name_the_same_interface():
    source = (ROOT / "src/ibot/kernels/views.c").read_text()
    assert f"#define INTERFACE {library.INTERFACE} " in source


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["cc", "none"])
def test_setup_builds_it_or_goes_on_without_a_compiler(compiler, tmp_path, monkeypatch):
    if compiler == "none":
        monkeypatch.setenv("CC", "no-such-compiler")
    where = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    command = [sys.executable, "setup.py", "-q", "build_ext", *where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = list((tmp_path / "lib").rglob("_views*"))
    if compiler == "none":
        assert not found and "no-such-compiler" in done.stderr + done.stdout
    else:
        assert found or "failed" in done.stderr
