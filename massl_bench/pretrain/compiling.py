"""torch.compile, as this package calls it."""

from __future__ import annotations

_SHAPES = 64
"""For how many shapes a function is compiled. torch's own limit is 8, and whoever trains with a few sizes of batches in
one process would from then on run without compiled kernels, and be told by one line among others."""


def allow_many_shapes() -> None:
    """Raises torch's limit, in this process."""
    from torch._dynamo import config  # a second of imports, for those who compile

    config.recompile_limit = max(config.recompile_limit, _SHAPES)
