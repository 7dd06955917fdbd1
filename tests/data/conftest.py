"""Small labelled sets: pictures on disk and in archives, lists, and what the tests ask of them."""

import io
import json
import tarfile

import pytest
from PIL import Image

from ibot.errors import DataError


@pytest.fixture
def jpeg():
    """The bytes of a small picture of one gray."""

    def encode(gray=100):
        buffer = io.BytesIO()
        Image.new("RGB", (6, 4), (gray, gray, gray)).save(buffer, "JPEG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def make(jpeg):
    """Writes small pictures below a folder and returns it; the gray of number i is 10 * i."""

    def write_pictures(root, *names):
        for i, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(10 * i))
        return root

    return write_pictures


@pytest.fixture
def write():
    """Writes the lines of a text file and returns its path."""

    def write_lines(path, *lines):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return path

    return write_lines


@pytest.fixture
def tar(jpeg):
    """Writes an archive of pictures, then of `name=content`, and returns its path.

    The gray of number i is 10 * i; a content of None stands for a picture too.
    """

    def write_archive(path, *pictures, **files):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for i, (name, content) in enumerate((dict.fromkeys(pictures) | files).items()):
                content = jpeg(10 * i) if content is None else content.encode()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return write_archive


@pytest.fixture
def names():
    """The names of all images of a set."""
    return lambda images: [images.name(i) for i in range(len(images))]


@pytest.fixture
def named_classes():
    """The names of the classes of all images of a set."""
    return lambda images: [images.classes[images.label(i)] for i in range(len(images))]


@pytest.fixture
def refused():
    """The DataError of a call, checked for its form: what, why and fix in one line each."""

    def error_of(call, *arguments, match, **options):
        with pytest.raises(DataError, match=match) as caught:
            call(*arguments, **options)
        error = caught.value
        assert error.fix and all("\n" not in line for line in (error.what, error.why, error.fix))
        return error

    return error_of


@pytest.fixture(scope="session")
def broken(shared_data, tmp_path_factory):
    """The folder of odd and damaged files, with its manifest."""
    folder = tmp_path_factory.mktemp("broken")
    with tarfile.open(shared_data / "broken" / "broken.tar") as archive:
        archive.extractall(folder, filter="tar")
    return folder / "broken", json.loads((shared_data / "broken" / "manifest.json").read_text())[
        "files"
    ]
