"""Losses on tensors, independent of the rest of the package."""
