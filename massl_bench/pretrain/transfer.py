"""Small tensors from the host to the device, without a wait."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copies from the CPU; what comes after on the device waits for the copy, and the host does not.

    A GPU copies by itself only from pinned memory, which torch keeps for later copies once this one is done.
    """
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
