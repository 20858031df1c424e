"""Checkpoints of others as bytes: every container, what trainers keep beside the weights, and what is refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import errno
import json
import os
import pathlib
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import massl_bench as mb
from massl_bench.core.errors import RequestError
from massl_bench.models.reading import StandIn, extra_state, load, open_checkpoint, safe, sha256_of_tensors, state_dict
from tests.models.mutations import small_vit, write_series
from tests.models.published import WRITERS, pickled, trained, with_pickle

FAULTS = Path(__file__).parents[1] / "faults"


@pytest.fixture
def official(golden: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(golden / "official_format_checkpoint.pth", weights_only=False)
    return content


def golden_features(golden: Path, file: Path) -> None:
    encoder = mb.load_encoder(str(file))
    with np.load(golden / "official_features.npz") as arrays:
        images, expected = torch.from_numpy(arrays["images_96"]), arrays["features_96"]
    np.testing.assert_allclose(encoder(encoder.normalise(images)).numpy(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("container", WRITERS)
def test_files_of_the_official_trainer(official: dict[str, Any], golden: Path, container: str, tmp_path: Path) -> None:
    content = trained(official)
    file = WRITERS[container](content, tmp_path / "checkpoint.pth")
    golden_features(golden, file)
    checkpoint = open_checkpoint(file)
    assert checkpoint.container == ("legacy" if container == "legacy" else "zip")
    assert checkpoint.stand_ins == {}
    assert checkpoint.content["optimizer"]["param_groups"][0]["lr"] == 0.375
    assert checkpoint.content["optimizer"]["param_groups"][0]["weight_decay"] == float(np.float32(0.1))
    assert checkpoint.content["loss"] == 1.5
    assert checkpoint.content["args"] == argparse.Namespace(arch="vit_small", lr=0.0005)
    for key in ("teacher", "student"):
        tensors = state_dict(checkpoint.content[key], "x")
        assert tensors is not None
        values = load(tensors, "x")
        assert values.keys() == content[key].keys()
        assert all(torch.equal(values[name], tensor) for name, tensor in content[key].items())


def test_a_file_of_the_official_trainer_itself(golden: Path) -> None:
    golden_features(golden, FAULTS / "published" / "massl_full.pth")


def test_what_is_not_known_stands_beside_the_weights(official: dict[str, Any], golden: Path, tmp_path: Path) -> None:
    extra = {
        "place": pathlib.PurePosixPath("/data/imagenet"),
        "device": torch.device("cuda:1"),
        "size": torch.Size([2]),
    }
    file = WRITERS["zip"]({**official, **extra}, tmp_path / "c.pth")
    golden_features(golden, file)
    content = open_checkpoint(file).content
    assert (content["place"].name, content["place"].args) == ("pathlib.PurePosixPath", ("/", "data", "imagenet"))
    assert (content["device"], content["size"]) == (torch.device("cuda:1"), (2,))
    assert open_checkpoint(file).stand_ins == {"pathlib.PurePosixPath": 1}


def test_a_stand_in_among_the_weights_is_refused_by_name(tmp_path: Path) -> None:
    file = WRITERS["zip"](
        {"teacher": {"a": torch.ones(2), "b": torch.ones(3), "c": pathlib.PurePosixPath("x")}}, tmp_path / "c.pth"
    )
    content = open_checkpoint(file).content
    assert isinstance(content["teacher"]["c"], StandIn)
    with pytest.raises(RequestError, match=r"key teacher: refused: among its tensors c is a pathlib\.Pure"):
        state_dict(content["teacher"], "key teacher")


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", range(5))
def test_code_is_refused_unexecuted(protocol: int, tmp_path: Path) -> None:
    for number, call in enumerate(
        (
            Call(os.system, f"touch {tmp_path}/executed"),
            Call(eval, f"open({str(tmp_path / 'executed')!r}, 'w')"),
            Call(getattr, "x", "upper"),
            Call(torch.load, str(tmp_path / "x.pth")),
            Call(np.load, str(tmp_path / "x.npy")),
        )
    ):
        file = with_pickle(tmp_path / f"{number}.pth", pickled({"args": [call]}, protocol))
        with pytest.raises(RequestError, match=r"refused: it would run [\w.]+ when loaded.*nothing was executed"):
            open_checkpoint(file)
    assert not (tmp_path / "executed").exists()


def test_a_hash_of_tensors_is_of_their_values(official: dict[str, Any], tmp_path: Path) -> None:
    hashes = set()
    for container in ("zip", "legacy"):
        file = WRITERS[container](official, tmp_path / container)
        tensors = state_dict(open_checkpoint(file).content["teacher"], "x")
        assert tensors is not None
        hashes.add(sha256_of_tensors(load(tensors, "x")))
    assert hashes == {sha256_of_tensors(official["teacher"])}
    for other in (
        {**official["teacher"], "more": torch.zeros(0)},
        {k: v.double() for k, v in official["teacher"].items()},
    ):
        assert sha256_of_tensors(other) not in hashes


class EasyDict(dict[str, Any]):
    """As configuration libraries have them: a dictionary with a state of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return EasyDict, (), {"_flags": {}}, None, iter(self.items())


