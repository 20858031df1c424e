"""The configuration of a pretraining: presets in TOML, changes from the command line, one strict type.

Nothing here has a published number as its default: those stand in `presets/*.toml`. None means "not used".
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.strict import Listed, StrictModel, first_problem
from massl_bench.pretrain.memory import check_memory_size
from massl_bench.specs.toml import parse_setting

PRESETS = Path(__file__).parent / "presets"

Method = Literal["massl", "carp"]
Pair = Listed[tuple[float, float]]
Triple = Listed[tuple[float, float, float]]
Stages = Listed[tuple[int, int, int, int]]
"""One number for each stage of a ResNet."""


class BackboneConfig(StrictModel):
    """The encoder that is trained, under timm's tensor names."""

    arch: str
    """A ViT or ResNet of timm (`vit_small_patch16_224`, `resnet50`), or `vit` or `resnet` (for small images) with the
    widths below. A ViT that is not plain has timm's feature, and timm's resampling of its position embeddings."""
    patch_size: int | None = Field(default=None, ge=1)
    """Side of a patch in pixels; for a ViT of timm, in place of its own."""
    embed_dim: int | None = Field(default=None, ge=1)
    """Width of `vit`: a multiple of 64, as each head is 64 wide (a checkpoint does not say how many heads it has)."""
    depth: int | None = Field(default=None, ge=1)
    """Blocks of `vit`."""
    widths: Stages | None = None
    """Channels of the stages of `resnet`; even numbers."""
    depths: Stages | None = None
    """Blocks of the stages of `resnet`, of two convolutions each."""
    drop_path: float = Field(ge=0, lt=1)
    """Largest rate of stochastic depth, in the student only."""
    init: Literal["timm", "xavier"]
    """`timm`: as timm makes it (a ViT's weights have a standard deviation of 0.02, at any width); `xavier`: scaled
    by the layers' widths (Glorot and Bengio, 2010), for narrow ViTs, whose blocks would else do nothing for long."""
    position_std: float | None = Field(default=None, gt=0)
    """Standard deviation of a ViT's initial position embeddings, with `xavier`."""

    @model_validator(mode="after")
    def _widths(self) -> BackboneConfig:
        own = {"vit": ("patch_size", "embed_dim", "depth"), "resnet": ("widths", "depths")}
        for key in own.get(self.arch, ()):
            if getattr(self, key) is None:
                raise ValueError(f"{key}: is missing, and arch {self.arch} needs it")
        allowed = own.get(self.arch, ("patch_size",))
        for key in ("patch_size", "embed_dim", "depth", "widths", "depths"):
            if getattr(self, key) is not None and key not in allowed:
                raise ValueError(f"{key}: is not used by arch {self.arch}")
        if (self.embed_dim or 0) % 64:
            raise ValueError(f"embed_dim: expected a multiple of 64, got {self.embed_dim}")
        if any(width < 2 or width % 2 for width in self.widths or ()):
            raise ValueError(f"widths: expected even numbers from 2, got {list(self.widths or ())}")
        if any(depth < 1 for depth in self.depths or ()):
            raise ValueError(f"depths: expected numbers from 1, got {list(self.depths or ())}")
        if (self.init == "xavier") != (self.position_std is not None):
            raise ValueError("position_std: goes with init xavier, and is needed there")
        return self


class HeadConfig(StrictModel):
    """The projector behind the backbone; MaSSL's output has unit norm, CARP's has not."""

    hidden_dim: int = Field(ge=1)
    out_dim: int = Field(ge=1)
    batch_norm: bool


class CropConfig(StrictModel):
    """One kind of view."""

    size: int = Field(ge=1)
    """Side in pixels."""
    scale: Pair
    """Range of the crop's share of the image's area."""
    blur: float = Field(ge=0, le=1)
    """Probability of Gaussian blur."""
    solarise: float = Field(ge=0, le=1)
    """Probability of solarisation."""

    @model_validator(mode="after")
    def _range(self) -> CropConfig:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale: expected 0 < low <= high <= 1, got {list(self.scale)}")
        return self


