"""What an adapter is: one published layout of checkpoints, described so that a file of it is loaded exactly.

An adapter says by which names and keys its layout is known, which set of weights the authors evaluate and which twins
lie beside it, what is left out and what that is, and what network the rest is. Everything that holds for all layouts
(wrappers' prefixes, strict loading, what the user chose, the line that says it all) is done around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from torch import Tensor, nn

from massl_bench.core.model_settings import FeatureName, ModelSettings
from massl_bench.core.settings import Preprocessing
from massl_bench.models.content import Content, StateDict

Tensors = dict[str, Tensor]

Rename = Callable[[Tensors, Any], Mapping[str, Tensor]]
"""Makes the tensors of a file those of a network: called with (tensors, network)."""


class Rank(IntEnum):
    """How sure an adapter's mark is: of those that match a file the highest rank has it, and two there are an error."""

    PLAIN = 0
    """Tensor names of a common network alone: no layout of a method."""
    NAMES = 1
    """Tensor names or prefixes that only this layout has."""
    KEYS = 2
    """Keys at the top that only this layout has."""
    KEYS_AND_NAMES = 3
    """Such keys, and under them names that only this layout has."""
    DECLARED = 4
    """The file, or a configuration beside it, says what it is."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One set of a backbone's tensors in a file.

    Attributes:
        name: by which `--checkpoint-key` chooses it.
        key: where its state dict lies: keys from the top, `/` between them; empty for a file that is one itself.
        prefix: before each of its names, with the dot at its end; empty for none.
        what: for people: `the teacher`, `the online encoder`.
    """

    name: str
    key: str = ""
    prefix: str = ""
    what: str = "the backbone"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A backbone's tensors, found in a file by an adapter: what its `network` goes by.

    Attributes:
        tensors: under the file's names, without prefix and without what is left out.
        content: the whole file.
        weights: which set they are.
        settings: what the user said of the model.
        where: for messages.
    """

    tensors: StateDict
    content: Content
    weights: Weights
    settings: ModelSettings
    where: str

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape; empty where it is not there."""
        return tuple(self.tensors[name].shape) if name in self.tensors else ()


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that a file's tensors are, and how its authors evaluate it.

    Attributes:
        architecture: for people, and in records: timm's name, or one that says the dimensions.
        build: makes it, without a classifier, with any values in its tensors; called under `torch.device("meta")` too.
        feature: what its authors evaluate; None for what the network itself returns.
        own_feature: what the network itself returns, of these; None for something else.
        preprocessing: of the authors' evaluation, at the size of this network.
        preprocessing_origin: where it was read, or which rule it follows.
        rename: makes the tensors of the file those of the network; None where they are.
        origins: where `architecture`, `heads`, `pooling`, `size` came from, for people.
        notes: what a reader of the numbers should know.
        licence: where the file itself says it.
    """

    architecture: str
    build: Callable[[], nn.Module]
    feature: FeatureName | None = None
    own_feature: FeatureName | None = None
    preprocessing: Preprocessing
    preprocessing_origin: str
    rename: Rename | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    licence: str | None = None


WeightsOf = tuple[Weights, ...] | Callable[[Content], tuple[Weights, ...]]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One layout; a module of `massl_bench.models.adapters`, or of a plugin, has one as `ADAPTER`.

    Attributes:
        name: the module's.
        summary: one line: whose files these are.
        read_in: where the layout was read: repository, revision, files.
        rank: how sure its mark is.
        matches: whether a file has this layout, by its keys and names alone: whole names and whole parts of names.
        weights: the sets of weights that such a file can hold, the one that the authors evaluate first; a twin is
            taken only where it is asked for.
        inside: what lies among the backbone's tensors and is no part of it: what it is, by name, or by prefix (with
            the dot at its end); `*` stands for one part of a name.
        beside: likewise, in the state dict, outside the backbone's prefix.
        others: keys at the top that hold other tensors (`optimizer` and its kin are known everywhere).
        network: what network the tensors are.
        licence: of the weights that the authors publish in this layout.
    """

    name: str
    summary: str
    read_in: str
    rank: Rank
    matches: Callable[[Content], bool]
    weights: WeightsOf
    inside: Mapping[str, str] | Callable[[Content], Mapping[str, str]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    network: Callable[[Found], Network]
    licence: str = "unknown"

    def sets(self, content: Content) -> tuple[Weights, ...]:
        """Returns the sets of weights that a file of this layout can hold, the evaluated one first."""
        return self.weights(content) if callable(self.weights) else self.weights
