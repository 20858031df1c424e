"""Features: extracted once, cached under a key of all that could change them. Importing this does not import torch."""

from massl_bench.features.banks import Reporting, bank_key, load_or_extract
from massl_bench.features.cache import BankKey, FeatureCache
from massl_bench.features.making import Wanted
from massl_bench.features.npz import HandedFeatures, read_features_file
from massl_bench.features.options import ExtractionOptions

__all__ = [
    "BankKey",
    "ExtractionOptions",
    "FeatureCache",
    "HandedFeatures",
    "Reporting",
    "Wanted",
    "bank_key",
    "load_or_extract",
    "read_features_file",
]
