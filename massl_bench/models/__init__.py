"""Models by reference: what they are (without loading them where that is known), and their encoders."""

from massl_bench.models.model import Model, ModelCard, ModelOptions, open_model

__all__ = ["Model", "ModelCard", "ModelOptions", "open_model"]
