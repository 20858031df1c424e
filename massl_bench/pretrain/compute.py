"""What `auto` in the section `compute` means on a device; checkpoints and manifests keep what ran."""

from __future__ import annotations

from typing import Literal

import torch

from massl_bench.core.errors import RequestError
from massl_bench.core.wording import asked
from massl_bench.pretrain import methods
from massl_bench.pretrain.backbones import patch_side
from massl_bench.pretrain.config import ComputeConfig, PretrainConfig
from massl_bench.pretrain.distributed import world_size

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


def settled(config: PretrainConfig, device: torch.device) -> PretrainConfig:
    """Returns the configuration with every `auto` of `compute` replaced by what it means on the device.

    Raises:
        RequestError: As for the backbone; or torch.compile is asked for where it cannot be.
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
        fuses = device.type == "cuda" and patch_side(config.backbone) > 1 and _can_compile(device)
    elif fuses:
        fuses = _required(compute, device)
    found = compute.model_copy(update={"precision": precision, "objective": objective, "compile": fuses})
    return config.model_copy(update={"compute": found})


def autocast_dtype(config: PretrainConfig) -> torch.dtype | None:
    """Returns the half precision in which the networks of a settled configuration run, or None for float32."""
    return _HALVES[config.compute.precision]


def _best_precision(device: torch.device) -> str:
    if device.type != "cuda":  # most have no half precision; who has AMX can ask for bf16
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _required(compute: ComputeConfig, device: torch.device) -> bool | Literal["graphs"]:
    """Returns what `compile` means on the device where it is asked for; raises `RequestError` where it cannot be."""
    if not _can_compile(device):
        missing = "Triton" if device.type == "cuda" else "a C++ compiler"
        raise RequestError(
            f"compute.compile: {str(compute.compile).lower()}, and torch.compile finds no {missing.removeprefix('a ')}",
            remedy=f"install {missing}, or give {asked('settings', 'compute.compile=false')}",
        )
    if compute.compile != "graphs" or device.type != "cuda":
        return True
    reasons = {
        "several ranks": world_size() > 1,
        f"compute.accumulation={compute.accumulation}": compute.accumulation > 1,
        "compute.gradient_checkpointing": compute.gradient_checkpointing,
    }
    against = [reason for reason, found in reasons.items() if found]
    if against:
        raise RequestError(
            f"compute.compile: graphs, which is for one GPU and one piece, but {' and '.join(against)}",
            remedy=f"give {asked('settings', 'compute.compile=true')}",
        )
    return "graphs"


def _can_compile(device: torch.device) -> bool:
    """Returns whether torch.compile finds what it writes the device's kernels with."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return has_triton()
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True
