"""The same pictures in every form that is read, as the libraries of each form lay them out."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from PIL import Image

FORMS = ("folder", "list", "tar", "webdataset", "parquet", "arrow", "npy", "zarr")


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def features(classes, image="Image"):
    """What `datasets` keeps of a set of images with classes."""
    label = {"names": list(classes), "_type": "ClassLabel"}
    return {"image": {"_type": image}, "label": label}


def table(files, labels=None, classes=None, paths=None):
    """Encoded images in the struct of Hugging Face; without `classes` labels as they are."""
    cells = [
        {"bytes": content, "path": paths[i] if paths else None} for i, content in enumerate(files)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(cells, kind)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    made = pa.table(columns)
    if classes is None:
        return made
    about = {"info": {"features": features(classes)}}
    return made.replace_schema_metadata({"huggingface": json.dumps(about)})


def save_to_disk(made, folder, files=1, batch=3):
    """As `Dataset.save_to_disk`: Arrow streams, the state, and what the columns mean."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        begin, end = i * len(made) // files, (i + 1) * len(made) // files
        with (folder / name).open("wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made.slice(begin, end - begin), max_chunksize=batch)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0" * 16}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"citation": ""}))


def archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as content:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            content.addfile(member, io.BytesIO(data))


def write_parts(form, root, parts, classes):
    """Write {part: (pixels uint8 [n, H, W, 3], labels [n])} to `root` in a form.

    Returns what a user would name.
    """
    named = {
        part: [f"{classes[label]}/{i:02d}.png" for i, label in enumerate(labels)]
        for part, (_, labels) in parts.items()
    }
    if form in ("folder", "list"):
        for part, (pixels, _) in parts.items():
            for name, picture in zip(named[part], pixels, strict=True):
                (root / part / name).parent.mkdir(parents=True, exist_ok=True)
                (root / part / name).write_bytes(png(picture))
        if form == "list":
            rows = [f"{part}/{n},{n.split('/')[0]},{part}" for part in parts for n in named[part]]
            (root / "list.csv").write_text("\n".join(["path,label,split", *rows]))
            return str(root / "list.csv")
        return str(root)
    root.mkdir(parents=True, exist_ok=True)
    if form == "arrow":
        (root / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    for part, (pixels, labels) in parts.items():
        files = [png(picture) for picture in pixels]
        if form == "tar":
            archive(root / f"{part}-0.tar", dict(zip(named[part], files, strict=True)))
        elif form == "webdataset":
            pairs = {}
            for i, content in enumerate(files):
                pairs |= {f"{i:06d}.png": content}
                pairs |= {f"{i:06d}.cls": classes[labels[i]].encode()}
            archive(root / f"{part}-000000.tar", pairs)
        elif form == "parquet":
            (root / "data").mkdir(exist_ok=True)
            (root / "README.md").write_text("a card")
            word = {"val": "validation"}.get(part, part)
            made = table(files, labels, classes)
            pq.write_table(made, root / "data" / f"{word}-00000-of-00001.parquet", row_group_size=4)
        elif form == "arrow":
            save_to_disk(table(files, labels, classes), root / part)
        elif form == "npy":
            np.save(root / f"{part}.npy", pixels)
            np.save(root / f"{part}_labels.npy", np.array(classes)[np.array(labels)])
        else:
            chunks = (1, *pixels.shape[1:])
            made = zarr.create_array(root / f"{part}.zarr", data=pixels, chunks=chunks)
            assert made.shape == pixels.shape
            np.save(root / f"{part}_labels.npy", np.array(classes)[np.array(labels)])
    return str(root)
