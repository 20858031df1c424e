"""`FILE.py:FUNCTION`: an encoder of one's own; the only form of `--model` that runs the user's code, and says so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import sha256_file, sha256_of
from massl_bench.models.card import ModelCard
from massl_bench.models.source import FOR_CHECKPOINTS, Opening, Reference, Source
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


def _parts(text: str) -> tuple[Path, str] | None:
    file, colon, function = text.rpartition(":")
    return (Path(file).expanduser(), function) if colon and file.endswith(".py") and function.isidentifier() else None


def _open(reference: Reference) -> Opening:
    reference.check_only("code", (*FOR_CHECKPOINTS, "img_size", "pooling", "preprocessing"))
    parts = _parts(reference.text)
    assert parts is not None
    file, function = parts
    if not file.is_file():
        raise RequestError(f"model {reference.text}: no such file: {file}")

    def build(_known: ModelCard | None) -> Encoder:
        return _encoder(file, function, reference.text)

    return Opening(build=build, name=reference.text, files=(file,))


def _encoder(file: Path, function: str, text: str) -> Encoder:
    """Returns what the function makes, under an identity that the file is a part of."""
    from massl_bench.models.encoder import Encoder

    where = f"model {text}"
    made = _called(file, function, where)
    if isinstance(made, tuple) and len(made) == 2:
        made = Encoder.from_module(made[0], name=f"{file.stem}.{function}", transform=made[1])
    if not isinstance(made, Encoder):
        raise RequestError(
            f"{where}: expected {function}() to return massl_bench.Encoder, or (module, transform); found "
            f"{type(made).__name__}"
        )
    sha256 = sha256_file(file)
    card = made.card.model_copy(
        update={
            "reference": text,
            "weights_origin": f"what {function}() of {file.name} makes (code of yours, sha256 {sha256[:12]})",
            "network_sha256": sha256_of([made.card.network_sha256, sha256, function]),
        }
    )
    # No files: what the code reads is known to nobody, so that its card is not remembered.
    return Encoder(made.network, card)


def _called(file: Path, function: str, where: str) -> Any:
    """Runs the file, then the function."""
    name = f"massl_bench_model_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where classes look for their source, and pickles for their classes
    try:
        spec.loader.exec_module(module)
        call = getattr(module, function, None)
        if not callable(call):
            raise RequestError(f"{where}: no function {function} in {file}")
        return call()
    except RequestError:
        raise
    except Exception as error:  # code of the user's
        raise RequestError(f"{where}: {type(error).__name__}: {one_line(error)}") from error


def _claims(text: str, _registry: Registry) -> bool:
    return _parts(text) is not None


SOURCE = Source(
    name="python_file",
    usage="FILE.py:FUNCTION",
    help="What a function of yours returns: an Encoder, or (module, transform). Runs the file.",
    open=_open,
    prefixed=False,
    claims=_claims,
    order=1,
)
