"""Files made to harm: whatever a pickle says, nothing is run, nothing changes and the process
lives.
"""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ibot.errors import WeightsError
from ibot.system.inert import NUMBERS
from ibot.weights.files import read_pickle

CORE = "numpy.core.multiarray"
POINTER = b"A" * 8


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def plain(value: object) -> bytes:
    return pickle.dumps(value, 3)[2:-1]


def kind(name: str, flags: int) -> bytes:
    """A type of numpy with flags of the file's choice: 1 makes pointers of bytes."""
    state = plain((3, "|" if name == "O8" else "<", None, None, None, -1, -1, flags))
    return named("numpy", "dtype") + plain((name, False, True)) + b"R" + state + b"b"


def array(of: bytes) -> bytes:
    made = (
        named(CORE, "_reconstruct")
        + b"("
        + named("numpy", "ndarray")
        + plain((0,))
        + plain(b"b")
        + b"tR"
    )
    return made + b"(" + plain(1) + plain((1,)) + of + plain(False) + plain(POINTER) + b"tb"


def number(of: bytes, raw: bytes = POINTER) -> bytes:
    return named(CORE, "scalar") + b"(" + of + plain(raw) + b"tR"


def changed(module: str, name: str, attribute: str) -> bytes:
    return named(module, name) + plain((None, {attribute: (1,)})) + b"b"


HARM = {
    **{f"array {flags}": array(kind("O8", flags)) for flags in (0, 1, 63)},
    **{f"number {flags}": number(kind("O8", flags)) for flags in (0, 1, 63)},
    **{
        f"mixed {name} {flags}": array(kind(name, flags))
        for name in ("f8", "V8")
        for flags in (1, 63)
    },
    "text": number(kind("U2", 0)),
    "namespace": changed("argparse", "Namespace", "__init__"),
    "counter": changed("collections", "Counter", "update"),
    "dictionary": changed("collections", "OrderedDict", "items"),
    "tensor": changed("torch._utils", "_rebuild_tensor_v2", "__defaults__"),
    "parameter": changed("torch._utils", "_rebuild_parameter", "__code__"),
    "size": changed("torch", "Size", "numel"),
    "type": changed("torch", "float32", "itemsize"),
    "device": changed("torch", "device", "index"),
    "latin": changed("_codecs", "encode", "__defaults__"),
    "own": changed(CORE, "scalar", "__call__"),
    "own class": changed("numpy", "dtype", "__init__"),
    "own array": changed("numpy", "ndarray", "__init__"),
    "builtin": changed("builtins", "dict", "items"),
    "builtin of Python 2": changed("__builtin__", "set", "add"),
    "foreign": changed("somewhere", "Something", "__setstate__"),
}
LOAD = """
import argparse, collections, pathlib, sys
import numpy as np, torch
from ibot.errors import WeightsError
from ibot.system import inert
from ibot.weights.read import load
looked_at = [argparse.Namespace, collections.Counter, collections.OrderedDict, torch.Size]
looked_at += [torch.device, np.dtype, np.ndarray, set, dict]
looked_at += [inert.Namespace, inert.Kind, inert.Array, inert.Call, inert.Foreign]
rebuild = [torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter]
rebuild += [inert._tensor, inert._scalar]
def state():
    functions = [(f.__defaults__, f.__code__, dict(vars(f))) for f in rebuild]
    return [dict(vars(thing)) for thing in looked_at] + functions
before = state()
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        load(file)
    except WeightsError:
        print(file.name)
assert state() == before
assert vars(argparse.Namespace(a=1)) == {"a": 1} and np.dtype("O").hasobject
"""


def archive(path: Path, data: bytes) -> None:
    """As torch.save writes it, with this pickle."""
    with zipfile.ZipFile(path, "w") as stored:
        for name, content in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n")):
            stored.writestr(f"archive/{name}", content)


def test_no_file_ends_the_process_or_changes_it(tmp_path):
    for name, harm in HARM.items():
        data = b"\x80\x03}" + plain("x") + harm + b"s."
        (tmp_path / f"{name}.pkl").write_bytes(data)
        archive(tmp_path / f"{name}.pth", data)
        (tmp_path / f"{name} alone.pkl").write_bytes(b"\x80\x03" + harm + b".")
    done = subprocess.run([sys.executable, "-c", LOAD, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == sorted(file.name for file in tmp_path.iterdir())


def test_flags_in_a_file_are_not_believed(tmp_path):
    content = b"\x80\x03}" + plain("lr") + number(kind("f8", 63), np.float64(1.5).tobytes()) + b"s."
    (tmp_path / "plain.pkl").write_bytes(content)
    archive(tmp_path / "torch.pth", content)
    assert read_pickle(tmp_path / "plain.pkl") == read_pickle(tmp_path / "torch.pth") == {"lr": 1.5}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_numbers_are_made_anew_from_their_bytes(tmp_path, protocol):
    values = np.arange(6).reshape(2, 3)
    arrays = {
        name: values.astype(name) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
    }
    arrays |= {
        "fortran": np.asfortranarray(values),
        "big": values.astype(">f4"),
        "part": values[:, ::2],
    }
    arrays |= {"empty": np.zeros((0, 3)), "single": np.array(2.5)}
    others = {"lr": np.float64(0.1), "step": np.int32(7), "kinds": {1, 2}, "text": np.array(["a"])}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"arrays": arrays, **others}, protocol))
    read = read_pickle(tmp_path / "x.pkl")
    assert (read["lr"], read["step"], read["kinds"]) == (0.1, 7, {1, 2})
    for name, wanted in arrays.items():
        assert torch.equal(
            read["arrays"][name], torch.from_numpy(wanted.astype(wanted.dtype.newbyteorder("=")))
        ), name
    torch.save({"arrays": arrays, **others}, tmp_path / "x.pth")
    assert torch.equal(read_pickle(tmp_path / "x.pth")["arrays"]["f4"], read["arrays"]["f4"])


def test_bytes_that_do_not_fill_their_shape_are_a_damaged_file(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x03" + number(kind("f8", 0), b"1234") + b".")
    with pytest.raises(WeightsError):
        read_pickle(tmp_path / "x.pkl")
    assert not [
        name
        for name in ("O8", "V8", "U2", "M8", "S1", "f16", "c8", "f8,f8")
        if NUMBERS.fullmatch(name)
    ]
