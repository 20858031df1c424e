"""What loading a ViT-B costs: at most 1.3 times plain torch in time, and at most 2.2 times its tensors in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import timm
import torch

from tests.models.layouts import prefixed

pytestmark = pytest.mark.speed

COMMON = """
import resource, sys, time
from pathlib import Path
import timm, torch
from massl_bench.models.checkpoints import build_checkpoint
path, key, prefix = Path(sys.argv[1]), *sys.argv[2:4]
network = timm.create_model("vit_base_patch16_224", num_classes=0)

def plain():
    tensors = torch.load(path, weights_only=True)
    tensors = tensors[key] if key else tensors
    network.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
"""

TIMES = """
card = build_checkpoint(path, "x").card
plain()
for _ in range(5):
    for call in (plain, lambda: build_checkpoint(path, "x", known=card), lambda: build_checkpoint(path, "x")):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        print(time.perf_counter() - wall, time.process_time() - cpu)
"""

PEAK = """
from massl_bench.models.networks import features
open("/proc/self/clear_refs", "w").write("5")
def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
before = memory("VmRSS")
kept = build_checkpoint(path, "x")
print((memory("VmHWM") - before) / sum(t.nbytes for t in kept.backbone.state_dict().values()))
"""


def written(layout: str, folder: Path) -> tuple[str, ...]:
    """Writes a ViT-B's backbone file or a trainer's full file; returns it, its key and the prefix of its tensors."""
    torch.manual_seed(0)
    backbone = timm.create_model("vit_base_patch16_224", num_classes=0).state_dict()
    file = folder / f"{layout}.pth"
    if layout == "backbone":
        torch.save(backbone, file)
        return str(file), "", ""
    student = {name: tensor.clone() for name, tensor in prefixed("module.backbone.", backbone).items()}
    state = {number: {"exp_avg": t.clone(), "exp_avg_sq": t.clone()} for number, t in enumerate(backbone.values())}
    content: dict[str, Any] = {
        "student": student,
        "teacher": prefixed("backbone.", backbone),
        "optimizer": {"state": state, "param_groups": []},
        "epoch": 100,
        "args": {},
        "dino_loss": {"center": torch.zeros(1, 65536)},
    }
    torch.save(content, file)
    return str(file), "teacher", "backbone."


def measured(code: str, *arguments: str) -> list[list[float]]:
    command = [sys.executable, "-c", COMMON + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [[float(word) for word in line.split()] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("layout", ["backbone", "full"])
def test_time_against_plain_torch(layout: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Of a file that was loaded before, as its features are asked for: its hashes are remembered, its bytes compared.

    They take turns; the median of the ratios of what was measured side by side.
    """
    lines = measured(TIMES, *written(layout, tmp_path))
    for what, place in (("again", 1), ("first", 2)):
        wall, cpu = (
            median(ours[kind] / torchs[kind] for torchs, ours in zip(lines[::3], lines[place::3], strict=True))
            for kind in (0, 1)
        )
        print(f"{layout}, {what}: {wall:.2f} × torch.load + load_state_dict in wall time, {cpu:.2f} × in CPU time")
        record_property(what, (wall, cpu))
        if what == "again":
            assert wall <= 1.3
            assert cpu <= 1.3


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc, which is Linux's")
@pytest.mark.parametrize("layout", ["backbone", "full"])
def test_peak_of_memory(layout: str, tmp_path: Path) -> None:
    """Over what the process held before, with the hashing."""
    ((peak,),) = measured(PEAK, *written(layout, tmp_path))
    print(f"{layout}: peak {peak:.2f} × the backbone")
    assert peak <= 2.2
