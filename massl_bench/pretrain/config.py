"""The configuration of a pretraining: one strict type.

Nothing here has a published number as its default: those stand in `presets/*.toml`. None means "not used".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, SerializerFunctionWrapHandler, model_serializer, model_validator

from massl_bench.core.strict import Listed, StrictModel

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
    """The projector behind the backbone; what follows it, the method says."""

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


class OptimizerConfig(StrictModel):
    """The optimizer and its schedules."""

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
    def _own_numbers(self) -> OptimizerConfig:
        used = {"adamw": {"betas"}, "sgd": {"momentum"}, "lars": {"momentum", "eta"}}[self.name]
        for key in ("momentum", "eta", "betas"):
            if (getattr(self, key) is None) == (key in used):
                raise ValueError(f"{key}: {'is missing for' if key in used else 'is not used by'} {self.name}")
        return self


class ComputeConfig(StrictModel):
    """How the numbers are computed."""

    precision: Literal["auto", "bf16", "fp16", "fp32"]
    """Of the networks, on any device; `auto`: bf16 where a GPU has it, else fp16 on a GPU, and fp32 on the CPU."""
    objective: Literal["auto", "attention", "float32"] = "auto"
    """How the method's loss multiplies: `attention`: in float16 by fused kernels; `auto`: so for half precision on a
    GPU where the method can, and else `float32` (on a CPU float16 is the slower of the two)."""
    channels_last: bool
    compile: bool | Literal["auto", "graphs"]
    """Whether torch.compile fuses the kernels of the backbones, and on a GPU those of the views, which costs a minute
    or two at the start; `auto`: for a ViT on a GPU. `graphs`: the backbones also run as CUDA graphs, for networks so
    small that starting their kernels takes longer than the kernels; on one GPU, in one piece."""
    gradient_checkpointing: bool
    accumulation: int = Field(ge=1)
    """Pieces that a rank's share of the batch is computed in. BatchNorm and terms over a whole batch see one alone."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several ranks share the student. `ddp`: each has all of it (DistributedDataParallel); `fsdp`: each has its
    share of parameters, gradients and the optimizer's numbers (FSDP2), for networks that leave a card no room."""


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
    """Everything that decides what a pretraining computes.

    Outside, in files and in what `model_dump` returns, the section `parameters` has the method's name.
    """

    method: str
    """The module of `massl_bench.pretrain.methods`, or of a plugin."""
    summary: str
    seed: int = Field(ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Global batch: images of one optimizer step on all ranks together."""
    ema_momentum: float = Field(ge=0, le=1)
    """The teacher's at the start; a cosine takes it to 1."""
    backbone: BackboneConfig
    head: HeadConfig
    views: ViewsConfig
    parameters: SerializeAsAny[StrictModel]
    """Of the method, as its module defines them."""
    optimiser: OptimizerConfig
    compute: ComputeConfig
    run: RunConfig

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainConfig:
        for crop in self.views.crops:
            if self.backbone.patch_size is not None and crop.size % self.backbone.patch_size:
                raise ValueError(
                    f"views: {crop.size} pixels are not a multiple of the patch size {self.backbone.patch_size}"
                )
        if self.optimiser.warmup_epochs > self.epochs:
            raise ValueError(
                f"optimiser.warmup_epochs: {self.optimiser.warmup_epochs}, more than epochs = {self.epochs}"
            )
        return self

    @model_serializer(mode="wrap")
    def _under_its_method(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {self.method if key == "parameters" else key: value for key, value in content.items()}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested tables as one with dotted keys."""
    pairs: dict[str, Any] = {}
    for key, value in config.items():
        pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return pairs


_NO_DIFFERENCE = ("summary", "compute.parallel")
"""What says nothing of the numbers, and how ranks share them: a checkpoint has whole tensors either way."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns how two configurations differ in what moves a number: `key: before, now`, in the order of the keys."""
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if not key.startswith("run.") and key not in _NO_DIFFERENCE]
    return [f"{key}: {old.get(key)}, now {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