class ViewsConfig(StrictModel):
    """Multi-crop augmentation: two global views, then the local ones."""

    global_1: CropConfig
    global_2: CropConfig
    local: CropConfig
    num_local: int = Field(ge=0)
    ratio: Pair
    """Range of a crop's width over its height, uniform in the logarithm."""
    flip: float = Field(ge=0, le=1)
    jitter: float = Field(ge=0, le=1)
    """Probability of colour jitter; brightness, contrast, saturation and hue come in random order."""
    brightness: float = Field(ge=0, le=1)
    contrast: float = Field(ge=0, le=1)
    saturation: float = Field(ge=0, le=1)
    hue: float = Field(ge=0, le=0.5)
    grey: float = Field(ge=0, le=1)
    blur_radius: Pair
    """Range of PIL's Gaussian radius, in pixels of the view."""
    solarise_threshold: int = Field(ge=0, le=256)
    """Values from here on are inverted, of 256."""
    mean: Triple
    std: Triple

    @property
    def crops(self) -> tuple[CropConfig, ...]:
        """The kind of every view, in order: global 1, global 2, the local ones."""
        return (self.global_1, self.global_2, *([self.local] * self.num_local))

    @model_validator(mode="after")
    def _ranges(self) -> ViewsConfig:
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio: expected 0 < low <= high, got {list(self.ratio)}")
        if not 0 <= self.blur_radius[0] <= self.blur_radius[1]:
            raise ValueError(f"blur_radius: expected 0 <= low <= high, got {list(self.blur_radius)}")
        if self.global_1.size != self.global_2.size:
            raise ValueError(f"global views of {self.global_1.size} and {self.global_2.size}; expected one size")
        return self


class MasslConfig(StrictModel):
    """The numbers of MaSSL's objective."""

    memory_size: int = Field(ge=1)
    block_size: int = Field(ge=1)
    student_temp: float = Field(gt=0)
    teacher_temp_start: float = Field(gt=0)
    teacher_temp: float = Field(gt=0)
    teacher_temp_warmup_epochs: int = Field(ge=0)
    koleo_weight: float = Field(ge=0)
    """Of the KoLeo term on the student's global outputs; 0 leaves it out."""


class CarpConfig(StrictModel):
    """The numbers of CARP's objective."""

    num_prototypes: int = Field(ge=1)
    block_size: int = Field(ge=1)


