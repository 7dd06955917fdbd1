import gzip
import io
import tarfile

import pytest
from PIL import Image

from ibot.data.formats import extensions
from ibot.data.sets.open import open_images, open_labelled
from ibot.data.sets.tars import open_tars, scan_tars


def test_folders_in_archives_are_classes_and_images_are_read_by_seek(tmp_path, tar, names):
    tar(tmp_path / "train-0.tar", "./set/cat/1.jpg", "set/dog/2.JPEG", **{"set/readme.txt": "x"})
    tar(tmp_path / "train-1.tar", "set/dog/1.jpg", "set/cat/._1.jpg", "__MACOSX/cat/1.jpg")
    images = open_tars([tmp_path / "train-0.tar", tmp_path / "train-1.tar"])
    assert names(images) == [
        "train-0.tar/set/cat/1.jpg",
        "train-0.tar/set/dog/2.JPEG",
        "train-1.tar/set/dog/1.jpg",
    ]
    assert (
        images.classes == ("cat", "dog")
        and images.labels.tolist() == [0, 1, 1]
        and images.root == tmp_path
    )
    assert [round(int(images.read(i)[0, 0, 0]), -1) for i in range(3)] == [0, 10, 0]


def test_side_entries_give_the_class_as_in_webdataset(tmp_path, tar, named_classes):
    files = {"a/0.jpg": None, "a/0.cls": "10", "a/1.cls": "9\n", "a/1.jpg": None}
    assert named_classes(open_tars([tar(tmp_path / "a.tar", **files)])) == ["10", "9"]
    images = open_tars(
        [
            tar(tmp_path / "a.tar", **files),
            tar(tmp_path / "b.tar", **{"a/0.jpg": None, "a/0.cls": "2"}),
        ]
    )
    assert images.classes == ("2", "9", "10") and named_classes(images) == [
        "10",
        "9",
        "2",
    ]  # keys repeat over shards


def test_classes_of_digits_keep_the_order_of_their_folders(tmp_path, tar):
    """Beside their own folder as `ibot data pack` writes them, or with no word beside them."""
    for name in ("10", "9"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / name / "1.jpg")
    order = open_images(str(tmp_path / "set")).classes
    files = {"9/1.jpg": None, "9/1.cls": "9", "10/1.jpg": None, "10/1.cls": "10"}
    for shard in (tar(tmp_path / "a.tar", **files), tar(tmp_path / "b.tar", "9/1.jpg", "10/1.jpg")):
        images = open_tars([shard])
        assert images.classes == order == ("10", "9") and images.labels.tolist() == [1, 0]


def test_a_pattern_reaches_into_several_folders(tmp_path, tar, names):
    for name in ("a", "b"):
        tar(tmp_path / name / "x.tar", f"{name}/1.jpg")
    images = open_tars(sorted(tmp_path.glob("*/x.tar")))
    assert names(images) == ["a/x.tar/a/1.jpg", "b/x.tar/b/1.jpg"] and images.read(1).shape == (
        4,
        6,
        3,
    )
    assert len(open_labelled(str(tmp_path / "*" / "x.tar"), str(tmp_path / "*" / "x.tar"))[0]) == 2


def test_the_later_of_two_entries_of_one_name_counts(tmp_path, jpeg, tar):
    path = tar(tmp_path / "a.tar", "cat/0.jpg", "dog/1.jpg")
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("cat/0.jpg")
        member.size = len(jpeg(200))
        archive.addfile(member, io.BytesIO(jpeg(200)))
    images = open_tars([path])
    assert len(images) == 2 and abs(int(images.read(0)[0, 0, 0]) - 200) <= 2


