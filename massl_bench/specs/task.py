"""A task: one protocol with all its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from massl_bench.core.files import sha256_of
from massl_bench.core.kinds import DatasetKind
from massl_bench.core.settings import Pooling, PrecisionBar, PreprocessingOverride
from massl_bench.core.strict import Listed, StrictModel

_YOUNGER = frozenset({"own_size_below", "pooling", "copies"})
"""Keys of a task that count in its hash only where they are given."""


class TaskSpec(StrictModel):
    """WHAT is measured: one protocol setting. A changed number bumps `version`."""

    name: str
    version: int = Field(ge=1)
    protocol: str
    """The module of `massl_bench.protocols` that computes it."""
    kinds: Listed[tuple[DatasetKind, ...]] = Field(min_length=1)
    """The kinds of dataset that it applies to."""
    headline: str
    """The metric that a leaderboard shows."""
    seed: int = Field(ge=0)
    params: dict[str, Any]
    """Every number of the protocol; checked by the protocol module's `Params`."""
    preprocessing: PreprocessingOverride | None = None
    own_size_below: int | None = Field(default=None, gt=0)
    """Models whose own images are smaller, in pixels, keep their size under `preprocessing`: 32 × 32 pixels are what
    `pixels` is, and a ViT of patches made for tiny images would have thousands of tokens."""
    pooling: Pooling | None = None
    """What becomes the feature, where it is not the model's own; a network without tokens keeps its own."""
    copies: str | None = None
    """For images that nobody made copies of: the file of `tasks/copies/` that says how the suite makes them."""
    lower_precision: PrecisionBar | None = None
    """Where features in bf16, fp16 or TF32 enter the task's table; None: such a run departs from the task."""
    summary: str
    citation: str

    def with_params(self, changes: Mapping[str, Any]) -> TaskSpec:
        """Returns the task with other values of some parameters; where it has a list, one value is a list of one."""
        params = dict(self.params)
        for name, value in changes.items():
            several = list(value) if isinstance(value, tuple) else value
            one_of_list = isinstance(self.params[name], list) and not isinstance(several, list)
            params[name] = [several] if one_of_list else several
        return self.model_copy(update={"params": params})

    @property
    def spec_hash(self) -> str:
        """Hex sha256 of all that can move a result: not the texts for people, nor what does not touch fp32."""
        content = self.model_dump(mode="json", exclude={"summary", "citation", "lower_precision"})
        # Younger than the first tasks, whose hashes do not know of them.
        return sha256_of({key: value for key, value in content.items() if key not in _YOUNGER or value is not None})
