"""The names that transformers imports with its models."""

from enum import Enum

InterpolationMode = Enum("InterpolationMode", "NEAREST_EXACT BOX BILINEAR HAMMING BICUBIC LANCZOS")
