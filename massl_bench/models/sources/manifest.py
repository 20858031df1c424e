"""A model that a manifest names: its file is verified by its hash, and fed as the manifest says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from massl_bench.core.errors import RequestError
from massl_bench.core.files import remembered_sha256
from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.card import ModelCard
from massl_bench.models.source import Opening, Reference, Source
from massl_bench.models.weights.fetch import weights_file
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.registry import Registry

if TYPE_CHECKING:
    from massl_bench.models.encoder import Encoder


def manifest_settings(manifest: ManifestSpec) -> ModelSettings:
    """Returns what a manifest says of its model, as a user would say it."""
    return ModelSettings(
        arch=manifest.arch,
        num_heads=manifest.num_heads,
        checkpoint_key=manifest.checkpoint_key,
        pooling=manifest.pooling,
    )


def _open(reference: Reference) -> Opening:
    reference.check_only("manifest")
    manifest = reference.registry.manifest(reference.text)
    path = reference.registry.manifests[reference.text]
    file = weights_file(manifest, path, reference.options.cache_dir)
    told = reference.settings
    # What the manifest says of preprocessing comes before what the user says in its place.
    settings = manifest_settings(manifest)

    def build(known: ModelCard | None) -> Encoder:
        from massl_bench.models.checkpoints import build_checkpoint

        found = remembered_sha256(file, reference.options.cache_dir) if known is None else manifest.sha256
        if found != manifest.sha256:
            raise RequestError(
                f"model {manifest.name}: {file} has sha256 {found}, its manifest {path} says {manifest.sha256}"
            )
        encoder = build_checkpoint(
            file, manifest.name, settings.replaced_by(told), known, preprocessing=manifest.preprocessing
        )
        if known is not None:
            return encoder
        label = told.label
        changes: dict[str, object] = {
            "name": f"{manifest.name}@{label}" if label else manifest.name,
            "reference": manifest.name,
            "licence": manifest.licence,
            "settings": told,
        }
        return encoder.with_card(encoder.card.model_copy(update=changes))

    return Opening(build=build, name=manifest.name, files=(file,), details=manifest.model_dump(mode="json"))


def _claims(text: str, registry: Registry) -> bool:
    return text in registry.manifests


SOURCE = Source(
    name="manifest",
    usage="NAME",
    help="A model that a manifest of the registry names.",
    open=_open,
    prefixed=False,
    claims=_claims,
    order=1,
)
