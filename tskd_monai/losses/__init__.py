"""Losses; they know tensors only."""
