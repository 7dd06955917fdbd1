import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from image_forms import features, save_to_disk, table

from ibot.data.decode import UnreadableImage
from ibot.data.sets.arrow_files import scan_arrow
from ibot.data.sets.open import open_images, open_labelled


def test_images_lie_in_the_mapped_files_as_they_are(tmp_path):
    """Bytes of all sizes, nulls, empty ones, a slice of a batch: where pyarrow has them."""
    draw = np.random.default_rng(0)
    files = [draw.bytes(size) for size in draw.integers(0, 9000, 40)]
    files[3], files[17] = None, b""
    made = table(files, list(range(40))).slice(5, 33)
    save_to_disk(made, tmp_path / "set", files=3, batch=4)
    images = scan_arrow(sorted((tmp_path / "set").glob("*.arrow")))
    images = pickle.loads(pickle.dumps(images))
    assert len(images) == 33 and images.labels.tolist() == [images.label(i) for i in range(33)]
    for i in draw.permutation(33).tolist():
        if files[5 + i] is None:
            with pytest.raises(UnreadableImage, match="no image in this row"):
                images.archives.open(images.root, i)
        else:
            assert images.archives.open(images.root, i).read() == files[5 + i]


@pytest.mark.parametrize("missing", ["a cell", "its bytes"])
def test_rows_without_an_image_are_unreadable_and_no_others(tmp_path, jpeg, missing):
    cells = [{"bytes": jpeg(10), "path": "a"}, None, {"bytes": jpeg(90), "path": "b"}]
    if missing == "its bytes":
        cells[1] = {"bytes": None, "path": "gone.jpg"}
    kind = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    save_to_disk(pa.table({"img": pa.array(cells, kind)}), tmp_path / "set")
    images = open_images(str(tmp_path / "set"))
    with pytest.raises(UnreadableImage, match="no image in this row"):
        images.read(1)
    assert [abs(int(images.read(i)[0, 0, 0]) - gray) <= 2 for i, gray in ((0, 10), (2, 90))]


def test_a_batch_without_any_image_is_no_compressed_one(tmp_path, jpeg):
    save_to_disk(table([None] * 3 + [jpeg(90)] * 3), tmp_path / "set", batch=3)
    images = open_images(str(tmp_path / "set"))
    with pytest.raises(UnreadableImage, match="no image in this row"):
        images.read(2)
    assert abs(int(images.read(3)[0, 0, 0]) - 90) <= 2


def test_a_set_of_paths_alone_is_refused(tmp_path, refused):
    """As `datasets` keeps a folder of images in its cache."""
    save_to_disk(table([None] * 3, paths=["/x/1.jpg", "/x/2.jpg", "/x/3.jpg"]), tmp_path / "set")
    error = refused(open_images, str(tmp_path / "set"), match="no row of .* holds an image")
    assert "only paths" in error.why


def test_views_are_refused(tmp_path, jpeg, refused):
    made = pa.table({"image": pa.array([jpeg(), jpeg()], pa.binary_view())})
    save_to_disk(made, tmp_path / "set")
    refused(open_images, str(tmp_path / "set"), match="holds views")


def test_classes_have_the_names_of_dataset_info_where_the_schema_has_none(tmp_path, jpeg):
    save_to_disk(table([jpeg()] * 2, [1, 0]), tmp_path / "set")
    info = {"features": features(["cat", "dog"])}
    (tmp_path / "set" / "dataset_info.json").write_text(json.dumps(info))
    images = open_images(str(tmp_path / "set"))
    assert (images.classes, images.labels.tolist()) == (("cat", "dog"), [1, 0])


def test_the_files_are_those_of_the_state_in_its_order(tmp_path, jpeg, names, refused):
    save_to_disk(table([jpeg(10 * i) for i in range(4)]), tmp_path / "set", files=2)
    folder, state = tmp_path / "set", json.loads((tmp_path / "set" / "state.json").read_text())
    (folder / "cache-0123.arrow").write_bytes(b"what map leaves behind")
    state["_data_files"].reverse()
    (folder / "state.json").write_text(json.dumps(state))
    images = open_images(str(folder))
    first, second = (entry["filename"] for entry in state["_data_files"])
    assert [name.split("/")[0] for name in names(images)] == [first] * 2 + [second] * 2
    (folder / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{}]}))
    error = refused(open_images, str(folder), match="chosen by a list of numbers")
    assert "flatten_indices" in error.fix


def test_a_dictionary_of_splits_gives_its_parts(tmp_path, jpeg, refused):
    made = table([jpeg()] * 4, [0, 1, 0, 1], ("a", "b"))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    save_to_disk(made, tmp_path / "train")
    assert len(open_images(str(tmp_path))) == 4
    refused(open_labelled, str(tmp_path), match="has no validation part")
    save_to_disk(made.slice(0, 3), tmp_path / "unsupervised")
    assert len(open_images(str(tmp_path))) == 4
    save_to_disk(made.slice(0, 2), tmp_path / "test")
    train, val = open_labelled(str(tmp_path))
    assert (len(train), len(val), val.classes) == (4, 2, ("a", "b"))


def test_the_format_of_files_is_read_too(tmp_path, jpeg):
    made = table([jpeg(10), jpeg(70)])
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), made.schema) as writer:
        writer.write_table(made)
    assert abs(int(open_images(str(tmp_path / "a.arrow")).read(1)[0, 0, 0]) - 70) <= 2


def test_unusable_files_are_refused(tmp_path, jpeg, refused):
    path = tmp_path / "a.arrow"
    for content in (b"", b"no arrow " * 100):
        path.write_bytes(content)
        refused(open_images, str(path), match="cannot be read as an Arrow file")
    made = table([jpeg() * 50] * 3)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with path.open("wb") as sink, pa.ipc.new_stream(sink, made.schema, options=options) as writer:
        writer.write_table(made)
    refused(open_images, str(path), match="is compressed")
    with path.open("wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    path.write_bytes(path.read_bytes()[:-4000])
    refused(open_images, str(path), match="cannot be read as an Arrow file")
