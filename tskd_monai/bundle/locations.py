"""Paths of the four bundles: beside the package in a checkout."""

from pathlib import Path

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
