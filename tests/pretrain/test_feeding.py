"""Views that are begun before a step's numbers are read, and steps in which the host reads nothing of the device."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from massl_bench.core.errors import CellError
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data import fused
from massl_bench.pretrain.data.crops import BatchRequest, HostBatch, MultiCropImages
from massl_bench.pretrain.data.fused import fused_views
from massl_bench.pretrain.loop import feeding, trainer
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.feeding import DeviceViews
from massl_bench.pretrain.loop.state import initial_state, rates_at
from massl_bench.pretrain.methods import Step, massl
from tests.pretrain.runs import BATCH, WHOLE_IMAGES, carp_of, digits, losses, run

STEPS = 4
STRONG = [f"views.{name}=0.8" for name in ("flip", "jitter", "grey")]
STRONG += [f"views.{view}.{name}=0.5" for view in ("global_1", "local") for name in ("blur", "solarise")]
CONFIG = load_config("tiny-digits", [*WHOLE_IMAGES, *STRONG])


@pytest.fixture
def _ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU in the order of a GPU."""
    monkeypatch.setattr(trainer, "begins_ahead", lambda device: True)


@pytest.mark.parametrize("pieces", [1, 2])
def test_beginning_ahead_moves_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    config = load_config("tiny-digits", [*WHOLE_IMAGES, *STRONG, f"compute.accumulation={pieces}"])
    run(tmp_path / "as_asked", config, STEPS)
    monkeypatch.setattr(trainer, "begins_ahead", lambda device: True)
    run(tmp_path / "ahead", config, STEPS)
    assert losses(tmp_path / "ahead") == losses(tmp_path / "as_asked")
    expected, found = (CheckpointFolder(tmp_path / name, 1).load(STEPS) for name in ("as_asked", "ahead"))
    for name, tensor in expected["teacher"].items():
        assert torch.equal(tensor, found["teacher"][name])
    assert torch.equal(expected["method"]["memory"], found["method"]["memory"])


@pytest.mark.usefixtures("_ahead")
def test_a_bad_step_changes_nothing_though_the_next_one_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("tiny-digits", [*WHOLE_IMAGES, "run.checkpoint_every=1"])
    objective, calls = massl.massl_objective, []

    def breaks_at_the_third_step(*arguments: Any, **settings: Any) -> Any:
        calls.append(1)
        return objective(*arguments, **settings) * (math.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(massl, "massl_objective", breaks_at_the_third_step)
    with pytest.raises(CellError, match=r"step 2: the loss is not finite \(cross_entropy nan\); no weight was changed"):
        run(tmp_path / "broken", config, STEPS)
    monkeypatch.setattr(massl, "massl_objective", objective)
    # From the checkpoint before it, on to the end: as a run in which nothing happened.
    run(tmp_path / "broken", config, STEPS, resume=True)
    run(tmp_path / "whole", config, STEPS)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_what_is_wrong_with_the_next_images_is_said_when_they_are_asked_for() -> None:
    def batches() -> Any:
        yield HostBatch([])
        raise CellError("image 7")

    views = DeviceViews(batches(), CONFIG, torch.device("cpu"))
    views.begin_next()
    assert next(views) == []
    views.begin_next()
    with pytest.raises(CellError, match="image 7"):
        next(views)
    views.begin_next()
    with pytest.raises(StopIteration):
        next(views)


def test_numbers_of_crops_travel_as_one_tensor() -> None:
    import pickle

    group = MultiCropImages(digits(BATCH), CONFIG.views, seed=0, rank=0)[BatchRequest(0, 0, range(BATCH))].groups[0]
    before = vars(group.photometric)
    _, (packed,) = group.photometric.__reduce__()
    assert packed.dtype == torch.float32
    after = vars(pickle.loads(pickle.dumps(group.photometric)))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name])
        assert tensor.dtype == after[name].dtype


@pytest.mark.parametrize("make", ["fused", "one by one"])
@pytest.mark.parametrize("config", [CONFIG, carp_of(CONFIG)], ids=["massl", "carp"])
def test_the_host_reads_nothing_of_the_device_in_a_step(
    monkeypatch: pytest.MonkeyPatch, config: PretrainConfig, make: str
) -> None:
    """Tensors without values in the place of a GPU's: whatever reads one of them raises."""
    nowhere = torch.device("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no such device
    if make == "fused":
        monkeypatch.setattr(fused, "_compiled", lambda function: function)
        monkeypatch.setattr(feeding, "photometric_views", fused_views)
    state = initial_state(config, nowhere)
    batch = MultiCropImages(digits(BATCH), config.views, seed=0, rank=0)[BatchRequest(0, 0, range(BATCH))]
    views = DeviceViews([batch], config, nowhere)
    step = Step(number=0, seed=0, numbers=rates_at(0, config, 3).of_method)
    state.method.begin(step)
    computed = trainer.forward_backward(config, state, state.student, views, step)
    norms = trainer.clip(config, state, step)
    with pytest.raises((RuntimeError, NotImplementedError)):  # the one place that reads
        (sum(computed.terms.values()) + norms.sum()).item()
    trainer.move(state, 0.99)
    state.method.after_step(computed.kept)


def test_the_online_evaluation_compiles_nothing() -> None:
    """Its batches are not those of a step: kernels and graphs of their own would cost minutes, and memory."""

    class Network(torch.nn.Module):  # a layer of torch's own is not compiled by itself, in some versions
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, rows: torch.Tensor) -> Any:
            return self.layer(rows)

    network, calls = Network(), []

    def backend(graph: Any, _: Any) -> Any:
        calls.append(1)
        return graph

    network.compile(backend=backend)
    found = trainer._evaluate(lambda backbone: float(backbone(torch.ones(3, 2)).sum()), network)
    assert not calls
    assert found == pytest.approx(3 * float((network.layer.weight.sum() + network.layer.bias).detach()))
    network(torch.ones(3, 2))
    assert calls
