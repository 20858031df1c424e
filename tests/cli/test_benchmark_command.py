"""`massl-bench benchmark step`: what a machine reaches, without a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from massl_bench.pretrain.compute import settled
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop.reach import Reach

COMMAND = ("benchmark", "step", "--preset", "tiny-digits", "--device", "cpu", "--images", "1000")


def test_numbers_fit_each_other(run_cli: Callable[..., Any]) -> None:
    answer = run_cli(*COMMAND, "--set", "epochs=10", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told["config"]["compute"]["precision"] == "fp32"
    assert told["first_step_s"] is None
    assert told["peak_bytes"] is None
    # No workers: the training process cuts its views between its steps.
    assert told["images_per_s"] == pytest.approx(64 / (told["step_s"] + told["views_s"]))
    assert told["hours"] == pytest.approx(10 * 15 * (told["step_s"] + told["views_s"]) / 3600)


def test_in_words(run_cli: Callable[..., Any]) -> None:
    lines = run_cli(*COMMAND).out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["compute", "device cpu", "host", "pretraining"]
    assert lines[0] == "compute: fp32, objective float32, eager"
    assert "the training process itself cuts them" in lines[2]
    assert lines[3].endswith(" hours")


def test_who_bounds_it() -> None:
    config = settled(load_config("massl-vits16-800ep"), torch.device("cpu"))
    sizes = {"device": "cuda:0", "images": 1_281_167, "first_s": 60.0, "peak_bytes": 20 << 30}
    reach = Reach(config=config, step_s=0.1, views_s=2.4, whole_s=0.2, **sizes)  # type: ignore[arg-type]
    assert reach.images_per_s == 640
    assert reach.hours == pytest.approx(800 * 10_009 * 0.2 / 3600)
    compute, device, host, training = reach.lines()
    assert compute == "compute: fp32, objective float32, eager"
    assert "1.28e+03 images/s" not in device
    assert "the first step took 60 s" in device
    assert "12 workers cut them" in host
    assert "640 images/s, bounded by the host" in training
    assert "hours; settings={'run.workers': 24} keeps the device busy, on so many cores" in training


def test_errors(run_cli: Callable[..., Any]) -> None:
    assert "did you mean tiny-digits" in run_cli(*[p if p != "tiny-digits" else "tiny-digit" for p in COMMAND]).error
    assert run_cli(*COMMAND, "--set", "batch_size=").code == 2
