"""The DICOM objects that a segmentation of a series is written as; options name them before DICOM code is imported."""

from __future__ import annotations

SEG = "seg"
RESULTS = (SEG, "rtstruct", "sc", "sr")
