"""`hf-hub:ORG/NAME`: a repository of the Hugging Face hub in timm's layout."""

from __future__ import annotations

from functools import partial

from massl_bench.models.source import Source
from massl_bench.models.sources.timm import opening_of

SOURCE = Source(
    name="hf_hub",
    usage="hf-hub:ORG/NAME",
    help="A repository of the Hugging Face hub in timm's layout.",
    open=partial(opening_of, hub=True),
)
