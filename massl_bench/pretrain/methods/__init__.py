"""The pretraining methods: one module each, found by its name, here or in an installed plugin.

A module `NAME.py` defines `METHOD`, a subclass of `Method`. Its name is what a preset says as `method`, and the name of
the section that holds its parameters. The trainer and all that is around it know a method by this interface alone.

Shapes: V views of B images, N = V·B student rows, G = 2·B teacher rows. Rows are view-major; views 0 and 1 are the
global ones, and the only ones that the teacher sees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from massl_bench.core.errors import SpecError, unknown_name
from massl_bench.core.strict import StrictModel
from massl_bench.pretrain.config import PretrainConfig
from massl_bench.pretrain.network import MultiCropNetwork, together
from massl_bench.pretrain.seeds import seeded_generator
from massl_bench.specs.found import part_modules
from massl_bench.specs.plugins import METHODS_GROUP, declared

Own = TypeVar("Own", bound=StrictModel)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step as a method sees it; on every rank the same but for rank and piece."""

    number: int
    """From 0."""
    seed: int
    """Of the training."""
    rank: int = 0
    piece: int = 0
    """Of the accumulation."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What `Method.numbers` returned for it."""

    def generator(self, purpose: str, *place: int) -> torch.Generator:
        """Returns a generator on the CPU that starts from the seed, the purpose, this step's number and a place.

        What must be alike on all ranks takes none; what must not be takes `rank` and `piece`.
        """
        return seeded_generator(self.seed, purpose, self.number, *place)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the networks made of one piece of a batch."""

    features_GD: Tensor
    """Of the teacher's backbone; no gradient."""
    teacher_GX: Tensor
    """What the teacher's head made of them; no gradient."""
    student_NX: Tensor
    """The student's, with its gradient."""

    def detached(self) -> Self:
        """Returns the same without the student's gradient."""
        return replace(self, student_NX=self.student_NX.detach())

    @property
    def first_teacher_view(self) -> Tensor:
        """The teacher's rows [B, X] of the first global view."""
        return self.teacher_GX[: len(self.teacher_GX) // 2]

    @property
    def second_teacher_view(self) -> Tensor:
        """The teacher's rows [B, X] of the second global view."""
        return self.teacher_GX[len(self.teacher_GX) // 2 :]


class Method(ABC, Generic[Own]):
    """One pretraining method on one rank.

    `head` and `loss` must be given; all else has a meaning that fits many methods. A step calls `begin`; for each piece
    `forward`, `loss` and `keep`; then `after_backward`, `indicators` where a line is logged, and `after_step`.

    Args:
        config: of the training, checked by `check`.
    """

    Parameters: ClassVar[type[StrictModel]]
    """The section of the configuration that has the method's name. No number of a publication is a default."""
    paper: ClassVar[str]
    """What the manifests of its weights cite."""
    teacher_first: ClassVar[bool] = False
    """Whether the teacher moves before the optimizer's step, towards the student as it was, and not after it."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.parameters = cast(Own, config.parameters)

    @classmethod
    def check(cls, config: PretrainConfig) -> None:
        """Raises `ValueError` where its parameters do not fit each other or the rest of the configuration."""

    @classmethod
    def attention_problem(cls, config: PretrainConfig) -> str:
        """Returns why the loss cannot be computed by attention, as `compute.objective` allows; "" where it can."""
        return f"the method {config.method} has no objective of that kind"

    def check_piece(self, num_images: int) -> None:
        """Raises `ValueError` where a piece of so many images is too small for the loss."""

    @abstractmethod
    def head(self, in_dim: int) -> nn.Module:
        """Makes what follows the backbone, with weights from torch's current generator: [N, in_dim] to [N, X]."""

    def network(self, backbone: Any) -> MultiCropNetwork:
        """Puts the head behind a backbone; student and teacher are made alike."""
        return MultiCropNetwork(backbone, self.head(backbone.num_features))

    def start(self, device: torch.device) -> None:
        """Makes the state before the first step, on the device: a function of the seed, the same on every rank."""

    def numbers(self, step: int, steps_per_epoch: int) -> dict[str, float]:
        """Returns the scheduled numbers of a step, by name; the log shows them."""
        del step, steps_per_epoch
        return {}

    def begin(self, step: Step) -> None:
        """Draws what all pieces of a step share."""

    def forward(self, student: nn.Module, teacher: MultiCropNetwork, views: Sequence[Tensor], step: Step) -> Outputs:
        """Runs the networks, under the training's autocast.

        Args:
            student: the network, or DistributedDataParallel around it: it is called once.
            teacher: without gradients.
            views: V of them, each [B, 3, S, S].
            step: with its piece.
        """
        del step
        with torch.no_grad():
            features_GD = teacher.backbone(together(views[:2]))
            teacher_GX = teacher.head(features_GD)
        return Outputs(features_GD=features_GD, teacher_GX=teacher_GX, student_NX=student(views))

    @abstractmethod
    def loss(self, outputs: Outputs, step: Step) -> dict[str, Tensor]:
        """Returns the terms of the loss by name, scalars in float32; their sum is what is minimised.

        Right where gradients are averaged over ranks.
        """

    def after_backward(self, student: nn.Module, step: Step) -> None:
        """Changes gradients of the student before they are clipped; `None` keeps a parameter as it is."""

    def keep(self, outputs: Outputs) -> dict[str, Tensor]:
        """Returns rows of a piece that `after_step` needs, by name; no gradient."""
        del outputs
        return {}

    def after_step(self, kept: Mapping[str, Tensor]) -> None:
        """Changes the state when the networks have moved.

        Args:
            kept: what `keep` returned, the rows of all pieces of this rank behind one another.
        """

    def indicators(self, outputs: Outputs) -> dict[str, float]:
        """Returns signs of collapse by name, beside the trainer's own; before the state changes."""
        del outputs
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as a checkpoint keeps it: tensors (no copies) and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned, on the device.

        Raises:
            ValueError: It does not fit; `KeyError` and `RuntimeError` mean the same.
        """

    @classmethod
    def official_state(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a state in the layout of the authors' checkpoints, where they have one."""
        del state
        return {}


def names() -> list[str]:
    """Returns the names of all methods: those of this package, and those of installed plugins."""
    return sorted(part_modules(__name__, METHODS_GROUP))


def load(name: str) -> type[Method[Any]]:
    """Returns the method of that name.

    Raises:
        RequestError: There is none; the text has near names.
        SpecError: A plugin is broken; the text names its package.
    """
    modules = part_modules(__name__, METHODS_GROUP)
    if name not in modules:
        raise unknown_name("method", name, modules)
    found, who = modules[name].load(), modules[name].who
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise SpecError(f"{who}: METHOD is {found!r}; expected a subclass of {__name__}.Method")
    if name in PretrainConfig.model_fields:
        raise SpecError(f"{who}: {name} is a key of every configuration; give the method another name")
    return found


def package_of(name: str) -> dict[str, str]:
    """Returns the package that brings a method and its version; nothing for a method of this package."""
    return {plugin.package: plugin.version for plugin in declared(METHODS_GROUP) if plugin.name == name}