class OptimiserConfig(StrictModel):
    """The optimiser and its schedules."""

    name: Literal["adamw", "sgd", "lars"]
    lr: float = Field(gt=0, le=1e6)
    """After the warm-up, for a global batch of 256; scaled by batch_size / 256."""
    min_lr: float = Field(ge=0)
    """What the cosine tends to; not scaled."""
    warmup_epochs: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    weight_decay_end: float = Field(ge=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Of SGD and LARS."""
    eta: float | None = Field(default=None, gt=0)
    """LARS's trust coefficient."""
    betas: Pair | None = None
    """Of AdamW."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of each parameter's own gradient."""

    @model_validator(mode="after")
    def _own_numbers(self) -> OptimiserConfig:
        used = {"adamw": {"betas"}, "sgd": {"momentum"}, "lars": {"momentum", "eta"}}[self.name]
        for key in ("momentum", "eta", "betas"):
            if (getattr(self, key) is None) == (key in used):
                raise ValueError(f"{key}: {'is missing for' if key in used else 'is not used by'} {self.name}")
        return self


class ComputeConfig(StrictModel):
    """How the numbers are computed."""

    precision: Literal["auto", "bf16", "fp16", "fp32"]
    """Of the networks, on any device; `auto`: bf16 where a GPU has it, else fp16 on a GPU, and fp32 on the CPU."""
    channels_last: bool
    compile: bool
    gradient_checkpointing: bool
    accumulation: int = Field(ge=1)
    """Pieces that a rank's share of the batch is computed in. BatchNorm, KoLeo and CARP's entropy see one alone."""


class RunConfig(StrictModel):
    """What moves no number: where a resumed run may differ."""

    checkpoint_every: int = Field(ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(ge=1)
    log_every: int = Field(ge=1)
    """Steps between two lines of the log."""
    knn_every: int = Field(ge=0)
    """Steps between two online k-NN evaluations; 0 for none."""
    workers: int = Field(ge=0)
    """Processes that decode images; 0 decodes in the training process."""
    wandb: str | None = None
    """Project of Weights & Biases that the numbers are sent to as well."""


class PretrainConfig(StrictModel):
    """Everything that decides what a pretraining computes."""

    method: Method
    summary: str
    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Global batch: images of one optimiser step on all ranks together."""
    ema_momentum: float = Field(ge=0, le=1)
    """The teacher's at the start; a cosine takes it to 1."""
    backbone: BackboneConfig
    head: HeadConfig
    views: ViewsConfig
    massl: MasslConfig | None = None
    carp: CarpConfig | None = None
    optimiser: OptimiserConfig
    compute: ComputeConfig
    run: RunConfig

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainConfig:
        other: Method = "carp" if self.method == "massl" else "massl"
        if getattr(self, self.method) is None:
            raise ValueError(f"{self.method}: is missing, and the method needs it")
        if getattr(self, other) is not None:
            raise ValueError(f"{other}: is not used by the method {self.method}")
        for crop in self.views.crops:
            if self.backbone.patch_size is not None and crop.size % self.backbone.patch_size:
                raise ValueError(
                    f"views: {crop.size} pixels are not a multiple of the patch size {self.backbone.patch_size}"
                )
        if self.massl is not None:
            check_memory_size(self.massl.memory_size, self.batch_size)
            _check_blocks("massl", "memory_size", self.massl.memory_size, self.massl.block_size)
            num_views = len(self.views.crops)
            if num_views > self.massl.memory_size:
                raise ValueError(f"massl.memory_size: {self.massl.memory_size}, fewer than the {num_views} views")
            warmup = self.massl.teacher_temp_warmup_epochs
            if warmup > self.epochs:
                raise ValueError(f"massl.teacher_temp_warmup_epochs: {warmup}, more than epochs = {self.epochs}")
        if self.carp is not None:
            _check_blocks("carp", "num_prototypes", self.carp.num_prototypes, self.carp.block_size)
        if self.optimiser.warmup_epochs > self.epochs:
            raise ValueError(
                f"optimiser.warmup_epochs: {self.optimiser.warmup_epochs}, more than epochs = {self.epochs}"
            )
        return self


def _check_blocks(section: str, what: str, size: int, block_size: int) -> None:
    if block_size > size:
        raise ValueError(f"{section}.block_size: {block_size}, larger than {what} = {size}; allowed: 1 to {size}")
    if size % block_size:
        below, above = size // block_size * block_size, (size // block_size + 1) * block_size
        raise ValueError(
            f"{section}.{what}: {size}, not a multiple of block_size {block_size}; nearest: {below} and {above}"
        )


def load_config(preset: str, settings: Sequence[str] = (), method: str | None = None) -> PretrainConfig:
    """Returns a preset with the changes of `--set key=value`, checked.

    Args:
        preset: a name among `presets/*.toml`.
        settings: changes as `section.key=value` with values as in TOML; words and lists need no quotes or brackets.
        method: what the user asked for; must be the preset's.

    Raises:
        RequestError: An unknown preset or key (with near names), a wrong value, or numbers that do not fit together.
    """
    files = {path.stem: path for path in PRESETS.glob("*.toml")}
    if preset not in files:
        raise unknown_name("preset", preset, files)
    content = tomllib.loads(files[preset].read_text(encoding="utf-8"))
    if method is not None and method != content["method"]:
        raise RequestError(f"--method {method}: preset {preset} is of the method {content['method']}")
    for setting in settings:
        _apply(content, setting)
    try:
        return PretrainConfig.model_validate(content)
    except ValidationError as error:
        problem = first_problem(error)
        if problem == "batch_size: is missing":
            problem += ": the publication does not tell it; give --set batch_size=N"
        raise RequestError(f"preset {preset}{' with --set' if settings else ''}: {problem}") from None


def _apply(content: dict[str, Any], setting: str) -> None:
    """Writes one `--set` into a preset's content."""
    key, equals, text = setting.partition("=")
    known = _keys(PretrainConfig)
    if not (equals and text):
        raise RequestError(f"--set {setting}: expected key=value, as in optimiser.lr=0.001")
    if key not in known:
        raise unknown_name("configuration key", key, known)
    value = parse_setting(text)
    *sections, name = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
    if value == "none":
        content.pop(name, None)  # back to "not used", which TOML cannot write
    else:
        content[name] = value


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Returns the dotted keys of a configuration that hold values."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        parts = getattr(field.annotation, "__args__", (field.annotation,))
        sections = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
        if sections:
            keys += _keys(sections[0], f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested tables as one with dotted keys."""
    pairs: dict[str, Any] = {}
    for key, value in config.items():
        pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return pairs


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns how two configurations differ in what moves a number: `key: before, now`, in the order of the keys."""
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if not key.startswith("run.") and key != "summary"]
    return [f"{key}: {old.get(key)}, now {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
