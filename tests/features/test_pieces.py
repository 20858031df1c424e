"""Banks that several processes make together, and that go on after a kill: every image once, the same bytes."""

from __future__ import annotations

import errno
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Never

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import massl_bench as mb
from massl_bench.core.errors import CellError
from massl_bench.datasets import DataOptions, open_dataset
from massl_bench.features import (
    ExtractionOptions,
    FeatureCache,
    Reporting,
    Wanted,
    bank_key,
    extraction,
    load_or_extract,
    pieces,
)
from massl_bench.features.options import Shard
from massl_bench.features.pieces import Pieces, cut
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.features.one_process import NUM_IMAGES, PIECE, work
from tests.mutations import flips, mutations
from tests.started import forkserver

ALONE = Shard()


class Worker:
    """A process that waits to extract, and how it is talked to."""

    def __init__(self, cache: Path, index: int = 0, count: int = 1, slow: float = 0.0) -> None:
        self._told, theirs = forkserver().Pipe()
        self.process = forkserver().Process(target=work, args=(theirs, cache, Shard(index, count), slow))
        self.process.start()
        theirs.close()

    def images(self) -> int:
        """How many went through its network."""
        found: int = self._told.recv()
        self.process.join(timeout=120)
        assert self.process.exitcode == 0
        return found

    @staticmethod
    def begin(*workers: Worker) -> None:
        """Lets them go when all are ready."""
        for worker in workers:
            assert worker._told.recv() == "ready"
        for worker in workers:
            worker._told.send("go")


def files(cache: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(cache)): path.read_bytes() for path in (cache / "features").rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of both banks when one process makes them."""
    cache = tmp_path_factory.mktemp("alone")
    worker = Worker(cache)
    Worker.begin(worker)
    assert worker.images() == NUM_IMAGES
    assert len(files(cache)) == 8
    return files(cache)


@pytest.mark.parametrize("number", [2, 4])
def test_several_processes_make_one_bank(number: int, tmp_path: Path, alone: dict[str, bytes]) -> None:
    """Each image goes through one network, and the bank is that of one process, byte for byte."""
    together = [Worker(tmp_path, index, number, 0.05) for index in range(number)]
    Worker.begin(*together)
    counts = [worker.images() for worker in together]
    assert sum(counts) == NUM_IMAGES
    assert min(counts) >= PIECE
    assert files(tmp_path) == alone
    assert [path for path in (tmp_path / "partial").rglob("*") if path.is_file()] == []


def test_an_extraction_goes_on_after_a_kill(tmp_path: Path, alone: dict[str, bytes]) -> None:
    killed = Worker(tmp_path, slow=0.2)
    Worker.begin(killed)
    while len(list((tmp_path / "partial").rglob("*.safetensors"))) < 2:
        assert killed.process.is_alive()
        time.sleep(0.02)
    killed.process.kill()
    killed.process.join()
    there = len(list((tmp_path / "partial").rglob("0*.safetensors")))
    assert 2 <= there < 8
    again = Worker(tmp_path)
    Worker.begin(again)
    # Of the piece that it was at when it was killed, and of no other, images go through the network again.
    assert again.images() == NUM_IMAGES - PIECE * there
    assert files(tmp_path) == alone


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 64 images."""
    monkeypatch.setattr(pieces, "PIECE", PIECE)
    monkeypatch.setattr(pieces, "LAST", PIECE)


