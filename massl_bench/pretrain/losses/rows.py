"""What the objectives check of the rows that they are given.

Shapes: V views of B images, N = V·B student rows, G = 2·B teacher rows, K memory rows or prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_views(student: Tensor, teacher: Tensor, student_name: str, teacher_name: str) -> None:
    """Raise ValueError unless the rows are [V·B, X] and [2·B, X] with V >= 2."""
    if teacher.ndim != 2 or teacher.shape[0] < 2 or teacher.shape[0] % 2:
        raise ValueError(f"{teacher_name}: shape {list(teacher.shape)}; allowed: [2·B, D], two views of B images")
    num_images, dim = teacher.shape[0] // 2, teacher.shape[1]
    whole_views = student.shape[0] >= 2 * num_images and student.shape[0] % num_images == 0
    if student.ndim != 2 or student.shape[1] != dim or not whole_views:
        raise ValueError(
            f"{student_name}: shape {list(student.shape)}; allowed: [V·{num_images}, {dim}] with V >= 2 views, "
            f"as {teacher_name} {list(teacher.shape)} has {num_images} images"
        )


def check_blocks(what: str, num_rows: int, permutation: Tensor, block_size: int) -> None:
    """Raise ValueError unless blocks of `block_size` cut the permuted rows evenly."""
    if permutation.shape != (num_rows,) or permutation.dtype != torch.int64:
        found = f"{permutation.dtype} {list(permutation.shape)}"
        raise ValueError(f"permutation: {found}; allowed: torch.int64 [{num_rows}], the indices of the {what}")
    if not 1 <= block_size <= num_rows:
        raise ValueError(f"block_size: {block_size}; allowed: 1 to {num_rows}, the size of the {what}")
    if num_rows % block_size:
        below, above = num_rows // block_size * block_size, (num_rows // block_size + 1) * block_size
        nearest = f"nearest: {below} and {above}"
        raise ValueError(f"{what}: {num_rows} rows, not a multiple of block_size {block_size}; {nearest}")


def check_division(section: str, what: str, size: int, block_size: int) -> None:
    """Raise ValueError unless blocks of the configured size cut a method's members evenly.

    Args:
        section: Of the configuration.
        what: The key in it that says how many members there are.
        size: That number.
        block_size: Members of a block.
    """
    if block_size > size:
        raise ValueError(f"{section}.block_size: {block_size}, larger than {what} = {size}; allowed: 1 to {size}")
    if size % block_size:
        below, above = size // block_size * block_size, (size // block_size + 1) * block_size
        raise ValueError(
            f"{section}.{what}: {size}, not a multiple of block_size {block_size}; nearest: {below} and {above}"
        )
