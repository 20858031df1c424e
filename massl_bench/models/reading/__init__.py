"""Checkpoints of others, read as bytes: described whole, loaded in part, never executed.

`open_checkpoint(file)` says what a file holds; `state_dict(value, where)` takes a part of it for a set of weights, and
`load(tensors, where)` reads the values of those that are wanted, and no others.
"""

from massl_bench.models.reading.archive import verify_zip
from massl_bench.models.reading.bounds import shown
from massl_bench.models.reading.describing import described
from massl_bench.models.reading.file import CheckpointFile, open_checkpoint
from massl_bench.models.reading.series import INDEX_SUFFIX, inside
from massl_bench.models.reading.states import extra_state, load_all, state_dict
from massl_bench.models.reading.tensors import MEASURABLE, LazyTensor, StandIn, load, sha256_of_tensors

__all__ = [
    "INDEX_SUFFIX",
    "MEASURABLE",
    "CheckpointFile",
    "LazyTensor",
    "StandIn",
    "described",
    "extra_state",
    "inside",
    "load",
    "load_all",
    "open_checkpoint",
    "sha256_of_tensors",
    "shown",
    "state_dict",
    "verify_zip",
]
