"""The objective of SOP (arXiv 2505.21533), as its authors' code computes it.

Shapes: B images, V views, N = V·B student rows, G = 2·B teacher rows, L patch tokens, M masked ones of all images, D
dimensions, K memory rows; a draw has P candidates and Q prototypes of E supports each, the anchor last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from massl_bench.pretrain.losses.rows import check_views
from massl_bench.pretrain.transfer import to_device


@dataclass(frozen=True)
class Prototypes:
    """One draw from a memory.

    Attributes:
        supports_QE: rows of the memory, by falling similarity to the anchor, which is the last.
        votes_QE: of each support for its own prototype; the rest is shared among the others.
    """

    supports_QE: Tensor
    votes_QE: Tensor

    @classmethod
    def of(
        cls,
        memory_KD: Tensor,
        order_K: Tensor,
        num_candidates: int,
        selected_Q: Tensor | None,
        num_supports: int,
        smoothing: float,
    ) -> Prototypes:
        """Makes prototypes of the first rows of a permutation; their neighbours are sought among the others.

        Args:
            memory_KD: unit rows.
            order_K: int64, a permutation of the rows.
            num_candidates: P.
            selected_Q: int64, which of the candidates are kept; None for all.
            num_supports: E.
            smoothing: of the anchors' votes.
        """
        anchors_Q = order_K[:num_candidates] if selected_Q is None else order_K[:num_candidates][selected_Q]
        own_Q1 = memory_KD.new_full((len(anchors_Q), 1), 1 - smoothing)
        if num_supports == 1:
            return cls(anchors_Q[:, None], own_Q1)
        pool = order_K[num_candidates:]
        nearest = (memory_KD[anchors_Q] @ memory_KD[pool].T).topk(num_supports - 1, dim=1)
        return cls(
            torch.cat([pool[nearest.indices], anchors_Q[:, None]], dim=1), torch.cat([nearest.values, own_Q1], dim=1)
        )

    def assign(self, rows_RD: Tensor, memory_KD: Tensor, temperature: float) -> Tensor:
        """Returns the shares [R, Q] of the prototypes in rows [R, D].

        With a the softmax over all supports and w their votes, prototype q has Σ_{e∈q} a w of its own supports' votes,
        and of every other prototype's supports an equal share of what they do not give to their own.
        """
        num_prototypes = len(self.supports_QE)
        logits_RS = rows_RD @ memory_KD[self.supports_QE.flatten()].T / temperature
        a_RQE = logits_RS.softmax(1).view(-1, *self.supports_QE.shape)
        rest_RQ = (a_RQE * (1 - self.votes_QE)).sum(2)
        return (a_RQE * self.votes_QE).sum(2) + (rest_RQ.sum(1, keepdim=True) - rest_RQ) / (num_prototypes - 1)


def class_loss(
    student_ND: Tensor, teacher_GD: Tensor, memory_KD: Tensor, draws: Sequence[Prototypes], temps: tuple[float, float]
) -> Tensor:
    """Cross-entropy of student view i under teacher view j != i, averaged over images, pairs and draws.

    Args:
        student_ND: unit rows, view-major.
        teacher_GD: unit rows of the two global views.
        memory_KD: unit rows.
        draws: from the memory.
        temps: the student's and the teacher's temperature.
    """
    check_views(student_ND, teacher_GD, "student", "teacher")
    num_images = len(teacher_GD) // 2
    is_pair_V2 = 1 - torch.eye(len(student_ND) // num_images, 2, device=student_ND.device, dtype=student_ND.dtype)
    costs = []
    for draw in draws:
        log_p_VBQ = draw.assign(student_ND, memory_KD, temps[0]).log().view(len(is_pair_V2), num_images, -1)
        q_2BQ = draw.assign(teacher_GD, memory_KD, temps[1]).view(2, num_images, -1)
        costs.append(-(torch.einsum("vbq,jbq->vj", log_p_VBQ, q_2BQ) * is_pair_V2).sum())
    return torch.stack(costs).mean() / (num_images * is_pair_V2.sum())


def _patch_loss(
    student_MD: Tensor,
    teacher_MD: Tensor,
    weight_M: Tensor,
    memory_KD: Tensor,
    draws: Sequence[Prototypes],
    temps: tuple[float, float],
) -> Tensor:
    """Cross-entropy of the student's masked tokens under the teacher's of the same place, averaged over draws.

    Args:
        student_MD: unit rows of the masked tokens of all images.
        teacher_MD: of the same tokens.
        weight_M: 1 / (masked tokens of the token's image · images).
        memory_KD: unit rows.
        draws: from the memory.
        temps: the student's and the teacher's temperature.
    """
    costs = []
    for draw in draws:
        log_p_MQ = draw.assign(student_MD, memory_KD, temps[0]).log()
        costs.append(-((log_p_MQ * draw.assign(teacher_MD, memory_KD, temps[1])).sum(1) * weight_M).sum())
    return torch.stack(costs).mean()


def masked_patch_loss(
    student_GLD: Tensor,
    teacher_GLD: Tensor,
    masks_GL: NDArray[np.bool_],
    memory_KD: Tensor,
    draws: Sequence[Prototypes],
    temps: tuple[float, float],
) -> Tensor:
    """Cross-entropy of masked tokens: mean over an image's masked tokens, then over images and draws.

    An image without masked tokens counts as zero.

    Args:
        student_GLD: unit rows of the tokens of the masked global views.
        teacher_GLD: unit rows of the same tokens of the whole views.
        masks_GL: True where a token was masked.
        memory_KD: unit rows.
        draws: from the memory.
        temps: the student's and the teacher's temperature.
    """
    place = np.flatnonzero(masks_GL)
    weights = (masks_GL / (np.maximum(1, masks_GL.sum(1, keepdims=True)) * len(masks_GL))).reshape(-1)[place]
    place_M = to_device(torch.from_numpy(place), student_GLD.device)
    weight_M = to_device(torch.from_numpy(weights).to(student_GLD.dtype), student_GLD.device)
    student_MD, teacher_MD = (rows.flatten(0, 1)[place_M] for rows in (student_GLD, teacher_GLD))
    return _patch_loss(student_MD, teacher_MD, weight_M, memory_KD, draws, temps)
