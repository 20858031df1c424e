"""`massl-bench list` and `massl-bench info`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from massl_bench.cli.options import (
    NONE_GIVEN,
    CacheDir,
    IncludePath,
    Json,
    Offline,
    ResultsDir,
    WeightsDir,
    cache_directory,
    model_options,
    open_registry,
)
from massl_bench.cli.output import print_json
from massl_bench.core.errors import CellError, RequestError, unknown_name
from massl_bench.core.terminal import say, show
from massl_bench.pretrain.presets import preset_files, read_preset

if TYPE_CHECKING:
    from massl_bench.core.fingerprint import EncoderFingerprint
    from massl_bench.core.model_settings import ModelSettings
    from massl_bench.models import Model
    from massl_bench.records.published import LedgerLine
    from massl_bench.specs.registry import Registry


def list_(
    kind: Annotated[str, typer.Argument(help="tasks, datasets, models, suites or presets.")],
    include_path: IncludePath = None,
    weights_dir: WeightsDir = Path("weights"),
    as_json: Json = False,
) -> None:
    """List what there is, one name a line."""
    registry = open_registry(include_path, weights_dir)
    kinds: dict[str, tuple[dict[str, Path], Any]] = {
        "tasks": (registry.tasks, registry.task),
        "datasets": (registry.datasets, registry.dataset),
        "models": (registry.manifests, registry.manifest),
        "suites": (registry.suites, registry.suite),
        "presets": (preset_files(), _Preset),
    }
    if kind not in kinds:
        raise unknown_name("kind", kind, kinds)
    files, load = kinds[kind]
    summaries = {name: load(name).summary for name in files}
    if kind == "models":
        summaries["pixels"] = "The image itself, 32 × 32, as its feature"
    if as_json:
        print_json([{"name": name, "summary": summary} for name, summary in summaries.items()])
        return
    width = max((len(name) for name in summaries), default=0)
    for name, summary in summaries.items():
        show(f"{name:{width}}  {summary}")
    if kind == "models":
        from massl_bench.models.sources import usages

        say(f"also: a checkpoint file or directory, {', '.join(usages())}")


@model_options
def info(
    name: Annotated[str, typer.Argument(help="A task, dataset, suite, preset or model.")],
    settings: ModelSettings = NONE_GIVEN,
    cache_dir: CacheDir = None,
    weights_dir: WeightsDir = Path("weights"),
    include_path: IncludePath = None,
    offline: Offline = False,
    results_dir: ResultsDir = Path("results"),
    fingerprint: Annotated[
        bool, typer.Option("--fingerprint", help="Of a model, what it makes of three fixed images, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one thing in full.

    Of a task its parameters, of a dataset splits, source and licence, of a model what it is taken for, its fingerprint
    and what is published of it.
    """
    registry = open_registry(include_path, weights_dir)
    loaders: list[tuple[str, dict[str, Path], Any]] = [
        ("task", registry.tasks, registry.task),
        ("dataset", registry.datasets, registry.dataset),
        ("suite", registry.suites, registry.suite),
        ("preset", preset_files(), _Preset),
    ]
    found = [(kind, load(name)) for kind, files, load in loaders if name in files]
    if found and fingerprint:
        raise RequestError(f"--fingerprint: is what a model makes of images, and {name} is a {found[0][0]}")
    lines: list[LedgerLine] = []
    of_images: EncoderFingerprint | None = None
    if not found:
        model = _model(name, settings, cache_dir, registry, offline)
        found = [("model", model.card)]
        of_images = _fingerprint(model, cache_dir, asked=fingerprint)
        lines = _published(model.card, registry, results_dir)
    if fingerprint and of_images is not None:
        _show_fingerprint(model.card.name, of_images, as_json=as_json)
        return
    if as_json:
        contents = [{"type": kind, **spec.model_dump(mode="json", exclude_none=True)} for kind, spec in found]
        if of_images is not None:
            contents[0]["fingerprint"] = of_images.model_dump(mode="json")
        if lines:
            contents[0]["published"] = [line.as_values() for line in lines]
        print_json(contents[0] if len(contents) == 1 else contents)
        return
    for kind, spec in found:
        _show_spec(kind, spec)
    if of_images is not None:
        _show_fingerprint(model.card.name, of_images, as_json=False)
    for line in lines:
        value = line.claim.value
        show(f"{value.task} {value.dataset} {value.metric}: {line.sentence()}")


def _published(card: Any, registry: Registry, results_dir: Path) -> list[LedgerLine]:
    """Returns what is published of a model, with our records of it."""
    from massl_bench.records.published import claims, ledger
    from massl_bench.records.rows import collect

    known = [claim for claim in claims(registry) if claim.is_of(card.reference, card.weights_sha256)]
    return ledger(known, collect(results_dir, registry).rows) if known else []


class _Preset:
    """A preset of pretraining as it stands in its file: what is checked when it is used needs torch."""

    def __init__(self, name: str) -> None:
        self._content = read_preset(name)
        self.summary: str = self._content["summary"]

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """Returns its sections."""
        return self._content


def _show_spec(kind: str, spec: Any) -> None:
    # What a dataset's file leaves open is no news; of a model every setting counts.
    content = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=kind == "dataset")
    for key, value in {"type": kind, **content}.items():
        for line_key, line_value in _flat(key, value):
            show(f"{line_key}: {line_value}")
    if kind == "dataset":
        show(f"metric, in words: {spec.metric_in_words}")
    if kind == "model":
        show(f"preprocessing, in words: {spec.preprocessing.describe()}")


def _fingerprint(model: Model, cache_dir: Path | None, *, asked: bool) -> EncoderFingerprint | None:
    """Returns the fingerprint of a model; where it has none, that is an error if it was asked for, else a line."""
    from massl_bench.features.fingerprint import known_fingerprint, remember_fingerprint

    place = cache_directory(cache_dir)
    try:
        return known_fingerprint(model.card, place) or remember_fingerprint(model.encoder("cpu"), place)
    except CellError as error:
        if asked:
            raise
        say(str(error))
        return None


def _show_fingerprint(name: str, found: EncoderFingerprint, *, as_json: bool) -> None:
    """Prints a fingerprint so that two people can compare theirs."""
    if as_json:
        print_json({"name": name, **found.model_dump(mode="json")})
        return
    for line in found.lines(name):
        show(line)


def _model(name: str, settings: ModelSettings, cache_dir: Path | None, registry: Registry, offline: bool) -> Model:
    from massl_bench.models import ModelOptions, open_model

    try:
        return open_model(
            name, registry, ModelOptions(cache_dir=cache_directory(cache_dir), settings=settings, download=not offline)
        )
    except RequestError as error:
        if not str(error).startswith("unknown model"):
            raise
        known = [*registry.tasks, *registry.datasets, *registry.suites, *preset_files(), *registry.manifests, "pixels"]
        raise unknown_name("name", name, known, "or a model as --model takes it") from None


def _flat(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in _flat(f"{key}.{name}", inner)]
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [pair for number, part in enumerate(value, 1) for pair in _flat(f"{key}.{number}", part)]
    if isinstance(value, list):
        return [(key, ", ".join(map(str, value)))]
    return [(key, value)]
