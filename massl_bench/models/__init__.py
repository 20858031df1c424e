"""Models by reference: what they are (without loading them where that is known), and their encoders."""

from massl_bench.core.model_settings import ModelSettings
from massl_bench.models.card import ModelCard
from massl_bench.models.open import Model, open_model
from massl_bench.models.source import ModelOptions

__all__ = ["Model", "ModelCard", "ModelOptions", "ModelSettings", "open_model"]
