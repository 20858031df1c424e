"""Views on the device, one piece after the other. Shapes: B images of a piece, V views, S their side in pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.data.crops import HostBatch
from massl_bench.pretrain.data.fused import fused_views
from massl_bench.pretrain.data.views import photometric_views


class DeviceViews(Iterator[list[Tensor]]):
    """The V views [B, 3, S, S] of each piece, on the device: global 1, global 2, the local ones.

    Args:
        batches: what the host has cut.
        config: settled for the device.
        device: `cpu` or `cuda:i`.
    """

    def __init__(self, batches: Iterable[HostBatch], config: PretrainConfig, device: torch.device) -> None:
        self._batches, self._config, self._device = iter(batches), config, device
        self._begun: list[Tensor] | Exception | None = None

    def begin_next(self) -> None:
        """Starts on the piece that will be asked for next; whatever is wrong with it is said when it is asked for.

        Before the host waits for the device: so that the device has work until the host's next orders arrive.
        """
        try:
            self._begun = self._views(next(self._batches))
        except Exception as error:
            self._begun = error

    def __next__(self) -> list[Tensor]:
        """Returns the views of the next piece."""
        begun, self._begun = self._begun, None
        if isinstance(begun, Exception):
            raise begun
        return self._views(next(self._batches)) if begun is None else begun

    def _views(self, batch: HostBatch) -> list[Tensor]:
        config, views = self._config, list[Tensor]()
        # On a CPU the changes that are not an image's turn cost more than the passes that are saved.
        make = fused_views if config.compute.compile and self._device.type == "cuda" else photometric_views
        for group in batch.groups:
            pixels = group.pixels.to(self._device, non_blocking=True)
            images = make(pixels, group.photometric, config.views)
            if config.compute.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            views += images.chunk(group.num_views)
        return views
