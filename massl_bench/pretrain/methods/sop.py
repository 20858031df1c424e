"""SOP: assignments to prototypes that are drawn anew from a memory in every step, for class rows and masked patches.

Shapes: B images, V views, N = V·B student rows, G = 2·B teacher rows, L patch tokens, D dimensions, K memory rows,
Q prototypes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from massl_bench.core.errors import RequestError
from massl_bench.core.strict import StrictModel
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.indicators import assignment_entropies
from massl_bench.pretrain.losses.koleo import koleo_loss
from massl_bench.pretrain.losses.sop import Prototypes, class_loss, masked_patch_loss
from massl_bench.pretrain.memory import MemoryBank, check_memory_size, official_memory
from massl_bench.pretrain.methods import Method, Outputs, Step
from massl_bench.pretrain.network import MultiCropNetwork, Projector, together
from massl_bench.pretrain.schedules import linear_then_constant
from massl_bench.pretrain.seeds import derived_seed, seeded_generator
from massl_bench.pretrain.transfer import to_device


class SopParameters(StrictModel):
    """The numbers of SOP's objective."""

    class_memory_size: int = Field(ge=1)
    class_candidates: int = Field(ge=2)
    """Of which half become prototypes, where they have more than one support."""
    class_supports: int = Field(ge=1)
    """Of a prototype, its anchor included."""
    class_draws: int = Field(ge=1)
    """Independent sets of prototypes in each step."""
    patch_memory_size: int = Field(ge=1)
    patch_candidates: int = Field(ge=2)
    patch_supports: int = Field(ge=1)
    patch_draws: int = Field(ge=1)
    student_temp: float = Field(gt=0)
    teacher_temp_start: float = Field(gt=0)
    teacher_temp: float = Field(gt=0)
    teacher_temp_warmup_epochs: int = Field(ge=0)
    smoothing: float = Field(ge=0, lt=1)
    """An anchor's vote for its own prototype is 1 minus this; a neighbour's is its similarity to the anchor."""
    mask_ratio: float = Field(gt=0, lt=1)
    """Share of the patches of a global view that the student does not see."""
    koleo_weight: float = Field(ge=0)


