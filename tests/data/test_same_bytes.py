import hashlib

import numpy as np

from ibot.data.same_bytes import HEAD, same_bytes


def test_groups_are_those_of_equal_content(tmp_path):
    """Against a hash of every file: same sizes, same heads, and what differs at the last byte."""
    random = np.random.default_rng(3)
    contents = [random.bytes(int(size)) for size in random.integers(1, 3 * HEAD, 12)]
    contents += [content[:-1] + b"x" for content in contents[:6]]
    chosen = random.integers(0, len(contents), 60)
    files = {number: tmp_path / str(number) for number in range(len(chosen))}
    for number, which in enumerate(chosen):
        files[number].write_bytes(contents[which])
    wanted = {}
    for number, path in files.items():
        wanted.setdefault(hashlib.sha256(path.read_bytes()).digest(), []).append(number)
    found = same_bytes(files)
    assert sorted(found) == sorted(group for group in wanted.values() if len(group) > 1)
    assert [len(group) for group in found] == sorted(map(len, found), reverse=True)


def test_empty_and_missing_files_are_copies_of_nothing(tmp_path):
    for name in "ab":
        (tmp_path / name).touch()
    assert same_bytes({name: tmp_path / name for name in "abcd"}) == []
