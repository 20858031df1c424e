"""Checkpoints that are made to harm: refused in one line, nothing run, nothing written, in little time and memory."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from massl_bench.core.errors import MasslBenchError, RequestError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.reading import described, load, load_all, open_checkpoint, state_dict, verify_zip
from massl_bench.models.reading.globals import is_inert, normal_module
from massl_bench.models.weights.inspection import inspect_checkpoint
from tests.conftest import Answer
from tests.models.mutations import MUTATIONS, OPCODES, Mutator, small_vit
from tests.models.published import pickled, with_pickle, write_legacy, write_zip

HOSTILE = Path(__file__).parents[1] / "faults" / "hostile"
RUN = "refused: it would run {} when loaded, and only tensors and plain values are read; nothing was executed"


def name(module: str, attribute: str) -> bytes:
    """The opcodes of a global, as protocol 4 has them."""
    return b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute)) + b"\x93"


def call(module: str, attribute: str, *arguments: str) -> bytes:
    """The pickle of a call."""
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in arguments)
    return b"\x80\x04}\x8c\x01a" + name(module, attribute) + b"(" + texts + b"tRs."


CODE = [
    *(("posix", "system"), ("nt", "system"), ("os", "popen"), ("subprocess", "Popen"), ("builtins", "eval")),
    *(("builtins", "exec"), ("builtins", "__import__"), ("builtins", "compile"), ("__builtin__", "execfile")),
    *(("builtins", "open"), ("importlib", "import_module"), ("runpy", "_run_code"), ("pickle", "loads")),
    *(("_pickle", "loads"), ("operator", "methodcaller"), ("operator", "attrgetter"), ("types", "FunctionType")),
    *(("types", "CodeType"), ("ctypes", "CDLL"), ("socket", "create_connection"), ("shutil", "rmtree")),
    *(("webbrowser", "open"), ("pty", "spawn"), ("timeit", "timeit"), ("code", "interact"), ("pdb", "run")),
    *(
        ("commands", "getoutput"),
        ("distutils.spawn", "spawn"),
        ("typing", "get_type_hints"),
        ("logging", "basicConfig"),
    ),
    *(("torch", "load"), ("torch.hub", "load"), ("torch.jit", "load"), ("torch.storage", "_load_from_bytes")),
    *(
        ("torch.utils.cpp_extension", "load_inline"),
        ("torch.ops", "load_library"),
        ("torch.package", "PackageImporter"),
    ),
    *(("torch._inductor.codecache", "compile_file"), ("torch.distributed.rpc.internal", "_run_function")),
    *(("numpy", "load"), ("numpy.testing._private.utils", "runstring"), ("numpy.f2py", "compile")),
    *(("dill._dill", "_create_function"), ("cloudpickle.cloudpickle", "_make_function"), ("joblib", "load")),
    *(("pip", "main"), ("setuptools.sandbox", "run_setup"), ("IPython", "start_ipython")),
    *(("pandas", "read_pickle"), ("__main__", "helper"), ("mylibrary.tools", "run")),
    *(("argparse", "Namespace.__init__"), ("collections", "OrderedDict.__reduce__"), ("x.y", "net.__class__.Evil")),
    *(("argparse", "ArgumentParser"), ("os.path", "join"), ("sys", "setprofile"), ("", "eval"), ("a b", "C")),
]


@pytest.mark.parametrize(("module", "attribute"), CODE, ids=lambda value: value)
def test_code_is_refused_by_its_name(module: str, attribute: str, tmp_path: Path) -> None:
    file = with_pickle(tmp_path / "evil.pth", call(module, attribute, "true"))
    with pytest.raises(RequestError) as error:
        open_checkpoint(file)
    assert RUN.format(f"{module}.{attribute}") in str(error.value) or RUN.format(
        f"{normal_module(module)}.{attribute}"
    ) in str(error.value)


def test_chains_of_calls(tmp_path: Path) -> None:
    chains = {
        "partial": b"\x80\x04" + name("functools", "partial") + name("posix", "system") + b"\x85R.",
        "getattr": b"\x80\x04" + name("builtins", "getattr") + name("torch.nn", "Module") + b"\x8c\x08__dict__\x86R)R.",
        "getattr of text": b"\x80\x04" + name("builtins", "getattr") + b"\x8c\x01x\x8c\x05upper\x86R.",
        "newobj": b"\x80\x04" + name("subprocess", "Popen") + b"\x8c\x04true\x85\x81.",
        "instance": b"(U\x04trueiposix\nsystem\n.",
        "object": b"(cposix\nsystem\nU\x04trueo.",
        "state": b"\x80\x04" + name("x", "Net") + b")R}\x8c\x01f" + name("posix", "system") + b"sb.",
        "as a key": b"\x80\x04}" + name("posix", "system") + b"Ns.",
        "extension": b"\x80\x02\x82\x01.",
        "reconstructor": b"\x80\x02ccopy_reg\n_reconstructor\ncos\nsystem\nc__builtin__\nobject\nN\x87R.",
    }
    for kind, content in chains.items():
        for file in (with_pickle(tmp_path / "z.pth", content), legacy_with(tmp_path / "l.pth", content)):
            with pytest.raises(RequestError) as error:
                open_checkpoint(file)
            said = str(error.value)
            assert re.search(r"refused: (it would run|it uses an extension)", said), (kind, file, said)


def legacy_with(path: Path, content: bytes) -> Path:
    """Writes a legacy checkpoint around a pickle."""
    write_legacy({}, path)
    whole = path.read_bytes()
    start = pickled(0x1950A86A20F9469CFC6C) + pickled(1001)
    assert whole.startswith(start)
    system = pickled({"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    path.write_bytes(start + system + content + pickled([]))
    return path


NOTHING_RUNS = """
    import sys, warnings
    warnings.simplefilter("ignore")
    from pathlib import Path
    from massl_bench.models.weights.inspection import inspect_checkpoint
    from massl_bench.core.errors import MasslBenchError
    import massl_bench.models.checkpoints
    seen = []
    armed = [False]
    def hook(event, arguments):
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if armed[0] and (writes or event in ("os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn",
                                             "pickle.find_class", "socket.connect", "import", "exec", "compile")):
            seen.append((event, arguments[:1]))
    sys.addaudithook(hook)
    for path in [sys.argv[-1], *sys.argv[1:]]:
        try:
            inspect_checkpoint(Path(path))
            print("read", path)
        except MasslBenchError as error:
            pass
        armed[0] = True  # what is imported by the first is imported once
    armed[0] = False
    assert not seen, [event for event, _ in seen]
    print("done")
