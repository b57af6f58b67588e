"""Preprocessing, inference and postprocessing of whole studies."""
