"""Checkpoints of others as bytes: every container, what trainers keep beside the weights, and what is refused."""

from __future__ import annotations

import argparse
import os
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import massl_bench as mb
from massl_bench.core.errors import RequestError
from massl_bench.models.reading import StandIn, load, open_checkpoint, sha256_of_tensors, state_dict
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