class Buffered(list[Any]):
    def __reduce__(self) -> tuple[Any, ...]:
        return Buffered, ("mean",), None, iter(self)


def exclude_bias_and_norm(parameter: torch.Tensor) -> bool:
    return parameter.ndim == 1


def test_objects_and_functions_of_training_libraries(official: dict[str, Any], golden: Path, tmp_path: Path) -> None:
    beside = {
        "optimizer": {"param_groups": [{"weight_decay_filter": exclude_bias_and_norm, "params": [0, 1]}]},
        "hyper_parameters": EasyDict(lr=0.1, layers=EasyDict(depth=2)),
        "log": Buffered([1.0, np.float64(2)]),
        "scheduler": torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), 3),
        "kind": torch.nn.GELU,
        "rng": np.random.default_rng(0),
        "state": np.random.RandomState(0),  # older trainers save it
        "schedule": np.linspace(0, 1, 5),
        "names": np.array(["a", "b"]),
        "word": np.str_("x"),
        "seen": collections.deque([1, 2]),
        "counts": collections.Counter("aab"),
        "by": collections.defaultdict(list, {"a": [1]}),
        "set": {1, 2},
        "when": datetime.datetime(2024, 1, 2),
        "layout": torch.strided,
    }
    for container, protocol in (("zip", 2), ("zip", 4), ("legacy", 2)):
        file = tmp_path / f"{container}{protocol}.pth"
        torch.save(
            {**official, **beside}, file, pickle_protocol=protocol, _use_new_zipfile_serialization=container == "zip"
        )
        golden_features(golden, file)
        checkpoint = open_checkpoint(file)
        content, here = checkpoint.content, __name__
        assert content["optimizer"]["param_groups"][0]["weight_decay_filter"].name == f"{here}.exclude_bias_and_norm"
        assert dict(content["hyper_parameters"].items)["lr"] == 0.1
        assert content["hyper_parameters"].state == {"_flags": {}}
        assert (content["log"].args, content["log"].items) == (("mean",), [1.0, 2.0])
        assert content["schedule"].array.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert content["names"].array is None
        assert (content["seen"], content["counts"], content["by"]) == ([1, 2], {"a": 2, "b": 1}, {"a": [1]})
        assert content["set"] == {1, 2}
        counts = {f"{here}.EasyDict": 2, f"{here}.Buffered": 1, "torch.optim.lr_scheduler.StepLR": 1}
        assert counts.items() <= checkpoint.stand_ins.items()


def test_a_loggers_methods(tmp_path: Path) -> None:
    """As mmengine saves its history: functions of its own class, by getattr."""
    by_name = b"\x80\x02}U\x01acbuiltins\ngetattr\ncmmengine.logging.history_buffer\nHistoryBuffer\nU\x04mean\x86Rs."
    content = open_checkpoint(with_pickle(tmp_path / "c.pth", by_name)).content
    assert content["a"].name == "mmengine.logging.history_buffer.HistoryBuffer.mean"


