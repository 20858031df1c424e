"""KoLeo, which spreads rows out.

Shapes: B images, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def koleo_loss(student_global: Tensor) -> Tensor:
    """Negative mean log distance of each row to its nearest neighbour, which spreads the rows out.

    The Kozachenko-Leonenko estimator as in DINOv2 (arXiv 2304.07193, section 4), on unit rows and within a view: the
    mean of both global views' losses. Neighbours are sought among this rank's images.

    Args:
        student_global: Unit rows of the two global student views [2·B, D], view-major, B >= 2.

    Returns:
        The scalar loss.

    Raises:
        ValueError: Not two views of at least two images.
    """
    if student_global.ndim != 2 or student_global.shape[0] % 2 or student_global.shape[0] < 4:
        raise ValueError(f"student_global: shape {list(student_global.shape)}; allowed: [2·B, D] with B >= 2")
    epsilon = 1e-8  # Identical rows have distance |eps · 1| and a finite loss.
    with torch.autocast(student_global.device.type, enabled=False):
        rows_ND = student_global.to(torch.promote_types(student_global.dtype, torch.float32))
        rows_2BD = rows_ND.reshape(2, -1, rows_ND.shape[1])
        with torch.no_grad():
            # Unit rows: the nearest neighbour is the one of the largest inner product, itself left out.
            similarity_2BB = rows_2BD @ rows_2BD.mT
            similarity_2BB.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
            nearest_2B1 = similarity_2BB.argmax(2, keepdim=True)
        neighbour_2BD = rows_2BD.gather(1, nearest_2B1.expand_as(rows_2BD))
        distance_2B = functional.pairwise_distance(rows_2BD, neighbour_2BD, eps=epsilon)
        return -(distance_2B + epsilon).log().mean()