def test_images_without_a_class_and_archives_without_images_are_refused(tmp_path, tar, refused):
    path = tar(tmp_path / "a.tar", "cat/1.jpg", "2.jpg", "3.jpg")
    error = refused(open_tars, [path], match=r"a.tar/2.jpg' has no class")
    assert error.why.startswith("2 of 3 images")
    refused(
        open_tars,
        [tar(tmp_path / "b.tar", **{"cat/1.jpg": None, "cat/1.cls": " "})],
        match="has no class",
    )
    empty = tar(tmp_path / "c.tar", **{"a.txt": "x"})
    refused(open_tars, [empty, empty], match="no images in .*c.tar' and 1 others")
    refused(open_labelled, str(tmp_path / "no-*.tar"), match="no .tar file matches")


def test_damaged_and_compressed_archives_are_refused(tmp_path, tar, refused):
    whole = tar(tmp_path / "a.tar", "cat/1.jpg", "dog/1.jpg").read_bytes()
    for content in (
        gzip.compress(whole),
        b"",
        whole[:500],
        b"no archive " * 100,
        whole[:1536] + b"x" * 512 + whole[2048:],
    ):
        (tmp_path / "b.tar").write_bytes(content)
        refused(open_tars, [tmp_path / "b.tar"], match="cannot be read as a tar archive")
    refused(open_tars, [tmp_path / "none.tar"], match="cannot be read as a tar archive")


