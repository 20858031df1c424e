"""What `auto` in the section `compute` means on a device; checkpoints and manifests keep what ran."""

from __future__ import annotations

import torch

from massl_bench.pretrain import methods
from massl_bench.pretrain.backbones import patch_side
from massl_bench.pretrain.config import PretrainConfig

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


def settled(config: PretrainConfig, device: torch.device) -> PretrainConfig:
    """Returns the configuration with every `auto` of `compute` replaced by what it means on the device.

    Raises:
        RequestError: As for the backbone.
    """
    compute = config.compute
    precision = compute.precision if compute.precision != "auto" else _best_precision(device)
    objective = compute.objective
    if objective == "auto":
        by_attention = device.type == "cuda" and precision != "fp32"
        problem = methods.load(config.method).attention_problem(config)
        objective = "attention" if by_attention and not problem else "float32"
    fuses = compute.compile
    if fuses == "auto":
        fuses = device.type == "cuda" and patch_side(config.backbone) > 1 and _can_compile()
    found = compute.model_copy(update={"precision": precision, "objective": objective, "compile": fuses})
    return config.model_copy(update={"compute": found})


def autocast_dtype(config: PretrainConfig) -> torch.dtype | None:
    """Returns the half precision in which the networks of a settled configuration run, or None for float32."""
    return _HALVES[config.compute.precision]


def _best_precision(device: torch.device) -> str:
    if device.type != "cuda":  # half precision saves a CPU nothing
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _can_compile() -> bool:
    """Returns whether torch.compile finds what it writes a GPU's kernels with."""
    from torch.utils._triton import has_triton

    return has_triton()