STRANGE = {
    "sparse": torch.eye(3).to_sparse(),
    "meta": torch.empty(3, device="meta"),
    "complex64": torch.ones(2, dtype=torch.complex64),
    "bool": torch.ones(2, dtype=torch.bool),
    "float8_e5m2": torch.ones(2).to(torch.float8_e5m2),
    "uint16": torch.ones(2, dtype=torch.uint16),
    "negated or conjugated": torch.ones(2, dtype=torch.complex64).conj(),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("kind", [*STRANGE, "quantised"])
def test_tensors_that_are_no_weights(kind: str, container: str, tmp_path: Path) -> None:
    strange = STRANGE.get(kind)
    if strange is None:
        strange = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    file = WRITERS[container]({"good": torch.ones(2), "odd\x1b[2J": strange}, tmp_path / "c.pth")
    tensors = state_dict(open_checkpoint(file).content, "x")
    assert tensors is not None
    with pytest.raises(
        RequestError, match=rf"x: tensors that cannot be measured: odd\\x1b\[2J \(.*{kind}.*\); expected"
    ):
        load(tensors, "x")
    assert load({"good": tensors["good"]}, "x")["good"].tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.int8])
def test_types_of_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(6).to(dtype).reshape(2, 3)
    content = {
        "a": tensor,
        "t": tensor.T,
        "row": tensor[1],
        "one": tensor[1, 2],
        "none": tensor[:0],
        "p": torch.nn.Buffer(tensor),
    }
    save_file({"a": tensor, "one": tensor[1, 2].clone(), "none": tensor[:0].clone()}, tmp_path / "c.safetensors")
    for file in (
        WRITERS["zip"](content, tmp_path / "z"),
        WRITERS["legacy"](content, tmp_path / "l"),
        tmp_path / "c.safetensors",
    ):
        loaded = load(state_dict(open_checkpoint(file).content, "x") or {}, "x")
        assert loaded
        for name, values in loaded.items():
            assert (values.dtype, values.stride()) == (dtype, content[name].stride())
            assert torch.equal(values, content[name].detach()), name


def test_keys_that_are_no_names(tmp_path: Path) -> None:
    content = open_checkpoint(
        WRITERS["zip"]({"state": {0: torch.ones(1), 1: torch.ones(1)}}, tmp_path / "c.pth")
    ).content
    with pytest.raises(RequestError, match="key state: a state dict with the key 0, which is no name"):
        state_dict(content["state"], "key state")


def test_what_modules_keep_beside_their_tensors(tmp_path: Path) -> None:
    content = {"a": torch.ones(1), "b": torch.ones(1), "norm._extra_state": None}
    read = open_checkpoint(WRITERS["zip"](content, tmp_path / "c.pth")).content
    assert list(state_dict(read, "x") or {}) == ["a", "b"]
    assert extra_state(read) == ["norm._extra_state"]
    with pytest.raises(RequestError, match="among its tensors step is a int, and only tensors are read"):
        state_dict({**read, "step": 3}, "x")
    assert state_dict({"epoch": 3, "loss": read["a"]}, "x") is None
    assert state_dict({"inner": read, "a": read["a"], "b": read["b"]}, "x") is None


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4))
        self.scale = torch.nn.Parameter(torch.rand(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images)


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_torchscript(tmp_path: Path) -> None:
    network = Net().eval().half()
    torch.jit.script(network).save(tmp_path / "script.pt")
    checkpoint = open_checkpoint(tmp_path / "script.pt")
    assert checkpoint.container == "torchscript"
    loaded = load(state_dict(checkpoint.content, "x") or {}, "x")
    assert loaded.keys() == network.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


def test_weights_in_several_files(tmp_path: Path) -> None:
    index = write_series(tmp_path)
    checkpoint = open_checkpoint(index)
    loaded = load(state_dict(checkpoint.content, "x") or {}, "x")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in small_vit().items())
    assert [file.name for file in checkpoint.files] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    encoder = mb.load_encoder(str(tmp_path), num_heads=1)
    assert sha256_of_tensors(encoder.network.state_dict()) == sha256_of_tensors(small_vit())

    second, outside = checkpoint.files[1], tmp_path.parent / "outside.safetensors"
    second.rename(outside)
    with pytest.raises(RequestError, match=r"model-00002-of-00002\.safetensors is not there; fetch all of its files"):
        open_checkpoint(index)
    second.symlink_to(outside)
    with pytest.raises(RequestError, match="is a link out of its directory"):
        open_checkpoint(index)
    cache = tmp_path / "models--org--net"
    (cache / "snapshots" / "main").mkdir(parents=True)
    (cache / "blobs").mkdir()
    for file in (index, *checkpoint.files):
        file.resolve().rename(cache / "blobs" / file.name)
        (cache / "snapshots" / "main" / file.name).symlink_to(f"../../blobs/{file.name}")
    assert open_checkpoint(cache / "snapshots" / "main" / index.name).content.keys() == small_vit().keys()


