"""A model's weights as one file for others: safetensors that describes itself, or the layout of MaSSL's authors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from massl_bench.core.errors import CellError, MasslBenchError, RequestError, one_line
from massl_bench.core.files import (
    canonical_json,
    scratch_directory,
    sha256_file,
    write_atomic,
)
from massl_bench.core.wording import asked
from massl_bench.models.checkpoints import build_checkpoint
from massl_bench.models.encoder import Encoder
from massl_bench.models.networks.features import WORDS
from massl_bench.models.open import open_model
from massl_bench.models.source import ModelOptions
from massl_bench.models.sources import sources
from massl_bench.models.weights.metadata import KEY, WeightsMetadata, read_metadata, save_weights
from massl_bench.models.weights.readme import model_card, shell
from massl_bench.models.weights.saving import save_archive
from massl_bench.models.weights.timm_export import WEIGHTS, write_timm_directory
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

FileLayout = Literal["safetensors", "massl"]

LEFT_OUT_OF_OFFICIAL = (
    "There is one set of weights: `teacher` and `student` hold the same tensors.",
    "There is no projector (`head.`): it is a part of pretraining, not of the representation.",
    "There is no `optimizer`, `memory_bank`, `fp16_scaler`, `epoch` or `args`: training cannot go on from this file.",
)
"""What a file of the trainer has, and one that was exported from a model's weights has not."""

_PREPROCESSING = (
    f"The preprocessing stands under the key `{KEY}`, which the authors' tools do not read: who reads the file with "
    "them must know it."
)

_SIDE = 224
"""Pixels of the images that prove an export, where a model crops none: whole patches of 7, 8, 14, 16, 28 or 32."""


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What is exported: the encoder, and what its card does not tell.

    Attributes:
        encoder: on the CPU, from a checkpoint file.
        arch: the timm architecture that loading it was told; None where the tensors' shapes tell it.
        citation: of the weights.
        training: what the manifest tells of the training.
    """

    encoder: Encoder
    arch: str | None
    citation: str
    training: Mapping[str, Any]


def open_for_export(reference: str, registry: Registry, options: ModelOptions) -> ExportedModel:
    """Returns a manifest's model, or a checkpoint's.

    Raises:
        RequestError: The reference is of another kind, or as `open_model`.
        MissingDataError: As `open_model`.
    """
    prefixes = {source.prefix for source in sources().values() if source.prefixed}
    if reference == "pixels" or reference.partition(":")[0] in prefixes:
        raise RequestError(
            f"model {reference}: expected a manifest's name or a checkpoint: its weights are no file here"
        )
    manifest = registry.manifest(reference) if reference in registry.manifests else None
    encoder = open_model(reference, registry, options).encoder("cpu")
    own = read_metadata(encoder.files[0])
    told = manifest.arch if manifest is not None else options.settings.arch
    return ExportedModel(
        encoder=encoder,
        arch=own.arch if told is None and own is not None else told,
        citation=manifest.citation if manifest is not None else own.citation if own is not None else "unknown",
        training=manifest.training if manifest is not None else {},
    )


def official_weights(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns `student` and `teacher` as the authors' trainer saves them: the student as under DistributedDataParallel.

    Args:
        student: by name, with the prefixes `backbone.` and `head.`.
        teacher: likewise.
    """
    return {"student": {f"module.{name}": tensor for name, tensor in student.items()}, "teacher": dict(teacher)}


def export_weights(
    model: ExportedModel,
    file: Path,
    layout: FileLayout,
    training: Mapping[str, Any] | None = None,
    results: Sequence[EvalResult] = (),
) -> None:
    """Writes the weights and, beside them, a model card; proves before that `--model FILE` gives the same features.

    Args:
        model: what to export.
        file: replaced where it is there; its suffix is that of its layout.
        layout: of the file.
        training: the whole content in the authors' layout, where more than the model's weights is known.
        results: this project's records of the model, for its card.

    Raises:
        RequestError: The layout cannot tell this model's architecture; nothing was written.
        CellError: The files could not be written.
    """
    try:
        with scratch_directory(file.parent) as folder:
            written = folder / file.name
            _write(model, written, layout, training)
            _check_reads_back(model.encoder, written, layout)
            text = _model_card(model, written, layout, training, results)
            card = folder / card_path(file).name
            write_atomic(card, text)
            card.replace(card_path(file))
            try:
                written.replace(file)
            except OSError:
                card_path(file).unlink(missing_ok=True)  # of nothing; it would be in the way of the next call
                raise
    except OSError as error:
        raise CellError(f"{file}: could not be written: {one_line(error)}") from None