"""


def test_nothing_is_imported_compiled_or_started(tmp_path: Path) -> None:
    files = []
    for number, (module, attribute) in enumerate(CODE):
        files.append(with_pickle(tmp_path / f"{number}.pth", call(module, attribute, f"touch {tmp_path}/executed")))
    files.append(with_pickle(tmp_path / "unknown.pth", call("mylibrary.networks", "Net", "a")))
    code = textwrap.dedent(NOTHING_RUNS)
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"read {files[-1]}\n" * 2 + "done\n"), done.stderr
    assert not (tmp_path / "executed").exists()


HOSTILE_FILES = {
    "deep-list.pth": "refused: containers lie in each other more than 200 deep, which no checkpoint's do",
    "billion-laughs.pth": "no backbone in this checkpoint: found the keys a; expected",
    "blocks-10000.pth": "blocks",
    "float8.pth": "tensors that cannot be measured: cls_token (float8_e4m3fn), pos_embed (float8_e4m3fn)",
    "ansi-keys.pth": r"found the keys k\x1b[2J\x1b[31m, args\x07",
}


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_hostile_files(name: str, run_cli: Callable[..., Answer]) -> None:
    with pytest.raises(RequestError) as error:
        build_checkpoint(HOSTILE / name, "x", ModelSettings(num_heads=1))
    assert HOSTILE_FILES[name] in str(error.value)
    assert str(error.value).isprintable()
    answer = run_cli("weights", "inspect", HOSTILE / name, "--num-heads", 1)
    assert answer.code == 2
    assert (answer.out + answer.err).replace("\n", "").isprintable()
    assert HOSTILE_FILES[name] in answer.out + answer.err
    assert len(answer.out + answer.err) < 4000


ENDLESS = {
    "deep lists": (lambda: b"]" * 50_000 + b"a" * 49_999, "more than 200 deep"),
    "deep by another way": (lambda: b"](" + b"]\x94" + b"".join(map(_holder, range(400))) + b"e", "more than 200 deep"),
    "deep key": (lambda: b"})" + b"\x85" * 50_000 + b"Ns", "a key made of many parts"),
    "wide key": (lambda: b"})" + b"\x94h\x00\x86" * 3 + b"Ns", "a key made of many parts"),
    "colliding keys": (lambda: b"}\x8a\x09" + (2**70).to_bytes(9, "little") + b"Ns", "more than 60 bits"),
    "colliding real keys": (lambda: b"}G" + struct.pack(">d", 2.0**100) + b"Ns", "more than 60 bits"),
    "steps": (lambda: b"N0" * 15_001 + b"N", "more than 30,000 steps"),
    "sets": (lambda: b"](" + b"\x8f" * 7_501 + b"e", "more than 30,000 steps"),
    "copies": (
        lambda: b"](" + b"](" + b"N" * 2000 + b"e\x85\x94" + (name("builtins", "list") + b"h\x00R") * 20 + b"e",
        "more than 30,000 steps",
    ),
    "digits": (lambda: b"\x8b" + struct.pack("<i", 300) + b"\x11" * 300, "more digits than any"),
}


def _holder(index: int) -> bytes:
    """A list that holds the one before it; all of them lie in one list."""
    return b"]\x94j" + struct.pack("<I", index) + b"a"


@pytest.mark.parametrize("kind", ENDLESS)
def test_pickles_without_an_end(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "steps" in ENDLESS[kind][1]:
        monkeypatch.setattr("massl_bench.models.reading.machine.MAX_STEPS", 30_000)
    content, message = ENDLESS[kind]
    with pytest.raises(RequestError, match=message):
        open_checkpoint(with_pickle(tmp_path / "c.pth", b"\x80\x04" + content() + b"."))


FLOAT64 = name("numpy", "dtype") + b"\x8c\x02f8\x85R"

DAMAGED = {
    "bytes of 2**62": b"\x8e" + struct.pack("<Q", 1 << 62),
    "text of 2**62": b"\x8d" + struct.pack("<Q", 1 << 62),
    "list of a number": b"K\x01K\x02a",
    "nothing below": b"R",
    "no such memory": b"h\x07",
    "key that changes": b"}]Ns",
    "digits of another script": b"I" + "٣".encode() + b"\n",
    "state of a number": b"K\x01}b",
    "call of a number": b"K\x01)R",
    "tensor of nothing": name("torch._utils", "_rebuild_tensor_v2") + b")R",
    "tensor of a text": name("torch._utils", "_rebuild_tensor_v2") + b"(N\x8c\x01ak\x00" + b"tR",
    "storage without a type": b"(\x8c\x07storageNNNNtQ",
    "array of more": name("numpy.core.numeric", "_frombuffer") + b"(C\x02ab" + FLOAT64 + b"K\x07\x85\x8c\x01CtR",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_pickles(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="or a damaged one: it is a zip archive"):
        open_checkpoint(with_pickle(tmp_path / "c.pth", b"\x80\x04" + DAMAGED[kind] + b"."))


def tensor(shape: tuple[int, ...], stride: tuple[int, ...], *, offset: int = 0, count: int = 4) -> bytes:
    """The pickle of a state dict with one tensor on a storage of `count` numbers."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + _int(count) + b"tQ"
    )
    sizes = b"".join(b"(" + b"".join(map(_int, numbers)) + b"t" for numbers in (shape, stride))
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + _int(offset)
        + sizes
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )


