"""Short runs on the digits whose views are the whole images: nothing in them depends on how a batch is divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from massl_bench.datasets.published import READERS
from massl_bench.datasets.splits import ArraySplit
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.configure import checked_config, load_config
from massl_bench.pretrain.loop.log import read_log
from massl_bench.pretrain.loop.trainer import Trained, TrainingJob, train

BATCH = 32
WHOLE_IMAGES = [
    f"batch_size={BATCH}",
    "epochs=1",
    "backbone.depth=2",
    "views.ratio=1.0,1.0",
    "views.global_1.scale=1.0,1.0",
    "views.global_2.scale=1.0,1.0",
    "views.local.scale=1.0,1.0",
    "massl.memory_size=256",
    "massl.block_size=64",
    "massl.koleo_weight=0",
    "massl.teacher_temp_warmup_epochs=1",
    "optimiser.warmup_epochs=0",
    "run.log_every=1",
]

A_HUNDRED_STEPS = ["epochs=5", "run.log_every=1", "massl.teacher_temp_start=0.07"]
"""Of tiny-digits on 21 batches: 105 steps at one temperature, as the loss grows with it."""


def digits(count: int) -> ArraySplit:
    split = READERS["digits"].read(Path(), "train")
    assert split.labels is not None
    return ArraySplit("digits", np.stack(split.encoded(range(count))), split.labels[:count], None)  # type: ignore[arg-type]


def carp_of(config: PretrainConfig) -> PretrainConfig:
    """CARP on the backbone and views of a configuration of MaSSL, without BatchNorm, with the published optimiser."""
    published = load_config("carp-rn50-100ep", [f"batch_size={config.batch_size}"])
    content = config.model_dump(mode="json", exclude={"parameters"})
    content |= {"method": "carp", "carp": {"num_prototypes": 96, "block_size": 24}}
    content["head"] |= {"out_dim": 16}
    content["optimiser"] = published.optimiser.model_dump(mode="json")
    return checked_config(content, "test")


def run(folder: Path, config: PretrainConfig, steps: int, *, device: str = "cpu", resume: bool = False) -> Trained:
    split = digits(steps * config.batch_size)
    data = {"reference": "digits", "images": len(split)}
    return train(TrainingJob(config=config, split=split, data=data, folder=folder, device=device, resume=resume))


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder)]


def falls(found: list[float]) -> bool:
    """Whether the loss falls from the thirtieth step on: the memory has no random rows then any more."""
    return sum(found[-10:]) / 10 < sum(found[30:40]) / 10 - 0.05