def test_what_is_passed_over_and_what_holds_more_is_counted(tmp_path, tar):
    page, file = Image.new("RGB", (4, 4)), io.BytesIO()
    page.save(file, "TIFF", save_all=True, append_images=[page])
    texts = {"a/1.heic": "x", "a/2.HEIC": "x", "a/1.json": "{}", "a/1.cls": "a", "a/README": "text"}
    path = tar(tmp_path / "a.tar", "a/1.jpg", "b/1.jpg", "b/._1.jpg", **texts)
    with tarfile.open(path, "a") as archive:
        for name, kind, content in (
            ("b/2.tif", tarfile.REGTYPE, file.getvalue()),
            ("b/3.jpg", tarfile.SYMTYPE, b""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = (
                kind,
                len(content),
                "a/1.jpg" * (not content),
            )
            archive.addfile(member, io.BytesIO(content))
    known = ".heic" in extensions()
    images = open_tars([path])
    assert len(images) == (5 if known else 3)
    passed, pages = images.notes
    kinds = (
        "1 .json",
        "1 without extension",
        "1 link",
        "1 hidden or of the system",
        *(() if known else ("2 .heic",)),
    )
    assert passed.startswith(f"{4 if known else 6} files passed over") and all(
        kind in passed for kind in kinds
    )
    assert ("pillow-heif" in passed) != known
    assert (
        pages
        == "only the first page and up to three bands are read: 1 with further pages or frames"
    )


def test_a_shard_that_is_cut_short_loses_its_tail_alone_and_is_named(tmp_path, tar, names, jpeg):
    """Cut at every place: the images that are whole are read, with their classes."""
    files = {}
    for key in ("0", "1", "2"):
        files |= {f"{key}.jpg": None, f"{key}.cls": str(int(key) + 5)}
    long = tar(tmp_path / "b.tar", **{f"{'long' * 60}.jpg": None, "3.jpg": None})
    whole = tar(tmp_path / "a.tar", **files)
    content, size = whole.read_bytes(), len(jpeg())
    with tarfile.open(whole) as archive:
        places = [(member.name, member.offset_data) for member in archive]
    data = [place for name, place in places if name.endswith("jpg")]
    texts = [place for name, place in places if name.endswith("cls")]
    end = texts[-1] + 512
    tar(tmp_path / "c.tar", **{"9.jpg": None, "9.cls": "9"})
    for cut in (1, 511, 700, data[0] + size - 1, data[0] + size, texts[0], texts[0] + 1, data[1]):
        (tmp_path / "a.tar").write_bytes(content[: max(cut, 513)])
        images = open_tars([tmp_path / "a.tar", tmp_path / "c.tar"])
        kept = cut > texts[0]
        assert names(images) == ["a.tar/0.jpg"] * kept + ["c.tar/9.jpg"]
        assert images.classes == ("5", "9")[1 - kept :] and images.read(0).shape == (4, 6, 3)
        said = f"1 archive of 2 cut short, only whole images are read: 'a.tar ({int(kept)} image"
        assert [said in note for note in images.notes] == [True]
    whole.write_bytes(content[:end])
    assert len(open_tars([whole])) == 3, "no end mark, but nothing is lost"
    whole.write_bytes(content)
    assert open_tars([whole]).notes == ()
    content = long.read_bytes()
    for cut in (*range(513, len(content) - 10240, 97), len(content) // 512 * 512):
        long.write_bytes(content[:cut])
        got = scan_tars([long, tmp_path / "c.tar"])
        assert names(got)[-1] == "c.tar/9.jpg" and got.read(0).shape == (4, 6, 3)


def test_a_shard_without_a_whole_image_is_refused_where_it_is_alone(tmp_path, tar, refused):
    path = tar(tmp_path / "a.tar", "cat/1.jpg")
    path.write_bytes(path.read_bytes()[:700])
    assert "cut short" in refused(scan_tars, [path], match="no images in").why


def test_classes_stand_in_json_too_and_hard_links_are_passed_over(tmp_path, tar, named_classes):
    sides = {"0.json": '{"cls": 3}', "1.json": '{"label": "ant"}', "2.json": "[]", "2.cls": "7"}
    path = tar(tmp_path / "a.tar", "0.jpg", "1.jpg", "2.jpg", **sides, **{"0.cls": "4"})
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("3.jpg")
        member.type, member.linkname = tarfile.LNKTYPE, "0.jpg"
        archive.addfile(member)
    images = open_tars([path])
    assert named_classes(images) == ["4", "ant", "7"]
    assert images.notes == ("2 files passed over: 1 .json, 1 link",)


def test_files_with_holes_are_passed_over_and_what_follows_is_read(tmp_path, tar, names, jpeg):
    """As `tar --sparse` stores them: less of them lies in the archive than they are long."""
    content = jpeg().ljust(1024, b"\0")
    holes = tarfile.TarInfo("cat/0.jpg")
    holes.type, holes.size = tarfile.GNUTYPE_SPARSE, len(content)
    header = bytearray(holes.tobuf(tarfile.GNU_FORMAT))
    real = 10**9
    header[386:410] = b"%011o\0%011o\0" % (real - len(content), len(content))
    header[483:495] = b"%011o\0" % real
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tar(tmp_path / "a.tar", "cat/1.jpg", "dog/2.jpg")
    path.write_bytes(bytes(header) + content + path.read_bytes())
    images = open_tars([path])
    assert names(images) == ["a.tar/cat/1.jpg", "a.tar/dog/2.jpg"]
    assert images.notes == ("1 file passed over: 1 with holes",)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_both_forms(tmp_path, jpeg, names, form):
    name = f"{'folder ü/' * 30}{'n' * 120}.jpg"
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(jpeg())
        archive.addfile(member, io.BytesIO(jpeg()))
    images = scan_tars([tmp_path / "a.tar"])
    assert names(images) == [f"a.tar/{name}"] and images.read(0).shape == (4, 6, 3)


def test_braces_stand_for_shards(tmp_path, tar, names, refused):
    for i in range(12):
        tar(tmp_path / f"s-{i:03d}.tar", f"{i}.jpg")
    images = open_images(f"{tmp_path}/s-{{002..011}}.tar")
    assert names(images) == [f"s-{i:03d}.tar/{i}.jpg" for i in range(2, 12)]
    few = open_images(f"{tmp_path}/s-00{{3,1}}.tar")
    assert names(few) == ["s-003.tar/3.jpg", "s-001.tar/1.jpg"]
    error = refused(open_images, f"{tmp_path}/s-{{010..012}}.tar", match="s-012.tar' of .*missing")
    assert error.why == "1 of 3 files are not there"
    refused(open_images, f"{tmp_path}/s-{{0..99999999}}.tar", match="too many files")
