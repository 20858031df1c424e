"""Views in few passes against those of one change after the other; compiled for the CPU where it has a compiler."""

from __future__ import annotations

import itertools
import shutil

import pytest
import torch

from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.data import fused
from massl_bench.pretrain.data.fused import fused_views
from massl_bench.pretrain.data.views import Photometric, draw_photometric, photometric_views

VIEWS = load_config("massl-vits16-800ep").views


@pytest.fixture(params=["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def _how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "eager":
        monkeypatch.setattr(fused, "_compiled", lambda function: function)
    elif shutil.which("g++") is None:
        pytest.skip("no C++ compiler, which torch.compile needs on a CPU")


def every_kind(count: int, side: int) -> tuple[torch.Tensor, Photometric]:
    """Noise, grey and black crops, with every order of the changes, and every flag up and down."""
    generator = torch.Generator().manual_seed(side)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    pixels[::5] = pixels[::5, :1]
    pixels[::7] = 0
    drawn = draw_photometric(VIEWS, VIEWS.global_2, count, generator)
    orders = list(itertools.permutations(range(4)))
    drawn.order = torch.tensor([orders[row % 24] for row in range(count)])
    drawn.solarise = torch.arange(count) % 3 == 0
    drawn.grey = torch.arange(count) % 4 == 1
    drawn.blur_radius[::2] = 1.3
    return pixels, drawn


@pytest.mark.usefixtures("_how")
def test_few_passes_give_the_same_views() -> None:
    pixels, drawn = every_kind(60, 24)
    expected = photometric_views(pixels, drawn, VIEWS)
    found = fused_views(pixels, drawn, VIEWS)
    # Values beside the threshold fall to either side.
    near = (found - expected).abs() < 2e-5
    assert near.float().mean() > 0.9999
    assert (drawn.solarise[:, None, None, None] | near).all()


def test_where_nothing_is_drawn_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_compiled", lambda function: function)
    pixels, drawn = every_kind(24, 8)
    no = torch.zeros(24, dtype=torch.bool)
    drawn.flip = drawn.jitter = drawn.grey = drawn.solarise = no
    drawn.blur_radius = torch.zeros(24)
    plain = VIEWS.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    assert torch.equal(fused_views(pixels, drawn, plain), pixels.float() / 255)
