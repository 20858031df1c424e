"""What a machine reaches in pretraining, measured in about a minute, without a dataset."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import torch

from massl_bench.core.devices import megabytes
from massl_bench.core.wording import asked
from massl_bench.pretrain.compute import settled
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.data.sample import SampleImages
from massl_bench.pretrain.loop.estimate import seconds_a_step, seconds_of_views, seconds_with_views, time_steps

_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What one process reaches.

    Attributes:
        config: with what `auto` means on the device.
        device: that computes.
        images: of the dataset that is counted with.
        first_s: seconds of the very first step, which loads kernels and writes those that are compiled; None where the
            step was extrapolated from smaller ones, as on a CPU.
        step_s: seconds of a step on the device, with the device's part of its views.
        views_s: seconds of one core to cut the views of a step.
        whole_s: seconds of a step together with its views, with the configuration's workers on this machine.
        peak_bytes: of the GPU's memory; None on a CPU.
    """

    config: PretrainConfig
    device: str
    images: int
    first_s: float | None
    step_s: float
    views_s: float
    whole_s: float
    peak_bytes: int | None

    @property
    def images_per_s(self) -> float:
        """Images of one process in a second."""
        return self.config.batch_size / self.whole_s

    @property
    def hours(self) -> float:
        """Of all epochs over the images."""
        return self.config.epochs * (self.images // self.config.batch_size) * self.whole_s / 3600

    def lines(self) -> list[str]:
        """Returns it in words."""
        batch, workers = self.config.batch_size, self.config.run.workers
        compute = self.config.compute
        compiled = "compiled" if compute.compile else "eager"
        compiled += ", with CUDA graphs" if compute.compile == "graphs" else ""
        settled_as = f"compute: {compute.precision}, objective {compute.objective}, {compiled}"
        device = (
            f"device {self.device}: {self.step_s:.3g} s a step of {batch:,} images, {batch / self.step_s:,.0f} images/s"
        )
        if self.peak_bytes is not None:
            device += f", {megabytes(self.peak_bytes)} at the peak"
        if self.first_s is not None:
            device += f"; the first step took {self.first_s:.3g} s, once in a process"
        by = f"{workers} workers cut" if workers else "the training process itself cuts"
        host = f"host: {batch / self.views_s:,.0f} images/s of one core for views; {by} them"
        slower = "host" if self.whole_s > 1.05 * self.step_s else "device"
        training = (
            f"pretraining: {self.images_per_s:,.0f} images/s, bounded by the {slower}; {self.config.epochs:,} epochs "
            f"of {self.images:,} images take about {self.hours:,.3g} hours"
        )
        enough = math.ceil(self.views_s / self.step_s)
        if self.device != "cpu" and slower == "host" and enough > workers:
            training += f"; {asked('settings', f'run.workers={enough}')} keeps the device busy, on so many cores"
        return [settled_as, device, host, training]


def measure_reach(config: PretrainConfig, *, device: str, images: int) -> Reach:
    """Returns what a training would reach on sample images, in one process.

    Args:
        config: of the pretraining.
        device: `cpu` or `cuda:i`.
        images: of the dataset, for the hours.

    Raises:
        RequestError: As for the networks.
    """
    place = torch.device(device)
    config = settled(config, place)
    first_s, peak = None, None
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
        pieces = config.compute.accumulation
        seconds = time_steps(config, max(1, config.batch_size // pieces), place, count=_STEPS)
        first_s, step_s = seconds[0], pieces * statistics.median(seconds[2:])
        peak = torch.cuda.max_memory_allocated(place)
    else:
        step_s = seconds_a_step(config, num_ranks=1, device=device)
    views_s = seconds_of_views(config, SampleImages.like(config.views))
    return Reach(
        config=config,
        device=device,
        images=images,
        first_s=first_s,
        step_s=step_s,
        views_s=views_s,
        whole_s=seconds_with_views(config, step_s, views_s, device=device),
        peak_bytes=peak,
    )
