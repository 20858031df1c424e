"""The model card of exported weights: what people, and the hub's pages, should know of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from massl_bench.models.card import ModelCard

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
"""A licence's identifier, as the hub wants one; other texts become its `license_name`."""


def model_card(
    card: ModelCard,
    facts: Mapping[str, str],
    *,
    use: str,
    training: Mapping[str, Any],
    left_out: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
) -> str:
    """Returns Markdown under the hub's front matter, whose model-index holds the results.

    Args:
        card: of the model.
        facts: what the file is, by what it is called.
        use: how it is loaded, for a shell.
        training: what is known of it.
        left_out: what is not in the file, in sentences.
        results: this project's records of the model.
    """
    told = {
        "architecture": card.architecture,
        "feature": f"{card.pooling}, {card.embed_dim} dimensions",
        "parameters": f"{card.num_parameters:,}",
        "preprocessing": card.preprocessing.describe(),
        "preprocessing from": card.preprocessing_origin,
        **facts,
    }
    rows = "".join(f"| {_cell(key)} | {_cell(value)} |\n" for key, value in told.items())
    parts = [_front_matter(card, results), f"# {card.name}\n\n| | |\n|---|---|\n{rows}", f"## Use\n\n{use}"]
    if results:
        parts.append(f"## Results\n\n{_table(results)}")
    if left_out:
        parts.append("## What is not in the file\n\n" + "".join(f"- {line}\n" for line in left_out))
    if training:
        text = json.dumps(training, indent=2, sort_keys=True, ensure_ascii=False)
        parts.append(f"## Training\n\n```json\n{text}\n```\n")
    return "\n".join(parts)


def shell(*lines: str) -> str:
    """Returns commands as a block of Markdown."""
    return "```bash\n" + "".join(f"{line}\n" for line in lines) + "```\n"


def _front_matter(card: ModelCard, results: Sequence[EvalResult]) -> str:
    from huggingface_hub import ModelCardData

    plain = _LICENCE.fullmatch(card.licence) is not None
    data = ModelCardData(
        license=card.licence.lower() if plain else "other",
        license_name=None if plain else " ".join(card.licence.split()),
        tags=["image-feature-extraction", "self-supervised", "massl-bench"],
        pipeline_tag="image-feature-extraction",
        model_name=card.name,
        eval_results=list(results) or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _table(results: Sequence[EvalResult]) -> str:
    lines = ["| dataset | measured | value | 95 % interval |", "|---|---|---:|---|"]
    for each in results:
        args = each.metric_args or {}
        cells = (each.dataset_name, each.metric_name, each.metric_value, args.get("ci95", ""))
        lines.append("| " + " | ".join(_cell(str(cell)) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