def test_incomplete_series(tmp_path: Path) -> None:
    index = write_series(tmp_path)
    whole = json.loads(index.read_text())
    second = {name: file for name, file in whole["weight_map"].items() if "00002-of" in file}
    for weight_map, message in (
        (second, "file 1 of 2 is not in it"),
        ({**whole["weight_map"], "more": "model-00001-of-00002.safetensors"}, "more is in no file"),
        ({**whole["weight_map"], "cls_token": "model-00002-of-00002.safetensors"}, "cls_token lies in"),
        ({**whole["weight_map"], "x": "../x.safetensors"}, "are not one series"),
        ({"x": "../x.safetensors"}, "is not the name of a file beside it"),
        ({}, "not an index of weights"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(RequestError, match=message):
            open_checkpoint(index)


def test_names_do_not_decide(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path / "pytorch_model.bin").container == "safetensors"
    file = WRITERS["zip"]({"a": torch.ones(1)}, tmp_path / "c.safetensors")
    with pytest.raises(RequestError, match="refused: it is called safetensors, and it is a pickle"):
        open_checkpoint(file)


@pytest.mark.speed
def test_time_and_memory_of_a_large_file(tmp_path: Path) -> None:
    """A ViT-B's full file: its teacher is read in less than torch takes, and in the memory of the teacher."""
    code = """
        import resource, sys, time, torch
        from massl_bench.models.reading import load, open_checkpoint, state_dict
        from pathlib import Path
        path = Path(sys.argv[2])
        network = torch.nn.ParameterList([torch.empty(1024, 1024) for _ in range(80)])
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        before, times = peak(), []
        for _ in range(5):
            start = time.perf_counter()
            if sys.argv[1] == "torch":
                tensors = torch.load(path, weights_only=True)
                tensors = tensors.get("teacher", tensors)
            else:
                content = open_checkpoint(path).content
                tensors = load(state_dict(content.get("teacher", content), "x"), "x")
            network.load_state_dict(tensors)
            times.append(time.perf_counter() - start)
            del tensors
        print(min(times), peak() - before)
    """
    weights = {str(number): torch.rand(1024, 1024) for number in range(80)}
    files = {
        "plain": weights,
        "full": {"teacher": weights, **{f"o{n}": {k: v.clone() for k, v in weights.items()} for n in range(2)}},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
        found: dict[str, tuple[float, float]] = {}
        for reader in ("torch", "ours", "torch", "ours"):
            command = [sys.executable, "-c", textwrap.dedent(code), reader, str(tmp_path / f"{name}.pth")]
            seconds, peak = map(
                float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            )
            found[reader] = min(seconds, found.get(reader, (9e9, 0))[0]), peak
        assert found["ours"][0] < 1.3 * found["torch"][0], name
        assert found["ours"][1] < 1.2 * 80 * 4, name  # MiB; the network itself is as large


@pytest.mark.parametrize("lasts", [False, True])
def test_why_a_safetensors_file_cannot_be_opened(lasts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library says `No such file` of every opening that is refused: the reason is asked for, or it was for once."""
    file, openings, refused = tmp_path / "a.safetensors", list[Path](), list[Path]()
    save_file({"a": torch.ones(3)}, file)
    real_open, real_regular = safe.safe_open, safe.open_regular

    def library(path: Path, framework: str) -> Any:
        if not refused:
            refused.append(path)
            raise FileNotFoundError(f"No such file or directory: {path}")
        return real_open(path, framework=framework)

    def regular(path: Path) -> Any:
        openings.append(path)
        if refused and lasts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real_regular(path)

    monkeypatch.setattr(safe, "safe_open", library)
    monkeypatch.setattr(safe, "open_regular", regular)
    if lasts:
        with pytest.raises(RequestError, match=r"a\.safetensors: cannot be read: Permission denied"):
            open_checkpoint(file)
    else:
        assert list(open_checkpoint(file).content) == ["a"]
