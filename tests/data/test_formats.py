import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ibot.data import formats
from ibot.data.decode import decode
from ibot.data.formats import extensions, is_image
from ibot.data.sets.scan import scan

PHOTO = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def encoded(kind):
    file = io.BytesIO()
    Image.fromarray(PHOTO).resize((16, 16)).save(file, kind)
    return file.getvalue()


def write(folder, kind, suffix):
    (folder / f"a{suffix}").write_bytes(encoded(kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TGA", "QOI", "JPEG2000", "AVIF"])
def test_formats_by_all_their_names_are_listed_and_read(tmp_path, kind):
    if not extensions().intersection(formats.FURTHER[kind]):
        pytest.skip(f"this Pillow does not read {kind}")
    for suffix in formats.FURTHER[kind]:
        write(tmp_path, kind, suffix)
        write(tmp_path, kind, suffix.upper() + "x")  # another extension
    write(tmp_path, kind, "b" + formats.FURTHER[kind][0].upper())
    source = scan(tmp_path)
    assert len(source) == len(formats.FURTHER[kind]) + 1
    assert all(source.read(i).shape == (16, 16, 3) for i in range(len(source)))
    assert source.notes[0].startswith(f"{len(formats.FURTHER[kind])} file")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF"])
def test_files_without_an_extension_are_taken_by_their_first_bytes(tmp_path, kind):
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    assert is_image(encoded(kind)[:32])
    write(tmp_path, kind, "")
    (tmp_path / "README").write_text("BM and more text, which is no picture")
    (tmp_path / "empty").touch()
    source = scan(tmp_path)
    assert [source.name(0)] == ["a"] and source.read(0).shape == (16, 16, 3)
    assert source.notes == ("2 files passed over: 2 without extension",)


def test_archives_are_read_by_the_same_rule(tmp_path, tar, named_classes):
    from ibot.data.sets.tars import open_tars

    path = tar(
        tmp_path / "a.tar", "cat/1.jfif", "dog/1", "dog/@eaDir/2.jpg", **{"dog/README": "text"}
    )
    assert named_classes(open_tars([path])) == ["cat", "dog"]


def test_litter_of_systems_and_storage_servers_is_counted_and_not_read(tmp_path, make):
    litter = (
        "@eaDir",
        "#recycle",
        "$RECYCLE.BIN",
        "__MACOSX",
        ".ipynb_checkpoints",
        ".Trash-1000",
        "lost+found",
    )
    make(
        tmp_path,
        "cat/1.jpg",
        "dog/1.jpg",
        *(f"cat/{name}/1.jpg" for name in litter),
        "@eaDir/1.jpg",
    )
    make(tmp_path, "cat/._1.jpg", "cat/Thumbs.db", "cat/.DS_Store", "dog/notes.txt")
    source = scan(tmp_path)
    assert len(source) == 2 and source.classes == ("cat", "dog")
    assert source.notes[0] == "4 files passed over: 3 hidden or of the system, 1 .txt"
    assert source.notes[1].startswith("8 folders passed over: 2 @eaDir, 1 ")


def test_what_is_passed_over_does_not_change_the_fingerprint(tmp_path, make):
    before = scan(make(tmp_path, "cat/1.jpg", "dog/2.png")).provenance()
    make(tmp_path, "cat/a.txt", "dog/.b", "LICENSE", "@eaDir/1.jpg")
    (tmp_path / "LICENSE").write_text("text")
    assert scan(tmp_path).provenance() == before
    assert before["names_sha256"] == "236dab96b81330af"  # as of the first version


def test_photographs_of_phones_are_counted_or_read_by_the_package_for_them(tmp_path, monkeypatch):
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "a.heic").write_bytes(head)
    Image.fromarray(PHOTO).save(tmp_path / "b.png")
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    for cached in (extensions, formats.heif_reader):
        cached.cache_clear()
    assert "1 .heic (pip install pillow-heif" in scan(tmp_path).notes[0]
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: name)
    plugin = types.SimpleNamespace(HeifImageFile=lambda file: Image.fromarray(PHOTO))
    monkeypatch.setitem(sys.modules, "pillow_heif", types.ModuleType("pillow_heif"))
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", plugin)
    for cached in (extensions, formats.heif_reader):
        cached.cache_clear()
    assert len(scan(tmp_path)) == 2 and (decode(tmp_path / "a.heic") == PHOTO).all()
    for cached in (extensions, formats.heif_reader):
        cached.cache_clear()