def card_path(file: Path) -> Path:
    """Returns where the model card of an exported file lies."""
    return file.with_name(f"{file.name}.md")


def _write(model: ExportedModel, file: Path, layout: FileLayout, training: Mapping[str, Any] | None) -> None:
    tensors = model.encoder.backbone.state_dict()
    metadata = _metadata(model)
    if layout == "massl":
        weights = {f"backbone.{name}": tensor for name, tensor in tensors.items()}
        content = dict(training) if training is not None else official_weights(weights, weights)
        # The authors' tools read the keys that they know; this one says how images are fed, and what shapes do not.
        content = {**content, KEY: canonical_json(metadata.model_dump(mode="json"))}
        save_archive(file, content)
        return
    save_weights(file, tensors, metadata)


def _metadata(model: ExportedModel) -> WeightsMetadata:
    card = model.encoder.card
    heads = card.network.get("heads")
    return WeightsMetadata(
        name=card.name,
        architecture=card.architecture,
        arch=model.arch,
        num_heads=int(heads) if heads is not None else None,
        positions=card.network.get("position_rule"),  # type: ignore[arg-type]  # pydantic refuses another
        feature=next((feature for feature, words in WORDS.items() if words == card.pooling), None),
        preprocessing=card.preprocessing,
        licence=card.licence,
        citation=model.citation,
    )


def _check_reads_back(encoder: Encoder, file: Path, layout: FileLayout) -> None:
    """Raises `RequestError` where the file, as it is, is not read as the same function of the image."""
    name, crop = encoder.card.name, encoder.card.preprocessing.crop
    side = crop if crop is not None else _SIDE
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        read = build_checkpoint(file, name)
        # The other numbers of a network show at other sizes alone: how position embeddings are resampled.
        same = torch.equal(read(images), encoder(images)) and read.card.network_sha256 == encoder.card.network_sha256
    except MasslBenchError as error:
        text = f"{asked('format', layout)} would not be read again: {error}"
        raise RequestError(text, where=f"model {name}") from None
    if not same:
        raise RequestError(
            f"{asked('format', layout)} cannot say what {asked('arch')} says of {encoder.card.architecture}: read "
            "again, it would give other features",
            where=f"model {name}",
            remedy=f"{asked('format', 'safetensors')} keeps it",
        )


def _model_card(
    model: ExportedModel,
    file: Path,
    layout: FileLayout,
    training: Mapping[str, Any] | None,
    results: Sequence[EvalResult],
) -> str:
    """Returns what people should know of an exported file, in Markdown."""
    facts = {"file": f"{file.name}, layout {layout}", "sha256 of the file": sha256_file(file)}
    command = f"massl-bench run --task knn --dataset cifar10 --model {file.name}"
    left_out = [*(LEFT_OUT_OF_OFFICIAL if training is None else ()), _PREPROCESSING] if layout == "massl" else ()
    return model_card(
        model.encoder.card,
        {**facts, **_origin(model)},
        use=shell(command),
        training=model.training,
        left_out=left_out,
        results=results,
    )


def _origin(model: ExportedModel) -> dict[str, str]:
    card = model.encoder.card
    return {
        "exported from": f"{card.weights_origin}, sha256 of the file {sha256_file(model.encoder.files[0])}",
        "sha256 of the tensors": card.weights_sha256,
        "licence": card.licence,
        "citation": model.citation,
    }


def export_timm(model: ExportedModel, folder: Path, results: Sequence[EvalResult] = ()) -> None:
    """Writes a directory in timm's hub layout, with a `README.md`; what else is there stays.

    Args:
        model: what to export.
        folder: to write.
        results: this project's records of the model.

    Raises:
        RequestError: The layout cannot say what the model is; nothing was written.
        CellError: The directory could not be written.
    """
    card = model.encoder.card
    try:
        with scratch_directory(folder.parent) as place:
            written = place / folder.name
            notes = write_timm_directory(model.encoder, written, card.licence)
            facts = {"sha256 of the file": sha256_file(written / WEIGHTS), **_origin(model)}
            use = (
                f'```python\nimport timm\n\nmodel = timm.create_model("local-dir:{folder.name}", pretrained=True, '
                "num_classes=0)  # or hf-hub:ORG/NAME\n```\n\n"
            ) + shell(f"massl-bench run --task knn --dataset cifar10 --model local-dir:{folder.name}")
            text = model_card(card, facts, use=use, training=model.training, left_out=notes, results=results)
            write_atomic(written / "README.md", text)
            if folder.is_dir():
                for file in written.iterdir():
                    file.replace(folder / file.name)
            else:
                written.replace(folder)
    except (OSError, SafetensorError) as error:
        raise CellError(f"{folder}: could not be written: {one_line(error)}") from None
