"""Evaluation protocols for self-supervised visual representations."""
