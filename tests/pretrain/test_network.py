from __future__ import annotations

import pytest
import torch
from torch import nn

from massl_bench.pretrain import MultiCropNetwork, Projector, Prototypes
from massl_bench.pretrain.network import together


def projector(*, batch_norm: bool = False, unit_norm: bool = True) -> Projector:
    torch.manual_seed(0)
    return Projector(6, hidden_dim=8, out_dim=4, batch_norm=batch_norm, unit_norm=unit_norm)


def test_names_are_the_official_ones() -> None:
    linear = {f"mlp.{n}.{kind}" for n in (0, 2, 4) for kind in ("weight", "bias")}
    assert projector().state_dict().keys() == linear
    shapes = {name: tuple(tensor.shape) for name, tensor in projector(batch_norm=True).state_dict().items()}
    assert {name: shapes[name] for name in ("mlp.0.weight", "mlp.3.weight", "mlp.6.weight")} == {
        "mlp.0.weight": (8, 6),
        "mlp.3.weight": (8, 8),
        "mlp.6.weight": (4, 8),
    }
    assert shapes["mlp.1.running_mean"] == shapes["mlp.4.running_var"] == (8,)


def test_projection_by_its_layers() -> None:
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    head = projector(unit_norm=False)
    hidden = nn.functional.gelu(head.mlp[2](nn.functional.gelu(head.mlp[0](features))))
    torch.testing.assert_close(head(features), head.mlp[4](hidden))
    unit = projector(unit_norm=True)(features)
    torch.testing.assert_close(unit, nn.functional.normalize(head(features), dim=1))


def test_initial_weights() -> None:
    weight = Projector(64, hidden_dim=512, out_dim=8, batch_norm=False, unit_norm=True).mlp[2].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert all(layer.bias.abs().max() == 0 for layer in projector().mlp if isinstance(layer, nn.Linear))


def test_unit_norm_is_float32_under_autocast() -> None:
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = projector()(features)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5), rtol=0, atol=1e-6)


def test_prototype_logits_do_not_depend_on_prototype_lengths() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(4, 10)
    projections = torch.randn(3, 4)
    logits = prototypes(projections)
    with torch.no_grad():
        prototypes.weight_v *= torch.arange(1.0, 11.0)[:, None]  # type: ignore[misc]
    torch.testing.assert_close(prototypes(projections), logits)
    torch.testing.assert_close(logits, projections @ nn.functional.normalize(prototypes.weight_v, dim=1).T)


def test_views_of_several_sizes_come_out_view_major() -> None:
    passes = []

    class MeanColour(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            passes.append(tuple(images.shape))
            return images.mean((2, 3))

    views = [torch.full((2, 3, side, side), float(n)) for n, side in enumerate((8, 8, 4, 4, 4))]
    for view in views:
        view[1] += 10
    outputs = MultiCropNetwork(MeanColour(), nn.Identity())(views)
    assert outputs[:, 0].tolist() == [0, 10, 1, 11, 2, 12, 3, 13, 4, 14]
    assert passes == [(4, 3, 8, 8), (6, 3, 4, 4)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_views_that_lie_together_are_not_copied(layout: torch.memory_format) -> None:
    images = torch.rand(6, 3, 4, 4).contiguous(memory_format=layout)
    one, two, three = images.chunk(3)
    for views, copied in (
        ([one, two, three], False),
        ([two, three], False),
        ([one], False),
        ([two, one], True),
        ([one, three], True),
        ([one, one], True),
        ([one, two.clone()], True),
        ([one, images[2:5]], True),
    ):
        found = together(views)
        assert torch.equal(found, torch.cat(views))
        assert found.is_contiguous(memory_format=layout)
        assert (found.data_ptr() != views[0].data_ptr()) == copied