class Digits:
    """The bank of 200 digits, and how many images went through the network for it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache, self.encoder = FeatureCache(root), mb.load_encoder("pixels")
        self.dataset = open_dataset("digits", Registry(), DataOptions(cache_dir=root))
        self.key = bank_key(
            self.encoder.card, self.encoder.card.preprocessing, self.dataset, "train", 200, ExtractionOptions()
        )
        self.images, self.said = 0, list[str]()
        features, lock = extraction._features, threading.Lock()

        def counted(encoder: object, images: object) -> object:
            with lock:
                self.images += len(images)  # type: ignore[arg-type]
            return features(encoder, images)  # type: ignore[arg-type]

        monkeypatch.setattr(extraction, "_features", counted)

    def load(self, shard: Shard = ALONE) -> np.ndarray:
        options = ExtractionOptions(shard=shard)
        reporting = Reporting(say=self.said.append)
        return np.array(load_or_extract(self.cache, self.bank, options, reporting).features)

    @property
    def bank(self) -> Wanted:
        return Wanted(self.key, lambda: self.encoder, self.dataset)

    def target(self, deliver: Callable[[extraction.Extracted], None]) -> extraction.Target:
        return extraction.Target(encoder=self.encoder, preprocessing=self.key.preprocessing, deliver=deliver)

    @property
    def pieces(self) -> Pieces:
        return self.cache.pieces(self.key, 200, ExtractionOptions())


@pytest.mark.parametrize("damaged", [False, True])
def test_a_bank_is_made_once_however_many_want_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None, damaged: bool
) -> None:
    wanted = Digits(tmp_path, monkeypatch)
    expected = wanted.load()
    if damaged:
        (wanted.cache.path(wanted.key) / "features.npy").write_bytes(b"nothing")
    else:
        wanted.cache.discard(wanted.key)
    wanted.images, found = 0, list[np.ndarray]()
    threads = [
        threading.Thread(target=lambda number=number: found.append(wanted.load(Shard(number, 8))))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wanted.images == 200
    assert len(found) == 8
    assert all((features == expected).all() for features in found)
    assert len([text for text in wanted.said if text.startswith("damaged cache entry")]) == int(damaged)
    assert not wanted.pieces.directory.exists()


def test_what_fails_elsewhere_is_not_said_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    """A model that cannot be read, images that cannot be read: each is named, and no piece stays claimed."""
    wanted = Digits(tmp_path, monkeypatch)

    def gone() -> Never:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "model.pth")

    options, reporting = ExtractionOptions(), Reporting()
    with pytest.raises(OSError, match=r"model\.pth"):
        load_or_extract(wanted.cache, replace(wanted.bank, encoder=gone), options, reporting)
    split = wanted.dataset.split("train")
    with monkeypatch.context() as patched:

        def unreadable(_self: object, _indices: object) -> Never:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patched.setattr(type(split), "encoded", unreadable)
        for skip_corrupt in (False, True):  # nothing says that the images are at fault
            again = ExtractionOptions(skip_corrupt=skip_corrupt)
            with pytest.raises(CellError, match=rf"{re.escape(split.locate(0))}: it cannot be read: Input/output"):
                load_or_extract(wanted.cache, wanted.bank, again, reporting)
    assert len(wanted.load()) == 200


@pytest.mark.parametrize("operation", ["claim", "put"])
def test_a_cache_that_cannot_be_written_is_said(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    wanted = Digits(tmp_path, monkeypatch)
    with monkeypatch.context() as patched:

        def full(*_: object) -> Never:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(Pieces, operation, full)
        with pytest.raises(CellError, match=r"the feature cache .* could not be written: No space left"):
            wanted.load()
    assert len(wanted.load()) == 200


def test_the_piece_of_a_killed_process_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    wanted = Digits(tmp_path, monkeypatch)
    folder = wanted.pieces.directory
    folder.mkdir(parents=True)
    lock, holder = folder / "000001.lock", folder / "000001.holder"
    code = (
        "import filelock, time\n"
        f"lock = filelock.FileLock({str(lock)!r}); lock.acquire()\n"
        f"open({str(holder)!r}, 'w').write('process 7 on \\x1b[31mhere')\n"
        "print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        waits = threading.Thread(target=wanted.load)
        waits.start()
        while not any("waiting" in text for text in wanted.said):
            assert waits.is_alive()
            time.sleep(0.01)
        assert wanted.said == ["another process extracts these features, waiting for it: process 7 on \\x1b[31mhere"]
        assert wanted.images == 200 - 64
        other.kill()
        waits.join(timeout=20)
    assert wanted.images == 200


def test_no_piece_is_made_of_a_bank_that_has_just_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    """Another process ends the bank, and its pieces go, after this one has seen what is missing."""
    wanted, missing = Digits(tmp_path, monkeypatch), Pieces.missing
    calls: list[int] = []

    def seen_before(pieces: Pieces) -> list[int]:
        found = missing(pieces)
        calls.append(len(found))
        if len(calls) == 2:  # the first is of `write_bank`
            wanted.load()
        return found

    monkeypatch.setattr(Pieces, "missing", seen_before)
    wanted.load()
    assert calls[1] == 4
    assert wanted.images == 200
    assert not wanted.pieces.directory.exists()


@pytest.mark.faults
def test_no_damage_to_a_piece_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    wanted = Digits(tmp_path, monkeypatch)
    expected = wanted.load()
    made = list[extraction.Extracted]()
    split = wanted.dataset.split("train")
    ranges = [wanted.pieces.range_of(number) for number in range(4)]
    extraction.extract([wanted.target(made.append)], split, ExtractionOptions(), pieces=ranges)
    there = wanted.pieces
    for piece in made:
        there.put(piece, "pixels")
    file = there.directory / "000002.safetensors"
    content = file.read_bytes()
    for bad in (*flips(content, 40, seed=1), *mutations(content, 40, seed=2)):
        file.write_bytes(bad)
        try:
            assert (there.read(2).features == made[2].features).all()
        except (OSError, ValueError):
            continue
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    wanted.cache.discard(wanted.key)
    wanted.images = 0
    assert (wanted.load() == expected).all()
    assert wanted.images == 64
    assert "damaged cache entry, extracting again" in " ".join(wanted.said)


def test_pieces_that_leave_images_out_are_not_those_of_a_whole_bank(tmp_path: Path) -> None:
    different = [ExtractionOptions(), ExtractionOptions(skip_corrupt=True), ExtractionOptions(batch_size=2048)]
    found = {Pieces.of(tmp_path, "ab" * 32, 5000, options).directory for options in different}
    assert len(found) == 3
    assert len(Pieces.of(tmp_path, "ab" * 32, 5000, different[2])) == 3


@given(num_items=st.integers(0, 50_000), batch=st.integers(1, 3_000))
def test_every_item_is_in_one_piece_of_whole_batches(num_items: int, batch: int) -> None:
    found = cut(num_items, batch)
    assert list(itertools.chain(*found)) == list(range(num_items))
    assert all(len(each) % batch == 0 for each in found[:-1])
    assert all(len(each) <= max(pieces.PIECE, batch) for each in found)
    assert [len(each) for each in found] == sorted((len(each) for each in found), reverse=True)
    # What one process does while all others wait for the last one is little.
    for each in found:
        assert len(each) <= max(batch, (num_items - each.start) // 16)


def test_pieces_worked_out_by_hand() -> None:
    # A sixteenth of 1,437 is 89, which is two batches of 32; of 1,000 and less it is one.
    assert [len(each) for each in cut(1_437, 32)] == [64] * 7 + [32] * 30 + [29]
    assert [len(each) for each in cut(1_000_000, 32)][:1_937] == [512] * 1_937


def test_each_shard_begins_with_its_own() -> None:
    assert Shard(1, 3).first([0, 1, 2, 4, 5, 6, 7]) == [1, 4, 7, 0, 2, 5, 6]
    assert Shard().first([3, 1, 2]) == [1, 2, 3]


def test_what_was_not_finished_is_listed_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None, run_cli: Callable[..., Answer]
) -> None:
    wanted = Digits(tmp_path, monkeypatch)
    whole = wanted.load()
    split, made = wanted.dataset.split("train"), list[extraction.Extracted]()
    extraction.extract([wanted.target(made.append)], split, ExtractionOptions(), pieces=[range(64)])
    wanted.pieces.put(made[0], "pixels")
    assert (made[0].features == whole[:64]).all()
    listed = run_cli("cache", "list", "--cache-dir", tmp_path).out
    assert "1 pieces of a bank, not finished: the same run goes on from there" in listed
    run_cli("cache", "clear", "--model", "pixels", "--cache-dir", tmp_path)
    assert wanted.pieces.directory.is_dir()
    assert "1 leftovers of killed runs" in run_cli("cache", "clear", "--cache-dir", tmp_path).err
    assert not wanted.pieces.directory.exists()
