"""Checkpoints of others, read as bytes: described whole, loaded in part, never executed.

`open_checkpoint(file)` says what a file holds; `state_dict(value, where)` takes a part of it for a set of weights, and
`load(tensors)` reads the values of those that are wanted, and no others.
"""

from massl_bench.models.reading.bounds import shown
from massl_bench.models.reading.containers import verify_zip
from massl_bench.models.reading.describing import described
from massl_bench.models.reading.file import CheckpointFile, extra_state, load_all, open_checkpoint, state_dict
from massl_bench.models.reading.tensors import MEASURABLE, LazyTensor, StandIn, load, sha256_of_tensors

__all__ = [
    "MEASURABLE",
    "CheckpointFile",
    "LazyTensor",
    "StandIn",
    "described",
    "extra_state",
    "load",
    "load_all",
    "open_checkpoint",
    "sha256_of_tensors",
    "shown",
    "state_dict",
    "verify_zip",
]
