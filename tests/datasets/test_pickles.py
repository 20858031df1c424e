"""Pickles from elsewhere: arrays of every protocol are read, and what else a pickle may do is refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from massl_bench.core.errors import RequestError
from massl_bench.datasets.published import READERS, read_plain_pickle


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "big-endian": np.arange(6, dtype=">i4").reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "axes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(1, 2, 0),
        "empty": np.zeros((0, 3), dtype=np.int16),
        "truth": np.array([True, False]),
        "no axis": np.array(3.5, dtype=np.float32),
    }
    tuples: list[Any] = [(arrays["truth"], b"\x00\xff")]
    tuples.append(tuples)
    content = {**arrays, "again": arrays["empty"], "numbers": [np.float32(1.5), np.uint64(7)], "tuples": tuples}
    found = read_plain_pickle(written(tmp_path / "arrays", pickle.dumps(content, protocol)))
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].tolist()) == (array.dtype, array.tolist()), name
    assert found["again"] is found["empty"]
    assert found["numbers"] == [1.5, 7]
    assert found["tuples"][1] is found["tuples"]
    assert (found["tuples"][0][0].tolist(), found["tuples"][0][1]) == ([True, False], b"\x00\xff")


def test_an_array_of_python_2(tmp_path: Path) -> None:
    content = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x01\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\x07\xfftbs."
    )
    found = read_plain_pickle(written(tmp_path / "batch", content))["data"]
    assert (found.dtype, found.tolist()) == (np.uint8, [[7], [255]])


# An array of one element, which is 8 bytes of the file.
_ARRAY = (
    b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K\x01\x85%b\x89C\x08AAAAAAAAtb"
)
_END = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
# A dtype of Python objects that says of itself, in its flags, that it is none: the bytes would be taken for pointers.
_POINTER = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x89\x88\x87R(K\x03X\x01\x00\x00\x00|" + _END
_RECORD = (
    b"cnumpy\ndtype\nX\x02\x00\x00\x00%b\x89\x88\x87R(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00f\x85}X\x01\x00\x00\x00f"
    b"cnumpy\ndtype\nX\x02\x00\x00\x00%b\x89\x88\x87RK\x00\x86sK\x08K\x01K\x00tb"
)


def ground_truth(names: bytes) -> bytes:
    return b"\x80\x03}(X\x06\x00\x00\x00imlist" + names + b"X\x07\x00\x00\x00qimlist]X\x03\x00\x00\x00gnd]u."


class _Large:
    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ndarray, ((self.size,), "u1")


HOSTILE = {
    "pointer": (ground_truth(_ARRAY % _POINTER), "it contains an array of 'O8'"),
    "record": (ground_truth(_ARRAY % (_RECORD % (b"V8", b"O8"))), "it contains an array of 'V8'"),
    "record of numbers": (ground_truth(_ARRAY % (_RECORD % (b"i8", b"u8"))), "it contains an array of records"),
    "array of 2**50": (pickle.dumps(_Large(1 << 50)), "not callable"),
    "array of 2**33": (pickle.dumps(_Large(1 << 33)), "not callable"),
    "more than its bytes": (
        pickle.dumps(np.zeros((2, 3), np.uint8), 3).replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86"),
        "reshape",
    ),
    "bytes of 2**40": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".", "1099511627776 bytes"),
    "frame of 2**60": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".", "truncated"),
    "part 2**32": (b"\x80\x02]r\xff\xff\xff\xff.", "it counts 4,294,967,295 parts in 9 bytes"),
    "persistent id": (b"Pfoo\n.", "persistent"),
    "number of two lines": (b"\x80\x02Fabc\n.", "abc"),
    "deep": (b"]" * 100_000 + b"a" * 99_999 + b".", "recursion"),
    "bytes that are no text": (
        b"\x80\x02c_codecs\nencode\n(X\x03\x00\x00\x00\xe2\x82\xacX\x04\x00\x00\x00utf8tR.",
        "latin-1",
    ),
    "changed function": (b"\x80\x02c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.", "attribute"),
    "changed type": (b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00dtypeNs\x86b.", "argument"),
    "no end": (b"\x80\x02]", "exhausted"),
}


def test_hostile_pickles(tmp_path: Path) -> None:
    """In a process of its own: the first ones crash a reader that uses numpy's types, others take all the memory."""
    for name, (content, _) in HOSTILE.items():
        written(tmp_path / name, content)
    code = """
import json, resource, sys
from pathlib import Path
from massl_bench.datasets.published import read_plain_pickle
from massl_bench.core.errors import RequestError
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        found[path.name] = f"read: {str(read_plain_pickle(path))[:80]}"
    except RequestError as error:
        found[path.name] = str(error)
print(json.dumps(found))
"""
    child = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert child.returncode == 0, f"{child.returncode}: {child.stderr}"
    found = json.loads(child.stdout)
    for name, (_, message) in HOSTILE.items():
        assert found[name].startswith(f"{tmp_path / name}: not read: "), found[name]
        assert message in found[name]
        assert "\n" not in found[name]


def test_a_pickle_with_code_is_refused_unexecuted(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = written(tmp_path / "batch", pickle.dumps({"data": Trap()}))
    with pytest.raises(RequestError, match=r"it contains \w+\.system"):
        read_plain_pickle(path)
    assert not (tmp_path / "executed").exists()


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    batch = {"data": np.zeros((1, 3072), np.uint8), "fine_labels": [1 << 70]}
    written(folder / "test", pickle.dumps(batch))
    with pytest.raises(RequestError, match="not CIFAR's python version: OverflowError"):
        READERS["cifar100"].read(tmp_path, "test")
