import json
import pickle
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_forms import png, table

from ibot.data.decode import UnreadableImage
from ibot.data.sets import parquet_encoding
from ibot.data.sets.open import open_images, open_labelled
from ibot.data.sets.parquet import scan_parquet
from ibot.data.sets.parquet_cells import _pages, read_cell_plainly
from ibot.data.sets.parquet_encoding import Thrift, hybrid, snappy_blocks, varint
from ibot.data.sets.parquet_pages import NOT_AS_EXPECTED, find_pages
from ibot.errors import MissingExtra


def random_files(seed, count, largest=300_000):
    """Bytes of all sizes, some compressible, some missing, some empty, some repeated."""
    draw = np.random.default_rng(seed)
    files = []
    for size in draw.integers(0, largest, count):
        content = draw.integers(0, 256, size, dtype=np.uint8)
        if draw.random() < 0.3:
            content[size // 3 :] = content[: size - size // 3][0] if size else 0
        files.append(None if draw.random() < 0.2 else content.tobytes())
    files[count // 2] = files[0]
    return files


LAYOUTS = {
    "as pyarrow writes": {},
    "small row groups": {"row_group_size": 7},
    "no dictionary": {"use_dictionary": False, "row_group_size": 20},
    "not compressed": {"compression": "none", "use_dictionary": False, "row_group_size": 20},
    "pages of version 2": {"data_page_version": "2.0", "row_group_size": 20},
    "small pages": {"data_page_size": 1000, "write_batch_size": 3, "row_group_size": 30},
    "gzip": {"compression": "gzip", "row_group_size": 20},
    "zstd": {"compression": "zstd", "row_group_size": 20},
    "brotli": {"compression": "brotli", "row_group_size": 20},
    "as datasets writes": {"use_content_defined_chunking": True, "write_page_index": True},
}
LEFT_TO_PYARROW = {
    "lz4": {"compression": "lz4"},
    "lengths apart": {
        "use_dictionary": False,
        "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"},
    },
}


@pytest.mark.parametrize("layout", [*LAYOUTS, *LEFT_TO_PYARROW])
def test_single_values_are_those_that_pyarrow_reads(layout, tmp_path):
    files = random_files(len(layout), 45)
    cells = [None if file is None else {"bytes": file, "path": None} for file in files]
    made = pa.table({"image": pa.array(cells)})
    how = (LAYOUTS | LEFT_TO_PYARROW)[layout]
    pq.write_table(made, tmp_path / "a.parquet", **how)
    images = scan_parquet([tmp_path / "a.parquet"])
    cells, file = images.archives, tmp_path / "a.parquet"
    state = file.stat().st_size, file.stat().st_mtime_ns
    fast = [_pages(file, state, chunk) is not None for chunk in cells.chunks]
    assert set(fast) == {layout in LAYOUTS}, "the way that is meant is taken"
    for i in np.random.default_rng(0).permutation(len(files)).tolist():
        number, row = cells.places[i].tolist()
        assert read_cell_plainly(file, cells.column, cells.chunks[number], row) == files[i]
        if files[i] is None:
            with pytest.raises(UnreadableImage, match="no image in this row"):
                cells.open(tmp_path, i)
        else:
            assert cells.open(tmp_path, i).read() == files[i]


def test_required_columns_and_plain_bytes_are_read(tmp_path, jpeg):
    kind = pa.schema([pa.field("jpg", pa.binary(), nullable=False), ("other", pa.int64())])
    made = pa.table({"jpg": [jpeg(10), jpeg(200)], "other": [1, 2]}, schema=kind)
    pq.write_table(made, tmp_path / "a.parquet")
    images = open_images(str(tmp_path / "a.parquet"))
    assert abs(int(images.read(1)[0, 0, 0]) - 200) <= 2 and images.name(1) == "a.parquet/00001"


def test_names_are_the_paths_of_the_rows_where_no_two_are_the_same(tmp_path, jpeg, names):
    for name, paths in {"a": ["x/1.jpg", "x/2.jpg"], "b": ["1.jpg", "1.jpg"]}.items():
        made = table([jpeg()] * 2, [0, 1], ("u", "v"), paths)
        pq.write_table(made, tmp_path / f"{name}.parquet")
    images = open_images(f"{tmp_path}/*.parquet")
    assert names(images) == [
        *("a.parquet/x/1.jpg", "a.parquet/x/2.jpg"),
        *("b.parquet/00000", "b.parquet/00001"),
    ]
    assert images.classes == ("u", "v") and images.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "classes", "found"),
    [
        ([1, 0, 1], ("cat", "dog", "owl"), (("cat", "dog", "owl"), [1, 0, 1])),
        ([10, 9, 10], None, (("9", "10"), [1, 0, 1])),
        (["b", "a", "b"], None, (("a", "b"), [1, 0, 1])),
        ([True, False, True], None, (("False", "True"), [1, 0, 1])),
        ([1, -1, 0], ("cat", "dog"), None),
        ([1, None, 0], None, None),
        ([[1], [0], [1]], None, None),
    ],
)
def test_labels_are_numbers_of_named_classes_or_classes_themselves(
    labels, classes, found, tmp_path, jpeg, refused
):
    pq.write_table(table([jpeg()] * 3, labels, classes), tmp_path / "a.parquet")
    images = open_images(str(tmp_path / "a.parquet"))
    if found is None:
        assert not hasattr(images, "labels")
        refused(open_labelled, str(tmp_path / "a.parquet"), match="not every image of .* a class")
    else:
        assert (images.classes, images.labels.tolist()) == found