def _int(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "count"),
    [
        ((1 << 37,), (0,), 0, 4),
        ((5,), (1,), 0, 4),
        ((4,), (1,), 1, 4),
        ((2, 2), (3, 1), 0, 4),
        ((4,), (1,), 0, 1 << 37),
        ((0, 1 << 61), (1, 1), 0, 4),
        ((1 << 60, 1 << 60), (0, 0), 0, 4),
        ((4,), (-1,), 0, 4),
        ((-4,), (1,), 0, 4),
        ((4,), (1,), -1, 4),
        ((4, 1), (1,), 0, 4),
        ((1,) * 65, (1,) * 65, 0, 4),
    ],
)
def test_tensors_that_their_file_cannot_hold(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, count: int, tmp_path: Path
) -> None:
    file = with_pickle(tmp_path / "c.pth", tensor(shape, stride, offset=offset, count=count), **{"data/0": bytes(16)})
    with pytest.raises(RequestError, match=r"refused|damaged"):
        open_checkpoint(file)


def test_many_names_for_the_same_bytes(tmp_path: Path) -> None:
    shared = torch.ones(100_000)
    content = {f"blocks.{number}.weight": shared for number in range(50)}
    with pytest.raises(RequestError, match="its tensors need 20,000,000 bytes, and its file cannot hold them"):
        state_dict(open_checkpoint(write_zip(content, tmp_path / "c.pth")).content, "x")
    tied = open_checkpoint(write_zip({"a": shared, "b": shared, "c": shared[::2]}, tmp_path / "c.pth")).content
    loaded = load(state_dict(tied, "x") or {}, "x")
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr() == loaded["c"].data_ptr()
    assert loaded["c"].shape == (50_000,)


