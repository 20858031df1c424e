from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from massl_bench.pretrain.schedules import cosine, linear_then_constant

EPOCH, STEPS = 7, 84


def test_golden(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("schedules.npz")
    ours = {
        "lr": [
            cosine(step, start=5e-4 * 128 / 256, end=1e-6, num_steps=STEPS, warmup_steps=2 * EPOCH)
            for step in range(STEPS)
        ],
        "weight_decay": [cosine(step, start=0.04, end=0.4, num_steps=STEPS) for step in range(STEPS)],
        "teacher_temp": [
            linear_then_constant(step, start=0.04, end=0.07, warmup_steps=3 * EPOCH) for step in range(STEPS)
        ],
        "momentum": [cosine(step, start=0.996, end=1.0, num_steps=STEPS) for step in range(STEPS)],
    }
    assert ours.keys() == arrays.keys()
    for name, values in ours.items():
        assert values == pytest.approx(arrays[name].tolist(), abs=1e-12, rel=0), name


def test_cosine_by_hand() -> None:
    values = [cosine(step, start=1.0, end=0.0, num_steps=7, warmup_steps=3) for step in range(7)]
    # 0 to 1 in three steps, then 0.5 · (1 + cos(π · n / 4))
    assert values == pytest.approx([0, 0.5, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])


def test_edges() -> None:
    assert cosine(0, start=3.0, end=1.0, num_steps=1) == 3.0
    assert cosine(0, start=3.0, end=1.0, num_steps=2, warmup_steps=1) == 0.0
    assert cosine(1, start=3.0, end=1.0, num_steps=2, warmup_steps=2) == 3.0
    assert linear_then_constant(0, start=1.0, end=2.0, warmup_steps=0) == 2.0
    assert linear_then_constant(0, start=1.0, end=2.0, warmup_steps=1) == 1.0
    assert linear_then_constant(10**6, start=1.0, end=2.0, warmup_steps=5) == 2.0


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^step: 7; allowed: 0 to 6, as num_steps is 7$"):
        cosine(7, start=1.0, end=0.0, num_steps=7)
    with pytest.raises(ValueError, match=r"^warmup_steps: 8; allowed: 0 to num_steps = 7$"):
        cosine(0, start=1.0, end=0.0, num_steps=7, warmup_steps=8)
    with pytest.raises(ValueError, match=r"^step: -1, warmup_steps: 2; allowed: both at least 0$"):
        linear_then_constant(-1, start=1.0, end=0.0, warmup_steps=2)
