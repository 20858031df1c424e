"""`massl-bench demo`: a training from nothing, and every cell of the suite quick for three models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from massl_bench.records.reading import read_record
from tests.conftest import Answer

Cli = Callable[..., Answer]


def test_demo_pretrains_and_benchmarks(run_cli: Cli) -> None:
    answer = run_cli("demo")
    assert answer.code == 0, answer.err
    rows = [line.split("|")[1].strip() for line in answer.out.splitlines() if line.startswith("| ")]
    assert rows == ["model", "massl-digits", "massl-digits-untrained", "pixels"]
    assert Path("massl-bench-demo/LEADERBOARD.md").read_text() in answer.out + "\n"
    results = Path("massl-bench-demo/results")
    trained, untrained = (read_record(results / model / "knn" / "digits.json").headline for model in rows[1:3])
    assert trained.ci95[0] > untrained.ci95[1]
    assert trained.value > untrained.value + 0.03

    records = [json.loads(path.read_text()) for path in (results / "pixels").rglob("*.json")]
    families = {record["identity"]["task"]["protocol"] for record in records}
    assert families == {"knn", "linear", "kmeans", "few_shot", "class_retrieval", "copy_detection", "spectrum"}
    copies = json.loads((results / "pixels/copy-detection/patches.json").read_text())
    assert copies["num_items"] == {"originals": 24, "queries": 456, "distractors": 24}
    found = {name: score["value"] for name, score in copies["metrics"].items()}
    assert found["map_jpegqual_75"] > found["map_crops_50"] > found["map_crops_10"]
    assert found["map_jpegqual_75"] > found["map_strong"]

    again = run_cli("demo")
    assert again.code == 0
    assert "step" not in again.err
    assert again.out.count("finished before") == again.out.count("-> massl-bench-demo")
