from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from massl_bench.pretrain import koleo_loss


def test_golden(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("massl_objective.npz")
    student = arrays["student"].requires_grad_()
    loss = koleo_loss(student[: len(arrays["teacher"])])
    loss.backward()
    assert loss.item() == pytest.approx(arrays["koleo"], rel=1e-5)
    assert (student.grad - arrays["grad_koleo"]).norm() <= 1e-5 * arrays["grad_koleo"].norm()


def test_by_hand() -> None:
    """Rows at 0, 90 and 180 degrees are √2 from their nearest; in the second view 0, 60 and 180: 1, 1 and √3."""
    angles = torch.tensor([0.0, 90.0, 180.0, 0.0, 60.0, 180.0]).deg2rad()
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    distances = [math.sqrt(2)] * 3 + [1.0, 1.0, math.sqrt(3)]
    assert koleo_loss(rows).item() == pytest.approx(-sum(map(math.log, distances)) / 6, abs=1e-6)


def test_identical_rows_have_a_finite_loss() -> None:
    assert koleo_loss(torch.eye(4)[[0, 0, 1, 1]]).item() == pytest.approx(-math.log(3e-8), rel=1e-5)


def test_float32_under_autocast(unit_rows: Callable[..., Tensor]) -> None:
    rows = unit_rows(8, 16, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = koleo_loss(rows)
    assert inside.item() == koleo_loss(rows).item()


@pytest.mark.parametrize("shape", [(2, 4), (5, 4), (4,)])
def test_errors(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"student_global: shape .*; allowed: \[2·B, D\] with B >= 2"):
        koleo_loss(torch.zeros(shape))
