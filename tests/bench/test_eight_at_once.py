"""Eight processes begin the same suite at once, on one cache: each image goes through its network once."""

from __future__ import annotations

import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch

from massl_bench.cli import main
from massl_bench.features import extraction
from massl_bench.models.encoder import Encoder
from massl_bench.records.reading import read_record
from tests.bench.test_launchers import numbers
from tests.started import forkserver, run_ranks

PROCESSES, IMAGES = 8, 80
MODELS, TASKS = ("pixels", "random:test_vit"), ("knn", "kmeans")
RUN = ["run", "--task", ",".join(TASKS), "--dataset", "digits", "--model", ",".join(MODELS), "--limit", str(IMAGES)]


def work(number: int, place: Path, begin: Barrier, shards: bool) -> None:
    """One of the processes: waits until all are there, runs, and writes how many images its networks saw."""
    torch.set_num_threads(1)
    features = extraction._features
    seen: list[int] = []

    def counted(encoder: Encoder, images_G3HW: torch.Tensor) -> torch.Tensor:
        seen.append(len(images_G3HW))
        return features(encoder, images_G3HW)

    extraction._features = counted
    shard = ["--shard", f"{number}/{PROCESSES}"] if shards else []
    sys.argv = ["massl-bench", *RUN, *shard, "--results-dir", str(place / "r"), "--cache-dir", str(place / "c")]
    begin.wait(timeout=120)
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    (place / f"seen-{number}").write_text(f"{sum(seen)} {code}")


@pytest.mark.parametrize("shards", [False, True], ids=["whole", "shards"])
def test_each_image_goes_through_its_network_once(shards: bool, tmp_path: Path) -> None:
    run_ranks(work, tmp_path, forkserver().Barrier(PROCESSES), shards, ranks=PROCESSES)
    told = [(tmp_path / f"seen-{number}").read_text().split() for number in range(PROCESSES)]
    assert {code for _, code in told} == {"0"}
    # Two splits of each of two networks, and of the fingerprint no image of the data.
    assert sum(int(seen) for seen, _ in told) == 2 * IMAGES * len(MODELS)
    files = sorted((tmp_path / "r").rglob("*.json"))
    assert len(files) == len(MODELS) * len(TASKS)
    for file in files:
        assert read_record(file).num_items
    assert len(list((tmp_path / "c").rglob("features/*/*/meta.json"))) == 2 * len(MODELS)
    assert not list((tmp_path / "c" / "partial").rglob("*.safetensors"))
    assert len(numbers(tmp_path / "r")) == len(files)
