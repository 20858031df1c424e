"""Files of arrays that are damaged, hostile or only large: one line each, and nothing is read that is not needed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from massl_bench.core.errors import RequestError
from massl_bench.features.archive import Archive
from massl_bench.features.npz import read_features_file

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def write(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_shape(content: bytes, shape: str) -> bytes:
    """The same array file, whose header says another shape."""
    old = content[content.index(b"'shape': ") : content.index(b"), }") + 1]
    new = f"'shape': {shape}".encode()
    header_end = content.index(b"\n") + 1
    header = content[:header_end].replace(old, new)
    header = header[:-1].rstrip(b" ").ljust(header_end - 1, b" ") + b"\n"
    return header + content[header_end:]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"features.npy": npy(np.array([{}, 1], dtype=object))}, "features: an array of Python objects, which are not"),
        ({"features.npy": npy(np.zeros(3, dtype=[("猫", "f4")]))}, "features: an array of named fields"),
        ({"features.npy": npy(np.zeros((3, 2), dtype=[("a", "f4")]))}, "features: expected numbers [N, D] of"),
        ({"features.npy": b"nothing"}, "features: is no array (.npy)"),
        (
            {"features.npy": with_shape(npy(FEATURES), "(4000000000, 3000)")},
            "48000000000000 bytes, the archive holds 48",
        ),
        ({"features.npy": with_shape(npy(FEATURES), "(2, 3)")}, "is 24 bytes, the archive holds 48"),
        ({"features.npy": with_shape(npy(FEATURES), "(-4, -3)")}, "damaged"),
        ({"features.npy": npy(FEATURES)[:-5]}, "is 48 bytes, the archive holds 43"),
        ({"features.npy": npy(FEATURES), "features": npy(FEATURES)}, "features: is in the archive twice"),
        ({"features.npy": npy(np.full((3, 2), 1e300))}, "features: 3 rows are not finite, the first is row 0"),
        ({"features.npy": npy(np.zeros((1 << 12, 1 << 13), dtype=np.float32))}, "features: 128 MB in "),
        ({"\x1b[31mred.npy": npy(FEATURES)}, r"found \x1b[31mred; expected"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_one_line_for_each(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = write(tmp_path / "f.npz", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(RequestError) as error:
        read_features_file(path)
    assert message in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_is_found(tmp_path: Path, compression: int) -> None:
    path = write(tmp_path / "f.npz", {"features.npy": npy(np.random.default_rng(0).random((64, 8)))}, compression)
    good = path.read_bytes()
    assert len(read_features_file(path).banks["all"]) == 64
    for place in np.random.default_rng(1).integers(30 + 12 + 128, 4000, 40):
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(RequestError, match=r"^features=.*damaged"):
            read_features_file(path)


def test_any_bytes_give_an_answer_in_one_line(tmp_path: Path) -> None:
    members = {"train_features.npy": npy(FEATURES), "train_labels.npy": npy(np.array([0, 1, 0, 1]))}
    members |= {name.replace("train", "test"): content for name, content in members.items()}
    good = write(tmp_path / "f.npz", members, zipfile.ZIP_DEFLATED).read_bytes()
    rng = np.random.default_rng(0)
    refused = []
    for _ in range(400):
        content = bytearray(good)
        for place in rng.integers(len(content), size=rng.integers(1, 5)):
            content[place] = rng.integers(256)
        (tmp_path / "f.npz").write_bytes(content[: rng.integers(len(content) // 2, 2 * len(content))])
        try:
            handed = read_features_file(tmp_path / "f.npz")
        except RequestError as error:
            refused.append(str(error))
        else:  # a byte that nothing looks at, such as a member's date
            np.testing.assert_array_equal(handed.banks["train"].features, FEATURES)
    assert len(refused) > 300
    assert all(map(str.isprintable, refused))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "text.npz").write_text("<html>")
    for name, message in (("none", "no such file"), ("pipe", "not a regular file but a pipe"), ("text", "a web page")):
        with pytest.raises(RequestError, match=message):
            read_features_file(tmp_path / f"{name}.npz")


def test_a_name_that_is_not_utf8_is_measured_and_shown_escaped(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.npz"))
    try:
        write(path, {"features.npy": npy(FEATURES)})
    except OSError:
        pytest.skip("this file system takes no such names")
    handed = read_features_file(path)
    assert handed.name == "caf\\xe9"
    assert handed.banks["all"].ids[1] == b"caf\\xe9.npz, row 1"


def test_arrays_that_are_not_needed_are_named_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", npy(FEATURES))
        with archive.open("extra.npy", "w", force_zip64=True) as member:
            header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 26, 1)}
            np.lib.format.write_array_header_1_0(member, header)
            for _ in range(256):
                member.write(bytes(1 << 20))
    assert read_features_file(path).notes == (f"{path}: not read: extra (float32 [67108864, 1])",)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from massl_bench.features.npz import read_features_file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_features_file(Path(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000  # KB, of 256 MB


def test_an_array_is_read_as_it_is(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "f.npz", a=FEATURES.astype(">f8").T, b=np.array("text"))
    archive = Archive(tmp_path / "f.npz")
    assert archive.features("a").dtype == np.float32
    np.testing.assert_array_equal(archive.features("a"), FEATURES.T)
    assert archive.strings("b") == "text"
