"""A record is made of what was measured, and of where model and data come from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from massl_bench.core.fingerprint import EncoderFingerprint
from massl_bench.core.settings import PrecisionAgreement
from massl_bench.core.values import Scores
from massl_bench.records.environment import environment, now, peak_memory_mb
from massl_bench.records.record import (
    SCHEMA_VERSION,
    Identity,
    LeftOutItems,
    ModelFacts,
    RequestedOptions,
    ResultRecord,
    Timings,
    TrainedHead,
    as_metric,
    curves,
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where model and data come from; the names are those of a record."""

    model_reference: str
    model_licence: str
    weights_origin: str
    preprocessing_origin: str
    dataset_layout: str
    dataset_revision: str | None = None
    head: TrainedHead | None = None
    left_out: LeftOutItems | None = None
    generated_copies: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    fingerprint: EncoderFingerprint | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured, and how."""

    identity: Identity
    departures: list[str]
    complete: bool
    """Whether all items of all splits were measured."""
    scores: Scores
    scale: int
    num_items: dict[str, int]
    precision_agreement: dict[str, PrecisionAgreement]
    num_extracted: int
    """Images that went through the model now."""
    extracted_along: list[str]
    """Tasks for which other features were made of the same images meanwhile."""
    num_classes: int | None
    timings: Timings
    device: str
    search_backend: str


def make_record(
    measured: Measured, origin: Origin, request: RequestedOptions, facts: ModelFacts, ground_truth_file: str | None
) -> ResultRecord:
    """Returns the record of a cell, with this process's environment, memory and arguments."""
    details = measured.scores[measured.identity.task.headline].details
    selection = details.get("selection_split")
    told = {field.name: getattr(origin, field.name) for field in fields(origin) if field.name != "notes"}
    if origin.head is not None and "C" in details:
        told["head"] = origin.head.model_copy(update={"selected": {"C": details["C"]}})
    return ResultRecord(
        **told,
        schema_version=SCHEMA_VERSION,
        identity=measured.identity,
        identity_sha256=measured.identity.digest,
        departures=measured.departures,
        notes=[*origin.notes, *measured.scores.notes],
        complete=measured.complete,
        metrics={name: as_metric(score) for name, score in measured.scores.items()},
        headline_scale=measured.scale,
        curves=curves(measured.scores),
        selection_split=str(selection) if selection is not None else None,
        selection_curve={f"{strength:.6g}": value for strength, value in measured.scores.selection.items()},
        num_extracted=measured.num_extracted,
        extracted_along=measured.extracted_along,
        num_items=measured.num_items,
        precision_agreement=measured.precision_agreement,
        num_classes=measured.num_classes,
        ground_truth_file=ground_truth_file,
        request=request,
        model_facts=facts,
        environment=environment(measured.device, measured.search_backend),
        timings=measured.timings,
        peak_memory_mb=peak_memory_mb(measured.device),
        argv=sys.argv[1:],
        created_at=now(),
    )
