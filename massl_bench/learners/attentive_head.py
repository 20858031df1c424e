"""Classifiers that read tokens through one query of attention.

Shapes: B images, L tokens, D dimensions, H attention heads, K classes, P classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from massl_bench.learners.linear_head import Heads, HeadTraining, linear_start


class AttentiveHeads(Heads):
    """One query that attends to the tokens, and a linear layer on what it brings.

    Each attention head has a vector u [D] and a share of the D channels: it brings the mean of its channels over the
    tokens x, weighted by softmax(u · x / √D). Attention of one query has no more freedom: its product with a projection
    of the keys is such a vector, and a projection of the values is a part of the linear layer. The vectors start at 0,
    where the weighted mean is the mean.

    Args:
        dim: D, a multiple of the number of attention heads.
        num_attention: H.
        num_classes: K.
        training: how they are trained.
    """

    def __init__(self, dim: int, num_attention: int, num_classes: int, training: HeadTraining) -> None:
        super().__init__([torch.zeros(num_attention, dim), *linear_start(dim, num_classes, training)], training)

    @override
    def _logits(self, features: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        query_PHD, weight_PKD, bias_PK = parameters
        count, num_attention, dim = query_PHD.shape
        share_BLPH = torch.einsum("bld,phd->blph", features, query_PHD).div(dim**0.5).softmax(dim=1)
        channels_BLHC = features.view(*features.shape[:2], num_attention, dim // num_attention)
        brought_BPHC = torch.einsum("blph,blhc->bphc", share_BLPH, channels_BLHC)
        return torch.einsum("bpd,pkd->bpk", brought_BPHC.reshape(len(features), count, dim), weight_PKD) + bias_PK
