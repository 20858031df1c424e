"""Presets carry the published numbers; changes are checked before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from massl_bench.core.errors import RequestError
from massl_bench.pretrain.config import differences
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.presets import PRESETS

NAMES = [path.stem for path in sorted(PRESETS.glob("*.toml"))]


def test_the_presets() -> None:
    assert NAMES == [
        "carp-rn50-100ep",
        "carp-rn50-200ep",
        "carp-rn50-400ep",
        "massl-vitb16-400ep",
        "massl-vits16-800ep",
        "small-cifar10",
        "sop-small-cifar10",
        "sop-tiny-digits",
        "sop-vits16-100ep",
        "tiny-digits",
    ]
    for name in NAMES:
        load_config(name, ["batch_size=256"])


def test_massl_small_has_the_published_numbers() -> None:
    config = load_config("massl-vits16-800ep")
    assert (config.epochs, config.batch_size, config.ema_momentum) == (800, 128, 0.992)
    optimiser = config.optimiser
    assert (optimiser.lr, optimiser.warmup_epochs, optimiser.min_lr, optimiser.clip) == (5e-4, 0, 1e-6, 3.0)
    assert (optimiser.weight_decay, optimiser.weight_decay_end) == (0.04, 0.4)
    massl = config.parameters
    assert (massl.memory_size, massl.block_size, massl.student_temp) == (131_072, 16_384, 0.1)
    assert (massl.teacher_temp_start, massl.teacher_temp, massl.teacher_temp_warmup_epochs) == (0.04, 0.07, 30)
    assert [crop.size for crop in config.views.crops] == [224] * 2 + [96] * 10
    assert [crop.blur for crop in config.views.crops] == [1.0, 0.1] + [0.5] * 10
    assert [crop.solarise for crop in config.views.crops] == [0.0, 0.2] + [0.0] * 10
    assert config.backbone.drop_path == 0.1
    assert (config.head.hidden_dim, config.head.out_dim, config.head.batch_norm) == (2048, 256, False)


def test_massl_base_differs_where_the_table_says() -> None:
    found = differences(
        load_config("massl-vits16-800ep").model_dump(mode="json"),
        load_config("massl-vitb16-400ep").model_dump(mode="json"),
    )
    assert found == [
        "epochs: 800, now 400",
        "ema_momentum: 0.992, now 0.996",
        "backbone.arch: vit_small_patch16_224, now vit_base_patch16_224",
        "massl.teacher_temp_warmup_epochs: 30, now 50",
        "optimiser.lr: 0.0005, now 0.00075",
        "optimiser.min_lr: 1e-06, now 2e-06",
        "optimiser.warmup_epochs: 0, now 10",
    ]


def test_carp_has_the_published_numbers_and_asks_for_its_batch() -> None:
    with pytest.raises(RequestError, match=r"batch_size: is missing: .*batch_size': N"):
        load_config("carp-rn50-100ep")
    config = load_config("carp-rn50-400ep", ["batch_size=1024"], method="carp")
    assert (config.epochs, config.parameters.num_prototypes, config.parameters.block_size) == (400, 65_536, 512)
    optimiser = config.optimiser
    assert (optimiser.name, optimiser.lr, optimiser.min_lr, optimiser.clip) == ("lars", 0.45, 0.0048, None)
    assert (optimiser.eta, optimiser.momentum, optimiser.weight_decay) == (0.001, 0.9, 1e-6)
    assert config.head.batch_norm
    assert config.ema_momentum == 0.99
    assert [crop.size for crop in config.views.crops] == [224] * 2 + [96] * 6
    assert (config.views.global_1.scale, config.views.local.scale) == ((0.2, 1.0), (0.05, 0.2))


def test_changes() -> None:
    settings = [
        "optimiser.lr=1",
        "optimiser.clip=none",
        "views.ratio=1,2",
        "views.local.size=12",
        "optimiser.name=adamw",
    ]
    config = load_config("tiny-digits", settings)
    assert (config.optimiser.lr, config.optimiser.clip, config.views.ratio) == (1.0, None, (1.0, 2.0))
    assert config.views.local.size == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimizer.lr=1"], "unknown configuration key 'optimizer.lr'; did you mean optimiser.lr"),
        (["lr"], "settings lr: expected key=value"),
        (["epochs=many"], "epochs: expected a valid integer, got 'many'"),
        (["massl.memory_size=1000"], "1000 rows, not a multiple of the global batch 64; nearest: 960 and 1024"),
        (["massl.block_size=2048"], "massl.block_size: 2048, larger than memory_size = 1024; allowed: 1 to 1024"),
        (["massl.block_size=300"], "massl.memory_size: 1024, not a multiple of block_size 300; nearest: 900 and 1200"),
        (["views.num_local=1100"], "massl.memory_size: 1024, fewer than the 1102 views"),
        (["views.local.size=5"], "views: 5 pixels are not a multiple of the patch size 4"),
        (["backbone.embed_dim=100"], "embed_dim: expected a multiple of 64, got 100"),
        (["backbone.widths=8,8,8,8"], "backbone: widths: is not used by arch vit"),
        (["backbone.arch=resnet"], "backbone: widths: is missing, and arch resnet needs it"),
        (["optimiser.lr=1e42"], "optimiser.lr: expected less than or equal to 1000000, got 1e+42"),
        (["optimiser.name=sgd"], "momentum: is missing for sgd"),
        (["method=carp"], "carp: is missing, and the method needs it"),
    ],
)
def test_what_does_not_fit_together(settings: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_config("tiny-digits", settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_preset_and_wrong_method() -> None:
    with pytest.raises(RequestError, match="did you mean tiny-digits"):
        load_config("tiny-digit")
    with pytest.raises(RequestError, match="preset tiny-digits is of the method massl"):
        load_config("tiny-digits", method="carp")


def test_differences_leave_out_what_moves_no_number() -> None:
    before, now = (
        load_config("tiny-digits", [setting]).model_dump(mode="json") for setting in ("run.workers=3", "epochs=40")
    )
    assert differences(before, now) == [f"epochs: {before['epochs']}, now 40"]
