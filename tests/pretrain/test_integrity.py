"""What the trainer wrote is believed only where every byte is as it was written."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from massl_bench.core.archive_hash import add_hash, check_hash, has_hash
from massl_bench.core.errors import RequestError
from massl_bench.models.checkpoints import build_checkpoint, read_checkpoint
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder, training_checkpoint
from massl_bench.pretrain.loop.log import read_log
from tests.conftest import Answer
from tests.mutations import ROUNDS, flips
from tests.pretrain.runs import WHOLE_IMAGES, run

SMALL = [*WHOLE_IMAGES, "backbone.depth=1", "head.hidden_dim=16", "head.out_dim=16", "run.checkpoint_every=1"]
FLIPS = 200 * ROUNDS


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(folder, load_config("tiny-digits", SMALL), 2)
    return folder


def flipped(content: bytes, number: int) -> bytes:
    place = random.Random(number).randrange(len(content) * 8)
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def test_every_flipped_bit_is_found(trained: Path, tmp_path: Path) -> None:
    """Anywhere in the file, and each bit of its last bytes: the hash, its name, its length."""
    whole = CheckpointFolder(trained, 1).path(2).read_bytes()
    file = tmp_path / "checkpoint-00000002.pth"
    changes = [flipped(whole, number) for number in range(FLIPS)]
    for place in range(len(whole) - 80, len(whole)):
        changes.append(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for content in changes:
        file.write_bytes(content)
        with pytest.raises(RequestError) as caught:
            training_checkpoint(file)
        assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    assert training_checkpoint(file) is not None


def test_a_damaged_checkpoint_names_the_one_before(trained: Path, tmp_path: Path) -> None:
    names = [CheckpointFolder(trained, 1).path(step).name for step in (1, 2)]
    for name in names:
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    last = tmp_path / names[1]
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 4
    last.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        run(tmp_path, load_config("tiny-digits", SMALL), 2, resume=True)
    assert str(caught.value).startswith(f"{last}: damaged: ")
    assert str(caught.value).endswith(f"; remove it to go on from {tmp_path / names[0]}, which is whole")
    last.unlink()
    assert run(tmp_path, load_config("tiny-digits", SMALL), 2, resume=True).step == 2


def test_checkpoints_of_the_first_format_resume(trained: Path, tmp_path: Path) -> None:
    """They had `memory` in place of the method's state, and no hash: the archive's own checksums are compared."""
    checkpoint = dict(CheckpointFolder(trained, 1).load(1))
    checkpoint["memory"] = checkpoint.pop("method")
    checkpoint["config"] = {**checkpoint["config"], "carp": None}  # type: ignore[dict-item]
    old = tmp_path / CheckpointFolder(trained, 1).path(1).name
    torch.save({**checkpoint, "format": 1}, old)
    assert run(tmp_path, load_config("tiny-digits", SMALL), 2, resume=True).step == 2
    resumed, whole = (CheckpointFolder(folder, 1).load(2) for folder in (tmp_path, trained))
    for part in ("student", "teacher", "method"):
        for name, value in whole[part].items():
            assert torch.equal(torch.as_tensor(resumed[part][name]), torch.as_tensor(value))
    content = bytearray(old.read_bytes())
    content[len(content) // 2] ^= 1  # inside a tensor
    old.write_bytes(content)
    with pytest.raises(RequestError, match=r"damaged: .* does not have its checksum"):
        training_checkpoint(old)


def test_torch_and_others_read_a_file_with_a_hash(trained: Path, tmp_path: Path) -> None:
    file = CheckpointFolder(trained, 1).path(2)
    assert has_hash(file)
    content, ours = torch.load(file, weights_only=True), read_checkpoint(file)
    assert content.keys() == ours.keys()
    assert all(torch.equal(tensor, ours["student"][name]) for name, tensor in content["student"].items())
    other = tmp_path / "other.pth"
    torch.save({"a": torch.ones(3)}, other)
    check_hash(other)
    assert not has_hash(other)
    with other.open("r+b") as archive:
        add_hash(archive)
    check_hash(other)
    with other.open("r+b") as archive, pytest.raises(ValueError, match="expected a zip archive without a comment"):
        add_hash(archive)


@pytest.mark.parametrize(
    "line",
    [
        '{"loss": 1.0}',
        '{"step": true, "loss": 1.0}',
        '{"step": "1"}',
        '{"step": -1}',
        '{"step": 1, "loss": {"a": 1}}',
        "[1]",
        "1",
        "",
        '{"step": 1, "loss": ' + "[" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
    ],
    ids=range(10),
)
def test_lines_that_are_none_of_the_log(tmp_path: Path, line: str) -> None:
    good = json.dumps({"step": 0, "loss": 1.5, "rankme": None})
    log = tmp_path / "log.jsonl"
    for lines in ([line, good], [good, line]):
        log.write_text("".join(f"{each}\n" for each in lines))
        number = lines.index(line) + 1
        with pytest.raises(RequestError, match=rf"log\.jsonl: line {number}: not a line of this log; remove that line"):
            read_log(tmp_path)
    log.write_text(f"{good}\n{line}")  # a killed process left it half written
    assert [values["step"] for values in read_log(tmp_path)] == [0]


@pytest.mark.faults
def test_no_damage_to_a_log_is_believed(trained: Path, tmp_path: Path) -> None:
    whole, log = (trained / "log.jsonl").read_bytes(), tmp_path / "log.jsonl"
    lines = read_log(trained)
    for content in flips(whole, 60, seed=43):
        log.write_bytes(content)
        with pytest.raises(RequestError, match=r"log\.jsonl: line \d+: not a line of this log; remove that line"):
            read_log(tmp_path)
    log.write_bytes(whole[:-5])  # the process was killed
    assert read_log(tmp_path) == lines[:-1]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))  # of 0.1
    assert read_log(tmp_path) == lines


@pytest.mark.parametrize("layout", ["massl", "safetensors"])
def test_a_flipped_export_is_found(trained: Path, tmp_path: Path, run_cli: Callable[..., Answer], layout: str) -> None:
    """Anywhere in the file, whoever opens it; a few through the command line."""
    file = tmp_path / ("official.pth" if layout == "massl" else "mine.safetensors")
    command = ("weights", "export", CheckpointFolder(trained, 1).path(2), "--format", layout, "--output", file)
    assert run_cli(*command).code == 0
    whole = file.read_bytes()
    for number, content in enumerate(flips(whole, 100, seed=41)):
        file.write_bytes(content)
        with pytest.raises(RequestError) as caught:
            build_checkpoint(file, "x")
        assert "\n" not in str(caught.value)
        if number < 5:
            answer = run_cli("weights", "inspect", file)
            assert (answer.code, "Traceback" in answer.err) == (2, False)
    file.write_bytes(whole)
    build_checkpoint(file, "x")


def test_a_flipped_directory_of_timm_is_found(trained: Path, tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    folder = tmp_path / "timm"
    command = ("weights", "export", CheckpointFolder(trained, 1).path(2), "--format", "timm", "--output", folder)
    assert run_cli(*command).code == 0
    for name in ("config.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        for content in flips(whole, 60, seed=42):
            (folder / name).write_bytes(content)
            with pytest.raises(RequestError) as caught:
                build_checkpoint(folder, "x")
            assert "\n" not in str(caught.value)
        (folder / name).write_bytes(whole)
    build_checkpoint(folder, "x")


def test_an_export_is_as_others_read_safetensors(trained: Path, tmp_path: Path, run_cli: Callable[..., Answer]) -> None:
    file, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for each in (file, again):
        command = ("weights", "export", CheckpointFolder(trained, 1).path(2), "--format", "safetensors")
        assert run_cli(*command, "--output", each).code == 0
    assert file.read_bytes() == again.read_bytes()
    backbone = build_checkpoint(file, "x").backbone.state_dict()
    tensors = load_file(file)
    assert tensors.keys() == backbone.keys()
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in tensors.items())