def test_columns_are_found_by_what_hugging_face_says_of_them(tmp_path, jpeg):
    about = {
        "scan": {"_type": "Image"},
        "thumbnail": {"_type": "Value"},
        "species": {"_type": "ClassLabel", "names": ["ant", "bee"]},
        "image": {"_type": "Value"},
    }
    made = pa.table(
        {
            "image": [b"no image"] * 2,
            "scan": [{"bytes": jpeg(50), "path": "1"}, {"bytes": jpeg(90), "path": "2"}],
            "species": [1, 0],
            "number": [7, 8],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": about}})})
    pq.write_table(made, tmp_path / "a.parquet")
    images = open_images(str(tmp_path / "a.parquet"))
    assert abs(int(images.read(0)[0, 0, 0]) - 50) <= 2
    assert (images.classes, images.labels.tolist()) == (("ant", "bee"), [1, 0])


def test_rows_say_to_which_part_they_belong(tmp_path, jpeg, names, refused):
    made = table([jpeg(10 * i) for i in range(5)], [0, 1, 0, 1, 0], ("a", "b"))
    splits = ["train", "validation", "Train", "training", "validation"]
    pq.write_table(made.append_column("split", pa.array(splits)), tmp_path / "a.parquet")
    train, val = open_labelled(str(tmp_path / "a.parquet"))
    assert names(train) == [f"a.parquet/{i:05d}" for i in (0, 2, 3)]
    assert val.labels.tolist() == [1, 0] and abs(int(val.read(1)[0, 0, 0]) - 40) <= 2
    odd = made.append_column("split", pa.array(["train", "extra", "train", "train", "train"]))
    pq.write_table(odd, tmp_path / "b.parquet")
    refused(open_images, str(tmp_path / "b.parquet"), match="unknown split 'extra'")
    refused(open_labelled, str(tmp_path / "a.parquet"), split=0.5, match="validation images alread")


def test_files_of_parts_are_told_by_their_names_with_a_card_beside_them(tmp_path, jpeg, names):
    made = table([jpeg()] * 2, [0, 1], ("a", "b"))
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        pq.write_table(made, tmp_path / "data" / f"{name}.parquet")
    (tmp_path / "README.md").write_text("card")
    (tmp_path / ".gitattributes").write_text("")
    train, val = open_labelled(str(tmp_path))
    assert len(train) == 4 and names(val)[0] == "test-00000-of-00001.parquet/00000"


def test_lists_of_paths_are_lists_as_in_text(tmp_path, make, names, refused):
    make(tmp_path, "a/1.jpg", "b/2.jpg", "b/3.jpg")
    rows = {
        "path": ["a/1.jpg", "b/2.jpg", "b/3.jpg"],
        "label": ["x", "y", "y"],
        "split": ["train", "train", "val"],
    }
    pq.write_table(pa.table(rows), tmp_path / "list.parquet")
    rows["path"][1] = "b\\2.jpg"  # as Windows writes it
    pq.write_table(pa.table(rows), tmp_path / "list.parquet")
    train, val = open_labelled(str(tmp_path / "list.parquet"))
    assert (names(train), names(val)) == (["a/1.jpg", "b/2.jpg"], ["b/3.jpg"])
    assert train.kind == "list" and train.archives is None and val.labels.tolist() == [1]
    for path, match in (("gone.jpg", "'gone.jpg', which is missing"), ("", "empty path in row 1")):
        bad = pa.table({"path": ["a/1.jpg", path]})
        pq.write_table(bad, tmp_path / "bad.parquet")
        refused(open_images, str(tmp_path / "bad.parquet"), match=match)


def test_unusable_tables_are_refused_with_what_they_hold(tmp_path, jpeg, refused):
    def error_of(made, match):
        pq.write_table(made, tmp_path / "a.parquet")
        return refused(open_images, str(tmp_path / "a.parquet"), match=match)

    error = error_of(pa.table({"text": ["a"], "number": [1]}), "has no column of images")
    assert error.why == "its columns are 'number (int64)', 'text (string)'"
    error_of(table([], []), "no rows in")
    error_of(table([jpeg()], [7], ("a", "b")), "has the label 7")
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (b"", b"PAR1", whole[:-20], b"no table" * 100):
        (tmp_path / "a.parquet").write_bytes(content)
        refused(open_images, str(tmp_path / "a.parquet"), match="cannot be read as a Parquet")
    pq.write_table(table([jpeg()], [0], ("a", "b")), tmp_path / "a.parquet")
    pq.write_table(table([jpeg()], ["a"]), tmp_path / "b.parquet")
    error = refused(open_images, f"{tmp_path}/?.parquet", match="has other columns than")
    assert error.why == "they differ in classes"


def test_a_file_that_is_damaged_later_gives_unreadable_images(tmp_path):
    files = [bytes([i]) * 5000 for i in range(1, 4)]
    made = table([png(np.full((9, 9, 3), i, np.uint8)) + file for i, file in enumerate(files)])
    pq.write_table(made, tmp_path / "a.parquet")
    path, images = tmp_path / "a.parquet", open_images(str(tmp_path / "a.parquet"))
    assert images.read(1).mean() == 1
    whole = path.read_bytes()
    path.write_bytes(whole[:20] + b"\xff" * (len(whole) // 2) + whole[20 + len(whole) // 2 :])
    with pytest.raises(UnreadableImage):
        images.read(1)
    path.unlink()
    with pytest.raises(UnreadableImage, match="missing"):
        images.read(1)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_damaged_pages_are_never_followed_without_end(tmp_path, version):
    """Bytes of the headers and of snappy's tags altered at random, in 300 ways."""
    path, draw = tmp_path / "a.parquet", np.random.default_rng(int(float(version)))
    made = table([draw.bytes(700) + bytes(900) for _ in range(12)])
    pq.write_table(made, path, data_page_size=4000, write_batch_size=2, data_page_version=version)
    (chunk,) = scan_parquet([path]).archives.chunks
    whole, span = path.read_bytes(), (chunk.start, chunk.bytes)
    kept = 0
    for _ in range(300):
        content = bytearray(whole)
        for place in draw.integers(chunk.start, chunk.start + chunk.bytes, 3).tolist():
            content[place if draw.random() < 0.5 else chunk.start + place % 60] = draw.integers(256)
        path.write_bytes(content)
        try:
            found = find_pages(path, span, chunk.rows, chunk.codec, chunk.depth)
        except NOT_AS_EXPECTED:
            continue
        kept += 1
        assert found.cells.shape == (12, 3)
    assert 0 < kept < 300


def test_numbers_without_end_or_bounds_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="without end"):
        Thrift(b"\x15" + b"\xff" * 200, 0).struct()
    monkeypatch.setattr(parquet_encoding, "LONGEST", 100)
    for damaged in (b"\x11" * 200, b"\x19\xf3" + varint(2**40) + bytes(200)):
        with pytest.raises(ValueError, match="a header without end"):
            Thrift(damaged, 0).struct()
    with pytest.raises(ValueError, match="200 bits"):
        hybrid(b"\x03" + bytes(400), 200, 8)


def test_a_page_that_claims_more_rows_than_its_chunk_has_is_left_to_pyarrow(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(table([b"x" * 50] * 3), path, compression="none", use_dictionary=False)
    (chunk,) = scan_parquet([path]).archives.chunks
    whole, rows = path.read_bytes(), b"\x15\x06"  # an i32 of 3, in zigzag
    place = whole.index(rows, chunk.start)
    path.write_bytes(whole[:place] + b"\x15" + varint(2**40) + whole[place + 2 :])
    with pytest.raises(ValueError, match=f"{2**39} rows of 3"):
        find_pages(path, (chunk.start, chunk.bytes), 3, chunk.codec, chunk.depth)


def test_more_files_are_read_than_may_be_open(tmp_path, jpeg):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for i in range(80):
        pq.write_table(table([jpeg(i)], [i % 2]), tmp_path / f"{i:02d}.parquet")
    few = len(list(Path("/proc/self/fd").iterdir())) + 30
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        images = open_images(str(tmp_path))
        assert len(images) == 80 and images.labels.sum() == 40 and images.read(79).size
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_views_are_bytes_and_texts_too(tmp_path, jpeg, names):
    """As polars writes them."""
    made = pa.table(
        {
            "image": pa.array([jpeg(10), None, jpeg(200)], pa.binary_view()),
            "path": pa.array(["a", "b", "c"], pa.string_view()),
            "label": pa.array(["u", "v", "u"], pa.string_view()),
        }
    )
    pq.write_table(made, tmp_path / "a.parquet")
    images = open_images(str(tmp_path / "a.parquet"))
    assert names(images)[2] == "a.parquet/c" and images.labels.tolist() == [0, 1, 0]
    assert abs(int(images.read(2)[0, 0, 0]) - 200) <= 2


def test_a_set_travels_in_few_bytes_and_without_open_files(tmp_path, jpeg):
    pq.write_table(table([jpeg()] * 2000), tmp_path / "a.parquet", row_group_size=100)
    images = open_images(str(tmp_path / "a.parquet"))
    images.read(3)
    content = pickle.dumps(images)
    assert len(content) < 120 * len(images)
    assert np.array_equal(pickle.loads(content).read(7), images.read(7))


def test_files_of_which_a_whole_page_is_unpacked_for_each_image_are_named(tmp_path, jpeg):
    for codec in ("snappy", "gzip"):
        pq.write_table(table([jpeg()] * 9), tmp_path / f"{codec}.parquet", compression=codec)
    assert open_images(str(tmp_path / "snappy.parquet")).notes == ()
    (note,) = open_images(str(tmp_path / "gzip.parquet")).notes
    assert "groups of 9" in note and "gzip" in note and "ibot data pack" in note


def test_without_pyarrow_it_is_named(tmp_path, jpeg, monkeypatch):
    pq.write_table(table([jpeg()]), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra) as caught:
        open_images(str(tmp_path / "a.parquet"))
    assert caught.value.fix.startswith('pip install "pyarrow>=')


def test_blocks_that_need_those_before_are_not_unpacked_alone():
    """Writers may look back over 64 KB, though snappy's own does not."""
    first = np.random.default_rng(0).bytes(1 << 16)
    literal = bytes([61 << 2]) + (len(first) - 1).to_bytes(2, "little") + first
    back = bytes([63 << 2 | 2]) + (60_000).to_bytes(2, "little")
    whole = varint(len(first) + 64) + literal + back
    unpacked = pa.decompress(whole, len(first) + 64, "snappy", asbytes=True)
    assert unpacked == first + first[len(first) - 60_000 :][:64]
    assert snappy_blocks(whole, len(unpacked)) is None
    plain = varint(len(first) + 5) + literal + bytes([4 << 2]) + b"after"
    assert snappy_blocks(plain, len(first) + 5).tolist() == [3, 3 + len(literal), len(plain)]