def test_networks_that_are_larger_than_their_file(tmp_path: Path) -> None:
    wide = {
        "cls_token": torch.zeros(1, 1, 65_536),
        "pos_embed": torch.zeros(1, 5, 65_536),
        "patch_embed.proj.weight": torch.ones(65_536, 3, 1, 1),
        "blocks.0.mlp.fc1.weight": torch.ones(1, 1),
        "blocks.0.attn.qkv.weight": torch.ones(1, 1),
        "blocks.0.norm1.weight": torch.ones(1),
    }
    nothing = torch.ones(0)
    deep = small_vit() | {f"blocks.{number}.norm1.weight": nothing for number in range(20_000)}
    for content, message in (
        (wide, "its tensors are not those of the architecture"),
        (deep, "no network has more than"),
    ):
        file = write_zip(content, tmp_path / "c.pth")
        with pytest.raises(RequestError, match=message):
            build_checkpoint(file, "x", ModelSettings(num_heads=1))
        assert inspect_checkpoint(file, ModelSettings(num_heads=1)).backbone.problem is not None


def rezipped(path: Path, *members: tuple[str, bytes], packed: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    plain, file = pickled({"a": 1}), tmp_path / "c.pth"
    for members, packed, message in (
        ([("a/data.pkl", plain), ("../x", b"")], 0, r"\.\./x in it leads out of the archive"),
        ([("/a/data.pkl", plain)], 0, "leads out of the archive"),
        ([("a/data.pkl", plain), ("a\\b", b"")], 0, "leads out of the archive"),
        ([("a/data.pkl", plain), ("b/data.pkl", plain)], 0, "a zip archive with a/data.pkl, b/data.pkl"),
        ([("a/data.pkl", plain)], zipfile.ZIP_DEFLATED, "a/data.pkl in it is compressed or encrypted"),
        ([("inner.pth.tar", plain)], 0, r"a zip archive with inner\.pth\.tar.*; unpack it first"),
        ([("a/data.pkl", plain), ("a/byteorder", b"big")], 0, "another order of bytes"),
        ([("a/data.pkl", b"\x80\x02" + b"]" * 10)], 0, "damaged"),
        ([("a/data.pkl", tensor((4,), (1,)))], 0, "its storage 0 is not there"),
        ([("a/data.pkl", tensor((4,), (1,))), ("a/data/0", bytes(15))], 0, "said to have 16 bytes, and has 15"),
    ):
        rezipped(file, *members, packed=packed)
        with pytest.raises(RequestError, match=message):
            open_checkpoint(file)
    with pytest.warns(UserWarning, match="Duplicate name"):
        rezipped(file, ("a/data.pkl", plain), ("a/data.pkl", pickled({"a": 2})))
    with pytest.raises(RequestError, match=r"two members are called a/data\.pkl"):
        open_checkpoint(file)
    bomb = rezipped(file, ("a/data.pkl", bytes(50_000_000)), packed=zipfile.ZIP_DEFLATED)
    with pytest.raises(RequestError, match="compressed"):
        open_checkpoint(bomb)
    (tmp_path / "old.pth").write_bytes(b"\0" * 257 + b"ustar" + b"\0" * 250)
    with pytest.raises(RequestError, match=r"a tar archive, as torch before 0\.1\.10"):
        open_checkpoint(tmp_path / "old.pth")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for file in ("pipe", "folder", "zero", "absent"):
        with pytest.raises(RequestError, match="cannot be read: "):
            open_checkpoint(tmp_path / f"{file}.pth")


def test_every_flip_in_a_plain_file_is_found_or_harmless(tmp_path: Path) -> None:
    content = small_vit()
    file = write_zip(content, tmp_path / "c.pth")
    whole, rng, found = file.read_bytes(), random.Random(5), 0
    for _ in range(150):
        at = rng.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        try:
            loaded = load(state_dict(open_checkpoint(file).content, "x") or {}, "x")
        except RequestError as error:
            found += "checksum" in str(error)
        else:  # padding, or the times of a member
            assert all(torch.equal(loaded[each], tensor) for each, tensor in content.items())
    assert found > 100


def test_a_whole_archive_is_verified(tmp_path: Path) -> None:
    file = write_zip({"a": torch.arange(100), "b": torch.arange(50)}, tmp_path / "c.pth")
    verify_zip(file)
    whole = file.read_bytes()
    at = whole.index(torch.arange(50).numpy().tobytes(), whole.index(torch.arange(100).numpy().tobytes()) + 8)
    file.write_bytes(whole[: at + 80] + b"\xff" + whole[at + 81 :])
    load(state_dict({"a": open_checkpoint(file).content["a"]}, "x") or {}, "x")  # what is not wanted is not read
    with pytest.raises(RequestError, match=r"damaged: \w+/data/1 does not have its checksum"):
        verify_zip(file)
    with pytest.raises(RequestError, match="damaged"):
        verify_zip(write_legacy({}, tmp_path / "l.pth"))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    file = write_zip({"a": torch.ones(4)}, tmp_path / "c.pth")
    tensors = state_dict(open_checkpoint(file).content, "x") or {}
    write_zip({"a": torch.zeros(4)}, file)
    with pytest.raises(RequestError, match="it changed while it was read"):
        load(tensors, "x")
    file.unlink()
    with pytest.raises(RequestError, match="cannot be read"):
        load(tensors, "x")


def looked_at(file: Path) -> int:
    """Does with a file all that is done with files; returns how often it was refused."""
    said: list[str] = []
    steps: tuple[Callable[[], Any], ...] = (
        lambda: inspect_checkpoint(file),
        lambda: build_checkpoint(file, "x"),
        lambda: described(load_all(open_checkpoint(file).content, "x")),
    )
    for step in steps:
        try:
            step()
        except MasslBenchError as error:
            said.append(str(error))
    assert all(text.isprintable() and len(text) < 1500 for text in said), said
    return len(said)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_mutated_files(kind: str, tmp_path: Path) -> None:
    mutator = Mutator(kind, tmp_path)
    assert sum(looked_at(mutator.file(seed)) for seed in range(25)) > 10


PIECES = [
    *(bytes([code]) for code in OPCODES),
    *(name("x", "Net"), name("torch", "FloatStorage"), name("argparse", "Namespace"), name("torch", "float16")),
    *(FLOAT64, b"\x8c\x02f8", b"N0" * 50, tensor((4,), (1,))[2:-1]),
]


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=40))
def test_any_opcodes(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    content = b"\x80\x04" + b"".join(pieces) + b"."
    looked_at(with_pickle(tmp_path_factory.getbasetemp() / "any.pth", content, **{"data/0": bytes(16)}))


def test_what_is_inert_is_no_code() -> None:
    for module, attribute in CODE[:-1]:
        known = is_inert(normal_module(module), attribute)
        assert not known or attribute in ("helper", "run", "read_pickle"), (module, attribute)
