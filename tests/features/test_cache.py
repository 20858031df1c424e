"""The feature cache: nothing damaged is used, each bank is extracted once, what killed processes left goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from massl_bench.core.errors import CellError
from massl_bench.core.files import canonical_json, read_memo, write_memo
from massl_bench.core.leftovers import remove_leftovers
from massl_bench.core.settings import Preprocessing
from massl_bench.features import BankKey, FeatureCache
from tests.conftest import Answer
from tests.mutations import flips, mutations

Cli = Callable[..., Answer]
DIGITS = ("run", "--task", "knn", "--dataset", "digits", "--model", "pixels")


def key(split: str = "train") -> BankKey:
    preprocessing = Preprocessing(
        resize=8, resize_mode="shortest", crop=8, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
    )
    values: dict[str, Any] = {name: name for name in BankKey.model_fields if BankKey.model_fields[name].is_required()}
    return BankKey(**{**values, "preprocessing": preprocessing, "split": split, "limit": None})


def write(cache: FeatureCache, bank_key: BankKey) -> None:
    with cache.writer(bank_key, 3, model="m", dataset="d") as writer:
        writer.append(np.arange(12, dtype=np.float32).reshape(4, 3))
        writer.finish(
            labels=np.array([0, 1, 0, 1]), ids=np.array([b"a", b"b", b"c", b"d"]), class_names=["x", "y"],
            num_classes=2, skipped=[], validation_from=2,
        )  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("name", ["meta.json", "features.npy", "labels.npy", "ids.npy"])
def test_no_damage_to_a_bank_is_used(tmp_path: Path, name: str) -> None:
    cache = FeatureCache(tmp_path)
    write(cache, key())
    file = cache.path(key()) / name
    content = file.read_bytes()
    damaged = [*flips(content, 60, seed=3), *mutations(content, 60, seed=4)]
    whole, _ = cache.read(key())
    assert whole is not None
    found = 0
    for bad in damaged:
        file.write_bytes(bad)
        bank, damage = cache.read(key())
        if bank is None:
            assert damage is not None
            assert "\n" not in damage
            found += 1
        else:  # another spelling of the same JSON
            assert name == "meta.json"
            assert (bank.num_classes, bank.class_names, bank.validation_from) == (2, ("x", "y"), 2)
    assert found > 0.98 * len(damaged)


@pytest.mark.faults
def test_no_damage_to_a_memo_is_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    value = {"sha256": "f" * 64, "card": '{"name": "é"}', "files": [["a\udce9", 1, 2]]}
    write_memo(tmp_path, "m", value)
    content = (tmp_path / "m.json").read_bytes()
    assert read_memo(tmp_path, "m") == value
    for bad in (*flips(content, 100, seed=5), *mutations(content, 100, seed=6)):
        (tmp_path / "m.json").write_bytes(bad)
        assert read_memo(tmp_path, "m") in (None, value)
    assert "not as it was written, and made again" in caplog.text
    (tmp_path / "m.json").write_text(canonical_json(value | {"files": []}))  # as it was before there were hashes
    assert read_memo(tmp_path, "m") is None
    assert read_memo(tmp_path, "none") is None


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("in the way")
    with (
        pytest.raises(CellError, match=r"the feature cache .* could not be written"),
        FeatureCache(tmp_path).held(key(), lambda _: None),
    ):
        pass


def test_what_killed_processes_left_goes_after_a_day(tmp_path: Path) -> None:
    for name in (".a.json.0123abcd.tmp", ".b.89abcdef.old", ".user.tmp", "a.tmp", ".new.01234567.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "features.npy").write_bytes(b"x")
    old = time.time() - 2 * 24 * 3600
    for path in (*tmp_path.iterdir(), *tmp_path.glob("*/*")):
        if path.parent.name != ".new.01234567.tmp":
            os.utime(path, (old, old))
    os.utime(tmp_path / ".new.01234567.tmp", (old, old))  # what is inside it was written just now
    assert sorted(path.name for path in remove_leftovers(tmp_path)) == [".a.json.0123abcd.tmp", ".b.89abcdef.old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.01234567.tmp", ".user.tmp", "a.tmp"]


def test_the_cache_is_listed_verified_and_cleared(run_cli: Cli) -> None:
    run_cli(*DIGITS)
    root = Path(os.environ["MASSL_BENCH_CACHE"])
    listed = json.loads(run_cli("cache", "list", "--json").out)
    assert {(bank["model"], bank["dataset"], bank["split"], bank["items"], bank["dim"]) for bank in listed} == {
        ("pixels", "digits", "train", 1347, 3072), ("pixels", "digits", "test", 450, 3072),
    }  # fmt: skip
    assert "pixels on digits/train: 1,347 × 3072; 16.6 MB, 0 days old" in run_cli("cache", "list").out
    assert run_cli("cache", "verify").out == "2 banks, 0 damaged\n"

    test = next(Path(bank["path"]) for bank in listed if bank["split"] == "test")
    with (test / "features.npy").open("r+b") as grown:  # by a hole that would take hours to hash
        grown.truncate(1 << 40)
    assert "damaged: features.npy does not have its sha256" in run_cli("cache", "verify").out
    (test / "features.npy").write_bytes(b"")
    (test / "labels.npy").write_bytes(b"")
    answer = run_cli("cache", "verify")
    assert answer.code == 1
    assert "1 damaged" in answer.out
    assert run_cli("cache", "clear", "--model", "other").err.startswith("removed 0 banks")
    assert run_cli("cache", "clear", "--damaged", "--dry-run").err.startswith("would remove 1 banks")
    assert run_cli("cache", "clear", "--damaged").err.startswith("removed 1 banks")
    assert len(json.loads(run_cli("cache", "list", "--json").out)) == 1
    assert run_cli("cache", "clear", "--older-than", "1").err.startswith("removed 0 banks")
    for folder in ("fingerprints", "models", "shards", "twins"):
        write_memo(root / folder, "0", {})
    with FeatureCache(root).held(SimpleNamespace(digest=Path(listed[0]["path"]).name), lambda _: None):  # type: ignore
        pass
    assert run_cli("cache", "clear").err.startswith("removed 1 banks")
    assert list((root / "features").glob("*/*")) == []
    assert sorted(path.name for path in root.iterdir()) == ["features", "locks", "partial", "versions"]
    assert list((root / "partial").iterdir()) == []
    assert "extracting again" not in run_cli(*DIGITS, "--force").err


def test_what_an_extraction_holds_is_not_cleared(tmp_path: Path, run_cli: Cli) -> None:
    cache = FeatureCache(tmp_path)
    write(cache, key())
    with cache.held(key(), lambda _: None):
        answer = run_cli("cache", "clear", "--cache-dir", tmp_path)
    assert "in use, and kept: m on d/train: 4 × 3" in answer.err
    assert (cache.path(key()) / "meta.json").is_file()
