"""Galleries and maps as a page shows them: small images inside the page, a map that answers to the pointer."""

from __future__ import annotations

import base64
from typing import Any

from massl_bench.core.galleries import FeatureMap, Gallery, Look, Thumbnail
from massl_bench.report.details import json_text

_SIDE, _EDGE = 420, 10
"""Of a map, and around it."""


def shown_look(model: str, look: Look) -> dict[str, Any]:
    """Returns what the template reads of a look."""
    return {
        "model": model,
        "dataset": look.dataset,
        "galleries": [shown_gallery(gallery) for gallery in look.galleries],
        "map": _map(look.map) if look.map is not None else None,
        "attention": [(_image(seen), _image(lit)) for seen, lit in look.attention],
        "missing": sorted(look.missing.items()),
    }


def shown_gallery(gallery: Gallery) -> dict[str, Any]:
    """Returns what the template reads of a gallery."""
    return {
        "title": gallery.title,
        "text": gallery.text,
        "queries": [
            {
                "image": _image(query.image),
                "note": query.note,
                "neighbours": [
                    {
                        **_image(found.image),
                        "mark": {True: "right", False: "wrong", None: "uncounted"}[found.right],
                        "similarity": f"{found.similarity:.3f}" if found.similarity is not None else None,
                    }
                    for found in query.neighbours
                ],
            }
            for query in gallery.queries
        ],
    }


def _image(thumbnail: Thumbnail) -> dict[str, str]:
    source = f"data:image/jpeg;base64,{base64.b64encode(thumbnail.jpeg).decode()}"
    return {"source": source, "label": thumbnail.label}


def _map(found: FeatureMap) -> dict[str, Any]:
    span = _SIDE - 2 * _EDGE
    images = [_image(image) for image in found.images]
    return {
        "text": found.text,
        "side": _SIDE,
        "classes": list(enumerate(found.class_names)),
        "points": [
            (f"{_EDGE + span * x:.1f}", f"{_SIDE - _EDGE - span * y:.1f}", number)
            for (x, y), number in zip(found.points, found.classes, strict=True)
        ],
        "images": json_text([[image["source"], image["label"]] for image in images]),
    }
