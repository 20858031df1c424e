"""What pretraining puts behind a backbone, in the names of the authors' checkpoints (`backbone.*`, `head.mlp.*`).

Shapes: V views, B images, N = V·B rows, D dimensions, K prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from massl_bench.pretrain.config import HeadConfig


class Projector(nn.Module):
    """Three-layer perceptron with GELU: `mlp.0`, `mlp.2`, `mlp.4`, or `mlp.{0,1,3,4,6}` with BatchNorm.

    MaSSL ends it with unit norm and has BatchNorm for ResNets only; CARP has BatchNorm and no unit norm. Both have
    2,048 hidden and 256 output features.
    """

    def __init__(self, in_dim: int, *, hidden_dim: int, out_dim: int, batch_norm: bool, unit_norm: bool) -> None:
        """Make the layers; weights from a normal distribution (std 0.02, truncated at ±2), biases zero.

        Args:
            in_dim: Features of the backbone.
            hidden_dim: Features of both hidden layers.
            out_dim: Features D of the output.
            batch_norm: BatchNorm after both hidden layers.
            unit_norm: Scale output rows to unit length, in float32 whatever the autocast.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in ((in_dim, hidden_dim), (hidden_dim, hidden_dim)):
            layers += [nn.Linear(width_in, width_out), *([nn.BatchNorm1d(width_out)] if batch_norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, out_dim))
        self.unit_norm = unit_norm
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @classmethod
    def of(cls, config: HeadConfig, in_dim: int, *, unit_norm: bool) -> Projector:
        """Make the one that a configuration describes; the arguments are those of the constructor."""
        return cls(
            in_dim,
            hidden_dim=config.hidden_dim,
            out_dim=config.out_dim,
            batch_norm=config.batch_norm,
            unit_norm=unit_norm,
        )

    def forward(self, features_ND: Tensor) -> Tensor:
        """Map features [N, in_dim] to projections [N, out_dim]."""
        projections_ND: Tensor = self.mlp(features_ND)
        return _unit_rows(projections_ND) if self.unit_norm else projections_ND


class Prototypes(nn.Module):
    """CARP's prototypes: a linear layer without bias whose weight rows are normalised to unit length."""

    def __init__(self, dim: int, num_prototypes: int) -> None:
        """Draw the prototypes' directions uniformly from the sphere.

        Args:
            dim: Length D of a projection.
            num_prototypes: Number K of prototypes.
        """
        super().__init__()
        self.weight_v = nn.Parameter(functional.normalize(torch.randn(num_prototypes, dim), dim=1))

    def forward(self, projections_ND: Tensor) -> Tensor:
        """Map projections [N, D] to logits [N, K]: inner products with unit prototypes."""
        return functional.linear(projections_ND, _unit_rows(self.weight_v))


class MultiCropNetwork(nn.Module):
    """A backbone and a head over views of several sizes.

    Neighbouring views of one size pass through the backbone together; the head sees all views at once, so that its
    BatchNorm normalises over all of them.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        """Keep both parts.

        Args:
            backbone: Images [N, 3, H, W] to features [N, in_dim], at every size among the views.
            head: Features to outputs [N, D] or [N, K].
        """
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Map V views of B images [B, 3, H, W] to outputs [V·B, ...], view-major."""
        same_size = groupby(views, key=lambda view_B3HW: view_B3HW.shape[-2:])
        features_ND = torch.cat([self.backbone(together(list(group))) for _, group in same_size])
        outputs: Tensor = self.head(features_ND)
        return outputs


def together(views: Sequence[Tensor]) -> Tensor:
    """Returns views [B, 3, H, W] of one size as [V·B, 3, H, W].

    Without a copy where they lie behind one another, as the pieces of one tensor do that the loader's views are.
    """
    first = views[0]
    step = first.shape[0] * first.stride(0)
    adjacent = all(
        view.untyped_storage()._cdata == first.untyped_storage()._cdata
        and (view.shape, view.stride()) == (first.shape, first.stride())
        and view.storage_offset() == first.storage_offset() + place * step
        for place, view in enumerate(views)
    )
    if not adjacent or first.requires_grad:
        return torch.cat(list(views))
    return first.as_strided((len(views) * first.shape[0], *first.shape[1:]), first.stride())


def _unit_rows(rows_ND: Tensor) -> Tensor:
    """Scale rows to unit length, in at least float32: half precision would move the lengths by a thousandth."""
    return functional.normalize(rows_ND.to(torch.promote_types(rows_ND.dtype, torch.float32)), dim=1)