def block_mask(rows: int, columns: int, ratio: float, drawn: random.Random) -> NDArray[np.bool_]:
    """Returns a mask [rows, columns] of rectangles that covers a share of the patches, as nearly as rectangles fit.

    As iBOT draws them (arXiv 2111.07832): rectangles of a log-uniform aspect in [0.3, 1 / 0.3], with an area between a
    ninth of the shorter side's square and what is missing; one is kept that adds patches and not too many. It ends
    where ten tries find none.

    Args:
        rows: of patches.
        columns: of patches.
        ratio: in (0, 1).
        drawn: where it takes its random numbers from.
    """
    mask = np.zeros((rows, columns), dtype=np.bool_)
    missing = int(rows * columns * ratio)
    smallest = (min(rows, columns) // 3) ** 2
    while missing > 0:
        for _ in range(10):
            area, aspect = drawn.uniform(smallest, missing), exp(drawn.uniform(log(0.3), log(1 / 0.3)))
            height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if not (0 < height < rows and 0 < width < columns):
                continue
            top, left = drawn.randint(0, rows - height), drawn.randint(0, columns - width)
            block = mask[top : top + height, left : left + width]
            added = int((~block).sum())
            if 0 < added <= missing:
                block[:] = True
                missing -= added
                break
        else:
            break
    return mask


class MaskedNetwork(MultiCropNetwork):
    """A ViT and a head over class and patch tokens; masked patches are replaced behind the projection."""

    def __init__(self, backbone: Any, head: nn.Module) -> None:
        """Keep both parts; the replacement starts at zero, and is the student's to learn."""
        super().__init__(backbone, head)
        self.masked_embed = nn.Parameter(torch.zeros(1, backbone.embed_dim))

    def tokens(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map images [N, 3, H, W] to tokens [N, 1 + L, width] after the final norm, the class token first.

        Args:
            images: Of one size.
            mask: bool [N, L] or [N, h, w], True where a patch is hidden.
        """

        def hide(_: nn.Module, __: Any, patches: Tensor) -> Tensor:
            assert mask is not None
            hidden = mask.view(*patches.shape[:-1], 1)
            return torch.where(hidden, self.masked_embed.to(patches.dtype), patches)

        backbone: Any = self.backbone
        handle = backbone.patch_embed.register_forward_hook(hide) if mask is not None else None
        try:
            tokens: Tensor = backbone.forward_features(images)
        finally:
            if handle is not None:
                handle.remove()
        prefix = backbone.num_prefix_tokens
        return torch.cat([tokens[:, :1], tokens[:, prefix:]], dim=1)

    @override
    def forward(self, views: Sequence[Tensor], mask: Tensor | None = None) -> Any:
        """Map V views to class rows [V·B, D] and, of the two global ones, patch rows [2·B, L, D]."""
        whole = self.tokens(together(views[:2]), mask)
        rows: Tensor = self.head(whole.flatten(0, 1)).view(*whole.shape[:2], -1)
        local = [self.head(self.tokens(together(views[2:]))[:, 0])] if len(views) > 2 else []
        return torch.cat([rows[:, 0], *local]), rows[:, 1:]


@dataclass(frozen=True, kw_only=True)
class SopOutputs(Outputs):
    """What the networks made of class and patch tokens."""

    student_patches_GLD: Tensor
    teacher_patches_GLD: Tensor
    masks_GL: NDArray[np.bool_]
    tokens_B: Tensor
    """int64, the patch of each image's second view that is stored."""

    @override
    def detached(self) -> Self:
        return replace(super().detached(), student_patches_GLD=self.student_patches_GLD.detach())


class Sop(Method[SopParameters]):
    """The method; its state are two memories."""

    Parameters = SopParameters
    paper = "Silva, Pedrini and Ramírez Rivera, Self-Organizing Visual Prototypes for Non-Parametric Representation "
    paper += "Learning, ICML 2025, arXiv 2505.21533"

    @classmethod
    @override
    def check(cls, config: PretrainConfig) -> None:
        sop = cast(SopParameters, config.parameters)
        for kind in ("class", "patch"):
            size, candidates, supports = (
                getattr(sop, f"{kind}_{key}") for key in ("memory_size", "candidates", "supports")
            )
            check_memory_size(size, config.batch_size)
            if candidates + supports - 1 > size:
                raise ValueError(f"sop.{kind}_memory_size: {size}, too few for {candidates} candidates and supports")
            if supports > 1 and candidates < 4:
                raise ValueError(f"sop.{kind}_candidates: {candidates}; half of them must be at least two prototypes")
        if sop.teacher_temp_warmup_epochs > config.epochs:
            raise ValueError(
                f"sop.teacher_temp_warmup_epochs: {sop.teacher_temp_warmup_epochs}, more than epochs = {config.epochs}"
            )

    @override
    def check_piece(self, num_images: int) -> None:
        if self.parameters.koleo_weight and num_images < 2:
            raise ValueError("in which KoLeo finds no neighbours; sop.koleo_weight=0 leaves it out")

    @override
    def head(self, in_dim: int) -> Projector:
        return Projector.of(self.config.head, in_dim, unit_norm=True)

    @override
    def network(self, backbone: Any) -> MaskedNetwork:
        if not (hasattr(backbone, "patch_embed") and getattr(backbone, "has_class_token", False)):
            raise RequestError(
                f"backbone.arch: {self.config.backbone.arch} has no patches and class token, as sop needs"
            )
        return MaskedNetwork(backbone, self.head(backbone.num_features))

    @override
    def start(self, device: torch.device) -> None:
        sizes = {"class": self.parameters.class_memory_size, "patch": self.parameters.patch_memory_size}
        self._memories = {
            kind: MemoryBank(
                size,
                self.config.head.out_dim,
                generator=seeded_generator(self.config.seed, f"{kind} memory"),
                device=device,
            )
            for kind, size in sizes.items()
        }

    @override
    def numbers(self, step: int, steps_per_epoch: int) -> dict[str, float]:
        temperature = linear_then_constant(
            step,
            start=self.parameters.teacher_temp_start,
            end=self.parameters.teacher_temp,
            warmup_steps=self.parameters.teacher_temp_warmup_epochs * steps_per_epoch,
        )
        return {"teacher_temp": temperature}

    @override
    def begin(self, step: Step) -> None:
        self._teacher_temp = step.numbers["teacher_temp"]
        self._draws = {kind: self._drawn(kind, memory.memory, step) for kind, memory in self._memories.items()}

    def _drawn(self, kind: str, memory_KD: Tensor, step: Step) -> list[Prototypes]:
        candidates, supports, draws = (
            getattr(self.parameters, f"{kind}_{key}") for key in ("candidates", "supports", "draws")
        )
        generator, made = step.generator(f"{kind} prototypes"), []
        for _ in range(draws):
            order_K = to_device(torch.randperm(len(memory_KD), generator=generator), memory_KD.device)
            selected_Q = None
            if supports > 1:
                selected_Q = to_device(
                    torch.randperm(candidates, generator=generator)[: candidates // 2], memory_KD.device
                )
            made.append(Prototypes.of(memory_KD, order_K, candidates, selected_Q, supports, self.parameters.smoothing))
        return made

    @override
    def forward(self, student: nn.Module, teacher: MultiCropNetwork, views: Sequence[Tensor], step: Step) -> SopOutputs:
        network = cast(MaskedNetwork, teacher)
        backbone: Any = network.backbone
        rows, columns = backbone.patch_embed.dynamic_feat_size(views[0].shape[-2:])
        drawn = random.Random(derived_seed(step.seed, "masks", step.number, step.rank, step.piece))
        masks_GHW = np.stack(
            [block_mask(rows, columns, self.parameters.mask_ratio, drawn) for _ in range(2 * len(views[0]))]
        )
        masks_GL = masks_GHW.reshape(len(masks_GHW), -1)
        generator = step.generator("stored tokens", step.rank, step.piece)
        tokens_B = torch.randint(masks_GL.shape[1], (len(views[0]),), generator=generator)
        with torch.no_grad():
            whole = network.tokens(together(views[:2]))
            teacher_rows: Tensor = network.head(whole.flatten(0, 1)).view(*whole.shape[:2], -1)
        student_ND, patches_GLD = student(views, to_device(torch.from_numpy(masks_GL), views[0].device))
        return SopOutputs(
            features_GD=whole[:, 0],
            teacher_GX=teacher_rows[:, 0],
            student_NX=student_ND,
            student_patches_GLD=patches_GLD,
            teacher_patches_GLD=teacher_rows[:, 1:],
            masks_GL=masks_GL,
            tokens_B=to_device(tokens_B, views[0].device),
        )

    @override
    def loss(self, outputs: Outputs, step: Step) -> dict[str, Tensor]:
        made = cast(SopOutputs, outputs)
        temps = self.parameters.student_temp, step.numbers["teacher_temp"]
        student_ND, memories = made.student_NX, self._memories
        with torch.autocast(student_ND.device.type, enabled=False):
            terms = {
                "class": class_loss(student_ND, made.teacher_GX, memories["class"].memory, self._draws["class"], temps),
                "patch": masked_patch_loss(
                    made.student_patches_GLD,
                    made.teacher_patches_GLD,
                    made.masks_GL,
                    memories["patch"].memory,
                    self._draws["patch"],
                    temps,
                ),
            }
        if self.parameters.koleo_weight:
            terms["koleo"] = self.parameters.koleo_weight * koleo_loss(student_ND[: len(made.teacher_GX)])
        return terms

    @override
    def keep(self, outputs: Outputs) -> dict[str, Tensor]:
        made = cast(SopOutputs, outputs)
        second_BLD = made.teacher_patches_GLD[len(made.teacher_patches_GLD) // 2 :]
        places = torch.arange(len(second_BLD), device=second_BLD.device)
        return {"class": made.second_teacher_view, "patch": second_BLD[places, made.tokens_B]}

    @override
    def after_step(self, kept: Mapping[str, Tensor]) -> None:
        for kind, memory in self._memories.items():
            memory.store(kept[kind])

    @override
    def indicators(self, outputs: Outputs) -> dict[str, float]:
        draw, memory_KD = self._draws["class"][0], self._memories["class"].memory
        shares_BQ = draw.assign(outputs.first_teacher_view.float(), memory_KD, self._teacher_temp)
        return assignment_entropies(shares_BQ.log())

    @override
    def state_dict(self) -> dict[str, Any]:
        return {kind: {**memory.state_dict()} for kind, memory in self._memories.items()}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for kind, memory in self._memories.items():
            memory.load_state_dict(state[kind])

    @classmethod
    @override
    def official_state(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{kind}_memory_bank": official_memory(memory) for kind, memory in state.items()}


METHOD = Sop
