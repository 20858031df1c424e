"""A model by reference: its identity, and its encoder when that is needed.

The identity (hash of the weights, architecture, preprocessing) of a model that was loaded once is remembered under the
size and modification time of its file, so that a run whose features are cached opens no model file and imports neither
torch nor timm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.files import read_memo, sha256_file, sha256_of, stat_signature, write_memo
from massl_bench.core.settings import ClassGem, LastBlocks, Pooling, Preprocessing, PreprocessingOverride
from massl_bench.core.strict import StrictModel
from massl_bench.models.fetch import CHECKPOINT_SUFFIXES, weights_file
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder

PREFIXES = ("timm", "hf-hub", "torchvision", "random")


class ModelCard(StrictModel):
    """What a model is; enough for a record and for the key of its features."""

    name: str
    """As a leaderboard shows it, and (made file-safe) its folder of results."""
    reference: str
    """What `--model` was given."""
    architecture: str
    pooling: str
    """What becomes the feature: `class token after the final norm`, `pooled map`, …"""
    embed_dim: int
    num_blocks: int | None
    """Of a ViT whose feature is its class token, so that tokens of its blocks can be read; None for other networks."""
    token_dim: int | None
    """Width of the class token and the patch tokens; None for a network that has no such tokens."""
    num_parameters: int
    weights_sha256: str
    """Of the weights' file, or of the tensors where there is no file of their own."""
    weights_hash_of: Literal["file", "tensors", "nothing"]
    weights_origin: str
    """Where the weights come from, for people."""
    preprocessing: Preprocessing
    preprocessing_origin: str
    """Which rule the preprocessing came from."""
    licence: str = "unknown"

    def pooled(self, pooling: Pooling | None) -> ModelCard:
        """Returns the card under a task's pooling; a network without tokens keeps its own, and the card says which."""
        if isinstance(pooling, ClassGem) and self.token_dim is not None:
            return self.model_copy(update={"pooling": pooling.describe(), "embed_dim": 2 * self.token_dim})
        if isinstance(pooling, LastBlocks) and self.num_blocks is not None:
            count, mean_patch = self.last_blocks(pooling)
            text = f"class tokens of the last {count} blocks" if count > 1 else "class token"
            text += " and mean of the patch tokens, after the final norm" if mean_patch else ", after the final norm"
            return self.model_copy(update={"pooling": text, "embed_dim": (count + mean_patch) * self.embed_dim})
        return self

    def last_blocks(self, pooling: LastBlocks) -> tuple[int, bool]:
        """Returns (number of blocks whose class tokens are taken, whether the mean patch token follows)."""
        assert self.num_blocks is not None
        return (1, True) if self.embed_dim >= pooling.wide else (min(pooling.num_blocks, self.num_blocks), False)

    def prepared(self, override: PreprocessingOverride | None, own_size_below: int | None) -> Preprocessing:
        """Returns the preprocessing under a task's override; a model of images below a size keeps that of its own."""
        if override is None:
            return self.preprocessing
        own = self.preprocessing.crop
        if own_size_below is not None and own is not None and own < own_size_below:
            override = override.model_copy(update={"resize": None, "crop": None})
        return override.apply(self.preprocessing)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a reference is resolved."""

    cache_dir: Path
    arch: str | None = None
    """A timm architecture, for a checkpoint whose shapes do not tell everything (the number of heads)."""
    download: bool = True


@dataclass(kw_only=True)
class Model:
    """A model whose identity is known.

    Attributes:
        card: what it is.
        build: loads the encoder on the CPU.
    """

    card: ModelCard
    build: Callable[[], Encoder]

    def encoder(self, device: str) -> Encoder:
        """Returns the encoder in evaluation mode on `device`; loads it at each call."""
        return self.build().to(device)


def open_model(reference: str, registry: Registry, options: ModelOptions) -> Model:
    """Returns the model of a reference, in any of the forms that `--model` takes.

    Raises:
        RequestError: The name is unknown, the checkpoint cannot be read safely, its tensors do not fit, or an
            architecture is given of what is no checkpoint.
        MissingDataError: Weights are not on this machine and could not, or may not, be downloaded.
    """
    prefix, _, rest = reference.partition(":")
    named = reference == "pixels" or (prefix in PREFIXES and rest)
    if options.arch is not None and (named or reference in registry.manifests):
        what = "name" if named else "manifest"
        raise RequestError(f"--arch {options.arch}: is for a checkpoint; of {reference} its {what} says it")
    if reference == "pixels":
        from massl_bench.models.pixels import pixels_card

        return Model(card=pixels_card(), build=_pixels)
    if prefix in PREFIXES and rest:
        return _open_library(prefix, rest, reference, options)
    if reference in registry.manifests:
        return _open_manifest(registry.manifest(reference), registry.manifests[reference], options)
    path = Path(reference).expanduser()
    if path.exists():
        return _open_checkpoint(_checkpoint_file(path), reference, options)
    if path.suffix in CHECKPOINT_SUFFIXES or "/" in reference:
        raise RequestError(f"model {reference}: no such file; expected a checkpoint, {_kinds()}")
    raise unknown_name("model", reference, ["pixels", *registry.manifests], f"or a checkpoint file, {_kinds()}")


def _kinds() -> str:
    return "timm:NAME, hf-hub:ORG/NAME, torchvision:NAME[@FILE], random:TIMM_NAME"


def _pixels() -> Encoder:
    from massl_bench.models.pixels import pixels_encoder

    return pixels_encoder()


def _checkpoint_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise RequestError(f"model {path}: expected a checkpoint, or a directory with one; it is neither")
    found = sorted(entry for entry in path.iterdir() if entry.suffix in CHECKPOINT_SUFFIXES)
    if len(found) != 1:
        names = ", ".join(entry.name for entry in found[:5]) or "none"
        raise RequestError(f"model {path}: expected one checkpoint in this directory, found {names}; name the file")
    return found[0]


def _open_library(prefix: str, rest: str, reference: str, options: ModelOptions) -> Model:
    """Opens a model whose architecture, and maybe weights, a library holds."""
    file = None
    if prefix == "torchvision" and "@" in rest:
        file = Path(rest.partition("@")[2]).expanduser()
        if not file.is_file():
            raise RequestError(f"model {reference}: no such file: {file}")

    def build() -> Encoder:
        if prefix == "torchvision":
            from massl_bench.models.torchvision_models import build_torchvision

            return build_torchvision(rest.partition("@")[0], file, reference, options.download)
        from massl_bench.models.timm_models import build_timm

        return build_timm(prefix, rest, reference, options.download)

    return _remembered(build, reference, file, {"arch": None}, options)


def _open_checkpoint(file: Path, reference: str, options: ModelOptions) -> Model:
    def build() -> Encoder:
        from massl_bench.models.checkpoints import build_checkpoint

        return build_checkpoint(file, reference, options.arch)

    return _remembered(build, reference, file, {"arch": options.arch}, options)


def _open_manifest(manifest: ManifestSpec, path: Path, options: ModelOptions) -> Model:
    file = weights_file(manifest, path, options.cache_dir)

    def build() -> Encoder:
        from massl_bench.models.checkpoints import build_checkpoint

        found = sha256_file(file)
        if found != manifest.sha256:
            raise RequestError(
                f"model {manifest.name}: {file} has sha256 {found}, its manifest {path} says {manifest.sha256}"
            )
        encoder = build_checkpoint(file, manifest.name, manifest.arch, manifest.checkpoint_key)
        changes: dict[str, object] = {"name": manifest.name, "licence": manifest.licence}
        if manifest.preprocessing is not None:
            changes |= {"preprocessing": manifest.preprocessing, "preprocessing_origin": "the model's manifest"}
        return encoder.with_card(encoder.card.model_copy(update=changes))

    return _remembered(build, manifest.name, file, manifest.model_dump(mode="json"), options)


def _remembered(
    build: Callable[[], Encoder], reference: str, file: Path | None, details: dict[str, object], options: ModelOptions
) -> Model:
    """Returns the model with its remembered card, or loads it once to learn the card."""
    versions = [metadata.version(name) for name in ("massl-bench", "torch", "timm", "torchvision")]
    named = [str(file.resolve()), *stat_signature(file)] if file is not None else []
    key = sha256_of([reference, named, details, versions])
    memo_dir = options.cache_dir / "models"
    memo = read_memo(memo_dir, key)
    if memo is not None and _files_unchanged(memo.get("files")):
        try:
            card = ModelCard.model_validate_json(memo["card"])
        except (ValidationError, KeyError):
            pass  # written by another version: the model is loaded and the memo rewritten
        else:
            return Model(card=card, build=build)
    encoder = build()
    files = [file] if file is not None else encoder.files
    if encoder.card.weights_hash_of != "tensors" or encoder.reproducible:
        write_memo(
            memo_dir,
            key,
            {
                "card": encoder.card.model_dump_json(),
                "files": [[str(path), *stat_signature(path)] for path in files],
            },
        )
    loaded: list[Encoder] = [encoder]

    def build_or_take() -> Encoder:
        return loaded.pop() if loaded else build()

    return Model(card=encoder.card, build=build_or_take)


def _files_unchanged(files: object) -> bool:
    if not isinstance(files, Sequence):
        return False
    try:
        return all(tuple(signature) == stat_signature(Path(path)) for path, *signature in files)
    except (OSError, TypeError, ValueError):
        return False
