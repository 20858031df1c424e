"""What a pickle may ask for by name: nothing of it is ever imported, so this is a rule for files, not the lock.

The machine that reads pickles (`machine.py`) calls no code of others, whatever a file names. But a file that names
`os.system` is an attack, and nobody should be told that its weights are fine: such files are refused whole. What
trainers leave in their checkpoints (optimisers, configurations, paths, functions that select parameters) becomes
inert.
"""

from __future__ import annotations

import re
import sys

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")

_OTHER_NAMES = (
    ("__builtin__", "builtins"),
    ("copy_reg", "copyreg"),
    ("numpy._core", "numpy.core"),
    ("pathlib._local", "pathlib"),
    ("torch.cuda", "torch"),
)
"""Modules that were called otherwise in another release: (before or after, the one that is used here)."""

INERT = frozenset(
    [
        *("builtins." + name for name in ("object", "complex", "range", "slice", "type", "getattr")),
        *("collections." + name for name in ("UserDict", "UserList", "UserString", "ChainMap")),
        *("datetime." + name for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *("decimal.Decimal", "fractions.Fraction", "functools.partial", "logging.getLogger", "random.Random"),
        *("pathlib." + name for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
        *("pathlib.WindowsPath", "re._compile", "time.struct_time", "types.MappingProxyType", "types.SimpleNamespace"),
        *("uuid.SafeUUID", "uuid.UUID"),
        *("numpy.random._pickle." + name for name in ("__generator_ctor", "__bit_generator_ctor")),
        *("numpy.random._pickle.__randomstate_ctor", "numpy.ndarray", "numpy.generic", "numpy.str_", "numpy.bytes_"),
        *("torch.strided", "torch.sparse_coo", "torch.sparse_csr", "torch.sparse_csc", "torch.sparse_bsr"),
        *("torch.sparse_bsc", "torch._mkldnn", "torch.jagged", "torch.contiguous_format", "torch.preserve_format"),
        *("torch.channels_last", "torch.channels_last_3d", "torch.per_tensor_affine", "torch.per_tensor_symmetric"),
        *("torch.per_channel_affine", "torch.per_channel_symmetric", "torch.per_channel_affine_float_qparams"),
    ]
)
"""Of Python's, numpy's and torch's own names, those that are state and no code, and that are not read as values."""

_NUMPY_STATE = "numpy.random.bit_generator.__pyx_unpickle_"

_GONE_FROM_PYTHON = frozenset({"asyncore", "asynchat", "commands", "distutils", "exceptions", "imp", "popen2", "smtpd"})

_CODE = frozenset({"cloudpickle", "dill", "IPython", "joblib", "nose", "numba", "pip", "pkg_resources", "setuptools"})
"""Libraries whose pickles are code, or that install it."""

_TORCH_STATE = (
    "torch.nn.",
    "torch.optim.",
    "torch.distributed.",
    "torch.distributions.",
    "torch.amp.",
    "torch.utils.data.",
    "torch.ao.",
)
_TORCH_CODE = (
    *("torch.distributed.launcher", "torch.distributed.elastic", "torch.distributed.rpc", "torch.distributed.run"),
    *("torch.nn.modules.lazy._load", "torch.ao.ns"),
)


def normal_module(module: str) -> str:
    """Returns the one name of a module that had several."""
    for other, used in _OTHER_NAMES:
        if module == other or module.startswith(other + "."):
            return used + module.removeprefix(other)
    return module


def is_function(name: str) -> bool:
    """Returns whether a name is that of a function by custom: its last part has no capital in front."""
    return not name.rpartition(".")[2].lstrip("_")[:1].isupper()


def makes_state(qualified: str) -> bool:
    """Returns whether what a call of this name makes is state: it is a class, or a function that is known."""
    return not is_function(qualified) or qualified in INERT or qualified.startswith(_NUMPY_STATE)


def is_inert(module: str, name: str) -> bool:
    """Returns whether what a pickle names is plausible state of a training, which a stand-in can replace."""
    qualified = f"{module}.{name}"
    if qualified in INERT or qualified.startswith(_NUMPY_STATE):
        return True
    if not _IDENTIFIER.fullmatch(qualified) or len(qualified) > 300:
        return False
    root = module.partition(".")[0]
    if root in ("numpy", "typing", "numbers"):
        return _is_type(module, name)
    if root == "torch":
        return _is_torch_state(qualified)
    python = root in sys.stdlib_module_names or root in _GONE_FROM_PYTHON
    # `Class.method` and deeper is a way from a harmless name to code.
    return not python and root not in _CODE and all(not is_function(part) for part in name.split(".")[:-1])


def _is_type(module: str, name: str) -> bool:
    if module == "numpy":
        return re.fullmatch(r"(bool|u?int|float|complex|longdouble)[0-9]*_?", name) is not None
    known = module in ("typing", "numbers", "numpy.dtypes") or module.startswith("numpy.random")
    return known and "." not in name and not is_function(name)


def _is_torch_state(qualified: str) -> bool:
    if qualified.startswith(_TORCH_CODE):
        return False
    if qualified.startswith(_TORCH_STATE):
        return True
    place, _, name = qualified.rpartition(".")
    return place in ("torch", "torch._tensor", "torch.storage") and not is_function(name)
